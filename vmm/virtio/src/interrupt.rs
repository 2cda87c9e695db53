// SPDX-License-Identifier: Apache-2.0
//! The interrupt line of one device: an event file descriptor and the status register that tells
//! the driver why it was interrupted (virtio 1.2, section 4.2.2, InterruptStatus and InterruptACK).
//!
//! It takes no lock, so that a vCPU can read and acknowledge it while the device is busy.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::event::EventFd;

/// Bit 0 of InterruptStatus: the device has used a buffer.
const USED_BUFFER: u32 = 1 << 0;
/// Bit 1 of InterruptStatus: the configuration space or the device status has changed.
const CONFIGURATION: u32 = 1 << 1;

/// A cloneable handle of one device's interrupt.
#[derive(Clone, Debug)]
pub(crate) struct Interrupt(Arc<Line>);

#[derive(Debug)]
struct Line {
    status: AtomicU32,
    fd: EventFd,
}

impl Interrupt {
    /// An interrupt that is delivered by signalling `fd`.
    pub(crate) fn new(fd: EventFd) -> Self {
        Self(Arc::new(Line {
            status: AtomicU32::new(0),
            fd,
        }))
    }

    /// What the VMM registers as an irqfd.
    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.0.fd.as_fd()
    }

    /// Tells the driver that buffers were used.
    pub fn used_buffer(&self) {
        self.raise(USED_BUFFER);
    }

    /// Tells the driver to look at the configuration space and the device status.
    pub fn configuration(&self) {
        self.raise(CONFIGURATION);
    }

    /// The status register: why the driver was interrupted.
    pub(crate) fn status(&self) -> u32 {
        self.0.status.load(Ordering::SeqCst)
    }

    /// Goes on with the reasons of a saved interrupt; false when `status` has one that there is
    /// not.
    ///
    /// What the driver had not acknowledged is signalled again. If the saved interrupt controller
    /// has it as well, the handler looks once too often and finds nothing. The VMM may connect
    /// the irqfd later: the eventfd keeps its count, and KVM injects what it finds there when an
    /// irqfd is registered.
    #[must_use]
    pub(crate) fn restore(&self, status: u32) -> bool {
        if status & !(USED_BUFFER | CONFIGURATION) != 0 {
            return false;
        }
        if status != 0 {
            self.raise(status);
        }
        true
    }

    /// The driver has seen the reasons in `mask`.
    pub(crate) fn acknowledge(&self, mask: u32) {
        self.0.status.fetch_and(!mask, Ordering::SeqCst);
    }

    /// The reason is set before the line is raised: the handler of an edge looks once.
    fn raise(&self, reason: u32) {
        self.0.status.fetch_or(reason, Ordering::SeqCst);
        if let Err(error) = self.0.fd.signal() {
            // No eventfd fails this way; if one does, it is the host's doing, not the guest's.
            tracing::error!(%error, "cannot raise a device interrupt");
        }
    }
}
