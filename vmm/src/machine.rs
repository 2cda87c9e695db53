// SPDX-License-Identifier: Apache-2.0
//! A built machine, owned by the main thread: nobody else changes it.
//!
//! ```text
//!   boot.rs or restore.rs ── assemble ──► Paused ◄──────► Running ──► stop
//!                                           └── save.rs: as files, any number of times
//! ```
//! Threads: one for each processor, one for all devices, and one more for each attached disk or
//! tap, so that a slow or busy one delays neither its siblings nor a container's output.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, MutexGuard};

use cube_hv::{ClockState, Kvm, Vcpu, Vm, VmError};
use cube_virtio::block::AttachError;
use cube_virtio::net::{self, Net};
use thiserror::Error;

use crate::bus::{Bus, Overlap, Registers};
use crate::config::{BLOCK_SLOTS, DiskConfig, NetSlot, Shape, Slot};
use crate::control::{RunState, Stats};
use crate::devices::{Devices, DevicesError};
use crate::end::Ending;
use crate::gate::{Gate, Wanted};
use crate::io_thread::IoThread;
use crate::layout;
use crate::power::{Keyboard, Reset, Sleep};
use crate::serial::Console;
use crate::tap::TapLink;
use crate::vcpu::{Buses, VcpuThread};

/// Why the parts did not become a machine.
#[derive(Debug, Error)]
pub enum AssembleError {
    /// A device.
    #[error("the machine's devices could not be connected")]
    Devices(#[from] DevicesError),
    /// The console.
    #[error("the serial console could not be connected")]
    Console(#[from] VmError),
    /// Two devices at one place.
    #[error("a device could not be placed")]
    Place(#[from] Overlap),
    /// A thread.
    #[error("a thread of the machine could not be started")]
    Thread(#[from] io::Error),
}

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
    /// The descriptor is no tap's.
    #[error("{slot} was given something else than a tap")]
    Tap {
        /// The slot.
        slot: NetSlot,
        /// What the kernel says.
        #[source]
        source: io::Error,
    },
    /// The slot would not take the wire.
    #[error("{slot} did not take the tap")]
    AttachNet {
        /// The slot.
        slot: NetSlot,
        /// Why.
        #[source]
        source: net::AttachError,
    },
    /// No thread for the wire.
    #[error("{slot} got no thread of its own")]
    NetThread {
        /// The slot.
        slot: NetSlot,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Nothing to take away.
    #[error("{slot} has no tap")]
    NoWire {
        /// The slot.
        slot: NetSlot,
    },
    /// Nothing to take out.
    #[error("{slot} holds no disk")]
    Empty {
        /// The slot.
        slot: Slot,
    },
    /// The guest's clock could not be stopped or set.
    #[error("the guest's clock could not be kept")]
    Clock(#[from] VmError),
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

/// What a machine is made of, booted or restored.
pub(crate) struct Parts {
    /// The host's KVM.
    pub kvm: Kvm,
    /// The machine in it, with its memory.
    pub vm: Vm,
    /// The size of it.
    pub shape: Shape,
    /// The processors, by number.
    pub vcpus: Vec<Vcpu>,
    /// The virtio devices.
    pub devices: Devices,
    /// The serial console.
    pub console: Arc<Console>,
}

/// A machine.
pub(crate) struct Machine {
    pub kvm: Kvm,
    pub vm: Vm,
    pub shape: Shape,
    pub vcpus: Vec<VcpuThread>,
    pub devices: Devices,
    pub console: Arc<Console>,
    gate: Arc<Gate>,
    /// While the processors stand: since when, by the guest's clock. Its time stands with them.
    stood_at: Option<ClockState>,
    /// Serves every device that has no thread of its own.
    io: IoThread,
    /// The threads of what is attached, by the device's number.
    own: BTreeMap<usize, IoThread>,
    ending: Ending,
}

impl Machine {
    /// Connects the parts and starts the threads. The processors stand, and the guest's clock is `clock`.
    pub fn assemble(
        parts: Parts,
        clock: ClockState,
        ending: &Ending,
    ) -> Result<Self, AssembleError> {
        let Parts {
            kvm,
            vm,
            shape,
            vcpus,
            devices,
            console,
        } = parts;
        devices.connect(&vm)?;
        vm.connect_interrupt(console.irq(), layout::SERIAL_GSI)?;
        let buses = Arc::new(make_buses(&devices, &console, ending)?);
        let gate = Arc::new(Gate::new(vcpus.len()));
        let io = serve_devices(&devices, ending)?;
        let start = |vcpu| {
            let (buses, gate) = (Arc::clone(&buses), Arc::clone(&gate));
            VcpuThread::spawn(vcpu, buses, gate, ending.clone())
        };
        Ok(Self {
            vcpus: vcpus.into_iter().map(start).collect::<io::Result<_>>()?,
            kvm,
            vm,
            shape,
            devices,
            console,
            gate,
            stood_at: Some(clock),
            io,
            own: BTreeMap::new(),
            ending: ending.clone(),
        })
    }

    /// Lets the processors of a paused machine run.
    pub fn resume(&mut self) -> Result<(), MachineError> {
        let state = RunState::Running;
        let clock = self.stood_at.ok_or(MachineError::Already { state })?;
        self.vm.restore_clock(clock)?;
        self.stood_at = None;
        self.gate.turn(Wanted::Run, || {});
        Ok(())
    }

    /// Stops the processors; when it returns, none executes the guest. Devices go on, so that
    /// what is on its way arrives.
    pub fn pause(&mut self) -> Result<(), MachineError> {
        if self.stood_at.is_some() {
            let state = RunState::Paused;
            return Err(MachineError::Already { state });
        }
        self.gate.turn(Wanted::Stand, || self.kick());
        self.gate.wait_until_all_stand();
        let clock = self.vm.save_clock().inspect_err(|_| {
            // As it was: a machine that cannot be resumed rightly is not paused.
            self.gate.turn(Wanted::Run, || {});
        })?;
        self.stood_at = Some(clock);
        Ok(())
    }

    /// If the processors stand: since when, by the guest's clock.
    pub fn stood_at(&self) -> Option<ClockState> {
        self.stood_at
    }

    /// Waits for the work that devices have begun, and lets none work for as long as the result lives.
    pub fn hold_devices(&self) -> Vec<MutexGuard<'_, ()>> {
        let threads = self.own.values().chain([&self.io]);
        threads.map(IoThread::hold).collect()
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
        let thread = format!("disk{}", slot.index());
        self.give_own_thread(Devices::number_of(slot), &thread)
            .map_err(|source| {
                // As it was: nothing else has a hold on the disk yet.
                drop(
                    self.devices
                        .slot(slot)
                        .configure(cube_virtio::block::Block::detach),
                );
                MachineError::Thread { slot, source }
            })
    }

    /// Gives each disk of a restored machine a thread of its own, as it had.
    pub fn serve_disks(&mut self, disks: &[DiskConfig]) -> Result<(), AssembleError> {
        for disk in disks {
            let slot = Slot::new(disk.slot).expect("the configuration was checked");
            self.give_own_thread(Devices::number_of(slot), &format!("disk{}", disk.slot))?;
        }
        Ok(())
    }

    /// Takes the disk out of a slot; nothing touches its file afterwards.
    pub fn detach(&mut self, slot: Slot) -> Result<(), MachineError> {
        let detached = self
            .devices
            .slot(slot)
            .configure(cube_virtio::block::Block::detach);
        drop(detached.ok_or(MachineError::Empty { slot })?);
        self.take_own_thread(Devices::number_of(slot))
            .map_err(|source| MachineError::Thread { slot, source })
    }

    /// Gives a network slot its wire; the guest is told that it has a carrier.
    pub fn attach_net(&mut self, slot: NetSlot, tap: OwnedFd) -> Result<(), MachineError> {
        let link = TapLink::new(tap).map_err(|source| MachineError::Tap { slot, source })?;
        let net = self.devices.net(slot);
        net.configure(|net| net.attach(Box::new(link)))
            .map_err(|source| MachineError::AttachNet { slot, source })?;
        let thread = format!("net{}", slot.index());
        self.give_own_thread(Devices::number_of_net(slot), &thread)
            .map_err(|source| {
                // As it was.
                self.devices.net(slot).configure(Net::detach);
                MachineError::NetThread { slot, source }
            })
    }

    /// Takes the wire out of a network slot; the guest is told that the carrier is gone.
    pub fn detach_net(&mut self, slot: NetSlot) -> Result<(), MachineError> {
        if !self.devices.net(slot).configure(Net::detach) {
            return Err(MachineError::NoWire { slot });
        }
        self.take_own_thread(Devices::number_of_net(slot))
            .map_err(|source| MachineError::NetThread { slot, source })
    }

    /// What the machine has done so far.
    pub fn stats(&self) -> Stats {
        let (serial_bytes, serial_dropped) = self.console.counts();
        let slots = (0..BLOCK_SLOTS).filter_map(|number| Slot::new(number).ok().zip(Some(number)));
        let attached = slots.filter(|(slot, _)| self.own.contains_key(&Devices::number_of(*slot)));
        Stats {
            state: match self.stood_at {
                Some(_) => RunState::Paused,
                None => RunState::Running,
            },
            vcpu_exits: self.vcpus.iter().map(VcpuThread::exits).collect(),
            serial_bytes,
            serial_dropped,
            attached_slots: attached.map(|(_, number)| number).collect(),
        }
    }

    /// Ends all threads, processors first: a device that is gone must not be missed.
    pub fn stop(self) {
        self.gate.turn(Wanted::End, || self.kick());
        self.vcpus.into_iter().for_each(VcpuThread::join);
        self.own.into_values().for_each(IoThread::stop);
        self.io.stop();
    }

    fn kick(&self) {
        self.vcpus.iter().for_each(VcpuThread::kick);
    }

    fn give_own_thread(&mut self, number: usize, name: &str) -> io::Result<()> {
        let devices = Arc::clone(self.devices.all());
        let own = IoThread::spawn(name, devices, self.ending.clone())?;
        self.io.release(number)?;
        if let Err(error) = own.adopt(number) {
            self.io.adopt(number)?;
            return Err(error);
        }
        self.own.insert(number, own);
        Ok(())
    }

    fn take_own_thread(&mut self, number: usize) -> io::Result<()> {
        if let Some(own) = self.own.remove(&number) {
            own.stop();
        }
        self.io.adopt(number)
    }
}

fn make_buses(
    devices: &Devices,
    console: &Arc<Console>,
    ending: &Ending,
) -> Result<Buses, AssembleError> {
    let devices_at_ports: [(u16, u16, Box<dyn Registers>); 4] = [
        (
            layout::SERIAL_PORT,
            layout::SERIAL_PORTS,
            Box::new(Arc::clone(console)),
        ),
        (layout::SLEEP_PORT, 2, Box::new(Sleep(ending.clone()))),
        (layout::RESET_PORT, 1, Box::new(Reset(ending.clone()))),
        (layout::KEYBOARD_PORT, 1, Box::new(Keyboard(ending.clone()))),
    ];
    let mut ports = Bus::default();
    for (first, count, device) in devices_at_ports {
        ports.insert(first.into(), count.into(), device)?;
    }
    let mut memory = Bus::default();
    devices.place(&mut memory)?;
    Ok(Buses { ports, memory })
}

fn serve_devices(devices: &Devices, ending: &Ending) -> io::Result<IoThread> {
    let io = IoThread::spawn("devices", Arc::clone(devices.all()), ending.clone())?;
    for number in 0..devices.all().len() {
        io.adopt(number)?;
    }
    Ok(io)
}
