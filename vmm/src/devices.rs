// SPDX-License-Identifier: Apache-2.0
//! The devices of every machine, always the same and in the same order: a number is an
//! address, an interrupt and a name in the ACPI tables.
//!
//! | number | device |
//! |---|---|
//! | 0 | vsock |
//! | 1 | entropy |
//! | 2 .. 5 | network slots 0 to 3 |
//! | 6 .. 13 | block slots 0 to 7 |

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use cube_hv::{GuestMemory, Vm, VmError};
use cube_virtio::block::{AttachError, Block, BlockState};
use cube_virtio::net::{Net, NetError};
use cube_virtio::rng::Rng;
use cube_virtio::state::{RestoreError, TransportState};
use cube_virtio::vsock::{Vsock, VsockError};
use cube_virtio::{MmioTransport, QUEUE_NOTIFY, TransportError};
use thiserror::Error;

use crate::acpi::Window;
use crate::bus::{Bus, Overlap};
use crate::config::{BLOCK_SLOTS, DiskConfig, NET_SLOTS, NetSlot, Slot};
use crate::io_thread::SharedDevice;
use crate::layout;

/// The number of the first network slot.
const FIRST_NET: usize = 2;

/// The number of the first block slot.
const FIRST_SLOT: usize = FIRST_NET + NET_SLOTS as usize;

/// How many there are.
const COUNT: usize = FIRST_SLOT + BLOCK_SLOTS as usize;

/// The address of a network slot until a sandbox claims it: locally administered, the same in every
/// machine.
fn neutral_mac(slot: u8) -> [u8; 6] {
    [0x02, 0xcb, 0xe0, 0, 0, slot + 1]
}

/// Why the devices could not be made.
#[derive(Debug, Error)]
pub enum DevicesError {
    /// The vsock device's own part.
    #[error("the vsock device could not be made")]
    Vsock(#[from] VsockError),
    /// A network device's own part.
    #[error("a network device could not be made")]
    Net(#[from] NetError),
    /// A device's registers and events.
    #[error("a device's registers could not be made")]
    Transport(#[from] TransportError),
    /// A saved device.
    #[error("device {number} could not be restored")]
    Restore {
        /// Its number.
        number: usize,
        /// Why.
        #[source]
        source: RestoreError,
    },
    /// There are more or fewer saved devices than a machine has.
    #[error("the state of {found} devices was given to a machine of {COUNT}")]
    Count {
        /// How many.
        found: usize,
    },
    /// A disk of a restored machine.
    #[error("slot {slot} did not take its disk back")]
    Disk {
        /// The slot.
        slot: u8,
        /// Why.
        #[source]
        source: AttachError,
    },
    /// The guest of a restored machine goes on with a disk that was not given.
    #[error("slot {slot} was saved with a disk, and was given none")]
    NoDisk {
        /// The slot.
        slot: u8,
    },
    /// Two devices at one place.
    #[error("a device could not be placed")]
    Place(#[from] Overlap),
    /// KVM would not connect a device.
    #[error("a device could not be connected")]
    Connect(#[from] VmError),
}

/// The disks of a restored machine, until each is in its slot.
#[derive(Debug, Default)]
pub(crate) struct Disks(BTreeMap<u8, (OwnedFd, bool)>);

impl Disks {
    /// As many files as are named, in the same order.
    pub fn new(named: &[DiskConfig], files: Vec<OwnedFd>) -> Self {
        let disks = named.iter().zip(files);
        Self(
            disks
                .map(|(disk, file)| (disk.slot, (file, disk.read_only)))
                .collect(),
        )
    }

    /// Gives a restored slot its disk back. Before anything polls it: requests may be waiting.
    fn put(
        &mut self,
        slot: u8,
        mut block: Block,
        saved: &BlockState,
    ) -> Result<Block, DevicesError> {
        match self.0.remove(&slot) {
            Some((file, read_only)) => block
                .attach(file.into(), read_only)
                .map_err(|source| DevicesError::Disk { slot, source })?,
            None if saved.disk.is_some() => return Err(DevicesError::NoDisk { slot }),
            None => {}
        }
        Ok(block)
    }
}

/// All virtio devices of a machine.
pub(crate) struct Devices {
    /// By number.
    all: Arc<[SharedDevice]>,
    /// The network slots once more, by what only they can.
    nets: Vec<Arc<MmioTransport<Net>>>,
    /// The block slots, likewise.
    slots: Vec<Arc<MmioTransport<Block>>>,
}

impl Devices {
    /// Makes them; `vsock` is the listening socket of the host's side.
    pub fn new(memory: &GuestMemory, vsock: OwnedFd) -> Result<Self, DevicesError> {
        let mut all: Vec<SharedDevice> = vec![
            Arc::new(MmioTransport::new(Vsock::new(vsock)?, memory.clone())?),
            Arc::new(MmioTransport::new(Rng::new(), memory.clone())?),
        ];
        debug_assert_eq!(all.len(), FIRST_NET);
        let mut nets = Vec::new();
        for slot in 0..NET_SLOTS {
            let net = Net::new(neutral_mac(slot))?;
            let transport = Arc::new(MmioTransport::new(net, memory.clone())?);
            nets.push(Arc::clone(&transport));
            all.push(transport);
        }
        let mut slots = Vec::new();
        for slot in 0..BLOCK_SLOTS {
            let transport = Arc::new(MmioTransport::new(Block::new(slot), memory.clone())?);
            slots.push(Arc::clone(&transport));
            all.push(transport);
        }
        let all = all.into();
        Ok(Self { all, nets, slots })
    }

    /// Makes the saved ones; `vsock` is as in [`Devices::new`]. Connect them when the interrupt
    /// controllers are restored. `disks` are those that the guest has seen, all of them.
    pub fn restore(
        memory: &GuestMemory,
        vsock: OwnedFd,
        states: &[TransportState],
        disks: &mut Disks,
    ) -> Result<Self, DevicesError> {
        let wrong = DevicesError::Count {
            found: states.len(),
        };
        let [vsock_state, rng_state, slot_states @ ..] = states else {
            return Err(wrong);
        };
        if states.len() != COUNT {
            return Err(wrong);
        }
        let (net_states, block_states) = slot_states.split_at(NET_SLOTS.into());
        let vsock = || {
            let vsock = Vsock::restore(vsock, vsock_state.device.vsock()?)?;
            MmioTransport::restore(vsock, memory.clone(), vsock_state)
        };
        let rng = || MmioTransport::restore(Rng::new(), memory.clone(), rng_state);
        let mut all: Vec<SharedDevice> = vec![
            Arc::new(vsock().map_err(numbered(0))?),
            Arc::new(rng().map_err(numbered(1))?),
        ];
        let mut nets = Vec::new();
        for (number, state) in (FIRST_NET..).zip(net_states) {
            let net = || {
                let net = Net::restore(state.device.net()?)?;
                MmioTransport::restore(net, memory.clone(), state)
            };
            let transport = Arc::new(net().map_err(numbered(number))?);
            nets.push(Arc::clone(&transport));
            all.push(transport);
        }
        let mut slots = Vec::new();
        for (slot, state) in (0..).zip(block_states) {
            let number = FIRST_SLOT + usize::from(slot);
            let saved = state.device.block().map_err(numbered(number))?;
            let block = disks.put(slot, Block::restore(slot, saved), saved)?;
            let restored = MmioTransport::restore(block, memory.clone(), state);
            let transport = Arc::new(restored.map_err(numbered(number))?);
            slots.push(Arc::clone(&transport));
            all.push(transport);
        }
        let all = all.into();
        Ok(Self { all, nets, slots })
    }

    /// The state of each, by number. No thread may serve them meanwhile.
    pub fn save(&self) -> Vec<TransportState> {
        self.all.iter().map(|device| device.save()).collect()
    }

    /// All devices, by number.
    pub fn all(&self) -> &Arc<[SharedDevice]> {
        &self.all
    }

    /// The block device of a slot.
    pub fn slot(&self, slot: Slot) -> &MmioTransport<Block> {
        self.slots
            .get(slot.index())
            .expect("a slot is below the number of slots")
    }

    /// The network device of a slot.
    pub fn net(&self, slot: NetSlot) -> &MmioTransport<Net> {
        self.nets
            .get(slot.index())
            .expect("a slot is below the number of slots")
    }

    /// The number of a network slot's device.
    pub fn number_of_net(slot: NetSlot) -> usize {
        FIRST_NET + slot.index()
    }

    /// The number of a slot's device.
    pub fn number_of(slot: Slot) -> usize {
        FIRST_SLOT + slot.index()
    }

    /// Where each device is, for the ACPI tables.
    pub fn windows(&self) -> Vec<Window> {
        (0..)
            .zip(self.all.iter())
            .map(|(index, _)| Window::virtio(index))
            .collect()
    }

    /// Puts all register windows on the bus.
    pub fn place(&self, bus: &mut Bus) -> Result<(), DevicesError> {
        for (window, device) in self.windows().iter().zip(self.all.iter()) {
            bus.insert(
                window.address,
                layout::VIRTIO_WINDOW,
                Box::new(Arc::clone(device)),
            )?;
        }
        Ok(())
    }

    /// Lets the guest's notifications reach the devices without leaving the kernel, and the
    /// devices' interrupts the guest.
    pub fn connect(&self, vm: &Vm) -> Result<(), DevicesError> {
        for (window, device) in self.windows().iter().zip(self.all.iter()) {
            for (queue, notifier) in device.notifiers() {
                vm.connect_notification(notifier, window.address + QUEUE_NOTIFY, queue)?;
            }
        }
        for (window, device) in self.windows().iter().zip(self.all.iter()) {
            vm.connect_interrupt(device.irq(), window.gsi)?;
        }
        Ok(())
    }
}

fn numbered(number: usize) -> impl FnOnce(RestoreError) -> DevicesError {
    move |source| DevicesError::Restore { number, source }
}
