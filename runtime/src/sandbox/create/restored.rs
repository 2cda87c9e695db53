// SPDX-License-Identifier: Apache-2.0
//! A sandbox that starts from a snapshot: its container is in it, and stands until its first process is started.

use std::fs::File;
use std::os::fd::AsFd;
use std::sync::Arc;

use cube_vmm::config::DiskConfig;

use super::{Created, end_with_agent, last_words, launch};
use crate::config::Config;
use crate::guest;
use crate::launch::open_kvm;
use crate::rootfs::DiskSpec;
use crate::sandbox::CreateError;
use crate::snapshot::{Origin, Snapshot, SnapshotError, Snapshots, clone_over};
use crate::spec::{SandboxSpec, StartFrom};
use crate::template::{SavedDisk, TemplateFiles};
use crate::trace;

/// Spawns a VMM, restores the guest and claims it.
pub(super) async fn create(
    config: &Config,
    spec: &SandboxSpec,
    from: &StartFrom,
) -> Result<Created, CreateError> {
    let kvm = open_kvm()?;
    let look = look(config, from, &kvm)?;
    let record = look.snapshot.record;
    // The machine is as it was saved, whatever the spec would have it be.
    let spec = SandboxSpec {
        vcpus: record.vcpus,
        memory_mib: record.memory_mib,
        ..spec.clone()
    };
    let mut launched = launch(config, &spec).await?;
    launched.write_down(None).map_err(CreateError::Layout)?;
    let machine = {
        let _stage = trace::stage("restore");
        let restored = launched.restore(kvm, look.files, false).await;
        restored.map_err(CreateError::Restore)?
    };
    let dir = &machine.footprint.dir;
    let (end, limit) = (machine.vmm.end().clone(), config.claim_timeout());
    let claimed = guest::connect_restored(&dir.vsock_path(), end, limit, &spec.hostname).await;
    let (guest, agent_gone) = claimed.map_err(|source| CreateError::Unclaimed {
        last_words: last_words(&source, dir),
        template: record.name.clone(),
        source: Box::new(source),
    })?;
    tokio::spawn(end_with_agent(machine.vmm.clone(), agent_gone));
    Ok(Created {
        machine,
        guest,
        origin: Some(Origin::Snapshot {
            name: record.name,
            memory: look.memory,
        }),
        container: Some(record.container),
    })
}

/// What was found of a snapshot.
struct Look {
    snapshot: Snapshot,
    files: TemplateFiles,
    memory: Arc<File>,
}

/// Opens the snapshot's files and gives the container's disk their content.
fn look(config: &Config, from: &StartFrom, kvm: &File) -> Result<Look, CreateError> {
    let _stage = trace::stage("snapshot.open");
    let snapshot = Snapshots::of(config).find(&from.snapshot);
    let snapshot = snapshot.map_err(CreateError::Snapshot)?;
    snapshot.check(kvm.as_fd()).map_err(CreateError::Snapshot)?;
    let [state, memory, saved] = snapshot.open().map_err(CreateError::Snapshot)?;
    let again = memory.try_clone().map_err(|source| {
        CreateError::Snapshot(SnapshotError::File {
            path: snapshot.memory_path(),
            source,
        })
    })?;
    let disk = disk_of(from, &snapshot, &saved)?;
    let files = TemplateFiles {
        state: state.into(),
        memory: memory.into(),
        working_set: None,
        disks: vec![disk],
    };
    Ok(Look {
        snapshot,
        files,
        memory: Arc::new(again),
    })
}

fn disk_of(from: &StartFrom, snapshot: &Snapshot, saved: &File) -> Result<SavedDisk, CreateError> {
    let spec = DiskSpec::from_mounts(&from.rootfs).map_err(CreateError::SnapshotDisk)?;
    let path = spec.path().to_owned();
    let disk = spec.open().map_err(CreateError::SnapshotDisk)?;
    let file = File::from(disk.file);
    if !disk.read_only {
        let failed = |source| {
            let path = path.clone();
            CreateError::Snapshot(SnapshotError::File { path, source })
        };
        clone_over(saved, &file, &path).map_err(CreateError::Snapshot)?;
        // What was longer before is not cut off by a clone.
        let length = saved.metadata().map_err(failed)?.len();
        file.set_len(length).map_err(failed)?;
    }
    let container = &snapshot.record.container;
    Ok(SavedDisk {
        config: DiskConfig {
            slot: container.slot,
            read_only: disk.read_only,
        },
        file: file.into(),
    })
}
