// SPDX-License-Identifier: Apache-2.0
//! The network device, saved and restored. There is no link, so the address is all.

use serde::{Deserialize, Serialize};

use super::Net;

/// What is saved of a network device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetState {
    /// The address that the guest has read.
    pub mac: [u8; 6],
}

impl Net {
    /// A stopped device that goes on where `state` was saved.
    pub fn restore(state: &NetState) -> Self {
        Self::new(state.mac)
    }

    pub(super) fn to_state(&self) -> NetState {
        NetState { mac: self.mac }
    }
}
