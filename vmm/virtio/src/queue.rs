// SPDX-License-Identifier: Apache-2.0
//! One running virtqueue: everything a device needs to serve it.
//!
//! The ring itself is rust-vmm's `virtio-queue`. This adds what a hostile driver makes necessary:
//! chains no longer than the queue, malformed ones returned unused, and one bounded loop.

use std::sync::atomic::Ordering;

use virtio_queue::{Queue, QueueOwnedT, QueueT};
use vm_memory::GuestMemoryMmap;

use crate::chain::{Chain, MemoryError, Segment, Span};
use crate::device::Work;
use crate::interrupt::Interrupt;

/// The driver broke the rules of a queue; only a reset helps.
#[derive(Debug, thiserror::Error)]
pub enum QueueError {
    /// The available ring cannot be followed.
    #[error("cannot take the next request from a queue of {size}")]
    Take {
        /// Size of the queue.
        size: u16,
        /// What the ring says.
        #[source]
        source: virtio_queue::Error,
    },
    /// The used ring cannot be written.
    #[error("cannot complete request {head} of a queue of {size}")]
    Complete {
        /// First descriptor of the request.
        head: u16,
        /// Size of the queue.
        size: u16,
        /// What the ring says.
        #[source]
        source: virtio_queue::Error,
    },
    /// A buffer of a request cannot be accessed, and the device cannot do without.
    #[error("cannot use the buffers of a request")]
    Buffer(#[from] MemoryError),
    /// The notification fields of the rings cannot be accessed.
    #[error("cannot access the notification fields of a queue of {size}")]
    Notification {
        /// Size of the queue.
        size: u16,
        /// What the ring says.
        #[source]
        source: virtio_queue::Error,
    },
}

/// One request, as [`Virtqueue::drain`] shows it.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// What the driver wrote for the device.
    pub readable: Span<'a>,
    /// Where the driver wants its answer.
    pub writable: Span<'a>,
}

/// A queue that the driver has made ready, with the guest's memory and the way to interrupt it.
#[derive(Debug)]
pub struct Virtqueue {
    queue: Queue,
    memory: GuestMemoryMmap,
    interrupt: Interrupt,
    /// The segment list of the last completed chain, to save an allocation per request.
    spare: Vec<Segment>,
}

impl Virtqueue {
    /// `queue` must be valid in `memory`.
    pub(crate) fn new(queue: Queue, memory: GuestMemoryMmap, interrupt: Interrupt) -> Self {
        Self {
            queue,
            memory,
            interrupt,
            spare: Vec::new(),
        }
    }

    /// Serves what the driver has queued, at most one queue's length per call: `serve` carries a
    /// request out and returns how many bytes it wrote.
    ///
    /// The driver is interrupted after each request that it waits for, not after the batch: the
    /// next request may take long.
    pub fn drain(&mut self, mut serve: impl FnMut(Request<'_>) -> u32) -> Result<Work, QueueError> {
        let mut budget = self.size();
        loop {
            self.disable_notification()?;
            while let Some(chain) = self.pop()? {
                let readable = chain.readable(&self.memory);
                let writable = chain.writable(&self.memory);
                let written = serve(Request { readable, writable });
                self.complete(chain, written)?;
                self.signal()?;
                budget -= 1;
                if budget == 0 {
                    return Ok(Work::More);
                }
            }
            // The driver may have queued something between the last look and this.
            if !self.enable_notification()? {
                return Ok(Work::Done);
            }
        }
    }

    /// The next request. Malformed ones go back to the driver unused.
    pub fn pop(&mut self) -> Result<Option<Chain>, QueueError> {
        let size = self.size();
        // The driver can have no more than `size` requests available; the ring checks that.
        for _ in 0..size {
            let take = |source| QueueError::Take { size, source };
            let mut available = self.queue.iter(&self.memory).map_err(take)?;
            let Some(descriptors) = available.next() else {
                return Ok(None);
            };
            let head = descriptors.head_index();
            match Chain::parse(descriptors, size, std::mem::take(&mut self.spare)) {
                Ok(chain) => return Ok(Some(chain)),
                Err(segments) => self.spare = segments,
            }
            self.give_back(head, 0)?;
            self.signal()?;
        }
        Ok(None)
    }

    /// Puts a request that was not touched back to the front.
    pub fn unpop(&mut self, chain: Chain) {
        self.queue.go_to_previous_position();
        self.spare = chain.segments;
    }

    /// Returns a request to the driver, `written` bytes of its writable part filled in.
    pub fn complete(&mut self, chain: Chain, written: u32) -> Result<(), QueueError> {
        let head = chain.head;
        self.spare = chain.segments;
        self.give_back(head, written)
    }

    /// Interrupts the driver if it waits for what was completed since the last call.
    pub fn signal(&mut self) -> Result<(), QueueError> {
        let size = self.size();
        let failed = |source| QueueError::Notification { size, source };
        if self
            .queue
            .needs_notification(&self.memory)
            .map_err(failed)?
        {
            self.interrupt.used_buffer();
        }
        Ok(())
    }

    /// Asks the driver not to notify. A hint.
    pub fn disable_notification(&mut self) -> Result<(), QueueError> {
        let size = self.size();
        let failed = |source| QueueError::Notification { size, source };
        self.queue
            .disable_notification(&self.memory)
            .map_err(failed)
    }

    /// Asks the driver to notify again; true when a request is already there.
    pub fn enable_notification(&mut self) -> Result<bool, QueueError> {
        let size = self.size();
        let failed = |source| QueueError::Notification { size, source };
        self.queue.enable_notification(&self.memory).map_err(failed)
    }

    /// Number of descriptors.
    pub fn size(&self) -> u16 {
        self.queue.size()
    }

    /// The memory of the guest.
    pub fn memory(&self) -> &GuestMemoryMmap {
        &self.memory
    }

    /// How far the driver has come with making requests available: a counter that wraps.
    pub fn available(&self) -> Result<u16, QueueError> {
        let size = self.size();
        let failed = |source| QueueError::Notification { size, source };
        let index = self.queue.avail_idx(&self.memory, Ordering::Acquire);
        Ok(index.map_err(failed)?.0)
    }

    /// Asks the driver to notify of the first request after the first `seen`, whether or not the
    /// ones up to there were taken; true when it has made one available already.
    pub fn watch(&mut self, seen: u16) -> Result<bool, QueueError> {
        // With EVENT_IDX the driver notifies when it passes the place that the device names, which
        // for the ring is its own (virtio 1.2, section 2.7.10).
        let next = self.queue.next_avail();
        self.queue.set_next_avail(seen);
        let passed = self.enable_notification();
        self.queue.set_next_avail(next);
        passed
    }

    fn give_back(&mut self, head: u16, written: u32) -> Result<(), QueueError> {
        let size = self.size();
        let failed = |source| QueueError::Complete { head, size, source };
        self.queue
            .add_used(&self.memory, head, written)
            .map_err(failed)
    }
}

mod state;
#[cfg(test)]
mod tests;

pub use state::QueueState;
