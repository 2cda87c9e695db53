// SPDX-License-Identifier: Apache-2.0
//! A sandbox that starts from a snapshot: its container is in it, and stands until its first process is started.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;

use cube_vmm::config::DiskConfig;

use super::{Created, blocking, end_with_agent, last_words, launch};
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
    let look = {
        let (config, from) = (config.clone(), from.clone());
        // It waits for other holders of the disk, if there are any.
        blocking(move || look(&config, &from)).await?
    };
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
        let restored = launched.restore(look.kvm, look.files, false).await;
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
    kvm: File,
    snapshot: Snapshot,
    files: TemplateFiles,
    memory: Arc<File>,
}

/// Opens the snapshot's files and gives the container's disk their content.
fn look(config: &Config, from: &StartFrom) -> Result<Look, CreateError> {
    let _stage = trace::stage("snapshot.open");
    let kvm = open_kvm()?;
    let snapshot = Snapshots::of(config).find(&from.snapshot);
    let snapshot = snapshot.map_err(CreateError::Snapshot)?;
    snapshot.check(kvm.as_fd()).map_err(CreateError::Snapshot)?;
    let [state, memory, saved] = snapshot.open().map_err(CreateError::Snapshot)?;
    let again = memory.try_clone();
    let again = again.map_err(|error| failed(&snapshot.memory_path(), error))?;
    let disk = disk_of(from, &snapshot, &saved)?;
    let files = TemplateFiles {
        state: state.into(),
        memory: memory.into(),
        working_set: None,
        disks: vec![disk],
    };
    Ok(Look {
        kvm,
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
        clone_over(saved, &file, &path).map_err(CreateError::Snapshot)?;
        // What was longer before is not cut off by a clone.
        let length = saved.metadata().map(|saved| saved.len());
        length
            .and_then(|length| file.set_len(length))
            .map_err(|error| failed(&path, error))?;
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

fn failed(path: &Path, source: io::Error) -> CreateError {
    CreateError::Snapshot(SnapshotError::file(path)(source))
}
