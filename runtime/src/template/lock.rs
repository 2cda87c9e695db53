// SPDX-License-Identifier: Apache-2.0
//! Who builds a template. The lock is the kernel's (flock), so it ends with its holder, however that ends.
//!
//! The lock's file remembers why the last build failed: ten starts that wait for one must not each boot
//! a machine to find out the same.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, SystemTime};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

/// Longest reason that is kept.
const MAX_REASON: usize = 1024;

/// The right to build one template.
#[derive(Debug)]
pub(super) struct BuildLock {
    file: File,
}

impl BuildLock {
    /// Takes the lock unless somebody has it. The file stays for ever: one that came and went could be
    /// locked twice.
    pub(super) fn try_take(path: &Path) -> io::Result<Option<Self>> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(Self { file })),
            Err(Errno::WOULDBLOCK) => Ok(None),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Why the last build failed, if it did and that is not longer ago than `within`.
    pub(super) fn recent_failure(&self, within: Duration) -> Option<(String, Duration)> {
        let meta = self.file.metadata().ok()?;
        // A time stamp from the future is as good as none.
        let age = SystemTime::now()
            .duration_since(meta.modified().ok()?)
            .ok()?;
        if meta.len() == 0 || age > within {
            return None;
        }
        let mut bytes = vec![0; MAX_REASON];
        let len = self.file.read_at(&mut bytes, 0).ok()?;
        bytes.truncate(len);
        Some((String::from_utf8_lossy(&bytes).into_owned(), age))
    }

    /// Remembers a failure.
    pub(super) fn note_failure(&self, reason: &str) -> io::Result<()> {
        self.forget_failure()?;
        let bytes = reason.as_bytes();
        let kept = bytes.get(..MAX_REASON).unwrap_or(bytes);
        self.file.write_all_at(kept, 0)
    }

    /// Forgets it again.
    pub(super) fn forget_failure(&self) -> io::Result<()> {
        self.file.set_len(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_at_a_time_and_the_next_after_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(".lock.x");
        let first = BuildLock::try_take(&path).unwrap().unwrap();
        assert!(BuildLock::try_take(&path).unwrap().is_none());
        drop(first);
        assert!(BuildLock::try_take(&path).unwrap().is_some());
    }

    #[test]
    fn a_failure_is_remembered_for_a_while() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(".lock.x");
        let lock = BuildLock::try_take(&path).unwrap().unwrap();
        let minute = Duration::from_secs(60);
        assert_eq!(lock.recent_failure(minute), None);
        lock.note_failure(&"x".repeat(5000)).unwrap();
        lock.note_failure("no room").unwrap();
        drop(lock);
        let lock = BuildLock::try_take(&path).unwrap().unwrap();
        assert_eq!(lock.recent_failure(minute).unwrap().0, "no room");
        lock.file
            .set_modified(SystemTime::now() - Duration::from_secs(61))
            .unwrap();
        assert_eq!(lock.recent_failure(minute), None);
        lock.note_failure("again").unwrap();
        lock.forget_failure().unwrap();
        assert_eq!(lock.recent_failure(minute), None);
    }
}
