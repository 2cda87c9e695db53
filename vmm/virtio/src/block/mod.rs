// SPDX-License-Identifier: Apache-2.0
//! A block *slot* (virtio 1.2, section 5.2): a disk of capacity zero until a file is attached.
//!
//! ```text
//!  empty ── attach(file) ──► capacity = size of the file, configuration interrupt ──┐
//!    ▲                                                                              │
//!    └───────── detach(): nothing in flight, capacity = 0, configuration interrupt ─┘
//! ```
//! The slot's serial number is `cube-slot-N`, so that the guest finds it whatever name its kernel
//! gave it. Features are agreed on before there is a disk, so none of them says read-only: a
//! read-only disk refuses writes here, and its descriptor must refuse them as well
//! (CVE-2026-24834 was one lock, left open).
//!
//! Requests are carried out one after the other in the call that announces them; a VMM that does
//! not want its other devices to wait gives each attached disk a thread. Between two calls nothing
//! is in flight, neither in the queue nor in the file, which is what makes a saved slot and a copy
//! of its disk fit each other.
//!
//! `request` turns guest memory into a typed command, `disk` performs it on the file, `device`
//! is the glue, `state` is what is saved.

mod device;
mod disk;
mod request;
mod state;
#[cfg(test)]
mod tests;

pub use device::Block;
pub use disk::AttachError;
pub use state::{BlockState, DiskState};

/// Device id (virtio 1.2, section 5.2.1).
const DEVICE_ID: u32 = 2;

/// One queue. Linux keeps a request structure for every descriptor, for each of the slots, so a
/// longer queue costs the guest memory and gains nothing while requests are served in turn.
const QUEUE_SIZE: u16 = 128;
const QUEUE_SIZES: &[u16] = &[QUEUE_SIZE];

/// The unit of capacity and of request positions, whatever the disk (section 5.2.4).
const SECTOR_BYTES: u64 = 512;

/// The block size told to the driver: the sector, since the file takes any.
const BLOCK_BYTES: u32 = 512;

/// Data segments in a request: a full queue without the header and the status.
const SEG_MAX: u32 = QUEUE_SIZE as u32 - 2;

/// Bytes in a segment.
const SIZE_MAX: u32 = 64 << 10;

/// Bytes in a request: what the two limits above, told to the driver, multiply to. A driver that
/// asks for more gets an error, so that one request cannot hold the disk for gigabytes.
const MAX_REQUEST_BYTES: usize = SEG_MAX as usize * SIZE_MAX as usize;

/// Sectors in one discard or write-zeroes request: 2 GiB.
const MAX_DISCARD_SECTORS: u32 = 4 << 20;

/// Host memory through which data passes between file and guest; allocated while a disk is
/// attached. Most reads of a guest are its read-ahead of 128 KiB or less.
const BOUNCE_BYTES: usize = 64 << 10;

/// Length of the serial number (section 5.2.6, VIRTIO_BLK_T_GET_ID).
const ID_BYTES: usize = 20;

/// What failed requests of one disk may log: the host's errors (no space, bad medium) matter to
/// the operator, but the guest decides how often they happen.
const ERROR_LOG_LINES: u8 = 8;

/// Feature bits (section 5.2.3).
mod feature {
    pub const SIZE_MAX: u64 = 1 << 1;
    pub const SEG_MAX: u64 = 1 << 2;
    pub const BLK_SIZE: u64 = 1 << 6;
    pub const FLUSH: u64 = 1 << 9;
    pub const DISCARD: u64 = 1 << 13;
    pub const WRITE_ZEROES: u64 = 1 << 14;
}
