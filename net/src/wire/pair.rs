// SPDX-License-Identifier: Apache-2.0
//! An interface of a client and the tap that is to carry its packets.

use super::Interface;

/// Two links of one namespace: whatever one of them receives, the other one sends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pair {
    /// Name of the tap.
    pub tap: String,
    /// Number of the tap.
    pub tap_index: u32,
    /// The client's interface, whose place the guest takes.
    pub interface: Interface,
}
