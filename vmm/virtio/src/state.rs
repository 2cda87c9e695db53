// SPDX-License-Identifier: Apache-2.0
//! What is saved of the devices, and why it may not be restored.
//!
//! Plain data without descriptors, addresses of this process or the time. Each type stands with
//! its two directions in the folder of what it is saved of: [`TransportState`] and
//! [`RegistersState`] with the transport, one type with each device. This module gathers them and
//! knows the format as a whole; what it is written with and where is the VMM's affair.
//!
//! A state may come from a file that somebody altered. Restoring therefore takes nothing for
//! granted: it allocates nothing by a number in the state, and what a driver could not have
//! brought about by its register writes is refused with a [`RestoreError`].

use serde::{Deserialize, Serialize};

pub use crate::block::{BlockState, DiskState};
pub use crate::mmio::TransportState;
pub use crate::net::NetState;
pub use crate::queue::QueueState;
pub use crate::registers::{QueueSetupState, RegistersState, SetupError};
pub use crate::vsock::{InterruptionState, RefusalState, VsockState};

use crate::mmio::TransportError;
use crate::net::NetError;
use crate::vsock::VsockError;

/// The format of all types here. To be raised with every change that `tests/state_golden.json`
/// shows: a reader of another number has no way to tell what the bytes mean.
pub const STATE_VERSION: u32 = 1;

/// What a device remembers beside its queues.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum DeviceState {
    /// The socket device.
    Vsock(VsockState),
    /// The entropy device, which remembers nothing.
    Rng,
    /// The network device.
    Net(NetState),
    /// A block slot.
    Block(BlockState),
}

impl DeviceState {
    /// Of a socket device.
    pub fn vsock(&self) -> Result<&VsockState, RestoreError> {
        match self {
            Self::Vsock(state) => Ok(state),
            other => Err(other.instead_of("vsock")),
        }
    }

    /// Of a network device.
    pub fn net(&self) -> Result<&NetState, RestoreError> {
        match self {
            Self::Net(state) => Ok(state),
            other => Err(other.instead_of("net")),
        }
    }

    /// Of a block slot.
    pub fn block(&self) -> Result<&BlockState, RestoreError> {
        match self {
            Self::Block(state) => Ok(state),
            other => Err(other.instead_of("block")),
        }
    }

    /// Refuses the state of another kind of device than `self` is one of.
    pub(crate) fn check_kind(&self, other: &Self) -> Result<(), RestoreError> {
        if self.kind() == other.kind() {
            Ok(())
        } else {
            Err(other.instead_of(self.kind()))
        }
    }

    fn kind(&self) -> &'static str {
        match self {
            Self::Vsock(_) => "vsock",
            Self::Rng => "rng",
            Self::Net(_) => "net",
            Self::Block(_) => "block",
        }
    }

    fn instead_of(&self, device: &'static str) -> RestoreError {
        RestoreError::Kind {
            state: self.kind(),
            device,
        }
    }
}

/// A state cannot be restored.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// The host does not give what every transport needs.
    #[error("cannot make the transport of a restored device")]
    Transport(#[from] TransportError),
    /// The host does not give what a socket device needs.
    #[error("cannot make the sockets of a restored device")]
    Sockets(#[from] VsockError),
    /// The host does not give what a network device needs.
    #[error("cannot make the poller of a restored network device")]
    Net(#[from] NetError),
    /// The state is another device's.
    #[error("the state of a {state} device is not one of a {device} device")]
    Kind {
        /// What was saved.
        state: &'static str,
        /// What is to be restored.
        device: &'static str,
    },
    /// The state has not as many queues as the device.
    #[error("a state of {state} queues for a device of {device}")]
    QueueCount {
        /// Queues in the state.
        state: usize,
        /// Queues of the device.
        device: usize,
    },
    /// No driver can bring the status register to this.
    #[error("a device status of {status:#x}, which there is not")]
    Status {
        /// The status register.
        status: u32,
    },
    /// Features or queues are written that cannot have been at this status.
    #[error("registers are written that cannot be yet at status {status:#x}")]
    TooEarly {
        /// The status register.
        status: u32,
    },
    /// The driver relies on what this device does not offer.
    #[error("features {agreed:#x} were agreed on, {offered:#x} are offered")]
    Features {
        /// By the saved device and its driver.
        agreed: u64,
        /// By this device.
        offered: u64,
    },
    /// A reason for an interrupt that does not exist, or that the device cannot have had.
    #[error("interrupt status {interrupt_status:#x} at status {status:#x}")]
    Interrupt {
        /// The interrupt status register.
        interrupt_status: u32,
        /// The status register.
        status: u32,
    },
    /// A device that runs has told its driver of every change.
    #[error("a running device with a change that was not announced")]
    Unannounced,
    /// A running device has as many positions as queues, any other has none.
    #[error("{state} positions in the queues for {running} running queues")]
    Positions {
        /// Positions in the state.
        state: usize,
        /// Queues that run.
        running: usize,
    },
    /// The rings are not where they can be.
    #[error("cannot set up the queues of a restored device")]
    Queues(#[from] SetupError),
    /// A stopped device has completed all that it took.
    #[error("queue {index} has requests in flight: {next_avail} taken, {next_used} completed")]
    InFlight {
        /// The queue.
        index: usize,
        /// Requests taken so far; wraps.
        next_avail: u16,
        /// Requests completed so far; wraps.
        next_used: u16,
    },
    /// The memory was saved at another time than the device.
    #[error("queue {index} completed {next_used} requests, {in_memory} by the guest's memory")]
    UsedRing {
        /// The queue.
        index: usize,
        /// Requests completed so far, by the state.
        next_used: u16,
        /// And by the used ring.
        in_memory: u16,
    },
    /// The used ring cannot be read.
    #[error("cannot read the used ring of queue {index}")]
    ReadRing {
        /// The queue.
        index: usize,
        /// What the ring says.
        #[source]
        source: virtio_queue::Error,
    },
    /// A port that is never given to the host's programs.
    #[error("the next port of the host is {port}, below {first}")]
    Port {
        /// The port.
        port: u32,
        /// The first that is given.
        first: u32,
    },
    /// More answers wait for the guest than it can cause.
    #[error("{count} refusals wait for the guest, of at most {limit}")]
    Refusals {
        /// In the state.
        count: usize,
        /// The most there can be.
        limit: usize,
    },
}

#[cfg(test)]
mod tests;
