// SPDX-License-Identifier: Apache-2.0
//! The machine's id for images that want one: an empty /etc/machine-id asks for a file to be mounted over it
//! (machine-id(5), "Initialization"). One with contents is the image's own choice, and an image without one
//! stays without.

use std::io;
use std::path::Path;

use rustix::fs::{CWD, FileType, Mode, OFlags, fstat, openat};
use rustix::io::Errno;
use rustix::mount::mount_bind;

use super::error::StageError;
use super::paths;
use super::root::{Root, proc_path};

const PLACE: &str = "/etc/machine-id";

/// Covers an empty one with the machine's file, read-only. A machine without an id has no such file.
pub fn provide(root: &Root, file: &Path) -> Result<(), StageError> {
    cover(root, file).map_err(|source| StageError::Path {
        action: "provide",
        path: PLACE.into(),
        source: source.into(),
    })
}

fn cover(root: &Root, file: &Path) -> io::Result<()> {
    use io::ErrorKind::{NotADirectory, NotFound};
    let place = match root.find(Path::new(PLACE), OFlags::PATH) {
        Err(error) if matches!(error.kind(), NotFound | NotADirectory) => return Ok(()),
        found => found?,
    };
    let status = fstat(&place)?;
    if FileType::from_raw_mode(status.st_mode) != FileType::RegularFile || status.st_size != 0 {
        return Ok(());
    }
    let id = match openat(CWD, file, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()) {
        Err(Errno::NOENT) => return Ok(()),
        opened => opened?,
    };
    mount_bind(proc_path(&id), proc_path(&place))?;
    paths::remount_read_only(&root.find(Path::new(PLACE), OFlags::PATH)?)
}
