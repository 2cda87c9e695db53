// SPDX-License-Identifier: Apache-2.0
//! The driver's side of a device, for tests: register writes as a driver makes them, and queues
//! in guest memory that wrap around.

use std::sync::atomic::Ordering;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use crate::registers::offset;
use crate::{Device, DeviceState, Event, MmioTransport, RestoreError, TransportState};

pub(crate) const MEMORY_BYTES: usize = 4 << 20;
/// Where the queues lie, a page of 16 KiB each; buffers come after.
const RINGS: u64 = 0x1_0000;
const RINGS_EACH: u64 = 0x4000;
pub(crate) const BUFFERS: u64 = 0x10_0000;

pub(crate) const F_VERSION_1: u64 = 1 << 32;
pub(crate) const F_EVENT_IDX: u64 = 1 << 29;

const DESC_NEXT: u16 = 1;
const DESC_WRITE: u16 = 2;

/// One part of a request.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Part {
    Read(u64, u32),
    Write(u64, u32),
}

pub(crate) fn memory() -> GuestMemoryMmap {
    GuestMemoryMmap::from_ranges(&[(GuestAddress(0), MEMORY_BYTES)]).unwrap()
}

/// A device, its transport, and a driver that has started it.
pub(crate) struct Driver<D: Device> {
    pub transport: MmioTransport<D>,
    pub memory: GuestMemoryMmap,
    pub queues: Vec<DriverQueue>,
}

impl<D: Device> Driver<D> {
    /// Goes through the whole of virtio 1.2, section 3.1.1.
    pub fn start(device: D) -> Self {
        Self::with_features(device, F_VERSION_1 | F_EVENT_IDX)
    }

    pub fn with_features(device: D, features: u64) -> Self {
        let sizes = device.identity().queue_sizes;
        let memory = memory();
        let transport = MmioTransport::new(device, memory.clone()).unwrap();
        let mut driver = Self {
            transport,
            memory,
            queues: Vec::new(),
        };
        driver.negotiate(features);
        for (index, size) in sizes.iter().enumerate() {
            let queue = DriverQueue::new(driver.memory.clone(), index, *size);
            driver.set_up(index, &queue);
            driver.queues.push(queue);
        }
        driver.write(offset::STATUS, 15);
        assert_eq!(driver.read(offset::STATUS), 15);
        driver
    }

    /// A second machine that goes on where this one is, over a copy of its memory; the first can
    /// go on as well. Saving has no effect, and the second is saved as the first was.
    pub fn fork<E: Device>(&self, device: impl FnOnce(&DeviceState) -> E) -> Driver<E> {
        let state = self.transport.save();
        assert_eq!(self.transport.save(), state, "saving changes what is saved");
        let bytes = postcard::to_stdvec(&state).unwrap();
        let state: TransportState = postcard::from_bytes(&bytes).unwrap();
        let copy = self.resume(device(&state.device), &state).unwrap();
        assert_eq!(copy.transport.save(), state, "restoring is not the inverse");
        copy
    }

    /// A second machine with the state `state`, over a copy of the memory of this one.
    pub fn resume<E: Device>(
        &self,
        device: E,
        state: &TransportState,
    ) -> Result<Driver<E>, RestoreError> {
        let memory = memory();
        let content = self.peek(0, MEMORY_BYTES);
        memory.write_slice(&content, GuestAddress(0)).unwrap();
        let transport = MmioTransport::restore(device, memory.clone(), state)?;
        let queues = self.queues.iter();
        let queues = queues.map(|queue| queue.over(&memory)).collect();
        Ok(Driver {
            transport,
            memory,
            queues,
        })
    }

    pub fn negotiate(&self, features: u64) {
        self.write(offset::STATUS, 0);
        self.write(offset::STATUS, 1);
        self.write(offset::STATUS, 3);
        for (sel, half) in [(0, features), (1, features >> 32)] {
            self.write(offset::DRIVER_FEATURES_SEL, sel);
            self.write(
                offset::DRIVER_FEATURES,
                u32::try_from(half & 0xffff_ffff).unwrap(),
            );
        }
        self.write(offset::STATUS, 11);
        assert_eq!(self.read(offset::STATUS), 11);
    }

    pub fn set_up(&self, index: usize, queue: &DriverQueue) {
        let low = |address: u64| u32::try_from(address & 0xffff_ffff).unwrap();
        self.write(offset::QUEUE_SEL, u32::try_from(index).unwrap());
        assert_eq!(self.read(offset::QUEUE_READY), 0);
        assert!(self.read(offset::QUEUE_NUM_MAX) >= u32::from(queue.size));
        self.write(offset::QUEUE_NUM, queue.size.into());
        self.write(offset::QUEUE_DESC_LOW, low(queue.desc));
        self.write(offset::QUEUE_DESC_HIGH, 0);
        self.write(offset::QUEUE_DRIVER_LOW, low(queue.avail));
        self.write(offset::QUEUE_DRIVER_HIGH, 0);
        self.write(offset::QUEUE_DEVICE_LOW, low(queue.used));
        self.write(offset::QUEUE_DEVICE_HIGH, 0);
        self.write(offset::QUEUE_READY, 1);
        assert_eq!(self.read(offset::QUEUE_READY), 1);
    }

    pub fn read(&self, offset: u64) -> u32 {
        let mut data = [0; 4];
        self.transport.read(offset, &mut data);
        u32::from_le_bytes(data)
    }

    pub fn write(&self, offset: u64, value: u32) {
        self.transport.write(offset, &value.to_le_bytes());
    }

    pub fn config<const N: usize>(&self, offset: u64) -> [u8; N] {
        let mut data = [0; N];
        self.transport.read(offset::CONFIG + offset, &mut data);
        data
    }

    /// Notifies queue `index` and does everything that follows from it.
    pub fn kick(&self, index: usize) {
        self.write(offset::QUEUE_NOTIFY, u32::try_from(index).unwrap());
        self.run();
    }

    /// What the I/O thread does, until nothing is left.
    pub fn run(&self) {
        while self.run_once(Duration::ZERO) {}
    }

    /// Waits for the first event and handles what is there.
    pub fn run_once(&self, timeout: Duration) -> bool {
        let sources: Vec<_> = self.transport.sources().collect();
        let mut fds: Vec<_> = sources
            .iter()
            .map(|(_, fd)| PollFd::new(fd, PollFlags::IN))
            .collect();
        let timeout = Timespec::try_from(timeout).unwrap();
        poll(&mut fds, Some(&timeout)).unwrap();
        let due: Vec<Event> = sources
            .iter()
            .zip(&fds)
            .filter(|(_, fd)| !fd.revents().is_empty())
            .map(|((event, _), _)| *event)
            .collect();
        for event in &due {
            self.transport.handle(*event);
        }
        !due.is_empty()
    }

    /// Puts a request into queue `index`, notifies, and returns what came back.
    pub fn request(&mut self, index: usize, parts: &[Part]) -> Option<u32> {
        let head = self.queues[index].add(parts);
        self.kick(index);
        let (used, len) = self.queues[index].take()?;
        assert_eq!(used, head);
        Some(len)
    }

    /// Reasons for an interrupt since the last call, acknowledged.
    pub fn interrupts(&self) -> u32 {
        let status = self.read(offset::INTERRUPT_STATUS);
        self.write(offset::INTERRUPT_ACK, status);
        assert_eq!(self.read(offset::INTERRUPT_STATUS), 0);
        let irq = self.transport.irq();
        let mut count = [0; 8];
        let raised = rustix::io::read(irq, &mut count).is_ok();
        assert_eq!(
            raised,
            status != 0,
            "the line and the status register disagree"
        );
        status
    }

    pub fn peek(&self, addr: u64, len: usize) -> Vec<u8> {
        let mut data = vec![0; len];
        self.memory
            .read_slice(&mut data, GuestAddress(addr))
            .unwrap();
        data
    }

    pub fn poke(&self, addr: u64, data: &[u8]) {
        self.memory.write_slice(data, GuestAddress(addr)).unwrap();
    }
}

/// The driver's half of a split virtqueue.
#[derive(Clone)]
pub(crate) struct DriverQueue {
    memory: GuestMemoryMmap,
    pub size: u16,
    pub desc: u64,
    pub avail: u64,
    pub used: u64,
    free: Vec<u16>,
    /// Descriptors of each chain in flight, by head.
    chains: Vec<Vec<u16>>,
    avail_idx: u16,
    used_idx: u16,
}

impl DriverQueue {
    pub fn new(memory: GuestMemoryMmap, index: usize, size: u16) -> Self {
        let base = RINGS + RINGS_EACH * index as u64;
        Self {
            memory,
            size,
            desc: base,
            avail: base + 16 * u64::from(size),
            used: base + 0x3000,
            free: (0..size).rev().collect(),
            chains: vec![Vec::new(); size.into()],
            avail_idx: 0,
            used_idx: 0,
        }
    }

    /// The same half in another machine's memory.
    fn over(&self, memory: &GuestMemoryMmap) -> Self {
        Self {
            memory: memory.clone(),
            ..self.clone()
        }
    }

    /// Descriptors that are not in flight.
    pub fn free(&self) -> usize {
        self.free.len()
    }

    /// Makes a request available and returns its head.
    pub fn add(&mut self, parts: &[Part]) -> u16 {
        let indices: Vec<u16> = parts.iter().map(|_| self.free.pop().unwrap()).collect();
        for (position, part) in parts.iter().enumerate() {
            let next = indices.get(position + 1).copied();
            let (addr, len, write) = match *part {
                Part::Read(addr, len) => (addr, len, 0),
                Part::Write(addr, len) => (addr, len, DESC_WRITE),
            };
            let flags = write | next.map_or(0, |_| DESC_NEXT);
            self.write_descriptor(indices[position], addr, len, flags, next.unwrap_or(0));
        }
        let head = indices[0];
        self.chains[usize::from(head)] = indices;
        self.publish(head);
        head
    }

    pub fn write_descriptor(&self, index: u16, addr: u64, len: u32, flags: u16, next: u16) {
        let mut bytes = Vec::new();
        bytes.extend(addr.to_le_bytes());
        bytes.extend(len.to_le_bytes());
        bytes.extend(flags.to_le_bytes());
        bytes.extend(next.to_le_bytes());
        let at = GuestAddress(self.desc + 16 * u64::from(index));
        self.memory.write_slice(&bytes, at).unwrap();
    }

    /// Puts `head`, whatever it is, into the available ring.
    pub fn publish(&mut self, head: u16) {
        let slot = u64::from(self.avail_idx % self.size);
        self.memory
            .write_obj(head, GuestAddress(self.avail + 4 + 2 * slot))
            .unwrap();
        self.set_avail_idx(self.avail_idx.wrapping_add(1));
    }

    pub fn set_avail_idx(&mut self, index: u16) {
        self.avail_idx = index;
        self.memory
            .store(index, GuestAddress(self.avail + 2), Ordering::Release)
            .unwrap();
    }

    /// Whether the device wants to hear of the last request (virtio 1.2, section 2.7.7.2).
    pub fn wants_notification(&self) -> bool {
        std::sync::atomic::fence(Ordering::SeqCst);
        let at = GuestAddress(self.used + 4 + 8 * u64::from(self.size));
        let avail_event: u16 = self.memory.load(at, Ordering::SeqCst).unwrap();
        avail_event == self.avail_idx.wrapping_sub(1)
    }

    /// The next used buffer: its head and length. Asks for an interrupt at the one after it.
    pub fn take(&mut self) -> Option<(u16, u32)> {
        let used: u16 = self
            .memory
            .load(GuestAddress(self.used + 2), Ordering::Acquire)
            .unwrap();
        if used == self.used_idx {
            return None;
        }
        let slot = u64::from(self.used_idx % self.size);
        let id: u32 = self
            .memory
            .read_obj(GuestAddress(self.used + 4 + 8 * slot))
            .unwrap();
        let len: u32 = self
            .memory
            .read_obj(GuestAddress(self.used + 8 + 8 * slot))
            .unwrap();
        self.used_idx = self.used_idx.wrapping_add(1);
        let used_event = GuestAddress(self.avail + 4 + 2 * u64::from(self.size));
        self.memory
            .store(self.used_idx, used_event, Ordering::Release)
            .unwrap();
        let head = u16::try_from(id).unwrap();
        self.free.append(&mut self.chains[usize::from(head)]);
        Some((head, len))
    }
}
