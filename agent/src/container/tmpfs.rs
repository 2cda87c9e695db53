// SPDX-License-Identifier: Apache-2.0
//! A file system in memory, at a path of the machine, for as long as somebody holds on to it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

/// One that is mounted. Dropping it lets go of it; a container that still uses it keeps its contents.
#[derive(Debug)]
pub struct Tmpfs(PathBuf);

impl Tmpfs {
    /// Mounts one at a path, which is made. No device works in it, nothing of it can be executed.
    pub fn mount(path: PathBuf, options: &std::ffi::CStr) -> io::Result<Self> {
        fs::create_dir_all(&path)?;
        let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
        match mount("tmpfs", &path, "tmpfs", flags, options) {
            Ok(()) => Ok(Self(path)),
            Err(errno) => {
                fs::remove_dir(&path)?;
                Err(errno.into())
            }
        }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let gone = unmount(&self.0, UnmountFlags::DETACH)
            .map_err(io::Error::from)
            .and_then(|()| fs::remove_dir(&self.0));
        if let Err(error) = gone {
            tracing::error!(path = %self.0.display(), %error, "file system in memory not removed");
        }
    }
}
