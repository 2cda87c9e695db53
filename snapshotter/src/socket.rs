// SPDX-License-Identifier: Apache-2.0
//! The socket that containerd dials: one instance at a time, a dead one's socket replaced, a foreign
//! one's respected.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use crate::lock::{Lock, LockError};

/// Longest path of a Unix socket: `sun_path` without its final zero.
const PATH_MAX_BYTES: usize = 107;

/// Why there is no socket.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// The path does not fit into a socket address.
    #[error("the socket path {} is longer than {PATH_MAX_BYTES} bytes", path.display())]
    TooLong {
        /// The path.
        path: PathBuf,
    },
    /// Another instance serves here.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// Another program listens here, or the path is not a socket.
    #[error("{} is in use by another program; choose another --address", path.display())]
    Foreign {
        /// The path.
        path: PathBuf,
    },
    /// A file operation failed.
    #[error("could not {doing} the socket {}", path.display())]
    File {
        /// What was attempted.
        doing: &'static str,
        /// The path.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
}

/// The bound socket's path and lock; the file goes when this is dropped.
#[derive(Debug)]
pub struct Socket {
    path: PathBuf,
    _lock: Lock,
}

impl Socket {
    /// Binds `path`, for root alone.
    ///
    /// # Errors
    /// When it is in use or cannot be made.
    pub fn bind(path: &Path) -> Result<(Self, UnixListener), SocketError> {
        if path.as_os_str().len() > PATH_MAX_BYTES {
            return Err(SocketError::TooLong { path: path.into() });
        }
        let fail = |doing| {
            move |source| SocketError::File {
                doing,
                path: path.into(),
                source,
            }
        };
        if let Some(parent) = path.parent() {
            fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(parent)
                .map_err(fail("make the directory of"))?;
        }
        let mut lock_file = path.as_os_str().to_owned();
        lock_file.push(".lock");
        let lock = Lock::take(path, Path::new(&lock_file))?;
        clear_stale(path)?;
        let listener = UnixListener::bind(path).map_err(fail("bind"))?;
        let socket = Self {
            path: path.into(),
            _lock: lock,
        };
        fs::set_permissions(path, Permissions::from_mode(0o600)).map_err(fail("protect"))?;
        listener.set_nonblocking(true).map_err(fail("set up"))?;
        Ok((socket, listener))
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(%error, "could not remove {}", self.path.display());
            }
            _ => {}
        }
    }
}

/// Removes a socket that nobody listens on. The lock is held: it is no other instance of ours.
fn clear_stale(path: &Path) -> Result<(), SocketError> {
    let found = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        found => found,
    };
    let fail = |doing| {
        move |source| SocketError::File {
            doing,
            path: path.into(),
            source,
        }
    };
    let is_socket = found.map_err(fail("look at"))?.file_type().is_socket();
    match UnixStream::connect(path) {
        Err(error) if is_socket && error.kind() == io::ErrorKind::ConnectionRefused => {
            fs::remove_file(path).map_err(fail("replace"))
        }
        _ => Err(SocketError::Foreign { path: path.into() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::net::{AddressFamily, SocketAddrUnix, SocketType, bind, socket};

    /// What a dead instance leaves. It never listened: a listener that was dropped lives on for as long
    /// as a child of another test is between its fork and its exec.
    fn leave_stale(path: &Path) {
        let stale = socket(AddressFamily::UNIX, SocketType::STREAM, None).unwrap();
        bind(&stale, &SocketAddrUnix::new(path).unwrap()).unwrap();
    }

    #[test]
    fn stale_socket_is_replaced_and_live_or_foreign_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deep/s.sock");
        let (socket, _listener) = Socket::bind(&path).unwrap();
        let error = Socket::bind(&path).unwrap_err().to_string();
        assert!(error.contains("another cube-snapshotter"), "{error}");
        drop(socket);
        assert!(!path.exists());

        leave_stale(&path);
        let (socket, _listener) = Socket::bind(&path).unwrap();
        drop(socket);

        let foreign = UnixListener::bind(&path).unwrap();
        assert!(matches!(
            Socket::bind(&path),
            Err(SocketError::Foreign { .. })
        ));
        drop(foreign);
        fs::remove_file(&path).unwrap();
        fs::write(&path, "precious").unwrap();
        assert!(Socket::bind(&path).is_err());
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
    }

    #[test]
    fn path_that_fits_no_address_is_refused() {
        let path = Path::new("/tmp").join("x".repeat(PATH_MAX_BYTES));
        assert!(matches!(
            Socket::bind(&path),
            Err(SocketError::TooLong { .. })
        ));
    }
}
