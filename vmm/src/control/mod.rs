// SPDX-License-Identifier: Apache-2.0
//! The control socket between the runtime and one VMM.
//!
//! The runtime makes a `SOCK_SEQPACKET` socket pair, gives one end to `cube-vmm` as
//! descriptor 0 and keeps the other in a [`Client`]. A packet is one JSON message; the
//! descriptors it needs travel with it (`SCM_RIGHTS`) in the order that [`Request`]
//! documents. One request at a time, one reply to each. The end of either side is the end
//! of both: a VMM whose runtime is gone quits.
//!
//! It is not reachable by the guest, and no API for people: both ends are of one version.
//!
//! | file | what |
//! |---|---|
//! | `message` | what is said, as serde types |
//! | `packet` | one message with its descriptors, to and from a socket |
//! | `client` | the runtime's blocking end |
//! | `server` | the VMM's end: packets become [`Call`]s with their descriptors in place |

mod client;
mod message;
mod packet;
mod server;
#[cfg(test)]
mod tests;

pub use client::{BootFiles, Client, ControlError, REPLY_TIMEOUT, RestoreFiles, SaveFiles};
pub use message::{Reply, Request, RunState, Stats};
pub use packet::{MAX_DESCRIPTORS, MAX_PACKET, PacketError};
pub use server::{Call, CallError, Server};
