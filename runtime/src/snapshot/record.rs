// SPDX-License-Identifier: Apache-2.0
//! `snapshot.json`: what was saved of whom, and what has to be the same where it is used.

use cube_vmm::fingerprint::HostFingerprint;
use serde::{Deserialize, Serialize};

/// The form of the file; a reader refuses another one.
pub(super) const FORMAT: u32 = 1;

/// A snapshot, in its own words.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SnapshotRecord {
    /// Of this structure.
    pub format: u32,
    /// Its name.
    pub name: String,
    /// When it was made, seconds since the epoch.
    pub created_s: u64,
    /// The sandbox, `NAMESPACE/ID`.
    pub source: String,
    /// The snapshot that the sandbox had started from, if it had.
    pub parent: Option<String>,
    /// Virtual processors.
    pub vcpus: u8,
    /// Guest memory in MiB.
    pub memory_mib: u32,
    /// Version of the protocol between host and agent.
    pub protocol: u32,
    /// The processor and the KVM that it was saved on.
    pub host: HostRecord,
    /// Its container.
    pub container: ContainerRecord,
}

/// What a guest keeps that it once found out about its host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HostRecord {
    /// The processor, as a guest sees it.
    pub cpu: String,
    /// KVM.
    pub kvm: String,
}

/// The container of a saved sandbox.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ContainerRecord {
    /// What its agent calls it.
    pub id: String,
    /// The block slot of its disk.
    pub slot: u8,
    /// Whether the disk is read-only.
    pub read_only: bool,
}

impl From<HostFingerprint> for HostRecord {
    fn from(host: HostFingerprint) -> Self {
        Self {
            cpu: host.cpu,
            kvm: host.kvm,
        }
    }
}
