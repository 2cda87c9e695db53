// SPDX-License-Identifier: Apache-2.0
//! The OCI runtime specification, as far as a guest acts on it.
//!
//! [`spec`] is the JSON as clients write it; [`container`] and [`process`] turn it into the stage's plan,
//! which cannot be wrong any more; [`mounts`] and [`capabilities`] are the two vocabularies in it.
//! Cgroup limits are translated by `crate::cgroup`, seccomp by `crate::seccomp`.
//!
//! Own structures instead of a ready-made crate: clients and servers of different ages meet here, so an
//! unknown capability or an absent list must not be an error, while a feature that would be lost silently
//! must be one ([`Unsupported`](SpecError::Unsupported)). It also keeps a regular-expression engine out of
//! every guest's memory.
//!
//! What is read and on purpose not acted on: `process.apparmorProfile`, `process.selinuxLabel` and
//! `linux.mountLabel` name policies of the host's kernel, which the guest's kernel has never heard of;
//! `linux.cgroupsPath` and network namespaces are the host's business; hooks that run on the host
//! (`prestart`, `createRuntime`, `poststart`, `poststop`) are the shim's.

mod capabilities;
mod container;
mod mounts;
mod process;
mod spec;

use thiserror::Error;

pub use container::{Namespaces, Places, container_plan, namespaces};
pub use mounts::absolute;
pub use process::process_plan;
pub use spec::{
    BlockIo, Cpu, DeviceRule, HugepageLimit, Memory, Pids, Process, Resources, Seccomp, Spec,
    SyscallArg, SyscallRule,
};

/// A spec that cannot become a container here.
#[derive(Debug, Error)]
pub enum SpecError {
    /// Not JSON, or of another shape than the specification's.
    #[error("cannot read the {what}")]
    Json {
        /// Which document.
        what: &'static str,
        /// Where and why.
        #[source]
        source: serde_json::Error,
    },
    /// A value outside of what the specification allows.
    #[error("{field}: {reason}")]
    Invalid {
        /// Path of the field in the spec.
        field: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Understood, and refused rather than ignored.
    #[error("{field}: {feature} not supported")]
    Unsupported {
        /// Path of the field in the spec.
        field: String,
        /// What was asked for, with its verb ("... is", "... are").
        feature: String,
    },
    /// The seccomp profile is wrong.
    #[error(transparent)]
    Seccomp(#[from] crate::seccomp::SeccompError),
}

impl SpecError {
    pub(crate) fn invalid(field: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Invalid {
            field: field.into(),
            reason: reason.into(),
        }
    }

    pub(crate) fn unsupported(field: impl Into<String>, feature: impl Into<String>) -> Self {
        Self::Unsupported {
            field: field.into(),
            feature: feature.into(),
        }
    }
}

/// Reads one of the documents that a client wrote.
pub fn parse<T: serde::de::DeserializeOwned>(
    what: &'static str,
    json: &[u8],
) -> Result<T, SpecError> {
    serde_json::from_slice(json).map_err(|source| SpecError::Json { what, source })
}
