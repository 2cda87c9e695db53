// SPDX-License-Identifier: Apache-2.0
//! The directory of each sandbox, and all that is known about it in files.
//!
//! ```text
//! <run>/sandboxes/<16 hex digits of its key>/   0700, root
//!     sandbox.json   who it is, its VMM (pid and start time), its host cgroup,
//!                    its network: see [`SandboxState`]
//!     vsock.sock     the host's side of the guest's vsock
//!     vmm.log        what cube-vmm printed
//!     serial.log     what the guest's console printed, bounded by the VMM
//! ```
//!
//! Whoever creates a sandbox holds a lock on its directory for as long as it lives, so that a left-over
//! is told apart from a living sandbox without asking anybody. Removing one is [`mod@crate::reap`]'s.

mod directory;
mod key;
mod state;

use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

pub use directory::is_held;
pub(crate) use directory::{SandboxDir, last_words};
pub use key::SandboxKey;
pub(crate) use state::Record;
pub use state::{InterfaceState, NamespaceState, NetworkState, SandboxState, VmmState};

/// Name of the state file.
pub(crate) const STATE_FILE: &str = "sandbox.json";

/// The host's side of the guest's vsock, in a sandbox's directory.
pub(crate) fn vsock_path(dir: &Path) -> PathBuf {
    dir.join("vsock.sock")
}

/// Where sandboxes are.
#[derive(Clone, Debug)]
pub struct Layout {
    run: PathBuf,
}

impl Layout {
    /// The layout below a run directory ([`crate::Config::run`]).
    pub fn new(run: impl Into<PathBuf>) -> Self {
        Self { run: run.into() }
    }

    /// The run directory itself.
    pub fn run(&self) -> &Path {
        &self.run
    }

    /// The directory of all sandboxes.
    pub fn sandboxes(&self) -> PathBuf {
        self.run.join("sandboxes")
    }

    /// The directory of one sandbox, whether it exists or not.
    pub fn path(&self, key: &SandboxKey) -> PathBuf {
        self.sandboxes().join(key.name())
    }

    /// The directories of all sandboxes there are, in the order of their names. No run directory
    /// is the same as an empty one; one that is just being made (its name begins with a dot) is not there yet.
    pub fn list(&self) -> Result<Vec<PathBuf>, LayoutError> {
        let path = self.sandboxes();
        let entries = match std::fs::read_dir(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other,
        };
        let mut found = entries
            .and_then(|entries| {
                entries
                    .map(|entry| entry.map(|entry| entry.path()))
                    .collect::<io::Result<Vec<_>>>()
            })
            .map_err(|source| LayoutError::List { path, source })?;
        found.retain(|path| {
            let name = path.file_name().unwrap_or_default();
            !name.as_encoded_bytes().starts_with(b".")
        });
        found.sort();
        Ok(found)
    }
}

/// What can go wrong with a sandbox's directory.
#[derive(Debug, Error)]
pub enum LayoutError {
    /// The directory could not be made.
    #[error("the sandbox directory {} could not be made", path.display())]
    Make {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The sandbox is there and alive.
    #[error("the sandbox {key} exists already, in {}", path.display())]
    Exists {
        /// Its key.
        key: SandboxKey,
        /// Its directory.
        path: PathBuf,
    },
    /// A left-over of the same name could not be removed.
    #[error("the left-over of an earlier sandbox {key} could not be removed")]
    LeftOver {
        /// Its key.
        key: SandboxKey,
        /// Why.
        source: crate::reap::ReapError,
    },
    /// The socket's path does not fit into a socket address.
    #[error(
        "the socket path {} has {} bytes, at most {max} are possible: choose a shorter `run` directory",
        path.display(),
        path.as_os_str().len()
    )]
    SocketPath {
        /// The path.
        path: PathBuf,
        /// The limit.
        max: usize,
    },
    /// A file of it could not be made.
    #[error("{} could not be written", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The state file could not be read.
    #[error("{} could not be read", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The state file is not one.
    #[error("{} is not a sandbox's state", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// Why.
        source: serde_json::Error,
    },
    /// The directory of all sandboxes could not be read.
    #[error("the sandboxes in {} could not be listed", path.display())]
    List {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}
