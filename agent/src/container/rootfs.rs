// SPDX-License-Identifier: Apache-2.0
//! A container's root file system: a disk in a slot, mounted for as long as the container exists.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{CWD, Mode, OFlags, openat, syncfs};
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use thiserror::Error;
use tokio::task::spawn_blocking;
use tokio::time::sleep;

use crate::cause::Cause;

/// How long the kernel may take to let go of a disk after its last user is gone.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(10);

/// Between two tries.
const RELEASE_POLL: Duration = Duration::from_millis(1);

/// A root file system that cannot be used.
#[derive(Debug, Error)]
pub enum RootfsError {
    /// Not one that this kernel and the host agree on.
    #[error("a root file system of type {fs_type:?} is not supported, only ext4 and xfs are")]
    Type {
        /// As asked.
        fs_type: String,
    },
    /// No directory to mount it on.
    #[error("cannot make {}", path.display())]
    Directory {
        /// Where.
        path: PathBuf,
        /// The kernel's answer.
        #[source]
        source: Cause,
    },
    /// mount(2).
    #[error("cannot mount the {fs_type} root file system from {}", device.display())]
    Mount {
        /// As asked.
        fs_type: String,
        /// From where.
        device: PathBuf,
        /// The kernel's answer.
        #[source]
        source: Cause,
    },
    /// umount(2), or the disk stayed in use.
    #[error("cannot unmount the root file system from {}", device.display())]
    Unmount {
        /// From where.
        device: PathBuf,
        /// The kernel's answer.
        #[source]
        source: Cause,
    },
}

/// A kind of file system, with what mounting it takes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum FsType {
    /// Built into the kernel.
    Ext4,
    /// A module, loaded on demand.
    Xfs,
}

impl FsType {
    /// By the name that mount(8) uses.
    pub fn parse(name: &str) -> Result<Self, RootfsError> {
        match name {
            "ext4" => Ok(Self::Ext4),
            "xfs" => Ok(Self::Xfs),
            _ => Err(RootfsError::Type {
                fs_type: name.to_owned(),
            }),
        }
    }

    /// The name that the kernel uses.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ext4 => "ext4",
            Self::Xfs => "xfs",
        }
    }

    /// A disk that may not be written to must not have its journal replayed, however dirty it is.
    fn read_only_data(self) -> &'static std::ffi::CStr {
        match self {
            Self::Ext4 => c"noload",
            Self::Xfs => c"norecovery",
        }
    }
}

/// One that is mounted. Dropping it lets go of it in the background; [`Rootfs::unmount`] is for whoever needs
/// to know that everything is on the disk.
#[derive(Debug)]
pub struct Rootfs {
    path: PathBuf,
    device: PathBuf,
    is_mounted: bool,
}

impl Rootfs {
    /// Mounts a device at a path, which is made.
    pub async fn mount(
        device: PathBuf,
        path: PathBuf,
        fs_type: FsType,
        read_only: bool,
    ) -> Result<Self, RootfsError> {
        fs::create_dir_all(&path).map_err(|source| RootfsError::Directory {
            path: path.clone(),
            source: source.into(),
        })?;
        let mut rootfs = Self {
            path,
            device,
            is_mounted: false,
        };
        let (device, path) = (rootfs.device.clone(), rootfs.path.clone());
        // Reads the disk, and may replay a journal.
        blocking(move || {
            if read_only {
                let data = fs_type.read_only_data();
                mount(device, path, fs_type.name(), MountFlags::RDONLY, data)
            } else {
                mount(device, path, fs_type.name(), MountFlags::empty(), None)
            }
        })
        .await
        .map_err(|source| RootfsError::Mount {
            fs_type: fs_type.name().to_owned(),
            device: rootfs.device.clone(),
            source,
        })?;
        rootfs.is_mounted = true;
        Ok(rootfs)
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes back what was written to it.
    pub async fn sync(&self) -> Result<(), Cause> {
        let path = self.path.clone();
        blocking(move || {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            syncfs(openat(CWD, &path, flags, Mode::empty())?)
        })
        .await
    }

    /// Writes everything back and unmounts. Answers when the device has no user any more, so the host may
    /// take the disk away. Can be tried again.
    pub async fn unmount(&mut self) -> Result<(), RootfsError> {
        if self.is_mounted {
            let path = self.path.clone();
            blocking(move || {
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
                syncfs(openat(CWD, &path, flags, Mode::empty())?)?;
                unmount(&path, UnmountFlags::NOFOLLOW)
            })
            .await
            .map_err(|source| self.stuck(source))?;
            self.is_mounted = false;
        }
        self.wait_for_release().await?;
        match fs::remove_dir(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(self.stuck(error.into())),
            _ => Ok(()),
        }
    }

    /// Namespaces of processes that ended are taken down in the background. An exclusive open succeeds only
    /// after the last of them let go of the file system.
    async fn wait_for_release(&self) -> Result<(), RootfsError> {
        let deadline = Instant::now() + RELEASE_TIMEOUT;
        loop {
            let flags = OFlags::RDONLY | OFlags::EXCL | OFlags::CLOEXEC;
            match openat(CWD, &self.device, flags, Mode::empty()) {
                Ok(_) => return Ok(()),
                Err(Errno::BUSY) if Instant::now() < deadline => sleep(RELEASE_POLL).await,
                Err(errno) => return Err(self.stuck(errno.into())),
            }
        }
    }

    fn stuck(&self, source: Cause) -> RootfsError {
        RootfsError::Unmount {
            device: self.device.clone(),
            source,
        }
    }
}

impl Drop for Rootfs {
    fn drop(&mut self) {
        if self.is_mounted
            && let Err(errno) = unmount(&self.path, UnmountFlags::DETACH)
        {
            tracing::error!(path = %self.path.display(), %errno, "still mounted");
            return;
        }
        match fs::remove_dir(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::error!(path = %self.path.display(), %error, "directory not removed");
            }
            _ => {}
        }
    }
}

async fn blocking(
    call: impl FnOnce() -> rustix::io::Result<()> + Send + 'static,
) -> Result<(), Cause> {
    match spawn_blocking(call).await {
        Ok(result) => Ok(result?),
        Err(_) => Err(Cause::new("the thread that did it ended early")),
    }
}
