// SPDX-License-Identifier: Apache-2.0
//! A built machine, owned by the main thread: nobody else changes it.
//!
//! ```text
//!   build (boot.rs) ──► Paused ◄──────► Running ──► stop
//! ```
//! Threads: one for each processor, one for all devices, and one more for each attached disk,
//! so that a slow disk delays neither its siblings nor a container's output.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use cube_hv::Vm;
use cube_virtio::block::AttachError;
use thiserror::Error;

use crate::config::{BLOCK_SLOTS, Slot};
use crate::control::{RunState, Stats};
use crate::devices::Devices;
use crate::end::Ending;
use crate::gate::{Gate, Wanted};
use crate::io_thread::IoThread;
use crate::serial::Console;
use crate::vcpu::VcpuThread;

/// Why a machine did not do what it was told.
#[derive(Debug, Error)]
pub enum MachineError {
    /// The slot would not take the disk.
    #[error("{slot} did not take the disk")]
    Attach {
        /// The slot.
        slot: Slot,
        /// Why.
        #[source]
        source: AttachError,
    },
    /// No thread for the disk.
    #[error("{slot} got no thread of its own")]
    Thread {
        /// The slot.
        slot: Slot,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Nothing to take out.
    #[error("{slot} holds no disk")]
    Empty {
        /// The slot.
        slot: Slot,
    },
    /// It is in that state already.
    #[error("the machine is {} already", match state {
        RunState::Running => "running",
        RunState::Paused => "paused",
    })]
    Already {
        /// The state.
        state: RunState,
    },
}

/// A machine.
pub(crate) struct Machine {
    pub vcpus: Vec<VcpuThread>,
    pub gate: Arc<Gate>,
    pub state: RunState,
    /// Serves every device that has no thread of its own.
    pub io: IoThread,
    /// The threads of the attached disks, by slot.
    pub disks: [Option<IoThread>; BLOCK_SLOTS as usize],
    pub devices: Devices,
    pub console: Arc<Console>,
    pub ending: Ending,
    /// Held, not used: the interrupts and notifications of the devices are wired to it.
    pub _vm: Vm,
}

impl Machine {
    /// Lets the processors of a paused machine run.
    pub fn resume(&mut self) -> Result<(), MachineError> {
        self.change_state(RunState::Running)?;
        self.gate.turn(Wanted::Run, || {});
        Ok(())
    }

    /// Stops the processors; when it returns, none executes the guest. Devices go on, so that
    /// what is on its way arrives.
    pub fn pause(&mut self) -> Result<(), MachineError> {
        self.change_state(RunState::Paused)?;
        self.gate.turn(Wanted::Stand, || self.kick());
        self.gate.wait_until_all_stand();
        Ok(())
    }

    /// Puts a disk into an empty slot; the guest is told that the slot's size has changed.
    pub fn attach(
        &mut self,
        slot: Slot,
        disk: OwnedFd,
        read_only: bool,
    ) -> Result<(), MachineError> {
        self.devices
            .slot(slot)
            .configure(|block| block.attach(disk.into(), read_only))
            .map_err(|source| MachineError::Attach { slot, source })?;
        self.give_own_thread(slot).map_err(|source| {
            // As it was: nothing else has a hold on the disk yet.
            drop(
                self.devices
                    .slot(slot)
                    .configure(cube_virtio::block::Block::detach),
            );
            MachineError::Thread { slot, source }
        })
    }

    /// Takes the disk out of a slot; nothing touches its file afterwards.
    pub fn detach(&mut self, slot: Slot) -> Result<(), MachineError> {
        let detached = self
            .devices
            .slot(slot)
            .configure(cube_virtio::block::Block::detach);
        drop(detached.ok_or(MachineError::Empty { slot })?);
        self.take_own_thread(slot)
            .map_err(|source| MachineError::Thread { slot, source })
    }

    /// What the machine has done so far.
    pub fn stats(&self) -> Stats {
        let (serial_bytes, serial_dropped) = self.console.counts();
        let attached = (0..).zip(&self.disks).filter(|(_, disk)| disk.is_some());
        Stats {
            state: self.state,
            vcpu_exits: self.vcpus.iter().map(VcpuThread::exits).collect(),
            serial_bytes,
            serial_dropped,
            attached_slots: attached.map(|(slot, _)| slot).collect(),
        }
    }

    /// Ends all threads, processors first: a device that is gone must not be missed.
    pub fn stop(self) {
        self.gate.turn(Wanted::End, || self.kick());
        self.vcpus.into_iter().for_each(VcpuThread::join);
        self.disks.into_iter().flatten().for_each(IoThread::stop);
        self.io.stop();
    }

    fn change_state(&mut self, state: RunState) -> Result<(), MachineError> {
        if self.state == state {
            return Err(MachineError::Already { state });
        }
        self.state = state;
        Ok(())
    }

    fn kick(&self) {
        self.vcpus.iter().for_each(VcpuThread::kick);
    }

    fn give_own_thread(&mut self, slot: Slot) -> io::Result<()> {
        let number = Devices::number_of(slot);
        let devices = Arc::clone(self.devices.all());
        let name = format!("disk{}", slot.index());
        let own = IoThread::spawn(&name, devices, self.ending.clone())?;
        self.io.release(number)?;
        if let Err(error) = own.adopt(number) {
            self.io.adopt(number)?;
            return Err(error);
        }
        self.disks[slot.index()] = Some(own);
        Ok(())
    }

    fn take_own_thread(&mut self, slot: Slot) -> io::Result<()> {
        if let Some(own) = self.disks[slot.index()].take() {
            own.stop();
        }
        self.io.adopt(Devices::number_of(slot))
    }
}
