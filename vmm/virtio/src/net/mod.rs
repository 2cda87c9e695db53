// SPDX-License-Identifier: Apache-2.0
//! A network device (virtio 1.2, section 5.1): one interface of the guest, its wire a [`Link`] that
//! the host gives it and takes away.
//!
//! Without a link, which is how every machine begins, the guest sees an interface with a MAC address
//! and no carrier: what it sends is discarded, nothing arrives. The device is there from the first
//! boot because the machine's layout is fixed.
//!
//! A frame travels with a header of its own in front (section 5.1.6) that says which checksums are
//! missing and how a frame longer than the MTU is to be cut. The device negotiates these offloads
//! and passes the header on unread: the kernel behind a tap device checks it, and does the work or
//! hands it on. Frames are copied once through a buffer of this process, so that what the kernel
//! checks is what it sends, whatever the guest does to its memory meanwhile.
//!
//! | part | what it does |
//! |---|---|
//! | `link` | what a wire is |
//! | `device` | the device: configuration, queues, link |
//! | `receive` | from the link into the guest's buffers |
//! | `transmit` | from the guest to the link |

mod device;
mod link;
mod receive;
mod state;
#[cfg(test)]
mod tests;
mod transmit;

pub use device::{AttachError, Net, NetError};
pub use link::{Link, Offload};
pub use state::NetState;

/// Device id (virtio 1.2, section 5.1.1).
const DEVICE_ID: u32 = 1;

/// Receive and transmit.
const QUEUE_SIZES: &[u16] = &[256, 256];
const RX_QUEUE: usize = 0;

/// `struct virtio_net_hdr_v1`: always this long with VIRTIO_F_VERSION_1 (section 5.1.6.1).
const HEADER_BYTES: usize = 12;
/// Where in it `num_buffers` is.
const NUM_BUFFERS: usize = 10;

/// The longest frame: an IP packet of 64 KiB in Ethernet with a VLAN tag, behind its header.
const MAX_FRAME_BYTES: usize = HEADER_BYTES + 18 + 0xffff;

/// Frames taken from the link in one call, so that one busy wire leaves its thread to others and a
/// pause does not have to wait for it.
const RECEIVE_BUDGET: usize = 64;

/// Feature bits (section 5.1.3). GUEST: what the guest takes, HOST: what it may send.
mod feature {
    pub const CSUM: u64 = 1 << 0;
    pub const GUEST_CSUM: u64 = 1 << 1;
    pub const MAC: u64 = 1 << 5;
    pub const GUEST_TSO4: u64 = 1 << 7;
    pub const GUEST_TSO6: u64 = 1 << 8;
    pub const GUEST_ECN: u64 = 1 << 9;
    pub const HOST_TSO4: u64 = 1 << 11;
    pub const HOST_TSO6: u64 = 1 << 12;
    pub const HOST_ECN: u64 = 1 << 13;
    pub const MRG_RXBUF: u64 = 1 << 15;
    pub const STATUS: u64 = 1 << 16;

    /// All that this device offers.
    pub const OFFERED: u64 = CSUM
        | GUEST_CSUM
        | MAC
        | GUEST_TSO4
        | GUEST_TSO6
        | GUEST_ECN
        | HOST_TSO4
        | HOST_TSO6
        | HOST_ECN
        | MRG_RXBUF
        | STATUS;
}
