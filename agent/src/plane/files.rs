// SPDX-License-Identifier: Apache-2.0
//! Making, moving, removing and putting together what has paths. All of it blocks, and is called on threads
//! that may.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use cube_protocol::v1::plane as wire;
use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, Uid, chownat, fstat, openat, renameat, unlinkat,
};
use rustix::io::Errno;

use super::accounts::Account;
use super::entry;
use super::fault::PlaneFault;
use super::view::{Located, View};
use crate::stage::proc_path;

/// Most files that are put together at once: an upload of 64 GiB in parts of 64 MiB.
pub const MAX_SOURCES: usize = 1024;

/// Of files that are made, before the umask of nobody: what a program makes with the usual one.
const FILE_MODE: Mode = Mode::from_raw_mode(0o644);

/// What is at a place.
pub fn stat(view: &View, place: &wire::Place) -> Result<wire::Entry, PlaneFault> {
    entry::look(view, &view.locate(place)?.path)
}

/// Makes a directory with what is missing above it.
pub fn make_directory(view: &View, place: &wire::Place) -> Result<wire::Entry, PlaneFault> {
    let Located { path, owner } = view.locate(place)?;
    match view.root.find(&path, OFlags::PATH) {
        Ok(fd) if is(&fd, FileType::Directory) => return Err(PlaneFault::Exists { path }),
        Ok(_) => return Err(PlaneFault::NotADirectory { path }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(PlaneFault::file("look at", &path)(error)),
    }
    make_dirs(view, &path, &owner)?;
    entry::look(view, &path)
}

/// rename(2), with what is missing above the destination made.
pub fn rename(
    view: &View,
    source: &wire::Place,
    destination: &wire::Place,
) -> Result<wire::Entry, PlaneFault> {
    let source = view.locate(source)?.path;
    let Located { path, owner } = view.locate(destination)?;
    let (from, from_name) = parent(view, &source)?;
    // Before anything is made for nothing.
    let flags = OFlags::PATH | OFlags::NOFOLLOW;
    view.root
        .find(&source, flags)
        .map_err(PlaneFault::file("move", &source))?;
    let name = last_part(&path)?;
    let to = make_dirs(view, above(&path), &owner)?;
    renameat(from, from_name, to, name)
        .map_err(|errno| PlaneFault::file("move", &path)(errno.into()))?;
    entry::look(view, &path)
}

/// Removes what is at a place, and everything below. Links are not followed.
pub fn remove(view: &View, place: &wire::Place) -> Result<(), PlaneFault> {
    let path = view.locate(place)?.path;
    let (dir, name) = match parent(view, &path) {
        Err(PlaneFault::NoPath { .. }) => return Ok(()),
        other => other?,
    };
    let removed = match unlinkat(&dir, name, AtFlags::empty()) {
        Err(Errno::ISDIR) => std::fs::remove_dir_all(proc_path(&dir).join(name)),
        other => other.map_err(Into::into),
    };
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other.map_err(PlaneFault::file("remove", &path)),
    }
}

/// Writes the sources one after the other into the destination and removes them. Until all of it is written,
/// everything is as it was.
pub fn compose(
    view: &View,
    sources: &[String],
    destination: &wire::Place,
) -> Result<wire::Entry, PlaneFault> {
    if sources.len() > MAX_SOURCES {
        return Err(PlaneFault::TooMany {
            what: "files to put together",
            most: MAX_SOURCES,
        });
    }
    let Located { path, owner } = view.locate(destination)?;
    let mut paths = Vec::with_capacity(sources.len());
    for source in sources {
        paths.push(super::view::expand(source, &owner.home)?);
    }
    let name = last_part(&path)?;
    let dir = make_dirs(view, above(&path), &owner)?;
    let parts = unused_name();
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let failed = |error: io::Error| PlaneFault::file("write", &path)(error);
    let whole = openat(&dir, &parts, flags, FILE_MODE).map_err(|errno| failed(errno.into()))?;
    let written = join(view, &paths, whole, &owner, failed)
        .and_then(|()| renameat(&dir, &parts, &dir, name).map_err(|errno| failed(errno.into())));
    if let Err(fault) = written {
        if let Err(errno) = unlinkat(&dir, &parts, AtFlags::empty()) {
            tracing::warn!(%errno, "parts of a file are left");
        }
        return Err(fault);
    }
    for source in paths.iter().filter(|source| **source != path) {
        let (dir, name) = parent(view, source)?;
        match unlinkat(dir, name, AtFlags::empty()) {
            // The same source twice.
            Ok(()) | Err(Errno::NOENT) => {}
            Err(errno) => return Err(PlaneFault::file("remove", source)(errno.into())),
        }
    }
    entry::look(view, &path)
}

fn join(
    view: &View,
    sources: &[PathBuf],
    whole: OwnedFd,
    owner: &Account,
    failed: impl Fn(io::Error) -> PlaneFault,
) -> Result<(), PlaneFault> {
    let mut whole = File::from(whole);
    for source in sources {
        let mut part = open_file(view, source)?;
        io::copy(&mut part, &mut whole).map_err(&failed)?;
    }
    own(&whole, owner).map_err(failed)
}

/// For what is not whole yet.
fn unused_name() -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    format!(".cube-parts-{}-{number}", std::process::id())
}

/// Opens a regular file to read. What else there may be is not opened, because that alone may have an
/// effect, or wait for ever.
pub fn open_file(view: &View, path: &Path) -> Result<File, PlaneFault> {
    let found = view.root.find(path, OFlags::PATH);
    let fd = found.map_err(PlaneFault::file("read", path))?;
    reopen(&fd, path, OFlags::RDONLY, "read")
}

/// Opens a file to write, empty; makes it, and what is missing above it, for its owner.
pub fn open_new(view: &View, located: &Located) -> Result<File, PlaneFault> {
    let Located { path, owner } = located;
    let failed = |error| PlaneFault::file("write", path)(error);
    last_part(path)?;
    let made = |fd: &OwnedFd| own(fd, owner);
    let fd = view
        .root
        .make_file_as(path, FILE_MODE, &made)
        .map_err(failed)?;
    let file = reopen(&fd, path, OFlags::WRONLY | OFlags::TRUNC, "write")?;
    own(&file, owner).map_err(failed)?;
    Ok(file)
}

fn reopen(
    fd: &OwnedFd,
    path: &Path,
    flags: OFlags,
    action: &'static str,
) -> Result<File, PlaneFault> {
    let failed = |errno: Errno| PlaneFault::file(action, path)(errno.into());
    let path = path.to_path_buf();
    match FileType::from_raw_mode(fstat(fd).map_err(failed)?.st_mode) {
        FileType::RegularFile => {}
        FileType::Directory => return Err(PlaneFault::IsADirectory { path }),
        _ => return Err(PlaneFault::Special { path }),
    }
    // Some files of /proc would otherwise wait for more.
    let flags = flags | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = openat(rustix::fs::CWD, proc_path(fd), flags, Mode::empty());
    file.map(File::from).map_err(failed)
}

/// Opens a directory; what is missing of it is made, for its owner.
fn make_dirs(view: &View, path: &Path, owner: &Account) -> Result<OwnedFd, PlaneFault> {
    let made = |fd: &OwnedFd| own(fd, owner);
    let dir = view.root.make_dir_as(path, &made);
    dir.map_err(PlaneFault::file("make", path))
}

/// The directory that something is in, and its name there.
fn parent<'p>(view: &View, path: &'p Path) -> Result<(OwnedFd, &'p std::ffi::OsStr), PlaneFault> {
    let name = last_part(path)?;
    let flags = OFlags::PATH | OFlags::DIRECTORY;
    // It is the path that is not there, for whoever asked.
    let dir = view.root.find(above(path), flags);
    Ok((dir.map_err(PlaneFault::file("look at", path))?, name))
}

fn above(path: &Path) -> &Path {
    path.parent().unwrap_or(Path::new("/"))
}

fn last_part(path: &Path) -> Result<&std::ffi::OsStr, PlaneFault> {
    path.file_name().ok_or_else(|| PlaneFault::Request {
        field: "path",
        reason: "the root directory cannot be changed".to_owned(),
    })
}

fn is(fd: &OwnedFd, wanted: FileType) -> bool {
    fstat(fd).is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == wanted)
}

fn own(fd: impl AsFd, owner: &Account) -> io::Result<()> {
    let (uid, gid) = (Uid::from_raw(owner.uid), Gid::from_raw(owner.gid));
    Ok(chownat(fd, "", Some(uid), Some(gid), AtFlags::EMPTY_PATH)?)
}

#[cfg(test)]
mod tests;
