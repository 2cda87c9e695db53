// SPDX-License-Identifier: Apache-2.0
//! How far a queue has come, saved and restored.
//!
//! Where the rings are and how long is the registers' to say, for restored queues as for new
//! ones, and what is in them is in guest memory. Only the two positions are the device's own.
//! Order: the rings are set up and found valid first, then the positions are checked against them
//! and set.

use std::sync::atomic::Ordering;

use serde::{Deserialize, Serialize};
use virtio_queue::{Queue, QueueT};
use vm_memory::GuestMemoryMmap;

use super::Virtqueue;
use crate::state::RestoreError;

/// Positions in the rings of one queue, counters that wrap.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueState {
    /// Requests taken from the available ring.
    pub next_avail: u16,
    /// Requests put into the used ring.
    pub next_used: u16,
}

impl Virtqueue {
    /// Ends the use of the queue.
    pub fn stop(self) -> QueueState {
        QueueState {
            next_avail: self.queue.next_avail(),
            next_used: self.queue.next_used(),
        }
    }
}

impl QueueState {
    /// Sets `queue` to where it was stopped.
    pub(crate) fn apply(self, queue: &mut Queue) {
        queue.set_next_avail(self.next_avail);
        queue.set_next_used(self.next_used);
    }

    /// Whether queue `index`, valid in `memory`, can have been stopped here. How many requests
    /// the driver has made available since is checked whenever the device looks.
    pub(crate) fn check(
        self,
        index: usize,
        queue: &Queue,
        memory: &GuestMemoryMmap,
    ) -> Result<(), RestoreError> {
        let Self {
            next_avail,
            next_used,
        } = self;
        if next_avail != next_used {
            return Err(RestoreError::InFlight {
                index,
                next_avail,
                next_used,
            });
        }
        // Only the device writes this field, so it tells whether memory and state are of one
        // moment.
        let in_memory = queue.used_idx(memory, Ordering::Relaxed);
        let in_memory = in_memory.map_err(|source| RestoreError::ReadRing { index, source })?;
        if in_memory.0 != next_used {
            return Err(RestoreError::UsedRing {
                index,
                next_used,
                in_memory: in_memory.0,
            });
        }
        Ok(())
    }
}
