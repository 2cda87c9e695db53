// SPDX-License-Identifier: Apache-2.0
//! Files that share their blocks with others until one of them is written to (ioctl_ficlone(2)).

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::ioctl_ficlone;
use rustix::io::Errno;

use super::SnapshotError;

/// Makes a new file with the content of another one.
pub(super) fn clone_new(source: &Path, path: &Path) -> Result<File, SnapshotError> {
    let from = File::open(source).map_err(SnapshotError::file(source))?;
    let to = create(path).map_err(SnapshotError::file(path))?;
    clone_over(&from, &to, path)?;
    Ok(to)
}

/// Gives a file the content of another one, and its length.
pub(crate) fn clone_over(from: &impl AsFd, to: &File, path: &Path) -> Result<(), SnapshotError> {
    match ioctl_ficlone(to, from) {
        Ok(()) => Ok(()),
        // Another file system, or one that cannot: the two answers of ioctl_ficlone(2), and that of XFS.
        Err(Errno::XDEV | Errno::OPNOTSUPP | Errno::NOTTY | Errno::INVAL) => {
            Err(SnapshotError::Clone { path: path.into() })
        }
        Err(errno) => Err(SnapshotError::file(path)(errno.into())),
    }
}

/// A new file for root alone.
pub(super) fn create(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
}
