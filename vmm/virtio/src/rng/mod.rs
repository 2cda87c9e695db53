// SPDX-License-Identifier: Apache-2.0
//! The entropy device (virtio 1.2, section 5.4): fills the driver's buffers with the host
//! kernel's random bytes.
//!
//! The guest's kernel seeds itself from it at boot. After a restore it is not enough: see the
//! agent's part in giving a clone its own entropy.

mod device;
#[cfg(test)]
mod tests;

pub use device::Rng;

/// Device id (virtio 1.2, section 5.4.1).
const DEVICE_ID: u32 = 4;

/// One queue of buffers to fill. Drivers keep one buffer in it; a few do no harm.
const QUEUE_SIZES: &[u16] = &[8];

/// The most that one request gets. A driver asks for a few dozen bytes at a time; without a bound
/// a guest could keep the I/O thread in the host's random number generator for 4 GiB.
const MAX_REQUEST_BYTES: usize = 64 << 10;

/// Bytes fetched from the host at a time, on the stack.
const CHUNK_BYTES: usize = 1 << 10;
