// SPDX-License-Identifier: Apache-2.0
//! The network device (virtio 1.2, section 5.1) before it has a network: the guest sees an
//! interface with a MAC address and no carrier, what it sends is discarded, nothing arrives.
//!
//! It is there from the first boot because the machine's layout is fixed.

mod device;
mod state;
#[cfg(test)]
mod tests;

pub use device::Net;
pub use state::NetState;

/// Device id (virtio 1.2, section 5.1.1).
const DEVICE_ID: u32 = 1;

/// Receive and transmit.
const QUEUE_SIZES: &[u16] = &[256, 256];
const TX_QUEUE: usize = 1;

/// VIRTIO_NET_F_MAC: the configuration space has the address.
const F_MAC: u64 = 1 << 5;
/// VIRTIO_NET_F_STATUS: the configuration space has the link status.
const F_STATUS: u64 = 1 << 16;
