// SPDX-License-Identifier: Apache-2.0
//! From the guest to the link (virtio 1.2, section 5.1.6.2).
//!
//! A frame that the link does not take is lost, as on any wire: one that makes no sense, one for an
//! interface that is down or gone, one that finds the host out of memory.

use std::os::fd::BorrowedFd;

use rustix::io::{Errno, retry_on_intr};

use super::{HEADER_BYTES, MAX_FRAME_BYTES};
use crate::chain::Span;

/// The buffer of frames on their way.
#[derive(Debug)]
pub(super) struct Transmitter {
    frame: Vec<u8>,
}

impl Transmitter {
    pub fn new() -> Self {
        Self {
            frame: vec![0; MAX_FRAME_BYTES],
        }
    }

    /// Sends one frame, header included.
    pub fn send(&mut self, link: BorrowedFd<'_>, frame: Span<'_>) {
        let len = frame.len();
        if !(HEADER_BYTES..=MAX_FRAME_BYTES).contains(&len) {
            return;
        }
        let Some(copy) = self.frame.get_mut(..len) else {
            return;
        };
        if frame.read(copy).is_err() {
            return;
        }
        match retry_on_intr(|| rustix::io::write(link, copy)) {
            Ok(_) | Err(Errno::AGAIN | Errno::INVAL | Errno::IO | Errno::BADFD) => {}
            Err(errno) => tracing::debug!(%errno, len, "a frame was lost"),
        }
    }
}
