// SPDX-License-Identifier: Apache-2.0
//! Making the directory of a sandbox, and what is put into it.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FlockOperation, RenameFlags, flock, renameat_with};
use rustix::io::Errno;

use super::{Layout, LayoutError, SandboxKey};
use crate::guest_text;
use crate::reap;

/// `sun_path` of a socket address has 108 bytes, one of them for the end (unix(7)).
const MAX_SOCKET_PATH: usize = 107;

/// Attempts at making the directory while left-overs of the same name are in the way.
const MAKE_ATTEMPTS: usize = 3;

/// The directory of a live sandbox. The lock on it ends with the process, however that ends.
#[derive(Debug)]
pub(crate) struct SandboxDir {
    path: PathBuf,
    _lock: File,
}

impl SandboxDir {
    /// Makes the directory. What an earlier sandbox of the same name left is removed first;
    /// a living one is an error.
    pub(crate) fn create(layout: &Layout, key: &SandboxKey) -> Result<Self, LayoutError> {
        let path = layout.path(key);
        let socket = super::vsock_path(&path);
        if socket.as_os_str().len() > MAX_SOCKET_PATH {
            return Err(LayoutError::SocketPath {
                path: socket,
                max: MAX_SOCKET_PATH,
            });
        }
        for _ in 0..MAKE_ATTEMPTS {
            match make_and_lock(layout, &path) {
                Ok(lock) => return Ok(Self { path, _lock: lock }),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                    clear_left_over(key, &path)?;
                }
                Err(source) => return Err(LayoutError::Make { path, source }),
            }
        }
        Err(LayoutError::Exists {
            key: key.clone(),
            path,
        })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn vsock_path(&self) -> PathBuf {
        super::vsock_path(&self.path)
    }

    /// Binds the socket that the VMM will accept the host's vsock connections on.
    pub(crate) fn bind_vsock(&self) -> Result<UnixListener, LayoutError> {
        let path = self.vsock_path();
        UnixListener::bind(&path).map_err(|source| LayoutError::Write { path, source })
    }

    /// Opens the file for what cube-vmm prints.
    pub(crate) fn vmm_log(&self) -> Result<File, LayoutError> {
        self.log("vmm.log")
    }

    /// Opens the file for what the guest's console prints.
    pub(crate) fn serial_log(&self) -> Result<File, LayoutError> {
        self.log("serial.log")
    }

    /// The last lines of both logs on one line, for an error message.
    pub(crate) fn last_words(&self) -> String {
        last_words(&self.path)
    }

    fn log(&self, name: &str) -> Result<File, LayoutError> {
        let path = self.path.join(name);
        OpenOptions::new()
            .append(true)
            .create(true)
            .mode(0o600)
            .open(&path)
            .map_err(|source| LayoutError::Write { path, source })
    }
}

/// The last lines of the VMM's and the guest console's logs in a sandbox's directory.
pub(crate) fn last_words(dir: &Path) -> String {
    ["vmm.log", "serial.log"]
        .into_iter()
        .filter_map(|name| {
            let tail = guest_text::tail_of(&dir.join(name))?;
            Some(format!("{name}: {tail}"))
        })
        .collect::<Vec<_>>()
        .join("; ")
}

/// Whether somebody that lives holds this sandbox directory.
pub fn is_held(dir: &Path) -> bool {
    match File::open(dir) {
        Ok(file) => matches!(
            flock(&file, FlockOperation::NonBlockingLockExclusive),
            Err(Errno::WOULDBLOCK)
        ),
        Err(_) => false,
    }
}

/// Makes the directory under another name, locks it and renames it: whoever sees it under its own
/// name sees it locked, so a half-made one is never taken for a left-over.
fn make_and_lock(layout: &Layout, path: &Path) -> io::Result<File> {
    let private = |recursive| {
        let mut builder = DirBuilder::new();
        builder.mode(0o700).recursive(recursive);
        builder
    };
    let name = path.file_name().unwrap_or_default().display();
    let fresh = layout
        .sandboxes()
        .join(format!(".{name}.{}", std::process::id()));
    private(true).create(layout.sandboxes())?;
    private(true).create(&fresh)?;
    let locked = File::open(&fresh).and_then(|dir| {
        flock(&dir, FlockOperation::NonBlockingLockExclusive)?;
        renameat_with(CWD, &fresh, CWD, path, RenameFlags::NOREPLACE)?;
        Ok(dir)
    });
    if locked.is_err() {
        fs::remove_dir(&fresh)?;
    }
    locked
}

/// Removes a directory that is in the way unless its sandbox lives.
fn clear_left_over(key: &SandboxKey, path: &Path) -> Result<(), LayoutError> {
    if is_held(path) {
        return Err(LayoutError::Exists {
            key: key.clone(),
            path: path.into(),
        });
    }
    tracing::warn!(sandbox = %key, "removing the left-over of an earlier sandbox of this name");
    reap::reap_dir(path).map_err(|source| LayoutError::LeftOver {
        key: key.clone(),
        source,
    })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn key(id: &str) -> SandboxKey {
        SandboxKey {
            address: "/a".into(),
            namespace: "n".into(),
            id: id.into(),
        }
    }

    #[test]
    fn the_directory_is_for_its_owner_alone() {
        let run = tempfile::tempdir().unwrap();
        let dir = SandboxDir::create(&Layout::new(run.path()), &key("a")).unwrap();
        let mode = fs::metadata(dir.path()).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
        dir.bind_vsock().unwrap();
        assert!(dir.vsock_path().exists());
    }

    #[test]
    fn a_living_sandbox_of_the_same_name_is_refused() {
        let run = tempfile::tempdir().unwrap();
        let layout = Layout::new(run.path());
        let _first = SandboxDir::create(&layout, &key("a")).unwrap();
        let error = SandboxDir::create(&layout, &key("a")).unwrap_err();
        assert!(matches!(error, LayoutError::Exists { .. }), "{error}");
        SandboxDir::create(&layout, &key("b")).unwrap();
    }

    #[test]
    fn a_left_over_of_the_same_name_is_replaced() {
        let run = tempfile::tempdir().unwrap();
        let layout = Layout::new(run.path());
        let left = SandboxDir::create(&layout, &key("a")).unwrap();
        fs::write(left.path().join("vmm.log"), "old").unwrap();
        drop(left);
        let fresh = SandboxDir::create(&layout, &key("a")).unwrap();
        assert!(!fresh.path().join("vmm.log").exists());
    }

    #[test]
    fn a_run_directory_that_is_too_long_says_so() {
        let layout = Layout::new(format!("/tmp/{}", "x".repeat(90)));
        let error = SandboxDir::create(&layout, &key("a")).unwrap_err();
        assert!(matches!(error, LayoutError::SocketPath { .. }), "{error}");
    }

    #[test]
    fn sandboxes_are_listed_and_a_missing_run_directory_has_none() {
        let run = tempfile::tempdir().unwrap();
        let layout = Layout::new(run.path());
        assert!(layout.list().unwrap().is_empty());
        let dir = SandboxDir::create(&layout, &key("a")).unwrap();
        assert_eq!(layout.list().unwrap(), [dir.path()]);
    }
}
