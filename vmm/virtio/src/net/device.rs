// SPDX-License-Identifier: Apache-2.0
//! See the module.

use super::{DEVICE_ID, F_MAC, F_STATUS, QUEUE_SIZES, TX_QUEUE};
use crate::device::{Device, Identity, Work, read_config_bytes};
use crate::queue::{QueueError, Virtqueue};
use crate::state::{DeviceState, QueueState};

/// A network device without a link.
#[derive(Debug)]
pub struct Net {
    pub(super) mac: [u8; 6],
    queues: Vec<Virtqueue>,
}

impl Net {
    /// A stopped device with the address `mac`.
    pub fn new(mac: [u8; 6]) -> Self {
        Self {
            mac,
            queues: Vec::new(),
        }
    }
}

impl Device for Net {
    fn identity(&self) -> Identity {
        Identity {
            device_id: DEVICE_ID,
            features: F_MAC | F_STATUS,
            queue_sizes: QUEUE_SIZES,
        }
    }

    /// Section 5.1.4: the address, then a status of zero, "no link".
    fn read_config(&self, offset: u64, data: &mut [u8]) {
        read_config_bytes(&self.mac, offset, data);
    }

    fn start(&mut self, queues: Vec<Virtqueue>, _features: u64) {
        self.queues = queues;
    }

    fn stop(&mut self) -> Vec<QueueState> {
        self.queues.drain(..).map(Virtqueue::stop).collect()
    }

    fn save(&self) -> DeviceState {
        DeviceState::Net(self.to_state())
    }

    fn notify(&mut self, index: usize) -> Result<Work, QueueError> {
        match self.queues.get_mut(index) {
            Some(queue) if index == TX_QUEUE => queue.drain(|_discarded| 0),
            _ => Ok(Work::Done),
        }
    }
}
