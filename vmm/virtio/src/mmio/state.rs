// SPDX-License-Identifier: Apache-2.0
//! A transport with its device, saved and restored.
//!
//! # Saving
//! The vCPUs stand still, and so does whoever calls [`MmioTransport::handle`]: from the first
//! device saved until guest memory and disks are, nothing may serve a queue, or the state and the
//! memory are of two moments (which a restore would notice and refuse). The device is stopped,
//! because only then its queues can be had, saved, and started with the same queues: the machine
//! can go on, and be saved again. A notification that was not served yet stays where it is, in
//! its eventfd.
//!
//! # Restoring
//! The order is that of dependence:
//! 1. the registers, which everything else is checked against;
//! 2. the queues, from the registers and the positions, checked against guest memory, which must
//!    be in place;
//! 3. the device, started with them;
//! 4. the pending interrupt, for the VMM to connect when it likes;
//! 5. a notification of every queue of a running device. Those of before were in eventfds that
//!    are gone, and a driver does not repeat itself: it would wait for ever. One that nothing
//!    follows from does no harm.
//!
//! The device may need something from the host before its first request, such as a disk: it must
//! have that before the transport is polled.

use serde::{Deserialize, Serialize};
use virtio_queue::Queue;
use vm_memory::GuestMemoryMmap;

use super::{Live, MmioTransport};
use crate::device::Device;
use crate::registers::{Phase, Registers, RegistersState, SetupError};
use crate::state::{DeviceState, QueueState, RestoreError};

/// One device with its registers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TransportState {
    /// What the driver has written.
    pub registers: RegistersState,
    /// Reasons for an interrupt that the driver has not acknowledged.
    pub interrupt_status: u32,
    /// The driver is to hear of a change once it is ready.
    pub unannounced: bool,
    /// Positions in the queues, by number; none unless the device runs.
    pub queues: Vec<QueueState>,
    /// The device's own part.
    pub device: DeviceState,
}

impl<D: Device + ?Sized> MmioTransport<D> {
    /// The device as it is now. See the module about what must stand still.
    pub fn save(&self) -> TransportState {
        let mut live = self.lock();
        let queues = live.device.stop();
        let state = TransportState {
            registers: live.registers.save(),
            interrupt_status: self.interrupt.status(),
            unannounced: live.unannounced,
            queues,
            device: live.device.save(),
        };
        if live.registers.phase() == Phase::Running {
            match queues_at(&live.registers, &live.memory, &state.queues) {
                Ok(queues) => self.run(&mut live, queues),
                // They are in the same memory as when the driver started them.
                Err(error) => self.fail(&mut live, &error),
            }
        }
        state
    }
}

impl<D: Device> MmioTransport<D> {
    /// Puts `device`, restored from the device's part of `state`, behind the registers of
    /// `state`. `memory` has the content that was saved with it.
    pub fn restore(
        device: D,
        memory: GuestMemoryMmap,
        state: &TransportState,
    ) -> Result<Self, RestoreError> {
        device.save().check_kind(&state.device)?;
        let transport = Self::new(device, memory)?;
        let mut live = transport.lock();
        live.registers.restore(&state.registers)?;
        live.unannounced = state.unannounced;
        let running = live.registers.phase() == Phase::Running;
        check_positions(&live, state)?;
        if running {
            let queues = queues_at(&live.registers, &live.memory, &state.queues)?;
            for (index, (saved, queue)) in state.queues.iter().zip(&queues).enumerate() {
                saved.check(index, queue, &live.memory)?;
            }
            transport.run(&mut live, queues);
        }
        transport.restore_interrupt(&live, state)?;
        drop(live);
        if running {
            for index in 0..transport.notifiers.len() {
                transport.notify(index);
            }
        }
        Ok(transport)
    }

    /// The driver is interrupted only by a device that runs or just did.
    fn restore_interrupt(
        &self,
        live: &Live<D>,
        state: &TransportState,
    ) -> Result<(), RestoreError> {
        let possible = matches!(live.registers.phase(), Phase::Running | Phase::Broken);
        let silent = state.interrupt_status == 0;
        if (silent || possible) && self.interrupt.restore(state.interrupt_status) {
            return Ok(());
        }
        Err(RestoreError::Interrupt {
            interrupt_status: state.interrupt_status,
            status: state.registers.status,
        })
    }
}

fn check_positions<D: Device>(live: &Live<D>, state: &TransportState) -> Result<(), RestoreError> {
    let running = match live.registers.phase() {
        Phase::Running if state.unannounced => return Err(RestoreError::Unannounced),
        Phase::Running => state.registers.queues.len(),
        _ => 0,
    };
    if state.queues.len() != running {
        return Err(RestoreError::Positions {
            state: state.queues.len(),
            running,
        });
    }
    Ok(())
}

/// The queues of the registers, set to where they were stopped.
fn queues_at(
    registers: &Registers,
    memory: &GuestMemoryMmap,
    positions: &[QueueState],
) -> Result<Vec<Queue>, SetupError> {
    let mut queues = registers.build_queues(memory)?;
    for (queue, position) in queues.iter_mut().zip(positions) {
        position.apply(queue);
    }
    Ok(queues)
}

#[cfg(test)]
mod tests;
