// SPDX-License-Identifier: Apache-2.0
//! The socket device (virtio 1.2, section 5.10): programs on the host connect to ports of the
//! guest through a Unix socket, without AF_VSOCK or vhost on the host.
//!
//! ```text
//!  host program           Muxer                          guest
//!   connect, "CONNECT 1024\n" ──► REQUEST ────────────────►  listener on port 1024?
//!   "OK 1073741824\n"         ◄── RESPONSE ◄──────────────── yes
//!   end of file               ◄── RST ◄───────────────────── no
//!   bytes                     ◄──► RW, within credit ◄─────►  bytes
//!   shutdown, end of file     ◄──► SHUTDOWN, RST ◄────────►  shutdown, close
//! ```
//! The number after OK is the host's port of this connection. A connection is closed without OK
//! when the guest has no listener, no driver, or does not answer in time; the host program may try
//! again. Connections from the guest are refused.
//!
//! * `packet`: the 44 bytes in front of everything.
//! * `flow`: credit, both ways.
//! * `connection`: one connection as a state machine without sockets and without a clock.
//! * `muxer`: all connections and their sockets (`socket`, `poller`, `staging`).
//! * `interruption`: what the guest has to hear when a restore has cost it its connections.
//! * `device`: the queues; `state`: what is saved.
//!
//! No byte is lost at the end: what a side sent before it closed is delivered before the other
//! side sees the end. The exception is a receiver that is itself gone.

mod connection;
mod device;
mod flow;
mod interruption;
mod muxer;
mod packet;
mod poller;
mod socket;
mod staging;
mod state;
#[cfg(test)]
mod tests;

pub use device::Vsock;
pub use poller::VsockError;
pub use state::{InterruptionState, RefusalState, VsockState};

/// Device id (virtio 1.2, section 5.10.1).
const DEVICE_ID: u32 = 19;

/// Receive, transmit, event. Linux fills the receive queue with 4 KiB buffers that stay allocated
/// in every guest: 64 of them are 256 KiB, one connection's whole credit.
const QUEUE_SIZES: &[u16] = &[64, 128, 8];

/// The guest's address. Each VM has a host of its own, so all guests have the same.
const GUEST_CID: u64 = 3;

/// The host's address (section 5.10.4).
const HOST_CID: u64 = 2;

/// The most bytes in one packet, as in Linux: the largest that its guests send, too.
const MAX_PACKET_BYTES: usize = 64 << 10;

/// What the guest may send on one connection before the host's program has read it: the size of
/// the buffer towards a slow reader, allocated while there is something in it.
const BUF_ALLOC: u32 = 256 << 10;

/// Connections of the host at a time, greetings included. Each costs a descriptor and, at worst,
/// [`BUF_ALLOC`]; more are refused by closing them.
const MAX_CONNECTIONS: usize = 1023;

/// Answers to packets that belong to no connection. When this many wait for room in the receive
/// queue, no more packets are taken from the guest.
const MAX_PENDING_RESETS: usize = 64;

/// Longest greeting: "CONNECT 4294967295\n" and some patience.
const MAX_GREETING_BYTES: usize = 32;

/// Deadlines, in [`Tick`]s.
const GREETING_TICKS: u64 = 10;
/// For the guest to answer a REQUEST. A listener answers at once; a guest that is just booting on
/// a loaded host may need long to get to it, and the host's program can hang up when it likes.
const REQUEST_TICKS: u64 = 20;
/// For the guest to confirm a SHUTDOWN, as long as Linux waits for ours (VSOCK_CLOSE_TIMEOUT).
const CLOSE_TICKS: u64 = 8;

/// Time as the timer of the device counts it: seconds in which anything had a deadline and somebody
/// looked. A machine that is paused does not age.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Tick(u64);

impl Tick {
    fn after(self, ticks: u64) -> Self {
        Self(self.0.saturating_add(ticks))
    }
}
