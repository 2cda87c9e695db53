// SPDX-License-Identifier: Apache-2.0
//! The registers of a virtio-mmio device as a value: what the driver may write when, and what
//! follows from it. No device, no memory, no lock; [`crate::MmioTransport`] carries the effects out.
//!
//! ```text
//!                                   ┌──────────────── write 0 (reset), from anywhere ───┐
//!                                   ▼                                                   │
//!  Reset ─ACKNOWLEDGE─► Acknowledged ─DRIVER─► Driver ─FEATURES_OK─► Negotiated ─DRIVER_OK─► Running
//!    (both at once is fine)              features are written   queues are written          frozen
//!                     FAILED from anywhere: Failed     broken queue: Broken (DEVICE_NEEDS_RESET)
//! ```
//! Anything else that the driver writes to the status register is ignored. Features can be written
//! only in Driver, queues only in Negotiated and, but for QueueReady, only while not ready: what a
//! running device was started with cannot change under it (CVE-2026-5747 in another VMM).

mod state;

use virtio_queue::{Queue, QueueT};
use vm_memory::{GuestAddress, GuestMemoryMmap};

pub use state::{QueueSetupState, RegistersState};

/// Status bits (virtio 1.2, section 2.1).
const ACKNOWLEDGE: u32 = 1;
const DRIVER: u32 = 2;
const DRIVER_OK: u32 = 4;
const FEATURES_OK: u32 = 8;
const DEVICE_NEEDS_RESET: u32 = 64;
const FAILED: u32 = 128;

/// Feature bits of every device here (virtio 1.2, section 6).
const F_EVENT_IDX: u64 = 1 << 29;
const F_VERSION_1: u64 = 1 << 32;

/// Register offsets (virtio 1.2, section 4.2.2).
pub(crate) mod offset {
    pub const MAGIC: u64 = 0x000;
    pub const VERSION: u64 = 0x004;
    pub const DEVICE_ID: u64 = 0x008;
    pub const VENDOR_ID: u64 = 0x00c;
    pub const DEVICE_FEATURES: u64 = 0x010;
    pub const DEVICE_FEATURES_SEL: u64 = 0x014;
    pub const DRIVER_FEATURES: u64 = 0x020;
    pub const DRIVER_FEATURES_SEL: u64 = 0x024;
    pub const QUEUE_SEL: u64 = 0x030;
    pub const QUEUE_NUM_MAX: u64 = 0x034;
    pub const QUEUE_NUM: u64 = 0x038;
    pub const QUEUE_READY: u64 = 0x044;
    pub const QUEUE_NOTIFY: u64 = 0x050;
    pub const INTERRUPT_STATUS: u64 = 0x060;
    pub const INTERRUPT_ACK: u64 = 0x064;
    pub const STATUS: u64 = 0x070;
    pub const QUEUE_DESC_LOW: u64 = 0x080;
    pub const QUEUE_DESC_HIGH: u64 = 0x084;
    pub const QUEUE_DRIVER_LOW: u64 = 0x090;
    pub const QUEUE_DRIVER_HIGH: u64 = 0x094;
    pub const QUEUE_DEVICE_LOW: u64 = 0x0a0;
    pub const QUEUE_DEVICE_HIGH: u64 = 0x0a4;
    pub const SHM_LEN_LOW: u64 = 0x0b0;
    pub const SHM_BASE_HIGH: u64 = 0x0bc;
    pub const CONFIG_GENERATION: u64 = 0x0fc;
    pub const CONFIG: u64 = 0x100;
}

/// "virt", little-endian.
const MAGIC: u32 = 0x7472_6976;
/// The modern interface; the legacy one (version 1) is not offered.
const VERSION: u32 = 2;
/// "Cube", little-endian. Drivers do not care.
const VENDOR: u32 = 0x6562_7543;

/// How far the driver has come. See the module's diagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    Reset,
    Acknowledged,
    Driver,
    Negotiated,
    Running,
    Failed,
    Broken,
}

impl Phase {
    /// The status register.
    fn status(self) -> u32 {
        match self {
            Self::Reset => 0,
            Self::Acknowledged => ACKNOWLEDGE,
            Self::Driver => ACKNOWLEDGE | DRIVER,
            Self::Negotiated => ACKNOWLEDGE | DRIVER | FEATURES_OK,
            Self::Running => ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK,
            Self::Failed => ACKNOWLEDGE | DRIVER | FAILED,
            Self::Broken => ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK | DEVICE_NEEDS_RESET,
        }
    }
}

/// What the transport has to do after a register write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(crate) enum Effect {
    None,
    /// DRIVER_OK: start the device.
    Start,
    /// Reset or FAILED: stop the device.
    Stop,
}

/// What the driver asks a queue to be. Checked as a whole by [`QueueSetup::build`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct QueueSetup {
    max: u16,
    size: u32,
    ready: bool,
    desc: u64,
    driver: u64,
    device: u64,
}

/// A queue that the driver made ready or left out wrongly.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// The driver has left it out.
    #[error("queue {index} was not made ready before DRIVER_OK")]
    NotReady {
        /// The queue.
        index: usize,
    },
    /// Its size or a place is none that a queue can have.
    #[error("queue {index} of size {size} cannot lie at {desc:#x}, {driver:#x}, {device:#x}")]
    Rings {
        /// The queue.
        index: usize,
        /// Number of descriptors.
        size: u32,
        /// Descriptor table.
        desc: u64,
        /// Available ring.
        driver: u64,
        /// Used ring.
        device: u64,
        /// What the ring says.
        #[source]
        source: virtio_queue::Error,
    },
    /// A place is not in guest memory.
    #[error("the rings of queue {index} are not in guest memory")]
    OutOfMemory {
        /// The queue.
        index: usize,
    },
}

/// The register file.
#[derive(Debug)]
pub(crate) struct Registers {
    device_id: u32,
    device_features: u64,
    driver_features: u64,
    device_features_sel: u32,
    driver_features_sel: u32,
    queue_sel: u32,
    queues: Vec<QueueSetup>,
    phase: Phase,
    generation: u32,
}

impl Registers {
    pub fn new(device_id: u32, features: u64, queue_sizes: &[u16]) -> Self {
        Self {
            device_id,
            device_features: features | F_VERSION_1 | F_EVENT_IDX,
            driver_features: 0,
            device_features_sel: 0,
            driver_features_sel: 0,
            queue_sel: 0,
            queues: queue_sizes
                .iter()
                .map(|max| QueueSetup::new(*max))
                .collect(),
            phase: Phase::Reset,
            generation: 0,
        }
    }

    pub fn phase(&self) -> Phase {
        self.phase
    }

    pub fn driver_features(&self) -> u64 {
        self.driver_features
    }

    /// The configuration space has changed: a driver in the midst of reading it reads again.
    pub fn bump_generation(&mut self) {
        self.generation = self.generation.wrapping_add(1);
    }

    /// The device cannot go on until it is reset.
    pub fn broken(&mut self) {
        self.phase = Phase::Broken;
    }

    /// Reads the 32-bit register at `register`. Unknown and write-only ones are zero.
    pub fn read(&self, register: u64) -> u32 {
        match register {
            offset::MAGIC => MAGIC,
            offset::VERSION => VERSION,
            offset::DEVICE_ID => self.device_id,
            offset::VENDOR_ID => VENDOR,
            offset::DEVICE_FEATURES => half(self.device_features, self.device_features_sel),
            offset::QUEUE_NUM_MAX => self.queue().map_or(0, |queue| queue.max.into()),
            offset::QUEUE_READY => self.queue().map_or(0, |queue| queue.ready.into()),
            offset::STATUS => self.phase.status(),
            // No shared memory region: all ones (section 4.2.2, SHMLenLow and SHMBaseLow).
            offset::SHM_LEN_LOW..=offset::SHM_BASE_HIGH => u32::MAX,
            offset::CONFIG_GENERATION => self.generation,
            _ => 0,
        }
    }

    /// Writes the 32-bit register at `register`. What is not allowed now is ignored.
    pub fn write(&mut self, register: u64, value: u32) -> Effect {
        match register {
            offset::DEVICE_FEATURES_SEL => self.device_features_sel = value,
            offset::DRIVER_FEATURES_SEL => self.driver_features_sel = value,
            offset::DRIVER_FEATURES if self.phase == Phase::Driver => {
                match self.driver_features_sel {
                    0 => set_low(&mut self.driver_features, value),
                    1 => set_high(&mut self.driver_features, value),
                    _ => {}
                }
            }
            offset::QUEUE_SEL => self.queue_sel = value,
            offset::STATUS => return self.write_status(value),
            _ if self.phase == Phase::Negotiated => self.write_queue(register, value),
            _ => {}
        }
        Effect::None
    }

    /// The queues as the driver has set them up, each checked against `memory`.
    pub fn build_queues(&self, memory: &GuestMemoryMmap) -> Result<Vec<Queue>, SetupError> {
        let event_idx = self.driver_features & F_EVENT_IDX != 0;
        let build = |(index, setup): (usize, &QueueSetup)| setup.build(index, event_idx, memory);
        self.queues.iter().enumerate().map(build).collect()
    }

    fn queue(&self) -> Option<&QueueSetup> {
        self.queues.get(usize::try_from(self.queue_sel).ok()?)
    }

    fn write_status(&mut self, value: u32) -> Effect {
        const DRIVER_FOUND: u32 = ACKNOWLEDGE | DRIVER;
        const NEGOTIATED: u32 = DRIVER_FOUND | FEATURES_OK;
        const RUNNING: u32 = NEGOTIATED | DRIVER_OK;
        match (self.phase, value) {
            (_, 0) => return self.reset(),
            (_, value) if value & FAILED != 0 => {
                self.phase = Phase::Failed;
                return Effect::Stop;
            }
            (Phase::Reset, ACKNOWLEDGE) => self.phase = Phase::Acknowledged,
            (Phase::Reset | Phase::Acknowledged, DRIVER_FOUND) => self.phase = Phase::Driver,
            (Phase::Driver, NEGOTIATED) if self.features_acceptable() => {
                self.phase = Phase::Negotiated;
            }
            (Phase::Negotiated, RUNNING) => {
                self.phase = Phase::Running;
                return Effect::Start;
            }
            _ => {}
        }
        Effect::None
    }

    /// Only what was offered, and never without version 1 (section 6.1).
    fn features_acceptable(&self) -> bool {
        self.driver_features & !self.device_features == 0 && self.driver_features & F_VERSION_1 != 0
    }

    fn reset(&mut self) -> Effect {
        self.driver_features = 0;
        self.device_features_sel = 0;
        self.driver_features_sel = 0;
        self.queue_sel = 0;
        for queue in &mut self.queues {
            *queue = QueueSetup::new(queue.max);
        }
        self.phase = Phase::Reset;
        Effect::Stop
    }

    fn write_queue(&mut self, register: u64, value: u32) {
        let selected = usize::try_from(self.queue_sel).ok();
        let Some(queue) = selected.and_then(|selected| self.queues.get_mut(selected)) else {
            return;
        };
        if register == offset::QUEUE_READY {
            queue.ready = value == 1;
            return;
        }
        if queue.ready {
            return;
        }
        match register {
            offset::QUEUE_NUM => queue.size = value,
            offset::QUEUE_DESC_LOW => set_low(&mut queue.desc, value),
            offset::QUEUE_DESC_HIGH => set_high(&mut queue.desc, value),
            offset::QUEUE_DRIVER_LOW => set_low(&mut queue.driver, value),
            offset::QUEUE_DRIVER_HIGH => set_high(&mut queue.driver, value),
            offset::QUEUE_DEVICE_LOW => set_low(&mut queue.device, value),
            offset::QUEUE_DEVICE_HIGH => set_high(&mut queue.device, value),
            _ => {}
        }
    }
}

impl QueueSetup {
    fn new(max: u16) -> Self {
        Self {
            max,
            size: max.into(),
            ready: false,
            desc: 0,
            driver: 0,
            device: 0,
        }
    }

    fn build(
        &self,
        index: usize,
        event_idx: bool,
        memory: &GuestMemoryMmap,
    ) -> Result<Queue, SetupError> {
        if !self.ready {
            return Err(SetupError::NotReady { index });
        }
        let queue = self.rings(event_idx).map_err(|source| SetupError::Rings {
            index,
            size: self.size,
            desc: self.desc,
            driver: self.driver,
            device: self.device,
            source,
        })?;
        if !queue.is_valid(memory) {
            return Err(SetupError::OutOfMemory { index });
        }
        Ok(queue)
    }

    fn rings(&self, event_idx: bool) -> Result<Queue, virtio_queue::Error> {
        let mut queue = Queue::new(self.max)?;
        let size = u16::try_from(self.size).map_err(|_| virtio_queue::Error::InvalidSize)?;
        queue.try_set_size(size)?;
        queue.try_set_desc_table_address(GuestAddress(self.desc))?;
        queue.try_set_avail_ring_address(GuestAddress(self.driver))?;
        queue.try_set_used_ring_address(GuestAddress(self.device))?;
        queue.set_event_idx(event_idx);
        queue.set_ready(true);
        Ok(queue)
    }
}

/// The 32 bits of `value` that selector `sel` names; selectors past the second are empty.
fn half(value: u64, sel: u32) -> u32 {
    let [b0, b1, b2, b3, b4, b5, b6, b7] = value.to_le_bytes();
    match sel {
        0 => u32::from_le_bytes([b0, b1, b2, b3]),
        1 => u32::from_le_bytes([b4, b5, b6, b7]),
        _ => 0,
    }
}

fn set_low(value: &mut u64, low: u32) {
    *value = *value & !u64::from(u32::MAX) | u64::from(low);
}

fn set_high(value: &mut u64, high: u32) {
    *value = *value & u64::from(u32::MAX) | u64::from(high) << 32;
}
