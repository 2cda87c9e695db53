// SPDX-License-Identifier: Apache-2.0
//! The socket device, saved and restored.
//!
//! The sockets of the host's programs cannot come along, and so no connection does: what is saved
//! of them is how many the guest has to be told are gone (`interruption`). The answers to the
//! guest's packets that found no room yet do come along, since the guest may wait for them.
//! Packets of the guest that belong to a lost connection are refused like any others.
//!
//! Ports of the host go on where they were: a number of before would be taken for a connection of
//! before by packets that are still under way in the guest.

use std::os::fd::OwnedFd;

use serde::{Deserialize, Serialize};

use super::interruption::Interruption;
use super::muxer::{FIRST_HOST_PORT, Muxer};
use super::packet::{Header, Op, Ports};
use super::{MAX_PENDING_RESETS, Vsock};
use crate::state::RestoreError;

/// What is saved of a socket device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VsockState {
    /// The port of the next program that connects.
    pub next_port: u32,
    /// Answers that wait for room in the receive queue, oldest first.
    pub refusals: Vec<RefusalState>,
    /// Whether a restore cuts connections off.
    pub interruption: InterruptionState,
}

/// RST in answer to a packet that belonged to no connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefusalState {
    /// Port of the host.
    pub host_port: u32,
    /// Port of the guest.
    pub guest_port: u32,
    /// The type of the packet, whatever the guest has put there.
    pub kind: u16,
}

/// What the guest knows of a restore and has to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum InterruptionState {
    /// No connection is lost; a restore goes unnoticed.
    None,
    /// Connections are lost with this restore, or were with an earlier one that the guest has not
    /// been told of.
    Unannounced {
        /// How many; never zero.
        connections: u32,
    },
    /// The guest was told and has not answered.
    Announced {
        /// Event buffers that it had made available by then, a counter that wraps.
        available: u16,
    },
}

impl VsockState {
    /// How many connections a restore cuts off. Only with none is it free of cost.
    pub fn connections(&self) -> u32 {
        match self.interruption {
            InterruptionState::Unannounced { connections } => connections,
            InterruptionState::None | InterruptionState::Announced { .. } => 0,
        }
    }
}

impl Vsock {
    /// A stopped device that goes on where `state` was saved, for the programs that connect to
    /// `listener`.
    pub fn restore(listener: OwnedFd, state: &VsockState) -> Result<Self, RestoreError> {
        if state.next_port < FIRST_HOST_PORT {
            return Err(RestoreError::Port {
                port: state.next_port,
                first: FIRST_HOST_PORT,
            });
        }
        if state.refusals.len() > MAX_PENDING_RESETS {
            return Err(RestoreError::Refusals {
                count: state.refusals.len(),
                limit: MAX_PENDING_RESETS,
            });
        }
        let mut muxer = Muxer::new(listener)?;
        muxer.next_port = state.next_port;
        muxer.resets = state.refusals.iter().map(RefusalState::restore).collect();
        let interruption = Interruption::restore(state.interruption);
        Ok(Self::from_parts(muxer, interruption))
    }

    pub(super) fn to_state(&self) -> VsockState {
        VsockState {
            next_port: self.muxer.next_port,
            refusals: self.muxer.resets.iter().map(RefusalState::save).collect(),
            interruption: self.interruption.save(self.connections()),
        }
    }
}

impl RefusalState {
    fn save(header: &Header) -> Self {
        Self {
            host_port: header.src_port,
            guest_port: header.dst_port,
            kind: header.kind,
        }
    }

    fn restore(&self) -> Header {
        let ports = Ports {
            host: self.host_port,
            guest: self.guest_port,
        };
        Header {
            kind: self.kind,
            ..Header::to_guest(ports, Op::Reset)
        }
    }
}
