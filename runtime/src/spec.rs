// SPDX-License-Identifier: Apache-2.0
//! From an OCI runtime spec to the size and identity of a machine.

use std::path::PathBuf;

use oci_spec::runtime::Spec;
use thiserror::Error;

use crate::config::Config;
use crate::error::Kind;
use crate::layout::SandboxKey;

/// What a sandbox is to be.
#[derive(Clone, Debug)]
pub struct SandboxSpec {
    /// Who it is.
    pub key: SandboxKey,
    /// The network namespace to live in; none: one of its own.
    pub netns: Option<PathBuf>,
    /// The machine's host name.
    pub hostname: String,
    /// Virtual processors, 1 to 8.
    pub vcpus: u8,
    /// Guest memory in MiB.
    pub memory_mib: u32,
    /// The host cgroup for the VMM, as `linux.cgroupsPath` names it.
    pub cgroup: Option<String>,
}

impl SandboxSpec {
    /// Reads a sandbox's wishes from the OCI spec of its first container.
    pub fn from_oci(key: SandboxKey, spec: &Spec, config: &Config) -> Result<Self, SpecError> {
        Ok(Self {
            hostname: spec.hostname().clone().unwrap_or_else(|| key.id.clone()),
            key,
            netns: None,
            vcpus: config.vcpus,
            memory_mib: config.memory_mib,
            cgroup: None,
        })
    }
}

/// What a spec may not ask for.
#[derive(Debug, Error)]
pub enum SpecError {
    /// No network namespace entry.
    #[error("host networking is not possible in a microVM; drop --net-host")]
    HostNetwork,
}

impl SpecError {
    /// The class of this failure.
    pub fn kind(&self) -> Kind {
        match self {
            SpecError::HostNetwork => Kind::InvalidArgument,
        }
    }
}
