// SPDX-License-Identifier: Apache-2.0
//! See the module.

use super::{CHUNK_BYTES, DEVICE_ID, MAX_REQUEST_BYTES, QUEUE_SIZES};
use crate::chain::Span;
use crate::device::{Device, Identity, Work};
use crate::queue::{QueueError, Virtqueue};
use crate::state::{DeviceState, QueueState};
use rustix::rand::{GetRandomFlags, getrandom};

/// An entropy device.
#[derive(Debug, Default)]
pub struct Rng {
    queue: Option<Virtqueue>,
}

impl Rng {
    /// A stopped device. It remembers nothing, so a restored one is a new one.
    pub fn new() -> Self {
        Self::default()
    }
}

impl Device for Rng {
    fn identity(&self) -> Identity {
        Identity {
            device_id: DEVICE_ID,
            features: 0,
            queue_sizes: QUEUE_SIZES,
        }
    }

    /// There is no configuration space.
    fn read_config(&self, _offset: u64, data: &mut [u8]) {
        data.fill(0);
    }

    fn start(&mut self, queues: Vec<Virtqueue>, _features: u64) {
        self.queue = queues.into_iter().next();
    }

    fn stop(&mut self) -> Vec<QueueState> {
        self.queue.take().map(Virtqueue::stop).into_iter().collect()
    }

    fn save(&self) -> DeviceState {
        DeviceState::Rng
    }

    fn notify(&mut self, _index: usize) -> Result<Work, QueueError> {
        match &mut self.queue {
            Some(queue) => queue.drain(|request| fill(request.writable)),
            None => Ok(Work::Done),
        }
    }
}

/// Fills `buffer` up to the bound and returns how much of it was filled.
fn fill(buffer: Span<'_>) -> u32 {
    let bound = buffer.len().min(MAX_REQUEST_BYTES);
    let mut rest = buffer;
    let mut filled = 0;
    let mut chunk = [0; CHUNK_BYTES];
    while filled < bound {
        let (chunk, _) = chunk.split_at_mut(CHUNK_BYTES.min(bound - filled));
        // It fails only where the host's own pool is not ready; the driver asks again.
        let Ok(got) = getrandom(&mut *chunk, GetRandomFlags::empty()) else {
            break;
        };
        let (Some(bytes), Some((now, later))) = (chunk.get(..got), rest.split_at(got)) else {
            break;
        };
        if got == 0 || now.write(bytes).is_err() {
            break;
        }
        filled += got;
        rest = later;
    }
    u32::try_from(filled).unwrap_or(0)
}
