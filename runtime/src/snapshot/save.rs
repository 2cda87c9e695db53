// SPDX-License-Identifier: Apache-2.0
//! From a sandbox that runs to a snapshot.
//!
//! ```text
//! prepare files ─ quiesce ─ pause ─ save, clone the disk ─ resume ─ claim ─ thaw ─ to the disk, publish
//!                 └────────── the sandbox stands ──────────────────────────┘
//! ```
//! Whatever fails, the sandbox goes on, and nothing is published.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use cube_protocol::PROTOCOL_VERSION;
use cube_vmm::control::SaveFiles;
use cube_vmm::fingerprint::of_host;

use super::record::{ContainerRecord, FORMAT};
use super::store::Scratch;
use super::{
    DISK, MEMORY, STATE, SnapshotError, SnapshotName, SnapshotRecord, Snapshots, clone_over,
};
use crate::guest::Guest;
use crate::trace;
use crate::vmm::Vmm;

/// A sandbox as far as it is saved.
#[derive(Debug)]
pub(crate) struct Source<'a> {
    pub(crate) vmm: &'a Vmm,
    pub(crate) guest: &'a Guest,
    pub(crate) hostname: &'a str,
    /// `NAMESPACE/ID`.
    pub(crate) name: String,
    pub(crate) vcpus: u8,
    pub(crate) memory_mib: u32,
    /// What its memory differs from; none: a guest that was booted differs from nothing.
    pub(crate) origin: Option<Origin>,
    pub(crate) container: ContainerRecord,
    /// The image file of its container's disk.
    pub(crate) disk: PathBuf,
}

/// The memory file that a machine was restored from.
#[derive(Clone, Debug)]
pub(crate) enum Origin {
    /// A template's.
    Template {
        /// Its name.
        name: String,
        /// The file.
        memory: PathBuf,
    },
    /// A snapshot's.
    Snapshot {
        /// Its name.
        name: String,
        /// The file, open: the snapshot may be gone.
        memory: std::sync::Arc<File>,
    },
}

/// The files of a snapshot in the making.
struct Files {
    scratch: Scratch,
    save: SaveFiles,
    disk: (File, File),
}

impl Snapshots {
    /// Saves a sandbox. Returns how long it stood.
    pub(crate) async fn save(
        &self,
        name: &SnapshotName,
        source: Source<'_>,
    ) -> Result<Duration, SnapshotError> {
        let files = {
            let _stage = trace::stage("snapshot.prepare");
            self.prepare(name, &source).await?
        };
        let record = record(name, &source)?;
        let Files {
            scratch,
            save,
            disk,
        } = files;
        {
            let _stage = trace::stage("snapshot.quiesce");
            source
                .guest
                .quiesce()
                .await
                .map_err(SnapshotError::Quiesce)?;
        }
        let stood = Instant::now();
        let saved = write(source.vmm, save, disk, scratch.path(DISK)).await;
        // Whatever came of it.
        go_on(&source).await?;
        let stood = stood.elapsed();
        saved?;
        let _stage = trace::stage("snapshot.publish");
        let (snapshots, name) = (self.clone(), name.clone());
        blocking(move || scratch.publish(&snapshots, &name, &record)).await?;
        Ok(stood)
    }

    async fn prepare(
        &self,
        name: &SnapshotName,
        source: &Source<'_>,
    ) -> Result<Files, SnapshotError> {
        let (snapshots, name) = (self.clone(), name.clone());
        let (origin, disk) = (source.origin.clone(), source.disk.clone());
        let pagemap = source.vmm.page_map();
        let pagemap = pagemap.map_err(|error| SnapshotError::File {
            path: "/proc/PID/pagemap".into(),
            source: error,
        })?;
        blocking(move || {
            let scratch = snapshots.begin(&name)?;
            let path = scratch.path(MEMORY);
            let memory = match origin {
                None => scratch.create(MEMORY)?,
                Some(Origin::Template { name, memory }) => {
                    snapshots.clone_template(&name, &memory, &path)?
                }
                Some(Origin::Snapshot { memory, .. }) => {
                    let file = scratch.create(MEMORY)?;
                    clone_over(&memory.as_fd(), &file, &path)?;
                    file
                }
            };
            let opened = File::open(&disk).map_err(|source| SnapshotError::File {
                path: disk.clone(),
                source,
            })?;
            if !opened.metadata().is_ok_and(|found| found.is_file()) {
                return Err(SnapshotError::Disk { path: disk });
            }
            Ok(Files {
                save: SaveFiles {
                    state: scratch.create(STATE)?.into(),
                    memory: memory.into(),
                    pagemap,
                },
                disk: (opened, scratch.create(DISK)?),
                scratch,
            })
        })
        .await
    }
}

/// Writes a machine that is brought to a stand for it.
async fn write(
    vmm: &Vmm,
    files: SaveFiles,
    (from, to): (File, File),
    path: PathBuf,
) -> Result<(), SnapshotError> {
    let _stage = trace::stage("snapshot.write");
    vmm.pause().await.map_err(SnapshotError::Save)?;
    let saved = vmm.save(files).await.map_err(SnapshotError::Save);
    let cloned = blocking(move || clone_over(&from, &to, &path)).await;
    vmm.resume().await.map_err(SnapshotError::Resume)?;
    saved.and(cloned)
}

async fn go_on(source: &Source<'_>) -> Result<(), SnapshotError> {
    let _stage = trace::stage("snapshot.go_on");
    let claimed = source.guest.claim(source.hostname).await;
    claimed.map_err(SnapshotError::Claim)?;
    source.guest.thaw().await.map_err(SnapshotError::Thaw)
}

fn record(name: &SnapshotName, source: &Source<'_>) -> Result<SnapshotRecord, SnapshotError> {
    let kvm: OwnedFd = crate::launch::open_kvm_device()
        .map_err(|error| SnapshotError::File {
            path: "/dev/kvm".into(),
            source: error,
        })?
        .into();
    let host = of_host(kvm.as_fd()).map_err(SnapshotError::Host)?;
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH);
    Ok(SnapshotRecord {
        format: FORMAT,
        name: name.to_string(),
        created_s: since_epoch.map_or(0, |age| age.as_secs()),
        source: source.name.clone(),
        parent: match &source.origin {
            Some(Origin::Snapshot { name, .. }) => Some(name.clone()),
            _ => None,
        },
        vcpus: source.vcpus,
        memory_mib: source.memory_mib,
        protocol: PROTOCOL_VERSION,
        host: host.into(),
        container: source.container.clone(),
    })
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, SnapshotError> + Send + 'static,
) -> Result<T, SnapshotError> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or(Err(SnapshotError::Abandoned))
}
