// SPDX-License-Identifier: Apache-2.0
//! One running virtqueue: everything a device needs to serve it.
//!
//! The ring itself is rust-vmm's `virtio-queue`. This adds what a hostile driver makes necessary:
//! chains no longer than the queue, malformed ones returned unused, and one bounded loop.

use std::sync::atomic::{Ordering, fence};

use virtio_queue::{Queue, QueueOwnedT, QueueT};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use crate::chain::{Chain, MemoryError, Segment, Span};
use crate::device::Work;
use crate::interrupt::Interrupt;

/// VIRTQ_AVAIL_F_NO_INTERRUPT.
const AVAIL_NO_INTERRUPT: u16 = 1;

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
    /// Where the used ring was when the driver was last told, or did not want to be.
    signalled: u16,
}

impl Virtqueue {
    /// `queue` must be valid in `memory`.
    pub(crate) fn new(queue: Queue, memory: GuestMemoryMmap, interrupt: Interrupt) -> Self {
        Self {
            signalled: queue.next_used(),
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

    /// How many requests were taken so far: a counter that wraps.
    pub fn taken(&self) -> u16 {
        self.queue.next_avail()
    }

    /// Puts back all requests that were taken since [`Virtqueue::taken`] was `first`, none of them touched,
    /// and leaves the list empty. With a malformed one among them, which is the driver's again already, there
    /// is no way back: then they go to the driver, unused.
    pub fn put_back(
        &mut self,
        requests: &mut Vec<(Chain, u32)>,
        first: u16,
    ) -> Result<(), QueueError> {
        let all_here = usize::from(self.taken().wrapping_sub(first)) == requests.len();
        if all_here {
            requests.clear();
            self.queue.set_next_avail(first);
            return Ok(());
        }
        for (_, written) in requests.iter_mut() {
            *written = 0;
        }
        self.complete_together(requests)
    }

    /// Returns a request to the driver, `written` bytes of its writable part filled in.
    pub fn complete(&mut self, chain: Chain, written: u32) -> Result<(), QueueError> {
        let head = chain.head;
        self.spare = chain.segments;
        self.give_back(head, written)
    }

    /// Returns several requests, each with how much of it was written, and leaves the list empty.
    /// The driver sees none of them or all: together they are one thing to it.
    pub fn complete_together(
        &mut self,
        requests: &mut Vec<(Chain, u32)>,
    ) -> Result<(), QueueError> {
        let Some((last, last_written)) = requests.pop() else {
            return Ok(());
        };
        let size = self.size();
        let first = self.queue.next_used();
        let mut next = first;
        for (chain, written) in requests.drain(..) {
            self.write_used(next, &chain, written)?;
            self.spare = chain.segments;
            next = next.wrapping_add(1);
        }
        // The ring shows what it has when its index moves, which is with the last one.
        self.queue.set_next_used(next);
        self.complete(last, last_written).inspect_err(|_| {
            tracing::debug!(first, size, "a group of requests was not completed");
        })
    }

    /// Interrupts the driver if it waits for what was completed since the last call (virtio 1.2,
    /// sections 2.7.7.2 and 2.7.8). The ring's own answer counts its calls instead of its entries.
    pub fn signal(&mut self) -> Result<(), QueueError> {
        let now = self.queue.next_used();
        let before = std::mem::replace(&mut self.signalled, now);
        if now == before {
            return Ok(());
        }
        // What was completed has to be seen by a driver that goes to sleep before it is asked.
        fence(Ordering::SeqCst);
        let wanted = if self.queue.event_idx_enabled() {
            let event = self.read_available(4 + 2 * u64::from(self.size()))?;
            now.wrapping_sub(event).wrapping_sub(1) < now.wrapping_sub(before)
        } else {
            self.read_available(0)? & AVAIL_NO_INTERRUPT == 0
        };
        if wanted {
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

    /// A field of the available ring.
    fn read_available(&self, offset: u64) -> Result<u16, QueueError> {
        let size = self.size();
        let at = GuestAddress(self.queue.avail_ring().wrapping_add(offset));
        self.memory
            .load::<u16>(at, Ordering::Relaxed)
            .map(u16::from_le)
            .map_err(|source| QueueError::Notification {
                size,
                source: virtio_queue::Error::GuestMemory(source),
            })
    }

    /// Writes an entry of the used ring that the index does not cover yet.
    fn write_used(&self, index: u16, chain: &Chain, written: u32) -> Result<(), QueueError> {
        let (head, size) = (chain.head, self.size());
        let entry = u64::from(index % size);
        let at = GuestAddress(self.queue.used_ring().wrapping_add(4 + 8 * entry));
        let element = [u32::from(head).to_le_bytes(), written.to_le_bytes()];
        self.memory
            .write_slice(element.as_flattened(), at)
            .map_err(|source| QueueError::Complete {
                head,
                size,
                source: virtio_queue::Error::GuestMemory(source),
            })
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
