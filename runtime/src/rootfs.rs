// SPDX-License-Identifier: Apache-2.0
//! From containerd's list of mounts to a disk for a block slot.

/// One mount of a container's root file system, as a snapshotter describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RootfsMount {
    /// File system or mount type: `ext4`, `xfs`, `overlay`, `bind`.
    pub kind: String,
    /// What is mounted.
    pub source: String,
    /// Mount options.
    pub options: Vec<String>,
}
