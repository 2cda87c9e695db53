// SPDX-License-Identifier: Apache-2.0
//! Locks that keep a second instance out, and that the kernel drops when their owner dies.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;
use rustix::io::Errno;

/// Why a lock was not got.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another instance has it.
    #[error("another cube-snapshotter (process {owner}) uses {}", guarded.display())]
    Taken {
        /// What is locked.
        guarded: PathBuf,
        /// The other's process id, as far as it told.
        owner: String,
    },
    /// The lock's file failed.
    #[error("could not lock {} through {}", guarded.display(), file.display())]
    File {
        /// What is to be locked.
        guarded: PathBuf,
        /// The lock's file.
        file: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
}

/// A lock held until it is dropped. Its file stays: removing it would let two instances lock two
/// files of one name.
#[derive(Debug)]
pub struct Lock(File);

impl Lock {
    /// Locks `guarded` through `file`, without waiting.
    ///
    /// # Errors
    /// When another instance has it, or the file cannot be made.
    pub fn take(guarded: &Path, file: &Path) -> Result<Self, LockError> {
        let fail = |source| LockError::File {
            guarded: guarded.into(),
            file: file.into(),
            source,
        };
        let mut lock = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(file)
            .map_err(fail)?;
        match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => {
                let mut owner = String::new();
                // Only for the message: a lock whose owner cannot be read is taken all the same.
                if lock.read_to_string(&mut owner).is_err() || owner.is_empty() {
                    owner = "unknown".into();
                }
                let (guarded, owner) = (guarded.into(), owner.trim().into());
                return Err(LockError::Taken { guarded, owner });
            }
            Err(errno) => return Err(fail(errno.into())),
        }
        lock.set_len(0)
            .and_then(|()| lock.rewind())
            .and_then(|()| writeln!(lock, "{}", std::process::id()))
            .map_err(fail)?;
        Ok(Self(lock))
    }
}

/// Closing the file is not enough: a child that is between its fork and its exec has a descriptor of it
/// too, and the lock is the open file's (flock(2)). Unlocking ends it for all of them.
impl Drop for Lock {
    fn drop(&mut self) {
        if let Err(error) = rustix::fs::flock(&self.0, FlockOperation::Unlock) {
            tracing::warn!(%error, "could not unlock");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn second_taker_is_told_who_has_it() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("lock");
        let first = Lock::take(dir.path(), &file).unwrap();
        let error = Lock::take(dir.path(), &file).unwrap_err().to_string();
        assert!(error.contains(&std::process::id().to_string()), "{error}");
        drop(first);
        Lock::take(dir.path(), &file).unwrap();
    }

    #[test]
    fn lock_ends_although_a_child_still_has_its_file() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("lock");
        let first = Lock::take(dir.path(), &file).unwrap();
        let inherited = first.0.try_clone().unwrap();
        drop(first);
        Lock::take(dir.path(), &file).unwrap();
        drop(inherited);
    }
}
