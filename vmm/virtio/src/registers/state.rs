// SPDX-License-Identifier: Apache-2.0
//! The registers, saved and restored.
//!
//! What the device is made of (its id, what it offers, how long its queues can be) is not part of
//! the state: it is the restoring device's, and the state has to suit it. The status comes first,
//! because it says which of the other registers can have been written.

use serde::{Deserialize, Serialize};

use super::{Phase, QueueSetup, Registers};
use crate::state::RestoreError;

/// What the driver has written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegistersState {
    /// The status register (virtio 1.2, section 2.1).
    pub status: u32,
    /// The features that the driver has chosen.
    pub driver_features: u64,
    /// Which half of the offered features is read next.
    pub device_features_sel: u32,
    /// Which half of the chosen features is written next.
    pub driver_features_sel: u32,
    /// Which queue the queue registers are of.
    pub queue_sel: u32,
    /// How often the configuration space has changed; wraps.
    pub generation: u32,
    /// By number.
    pub queues: Vec<QueueSetupState>,
}

/// What the driver wants a queue to be, right or wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueSetupState {
    /// Number of descriptors.
    pub size: u32,
    /// Whether the driver is done with it.
    pub ready: bool,
    /// Guest-physical address of the descriptor table.
    pub desc: u64,
    /// Guest-physical address of the available ring.
    pub driver: u64,
    /// Guest-physical address of the used ring.
    pub device: u64,
}

impl Registers {
    pub fn save(&self) -> RegistersState {
        RegistersState {
            status: self.phase.status(),
            driver_features: self.driver_features,
            device_features_sel: self.device_features_sel,
            driver_features_sel: self.driver_features_sel,
            queue_sel: self.queue_sel,
            generation: self.generation,
            queues: self.queues.iter().map(QueueSetup::save).collect(),
        }
    }

    /// Makes new registers those that were saved. The queues of a running device are not looked
    /// at before [`Registers::build_queues`].
    pub fn restore(&mut self, state: &RegistersState) -> Result<(), RestoreError> {
        let status = state.status;
        let phase = Phase::of_status(status).ok_or(RestoreError::Status { status })?;
        if state.queues.len() != self.queues.len() {
            return Err(RestoreError::QueueCount {
                state: state.queues.len(),
                device: self.queues.len(),
            });
        }
        self.phase = phase;
        self.driver_features = state.driver_features;
        self.device_features_sel = state.device_features_sel;
        self.driver_features_sel = state.driver_features_sel;
        self.queue_sel = state.queue_sel;
        self.generation = state.generation;
        for (queue, saved) in self.queues.iter_mut().zip(&state.queues) {
            *queue = QueueSetup::restore(queue.max, saved);
        }
        self.check()
    }

    /// Whether each register has what can have been written until this phase.
    fn check(&self) -> Result<(), RestoreError> {
        let untouched = |queue: &QueueSetup| *queue == QueueSetup::new(queue.max);
        let early = match self.phase {
            Phase::Reset | Phase::Acknowledged => {
                self.driver_features != 0 || !self.queues.iter().all(untouched)
            }
            Phase::Driver => !self.queues.iter().all(untouched),
            Phase::Negotiated | Phase::Running | Phase::Broken => {
                if !self.features_acceptable() {
                    return Err(RestoreError::Features {
                        agreed: self.driver_features,
                        offered: self.device_features,
                    });
                }
                false
            }
            // It is reached from everywhere and left only by a reset.
            Phase::Failed => false,
        };
        if early {
            return Err(RestoreError::TooEarly {
                status: self.phase.status(),
            });
        }
        Ok(())
    }
}

impl Phase {
    fn of_status(status: u32) -> Option<Self> {
        let all = [
            Self::Reset,
            Self::Acknowledged,
            Self::Driver,
            Self::Negotiated,
            Self::Running,
            Self::Failed,
            Self::Broken,
        ];
        all.into_iter().find(|phase| phase.status() == status)
    }
}

impl QueueSetup {
    fn save(&self) -> QueueSetupState {
        QueueSetupState {
            size: self.size,
            ready: self.ready,
            desc: self.desc,
            driver: self.driver,
            device: self.device,
        }
    }

    fn restore(max: u16, state: &QueueSetupState) -> Self {
        Self {
            max,
            size: state.size,
            ready: state.ready,
            desc: state.desc,
            driver: state.driver,
            device: state.device,
        }
    }
}
