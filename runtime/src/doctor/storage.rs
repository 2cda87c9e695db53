// SPDX-License-Identifier: Apache-2.0
//! Where snapshots are kept: can files be cloned there, and is there room?

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{ioctl_ficlone, statvfs};
use rustix::io::Errno;

use super::Verdict;

/// Where the snapshotter keeps its images unless it is told otherwise.
const STATE: &str = "/var/lib/cube";

/// Below this, one image of moderate size fills the disk.
const LEAST_BYTES: u64 = 1 << 30;

/// Below this, a few do.
const COMFORTABLE_BYTES: u64 = 5 << 30;

pub(super) fn reflink() -> Verdict {
    let place = existing(Path::new(STATE));
    judge_reflink(&place, try_clone(&place), own_xfs_obstacle())
}

pub(super) fn space() -> Verdict {
    let place = existing(Path::new(STATE));
    match statvfs(&place) {
        Ok(fs) => judge_space(&place, fs.f_bavail.saturating_mul(fs.f_frsize)),
        Err(errno) => Verdict::warning(
            format!(
                "the free space at {} is not known: {errno}",
                place.display()
            ),
            "look with df",
        ),
    }
}

/// What clones say: yes, no, or that it could not be tried.
fn judge_reflink(
    place: &Path,
    cloned: Result<bool, io::Error>,
    own_xfs_obstacle: Option<&'static str>,
) -> Verdict {
    let place = place.display();
    match (cloned, own_xfs_obstacle) {
        (Ok(true), _) => Verdict::good(format!("files are cloned by reference at {place}")),
        (Ok(false), None) => Verdict::good(format!(
            "no reflinks at {place}: the snapshotter mounts an XFS file of its own"
        )),
        (Ok(false), Some(obstacle)) => Verdict::bad(
            format!("no reflinks at {place}, and no XFS file can be mounted: {obstacle}"),
            "apt install xfsprogs and modprobe loop xfs, or put an XFS or Btrfs file system on /var/lib/cube",
        ),
        (Err(error), _) => Verdict::bad(
            format!("reflinks cannot be tried at {place}: {error}"),
            "run as root, with a writable /var/lib/cube",
        ),
    }
}

fn judge_space(place: &Path, bytes: u64) -> Verdict {
    #[expect(clippy::cast_precision_loss, reason = "one decimal of GiB is shown")]
    let found = format!(
        "{:.1} GiB free at {}",
        bytes as f64 / f64::from(1 << 30),
        place.display()
    );
    let mend = "free some space, or mount a larger disk on /var/lib/cube";
    match bytes {
        ..LEAST_BYTES => Verdict::bad(found, mend),
        LEAST_BYTES..COMFORTABLE_BYTES => Verdict::warning(found, mend),
        _ => Verdict::good(found),
    }
}

/// The path itself or the nearest directory above it that exists.
fn existing(path: &Path) -> PathBuf {
    let found = path.ancestors().find(|path| path.is_dir());
    found.unwrap_or(Path::new("/")).to_path_buf()
}

/// Clones an (almost) empty file in a directory. Some file systems only say no to bytes.
fn try_clone(dir: &Path) -> io::Result<bool> {
    let name = |which| dir.join(format!(".cube-doctor-{}-{which}", std::process::id()));
    let (from, to) = (name("from"), name("to"));
    let result = || -> io::Result<bool> {
        fs::write(&from, [1; 4096])?;
        let (source, target) = (File::open(&from)?, File::create(&to)?);
        source.sync_all()?;
        match ioctl_ficlone(&target, &source) {
            Ok(()) => Ok(true),
            Err(Errno::OPNOTSUPP | Errno::XDEV | Errno::INVAL | Errno::NOTTY | Errno::NOSYS) => {
                Ok(false)
            }
            Err(errno) => Err(errno.into()),
        }
    };
    let result = result();
    for path in [from, to] {
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    result
}

/// What keeps the snapshotter from mounting an XFS file of its own.
fn own_xfs_obstacle() -> Option<&'static str> {
    let on_path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&on_path)
        // Not on every user's PATH, but where Debian keeps it.
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .any(|dir| dir.join("mkfs.xfs").exists());
    if !found {
        return Some("mkfs.xfs is missing");
    }
    (!Path::new("/dev/loop-control").exists()).then_some("there are no loop devices")
}

#[cfg(test)]
mod tests {
    use super::super::Status;
    use super::*;

    #[test]
    fn clones_or_an_xfs_file_are_good_and_neither_is_bad() {
        let check = |cloned, obstacle, expect| {
            let verdict = judge_reflink(Path::new("/p"), cloned, obstacle);
            assert_eq!(verdict.status, expect, "{verdict:?}");
        };
        check(Ok(true), Some("x"), Status::Good);
        check(Ok(false), None, Status::Good);
        check(Ok(false), Some("x"), Status::Bad);
        check(Err(Errno::ROFS.into()), None, Status::Bad);
    }

    #[test]
    fn the_free_space_has_two_limits() {
        let check = |bytes, expect| {
            assert_eq!(judge_space(Path::new("/p"), bytes).status, expect);
        };
        check(0, Status::Bad);
        check(LEAST_BYTES - 1, Status::Bad);
        check(LEAST_BYTES, Status::Warning);
        check(COMFORTABLE_BYTES, Status::Good);
        check(u64::MAX, Status::Good);
    }

    #[test]
    fn trying_to_clone_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        try_clone(dir.path()).unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn the_nearest_directory_that_exists_stands_for_one_that_does_not() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(existing(&dir.path().join("a/b")), dir.path());
    }
}
