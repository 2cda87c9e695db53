// SPDX-License-Identifier: Apache-2.0
//! What every device is to the transport, and all that it may know of it.
//!
//! A device is stopped or running. [`Device::start`] hands it its queues, [`Device::stop`] takes
//! them back as plain state: a running device cannot be saved, and a stopped one has nothing in
//! flight. Every device here carries a request out inside the call that takes it from its queue,
//! disk transfers included, and the transport calls the methods one at a time: between two calls
//! each request is either untouched in guest memory or completed there. That, and nothing else,
//! is what makes a saved device consistent; a device that works in the background would have to
//! wait for its work in `stop`.

use std::os::fd::BorrowedFd;

use crate::queue::{QueueError, Virtqueue};
use crate::state::{DeviceState, QueueState};

/// What a device is, fixed for its whole life.
#[derive(Clone, Copy, Debug)]
pub struct Identity {
    /// The device id of virtio 1.2, section 5.
    pub device_id: u32,
    /// The device's own feature bits. The transport adds those of the queues and of version 1.
    pub features: u64,
    /// The largest size of each queue: a power of two.
    pub queue_sizes: &'static [u16],
}

/// Whether a call did all there was to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "unfinished work needs another call"]
pub enum Work {
    /// Nothing is left; the next notification brings more.
    Done,
    /// The bound on one call was reached; call again soon.
    More,
}

/// One virtio device.
pub trait Device: Send {
    /// What this device is. Constant.
    fn identity(&self) -> Identity;

    /// Reads the configuration space. Bytes past its end are zero. Always allowed.
    fn read_config(&self, offset: u64, data: &mut [u8]);

    /// Writes the configuration space. None of the devices here has a writable field.
    fn write_config(&mut self, _offset: u64, _data: &[u8]) {}

    /// The driver is ready. `queues` has one valid queue per size of the identity, in order, and
    /// `features` is what both sides agreed on. Only called while stopped.
    fn start(&mut self, queues: Vec<Virtqueue>, features: u64);

    /// Hands the queues back, in order, with nothing in flight; empty when the device was not
    /// running. What else the device knows of its driver stays: the same driver may go on.
    fn stop(&mut self) -> Vec<QueueState>;

    /// The driver is gone for good, and with it what it and the device had in common beyond the
    /// queues. Only called while stopped.
    fn reset(&mut self) {}

    /// What a device must be made of to go on where this one is, beside its queues. Only called
    /// while stopped, and without effect. The inverse is the constructor beside each type of
    /// state.
    fn save(&self) -> DeviceState;

    /// The driver has put something into queue `index`. May be called without cause, and when
    /// stopped. An error means that the driver broke the queue protocol: the transport stops the
    /// device and asks the driver for a reset.
    fn notify(&mut self, index: usize) -> Result<Work, QueueError>;

    /// A file descriptor that is readable when the device wants [`Device::poll`] to be called,
    /// the same one for its whole life.
    fn poll_fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    /// The host side has something for the device. May be called without cause, and when stopped.
    fn poll(&mut self) -> Result<Work, QueueError> {
        Ok(Work::Done)
    }
}

/// Serves a configuration read of `data.len()` bytes at `offset` from the whole space `config`.
pub fn read_config_bytes(config: &[u8], offset: u64, data: &mut [u8]) {
    data.fill(0);
    let Some(rest) = usize::try_from(offset)
        .ok()
        .and_then(|offset| config.get(offset..))
    else {
        return;
    };
    for (to, from) in data.iter_mut().zip(rest) {
        *to = *from;
    }
}
