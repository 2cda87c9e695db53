// SPDX-License-Identifier: Apache-2.0
//! From containerd's list of mounts to a disk for a block slot.
//!
//! What is a disk is decided by the mount's type, its options and the file type of what was opened,
//! never by device numbers, and only for the root file system: a bind mount whose source was taken for
//! a block device because of its `st_dev` handed a host's disk to a container (CVE-2026-24054).

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::PathBuf;
use std::thread::sleep;
use std::time::Duration;

use rustix::fs::{FlockOperation, OFlags, flock};
use rustix::io::Errno;
use thiserror::Error;

use crate::error::Kind;

/// Attempts at locking a disk: device managers hold a lock for the moment in which they look at one.
const LOCK_ATTEMPTS: u32 = 20;

/// Pause between them.
const LOCK_INTERVAL: Duration = Duration::from_millis(10);

/// One mount of a container's root file system, as a snapshotter describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RootfsMount {
    /// File system or mount type: `ext4`, `xfs`, `overlay`, `bind`.
    pub kind: String,
    /// What is mounted.
    pub source: String,
    /// Mount options.
    pub options: Vec<String>,
}

/// What a root file system is to be, as read from the mounts; nothing was opened yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DiskSpec {
    source: PathBuf,
    fs_type: FsType,
    read_only: bool,
    /// The source is an image file, not a block device.
    is_loop: bool,
}

/// File systems that the guest mounts from a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FsType {
    Ext4,
    Xfs,
}

/// An open disk. The lock on it lasts as long as any process holds a descriptor of it, so until the VMM
/// lets it go, whatever becomes of this process.
#[derive(Debug)]
pub(crate) struct Disk {
    pub(crate) file: OwnedFd,
    pub(crate) fs_type: FsType,
    pub(crate) read_only: bool,
}

impl FsType {
    /// Its name in a mount call.
    pub(crate) fn name(self) -> &'static str {
        match self {
            FsType::Ext4 => "ext4",
            FsType::Xfs => "xfs",
        }
    }
}

impl DiskSpec {
    /// Reads the mounts of a container's root file system.
    pub(crate) fn from_mounts(mounts: &[RootfsMount]) -> Result<Self, RootfsError> {
        let mount = match mounts {
            [] => return Err(RootfsError::None),
            [mount] => mount,
            [first, ..] => {
                return Err(RootfsError::Many {
                    count: mounts.len(),
                    kind: first.kind.clone(),
                });
            }
        };
        let fs_type = match mount.kind.as_str() {
            "ext4" => FsType::Ext4,
            "xfs" => FsType::Xfs,
            kind => {
                return Err(RootfsError::Kind {
                    kind: kind.into(),
                    source_path: mount.source.clone(),
                });
            }
        };
        let mut disk = Self {
            source: mount.source.clone().into(),
            fs_type,
            read_only: false,
            is_loop: false,
        };
        for option in &mount.options {
            match option.as_str() {
                "ro" => disk.read_only = true,
                "rw" => disk.read_only = false,
                // The guest gets the file as a disk: there is no loop device.
                "loop" => disk.is_loop = true,
                // Said of a read-only disk so that a journal is not replayed, and of a cloned XFS so that
                // its twin may be mounted beside it. In the guest it is alone, and a journal of a disk that
                // cannot be written cannot be replayed either.
                "noload" | "norecovery" | "nouuid" => {}
                option => {
                    return Err(RootfsError::Option {
                        option: option.into(),
                        source_path: mount.source.clone(),
                    });
                }
            }
        }
        Ok(disk)
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &std::path::Path {
        &self.source
    }

    /// Opens and locks the disk.
    pub(crate) fn open(self) -> Result<Disk, RootfsError> {
        let path = self.source;
        // NONBLOCK: were it a fifo, opening it would wait for its other end.
        let file = OpenOptions::new()
            .read(true)
            .write(!self.read_only)
            .custom_flags(OFlags::NONBLOCK.bits().cast_signed())
            .open(&path);
        let file = file.map_err(|source| RootfsError::Open {
            path: path.clone(),
            source,
        })?;
        let opened = file.metadata().map_err(|source| RootfsError::Open {
            path: path.clone(),
            source,
        })?;
        let file_type = opened.file_type();
        let fits = file_type.is_block_device() || (self.is_loop && file_type.is_file());
        if !fits {
            return Err(RootfsError::FileType { path });
        }
        lock(&file, self.read_only).map_err(|errno| match errno {
            Errno::WOULDBLOCK => RootfsError::Busy { path: path.clone() },
            errno => RootfsError::Open {
                path: path.clone(),
                source: errno.into(),
            },
        })?;
        Ok(Disk {
            file: file.into(),
            fs_type: self.fs_type,
            read_only: self.read_only,
        })
    }
}

/// Two writers of one file system destroy it, and so does a writer beside a reader.
fn lock(file: &File, shared: bool) -> Result<(), Errno> {
    let operation = if shared {
        FlockOperation::NonBlockingLockShared
    } else {
        FlockOperation::NonBlockingLockExclusive
    };
    let mut attempt = 1;
    loop {
        match flock(file, operation) {
            Err(Errno::WOULDBLOCK) if attempt < LOCK_ATTEMPTS => {
                attempt += 1;
                sleep(LOCK_INTERVAL);
            }
            other => return other,
        }
    }
}

/// Why a root file system cannot be used.
#[derive(Debug, Error)]
pub enum RootfsError {
    /// Docker's classic graph driver, or a client that mounts by itself.
    #[error(
        "no root file system was handed over as a mount, which is not supported yet: \
         use --snapshotter cube (with docker, the containerd image store)"
    )]
    None,
    /// A stack of mounts.
    #[error(
        "a root file system of {count} mounts (the first of kind {kind}) is not supported yet: use --snapshotter cube"
    )]
    Many {
        /// How many.
        count: usize,
        /// Kind of the first.
        kind: String,
    },
    /// Directories of the host.
    #[error(
        "rootfs of kind {kind} (source {source_path}) is not supported yet: use --snapshotter cube"
    )]
    Kind {
        /// The mount's type.
        kind: String,
        /// The mount's source.
        source_path: String,
    },
    /// An option whose meaning would be lost.
    #[error("mount option {option:?} of the root file system {source_path} is not supported")]
    Option {
        /// The option.
        option: String,
        /// The mount's source.
        source_path: String,
    },
    /// The image or device cannot be opened.
    #[error("the root file system {} could not be opened", path.display())]
    Open {
        /// The image or device.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A directory, a fifo, or an image without `loop`.
    #[error(
        "the root file system {} is neither a block device nor an image file with option loop",
        path.display()
    )]
    FileType {
        /// The path.
        path: PathBuf,
    },
    /// Another machine has it.
    #[error("the root file system {} is in use by another container", path.display())]
    Busy {
        /// The image or device.
        path: PathBuf,
    },
}

impl RootfsError {
    /// The class of this failure.
    pub fn kind(&self) -> Kind {
        match self {
            RootfsError::None | RootfsError::Many { .. } | RootfsError::Kind { .. } => {
                Kind::Unimplemented
            }
            RootfsError::Option { .. } | RootfsError::FileType { .. } => Kind::InvalidArgument,
            RootfsError::Open { source, .. } if source.kind() == io::ErrorKind::NotFound => {
                Kind::NotFound
            }
            RootfsError::Open { .. } => Kind::Internal,
            RootfsError::Busy { .. } => Kind::FailedPrecondition,
        }
    }
}

#[cfg(test)]
mod tests;
