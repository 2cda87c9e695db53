// SPDX-License-Identifier: Apache-2.0
//! A network device, saved and restored. A link is the host's and is not saved: a restored device
//! has none until it is given one, and the frame that waited for room is lost.

use serde::{Deserialize, Serialize};

use super::{Net, NetError};

/// What is saved of a network device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetState {
    /// The address that the guest has read.
    pub mac: [u8; 6],
}

impl Net {
    /// A stopped device that goes on where `state` was saved.
    pub fn restore(state: &NetState) -> Result<Self, NetError> {
        Self::new(state.mac)
    }

    pub(super) fn to_state(&self) -> NetState {
        NetState { mac: self.mac }
    }
}
