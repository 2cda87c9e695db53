// SPDX-License-Identifier: Apache-2.0
//! The shim's socket: where it is, and who may bind it.

use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};
use thiserror::Error;

/// Where containerd's own shims have their sockets.
const DEFAULT_DIR: &str = "/run/containerd/s";
/// `sockaddr_un.sun_path` has 108 bytes with the final zero (unix(7)).
const MAX_PATH: usize = 107;

/// The path of one sandbox's socket: every container of a pod computes the same.
#[derive(Debug)]
pub struct SocketPath {
    path: PathBuf,
    address: String,
}

/// What `start` found.
#[derive(Debug)]
pub enum Binding {
    /// Nobody was there: this is the listening socket for the server.
    Bound(UnixListener),
    /// A shim listens there already.
    Joined,
}

/// Why there is no socket.
#[derive(Debug, Error)]
pub enum SocketError {
    /// `sockaddr_un` is too short for it.
    #[error(
        "the socket path {path:?} is longer than 107 bytes; choose a shorter socket directory in containerd's configuration"
    )]
    TooLong {
        /// The path.
        path: PathBuf,
    },
    /// The directory could not be made.
    #[error("the socket directory {dir:?} could not be made")]
    Directory {
        /// The directory.
        dir: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The socket could not be bound.
    #[error("the shim's socket {path:?} could not be bound")]
    Bind {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The pod's sandbox has no live shim.
    #[error("the pod of this container has no live sandbox: nobody answers at {path:?}")]
    NoSandbox {
        /// Where its shim should listen.
        path: PathBuf,
        /// What came instead of an answer.
        source: io::Error,
    },
}

impl SocketPath {
    /// The same name as containerd's own shims use: the SHA-256 of `address/namespace/group`.
    pub fn new(
        dir: Option<&Path>,
        containerd: &str,
        namespace: &str,
        group: &str,
    ) -> Result<Self, SocketError> {
        let identity = Path::new(containerd).join(namespace).join(group);
        let digest = Sha256::digest(identity.as_os_str().as_encoded_bytes());
        let name: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        let path = dir.unwrap_or(Path::new(DEFAULT_DIR)).join(name);
        if path.as_os_str().len() > MAX_PATH {
            return Err(SocketError::TooLong { path });
        }
        let address = format!("unix://{}", path.display());
        Ok(Self { path, address })
    }

    /// As a file.
    pub fn as_path(&self) -> &Path {
        &self.path
    }

    /// As containerd writes it.
    pub fn address(&self) -> &str {
        &self.address
    }
}

/// For the container that leads a sandbox: binds the socket. What a dead shim of the same name left
/// is removed; a live one (containerd forgot a start half-way) is joined.
pub fn bind_or_join(path: &SocketPath) -> Result<Binding, SocketError> {
    let path = path.as_path();
    let dir = path.parent().unwrap_or(Path::new("/"));
    let made = DirBuilder::new().recursive(true).mode(0o700).create(dir);
    made.map_err(|source| SocketError::Directory {
        dir: dir.into(),
        source,
    })?;
    let error = |source| SocketError::Bind {
        path: path.into(),
        source,
    };
    let listener = match UnixListener::bind(path) {
        Err(taken) if taken.kind() == io::ErrorKind::AddrInUse => {
            if UnixStream::connect(path).is_ok() {
                return Ok(Binding::Joined);
            }
            fs::remove_file(path).map_err(error)?;
            UnixListener::bind(path).map_err(error)?
        }
        other => other.map_err(error)?,
    };
    fs::set_permissions(path, Permissions::from_mode(0o600)).map_err(error)?;
    Ok(Binding::Bound(listener))
}

/// For a further container of a pod: its sandbox's shim must be there.
pub fn join(path: &SocketPath) -> Result<(), SocketError> {
    match UnixStream::connect(path.as_path()) {
        Ok(_) => Ok(()),
        Err(source) => Err(SocketError::NoSandbox {
            path: path.as_path().into(),
            source,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path_in(dir: &Path) -> SocketPath {
        SocketPath::new(
            Some(dir),
            "/run/containerd/containerd.sock",
            "default",
            "t1",
        )
        .unwrap()
    }

    #[test]
    fn the_name_is_the_one_containerds_own_shims_use() {
        let path =
            SocketPath::new(None, "/run/containerd/containerd.sock", "default", "t1").unwrap();
        // printf /run/containerd/containerd.sock/default/t1 | sha256sum
        assert_eq!(
            path.address(),
            "unix:///run/containerd/s/df6a0c5cd2e9a1a16d9a3f2447365d9fc6021bc1d3d9a4caa2f5b2c4f773758f"
        );
    }

    #[test]
    fn a_path_that_no_socket_address_holds_is_refused() {
        let dir = PathBuf::from(format!("/{}", "d".repeat(60)));
        let result = SocketPath::new(Some(&dir), "a", "n", "i");
        assert!(matches!(result, Err(SocketError::TooLong { .. })));
    }

    #[test]
    fn a_fresh_socket_is_for_root_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = path_in(&dir.path().join("s"));
        let binding = bind_or_join(&path).unwrap();
        assert!(matches!(binding, Binding::Bound(_)));
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(path.as_path()), 0o600);
        assert_eq!(mode(&dir.path().join("s")), 0o700);
    }

    #[test]
    fn what_a_dead_shim_left_is_replaced_and_a_live_one_joined() {
        let dir = tempfile::tempdir().unwrap();
        let path = path_in(dir.path());
        drop(UnixListener::bind(path.as_path()).unwrap());
        let first = bind_or_join(&path).unwrap();
        assert!(matches!(first, Binding::Bound(_)));
        assert!(matches!(bind_or_join(&path).unwrap(), Binding::Joined));
    }

    #[test]
    fn a_member_of_a_pod_never_binds() {
        let dir = tempfile::tempdir().unwrap();
        let path = path_in(dir.path());
        assert!(matches!(join(&path), Err(SocketError::NoSandbox { .. })));
        let _listener = UnixListener::bind(path.as_path()).unwrap();
        join(&path).unwrap();
    }
}
