// SPDX-License-Identifier: Apache-2.0
//! A network namespace, and how to work in one.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::thread;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use thiserror::Error;

/// `NSFS_MAGIC` of linux/magic.h.
const NSFS_MAGIC: i64 = 0x6e73_6673;

/// A namespace that is held open: it exists for as long as this does.
#[derive(Debug)]
pub struct Namespace {
    path: PathBuf,
    file: File,
}

/// What tells one namespace from any other that lives at the same time (namespaces(7)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Of the file system of namespaces.
    pub device: u64,
    /// Of the namespace in it.
    pub inode: u64,
}

impl Namespace {
    /// Opens a namespace by a path: below `/run/netns`, or `/proc/PID/ns/net`.
    pub fn open(path: &Path) -> Result<Self, NamespaceError> {
        let failed = |source| NamespaceError::Open {
            path: path.into(),
            source,
        };
        let none = || failed(io::Error::other("it is not a namespace"));
        Self::find(path).map_err(failed)?.ok_or_else(none)
    }

    /// The same where it may be gone: then nothing is at the path, or for a moment the empty file that it
    /// was mounted on.
    pub fn find(path: &Path) -> io::Result<Option<Self>> {
        let file = match File::open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other?,
        };
        let is_one = rustix::fs::fstatfs(&file)?.f_type == NSFS_MAGIC;
        Ok(is_one.then(|| Self {
            path: path.into(),
            file,
        }))
    }

    /// Where it was found.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Who it is.
    pub fn identity(&self) -> Result<Identity, NamespaceError> {
        let found = self
            .file
            .metadata()
            .map_err(|source| NamespaceError::Open {
                path: self.path.clone(),
                source,
            })?;
        Ok(Identity {
            device: found.dev(),
            inode: found.ino(),
        })
    }

    /// Runs work on a thread of its own that lives in the namespace, and waits for it. What the work
    /// opens there (sockets, taps) stays in the namespace wherever it is used.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T, NamespaceError> {
        let enter_failed = |source| NamespaceError::Enter {
            path: self.path.clone(),
            source,
        };
        thread::scope(|scope| {
            let inside = thread::Builder::new()
                .name("netns".into())
                .spawn_scoped(scope, || {
                    move_into_link_name_space(self.file.as_fd(), Some(LinkNameSpaceType::Network))?;
                    Ok(work())
                });
            let inside = inside.map_err(enter_failed)?;
            match inside.join() {
                Ok(done) => done.map_err(|errno: rustix::io::Errno| enter_failed(errno.into())),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }
}

impl From<Namespace> for OwnedFd {
    fn from(namespace: Namespace) -> Self {
        namespace.file.into()
    }
}

impl AsFd for Namespace {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// Why there is no working in a namespace.
#[derive(Debug, Error)]
pub enum NamespaceError {
    /// It is not there, or no namespace.
    #[error("the network namespace {} could not be opened", path.display())]
    Open {
        /// Where it should be.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It could not be entered.
    #[error("the network namespace {} could not be entered", path.display())]
    Enter {
        /// Where it is.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::lab;

    #[test]
    fn work_is_done_inside_and_this_thread_stays_outside() {
        let Some(namespace) = lab::namespace() else {
            return;
        };
        let here = || Namespace::open(Path::new("/proc/thread-self/ns/net")).unwrap();
        let before = here().identity().unwrap();
        let inside = namespace.run(|| here().identity().unwrap()).unwrap();
        assert_eq!(inside, namespace.identity().unwrap());
        assert_ne!(inside, before);
        assert_eq!(here().identity().unwrap(), before);
    }

    #[test]
    fn a_file_that_is_no_namespace_is_refused_by_name() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let error = Namespace::open(file.path()).unwrap_err();
        let path = file.path().display().to_string();
        assert!(error.to_string().contains(&path), "{error}");
    }

    #[test]
    fn one_that_is_gone_is_not_found_and_not_opened() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("gone");
        assert!(Namespace::find(&path).unwrap().is_none());
        let error = Namespace::open(&path).unwrap_err();
        assert!(error.to_string().contains("gone"), "{error}");
        std::fs::write(&path, "").unwrap();
        assert!(Namespace::find(&path).unwrap().is_none());
    }

    #[test]
    fn another_kind_of_namespace_cannot_be_entered() {
        let namespace = Namespace::open(Path::new("/proc/self/ns/uts")).unwrap();
        let entered = namespace.run(|| ());
        assert!(
            matches!(entered, Err(NamespaceError::Enter { .. })),
            "{entered:?}"
        );
    }
}
