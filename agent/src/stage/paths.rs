// SPDX-License-Identifier: Apache-2.0
//! Parts of a container that its processes may not read (`linux.maskedPaths`) or not write
//! (`linux.readonlyPaths`, `root.readonly`). A path that does not exist needs no protection.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, OFlags, StatVfsMountFlags, fstat, fstatvfs};
use rustix::mount::{MountFlags, mount, mount_bind, mount_bind_recursive, mount_remount};

use super::error::StageError;
use super::root::{Root, proc_path};

/// Covers files with /dev/null and directories with an empty, read-only tmpfs, the same for all. `null` is
/// the machine's own device: the container's may be anything (CVE-2025-31133).
pub fn mask(root: &Root, null: impl AsFd, paths: &[PathBuf]) -> Result<(), StageError> {
    let mut empty: Option<OwnedFd> = None;
    for path in paths {
        let is_directory = on_path(root, "mask", path, |target| {
            let on = proc_path(&target);
            if FileType::from_raw_mode(fstat(&target)?.st_mode) != FileType::Directory {
                mount_bind(proc_path(null.as_fd()), on)?;
                return Ok(false);
            }
            match &empty {
                Some(empty) => mount_bind(proc_path(empty), on)?,
                None => mount("tmpfs", on, "tmpfs", MountFlags::RDONLY, None)?,
            }
            Ok(true)
        })?;
        if is_directory == Some(true) && empty.is_none() {
            // The mount just made, no longer the directory below it.
            empty = on_path(root, "mask", path, Ok)?;
        }
    }
    Ok(())
}

/// Makes paths read-only, each by a mount of its own.
pub fn write_protect(root: &Root, paths: &[PathBuf]) -> Result<(), StageError> {
    for path in paths {
        let bound = on_path(root, "bind", path, |target| {
            let place = proc_path(&target);
            Ok(mount_bind_recursive(&place, &place)?)
        })?;
        if bound.is_some() {
            // The mount just made, no longer the directory below it.
            on_path(root, "write-protect", path, |target| {
                remount_read_only(&target)
            })?;
        }
    }
    Ok(())
}

/// Makes the mount that a descriptor is the root of read-only, and keeps its other flags.
pub fn remount_read_only(mounted: impl AsFd) -> io::Result<()> {
    let now = fstatvfs(&mounted)?.f_flag;
    let table = [
        (StatVfsMountFlags::NOSUID, MountFlags::NOSUID),
        (StatVfsMountFlags::NODEV, MountFlags::NODEV),
        (StatVfsMountFlags::NOEXEC, MountFlags::NOEXEC),
        (StatVfsMountFlags::NOATIME, MountFlags::NOATIME),
        (StatVfsMountFlags::NODIRATIME, MountFlags::NODIRATIME),
        (StatVfsMountFlags::RELATIME, MountFlags::RELATIME),
    ];
    let mut flags = MountFlags::BIND | MountFlags::RDONLY;
    for (is_set, keep) in table {
        flags.set(keep, now.contains(is_set));
    }
    Ok(mount_remount(proc_path(mounted), flags, "")?)
}

/// Does something to a path, if it exists.
fn on_path<T>(
    root: &Root,
    action: &'static str,
    path: &Path,
    cover: impl FnOnce(OwnedFd) -> io::Result<T>,
) -> Result<Option<T>, StageError> {
    find(root, path)
        .and_then(|found| found.map(cover).transpose())
        .map_err(|source| StageError::Path {
            action,
            path: path.to_path_buf(),
            source: source.into(),
        })
}

fn find(root: &Root, path: &Path) -> io::Result<Option<OwnedFd>> {
    use io::ErrorKind::{NotADirectory, NotFound};
    match root.find(path, OFlags::PATH) {
        Err(error) if matches!(error.kind(), NotFound | NotADirectory) => Ok(None),
        other => other.map(Some),
    }
}
