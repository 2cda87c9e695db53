// SPDX-License-Identifier: Apache-2.0
//! Why there is no snapshot, or none that can be used.

use std::io;
use std::path::{Path, PathBuf};

use cube_vmm::fingerprint::FingerprintError;
use thiserror::Error;

use crate::error::Kind;
use crate::guest::{ClaimError, GuestError};
use crate::vmm::VmmError;

/// See the module.
#[derive(Debug, Error)]
pub enum SnapshotError {
    /// Not a name.
    #[error(
        "{name:?} is no name of a snapshot: expected up to 128 of a-z, 0-9, '-', '_' and '.', no '.' in front"
    )]
    Name {
        /// As asked.
        name: String,
    },
    /// There is one of that name.
    #[error("there is a snapshot {name} already; remove it first or choose another name")]
    Exists {
        /// The name.
        name: String,
    },
    /// There is none.
    #[error("there is no snapshot {name}; see `cube snapshot ls`")]
    Unknown {
        /// The name.
        name: String,
    },
    /// A file of it.
    #[error("{} could not be read, made or written", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The two files have no file system in common that can clone.
    #[error(
        "{} cannot be a clone: snapshots have to be on the file system of the containers' disks; \
         see `snapshots` in the configuration",
        path.display()
    )]
    Clone {
        /// The file that was to be one.
        path: PathBuf,
    },
    /// The record makes no sense.
    #[error("{} is not the record of a snapshot", path.display())]
    Record {
        /// The file.
        path: PathBuf,
        /// Why.
        source: serde_json::Error,
    },
    /// It was made by or on something else.
    #[error(
        "the snapshot {name} cannot be used here: its {what} is {found}, here it is {expected}"
    )]
    Mismatch {
        /// The snapshot.
        name: String,
        /// Of what.
        what: &'static str,
        /// In the record.
        found: String,
        /// Here.
        expected: String,
    },
    /// The host cannot be described.
    #[error("this host could not be described")]
    Host(#[source] FingerprintError),
    /// Not a sandbox of one container with a disk of its own.
    #[error(
        "a sandbox of {containers} containers cannot be saved: only one with a single container can"
    )]
    Containers {
        /// How many it has.
        containers: usize,
    },
    /// The container's disk is no file.
    #[error("the disk {} is no image file and cannot be cloned; use --snapshotter cube", path.display())]
    Disk {
        /// Where it is.
        path: PathBuf,
    },
    /// The guest's processes did not stop.
    #[error("the sandbox could not be brought to a stand")]
    Quiesce(#[source] GuestError),
    /// The machine was not written.
    #[error("the sandbox's machine could not be saved; it goes on")]
    Save(#[source] VmmError),
    /// It did not go on.
    #[error("the sandbox was saved and does not go on")]
    Resume(#[source] VmmError),
    /// It has no identity any more.
    #[error("the sandbox was saved and did not get its identity back")]
    Claim(#[source] ClaimError),
    /// Its processes stand.
    #[error("the sandbox was saved and its processes do not go on")]
    Thaw(#[source] GuestError),
    /// This program is shutting down.
    #[error("the snapshot was given up because this program is ending")]
    Abandoned,
}

impl SnapshotError {
    /// What went wrong with a file.
    pub(crate) fn file(path: &Path) -> impl Fn(io::Error) -> Self + use<> {
        let path = path.to_path_buf();
        move |source| SnapshotError::File {
            path: path.clone(),
            source,
        }
    }

    /// The class of this failure.
    pub fn kind(&self) -> Kind {
        match self {
            SnapshotError::Name { .. } => Kind::InvalidArgument,
            SnapshotError::Exists { .. } => Kind::AlreadyExists,
            SnapshotError::Unknown { .. } => Kind::NotFound,
            SnapshotError::Clone { .. }
            | SnapshotError::Mismatch { .. }
            | SnapshotError::Containers { .. }
            | SnapshotError::Disk { .. } => Kind::FailedPrecondition,
            SnapshotError::File { source, .. } if source.kind() == io::ErrorKind::StorageFull => {
                Kind::ResourceExhausted
            }
            SnapshotError::File { .. } | SnapshotError::Record { .. } | SnapshotError::Host(_) => {
                Kind::Internal
            }
            SnapshotError::Quiesce(source) | SnapshotError::Thaw(source) => source.kind(),
            SnapshotError::Save(source) | SnapshotError::Resume(source) => source.kind(),
            SnapshotError::Claim(source) => source.kind(),
            SnapshotError::Abandoned => Kind::Unavailable,
        }
    }
}
