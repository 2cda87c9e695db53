// SPDX-License-Identifier: Apache-2.0
//! One container of a sandbox.

use std::path::PathBuf;

use thiserror::Error;

use crate::error::Kind;
use crate::rootfs::RootfsMount;

/// What a container is made of.
#[derive(Clone, Debug)]
pub struct ContainerSpec {
    /// Its name; the first container of a sandbox usually has the sandbox's.
    pub id: String,
    /// The OCI bundle directory on the host (for hooks and their state).
    pub bundle: PathBuf,
    /// The bundle's `config.json`, byte for byte: the agent reads what the client wrote.
    pub spec_json: Vec<u8>,
    /// The root file system as containerd passed it.
    pub rootfs: Vec<RootfsMount>,
}

/// What can go wrong with a container.
#[derive(Debug, Error)]
pub enum ContainerError {
    /// The name is taken.
    #[error("the sandbox has a container {id:?} already")]
    Exists {
        /// The name.
        id: String,
    },
    /// No such container.
    #[error("the sandbox has no container {id:?}")]
    Unknown {
        /// The name.
        id: String,
    },
}

impl ContainerError {
    /// The class of this failure.
    pub fn kind(&self) -> Kind {
        match self {
            ContainerError::Exists { .. } => Kind::AlreadyExists,
            ContainerError::Unknown { .. } => Kind::NotFound,
        }
    }
}
