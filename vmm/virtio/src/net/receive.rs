// SPDX-License-Identifier: Apache-2.0
//! From the link into the guest's buffers (virtio 1.2, section 5.1.6.4).
//!
//! A frame that was read and finds no room waits here for the driver's next buffers, and the ones
//! behind it in the link's own queue, where the host drops what is too much: nothing grows.

use std::os::fd::BorrowedFd;

use rustix::io::Errno;

use super::{HEADER_BYTES, MAX_FRAME_BYTES, NUM_BUFFERS, RECEIVE_BUDGET};
use crate::chain::Chain;
use crate::queue::{QueueError, Virtqueue};

/// Why receiving came to a stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stopped {
    /// There is no further frame.
    Idle,
    /// There is one and no room for it.
    NoBuffers,
    /// The bound on one call was reached.
    Budget,
    /// The interface behind the link was removed.
    Gone,
}

/// The frame that is on its way.
#[derive(Debug)]
pub(super) struct Receiver {
    frame: Vec<u8>,
    /// How much of it is a frame; 0: none.
    len: usize,
    /// Kept to save an allocation for each frame.
    chains: Vec<(Chain, u32)>,
}

/// What became of a frame.
enum Delivered {
    Yes,
    /// It stays for the next try.
    NoBuffers,
    /// The driver's buffer can never hold it.
    Dropped,
}

impl Receiver {
    pub fn new() -> Self {
        Self {
            frame: vec![0; MAX_FRAME_BYTES],
            len: 0,
            chains: Vec::new(),
        }
    }

    /// Lets go of the frame that waits and of its buffers: they were a driver's that is gone.
    pub fn forget(&mut self) {
        self.len = 0;
        self.chains.clear();
    }

    /// Moves frames until there are no more of them, of buffers, or of its budget.
    pub fn run(
        &mut self,
        link: BorrowedFd<'_>,
        queue: &mut Virtqueue,
        mergeable: bool,
    ) -> Result<Stopped, QueueError> {
        queue.disable_notification()?;
        let mut stopped = Stopped::Budget;
        for _ in 0..RECEIVE_BUDGET {
            if let Err(why) = self.read(link) {
                stopped = why;
                break;
            }
            let seen = queue.available()?;
            match self.deliver(queue, mergeable)? {
                Delivered::Yes | Delivered::Dropped => self.len = 0,
                // The driver may have added buffers since. Those that are there and too few are no news.
                Delivered::NoBuffers if queue.watch(seen)? => {
                    queue.disable_notification()?;
                }
                Delivered::NoBuffers => {
                    stopped = Stopped::NoBuffers;
                    break;
                }
            }
        }
        queue.signal()?;
        Ok(stopped)
    }

    /// Has a frame at hand, or says why not.
    fn read(&mut self, link: BorrowedFd<'_>) -> Result<(), Stopped> {
        while self.len < HEADER_BYTES {
            match rustix::io::read(link, &mut *self.frame) {
                // No frame is empty: this is an end.
                Ok(0) => return Err(Stopped::Gone),
                Ok(len) => self.len = len,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Err(Stopped::Idle),
                Err(errno) => {
                    tracing::warn!(%errno, "a network link is gone");
                    return Err(Stopped::Gone);
                }
            }
        }
        Ok(())
    }

    fn deliver(&mut self, queue: &mut Virtqueue, mergeable: bool) -> Result<Delivered, QueueError> {
        // A driver that broke its queue in the middle of a frame may have left some.
        self.chains.clear();
        let first = queue.taken();
        let mut room = 0;
        // The queue's length bounds this, however short the buffers are.
        while room < self.len {
            let full = !mergeable && !self.chains.is_empty();
            let Some(chain) = (if full { None } else { queue.pop()? }) else {
                queue.put_back(&mut self.chains, first)?;
                return Ok(if full {
                    Delivered::Dropped
                } else {
                    Delivered::NoBuffers
                });
            };
            let len = chain.writable(queue.memory()).len().min(self.len - room);
            room += len;
            // No frame is longer than 64 KiB and a little.
            self.chains.push((chain, u32::try_from(len).unwrap_or(0)));
        }
        let buffers = u16::try_from(self.chains.len()).unwrap_or(u16::MAX);
        if let Some(field) = self.frame.get_mut(NUM_BUFFERS..HEADER_BYTES) {
            field.copy_from_slice(&buffers.to_le_bytes());
        }
        let mut rest = self.frame.get(..self.len).unwrap_or_default();
        for (chain, len) in &self.chains {
            let (now, later) = rest.split_at(*len as usize);
            chain.writable(queue.memory()).write(now)?;
            rest = later;
        }
        queue.complete_together(&mut self.chains)?;
        Ok(Delivered::Yes)
    }
}
