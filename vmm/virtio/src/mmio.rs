// SPDX-License-Identifier: Apache-2.0
//! The virtio-mmio transport (virtio 1.2, section 4.2, the modern interface only): one device, its
//! registers, its interrupt and the notification of its queues.
//!
//! See the crate's documentation for the threads that call this and for the wiring.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use virtio_queue::Queue;
use vm_memory::GuestMemoryMmap;

use crate::device::{Device, Identity, Work};
use crate::event::EventFd;
use crate::interrupt::Interrupt;
use crate::queue::Virtqueue;
use crate::registers::{Effect, Phase, Registers, offset};

/// Size of the register window of one device.
pub const MMIO_SIZE: u64 = 0x1000;

/// Offset of the QueueNotify register, where the VMM registers its ioeventfds.
pub const QUEUE_NOTIFY: u64 = offset::QUEUE_NOTIFY;

/// What a guest can make one device log in the life of the VMM: enough to see what is wrong, too
/// little to fill a disk.
const GUEST_LOG_LINES: u8 = 16;

/// The transport cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum TransportError {
    /// The system gives no more event file descriptors.
    #[error("cannot create an event file descriptor for the device")]
    EventFd(#[source] io::Error),
    /// The device's file descriptor cannot be duplicated.
    #[error("cannot duplicate the event source of the device")]
    PollFd(#[source] io::Error),
}

/// What an I/O thread was woken for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// The driver has notified the queue with this index.
    Queue(usize),
    /// The device's own event source is readable.
    Device,
}

/// One virtio-mmio device. `MmioTransport<Block>` lets the VMM reach the block device;
/// `MmioTransport<dyn Device>` is what a bus and a poll loop hold.
#[derive(Debug)]
pub struct MmioTransport<D: Device + ?Sized> {
    identity: Identity,
    interrupt: Interrupt,
    notifiers: Vec<EventFd>,
    poll_fd: Option<OwnedFd>,
    log_lines: AtomicU8,
    live: Mutex<Live<D>>,
}

#[derive(Debug)]
struct Live<D: Device + ?Sized> {
    registers: Registers,
    memory: GuestMemoryMmap,
    /// The configuration changed after a driver appeared and before it was ready to hear of it.
    unannounced: bool,
    device: D,
}

impl<D: Device> MmioTransport<D> {
    /// Puts `device` behind registers.
    pub fn new(device: D, memory: GuestMemoryMmap) -> Result<Self, TransportError> {
        let identity = device.identity();
        let event_fd = || EventFd::new().map_err(TransportError::EventFd);
        let interrupt = Interrupt::new(event_fd()?);
        let notifiers = identity
            .queue_sizes
            .iter()
            .map(|_| event_fd())
            .collect::<Result<_, _>>()?;
        let own = device
            .poll_fd()
            .map(|fd| fd.try_clone_to_owned())
            .transpose();
        let poll_fd = own.map_err(TransportError::PollFd)?;
        let registers = Registers::new(identity.device_id, identity.features, identity.queue_sizes);
        let live = Mutex::new(Live {
            registers,
            memory,
            unannounced: false,
            device,
        });
        let log_lines = AtomicU8::new(GUEST_LOG_LINES);
        Ok(Self {
            identity,
            interrupt,
            notifiers,
            poll_fd,
            log_lines,
            live,
        })
    }

    /// Changes what the device is; the driver, if there is one, is told that the configuration
    /// space has changed. Waits for the request in progress.
    pub fn configure<R>(&self, change: impl FnOnce(&mut D) -> R) -> R {
        let mut live = self.lock();
        let result = change(&mut live.device);
        live.registers.bump_generation();
        match live.registers.phase() {
            Phase::Running => self.interrupt.configuration(),
            _ => live.unannounced = true,
        }
        result
    }

    /// Looks at the device. Waits for the request in progress.
    pub fn inspect<R>(&self, look: impl FnOnce(&D) -> R) -> R {
        look(&self.lock().device)
    }
}

impl<D: Device + ?Sized> MmioTransport<D> {
    /// Whether the driver has started the device.
    pub fn is_running(&self) -> bool {
        self.lock().registers.phase() == Phase::Running
    }

    /// The interrupt, for an irqfd. It is an edge: each signal is one interrupt.
    pub fn irq(&self) -> BorrowedFd<'_> {
        self.interrupt.fd()
    }

    /// The notification of each queue, for an ioeventfd: signalled when the driver writes the
    /// index, 32 bits wide, to [`QUEUE_NOTIFY`].
    pub fn notifiers(&self) -> impl Iterator<Item = (u32, BorrowedFd<'_>)> {
        (0u32..).zip(self.notifiers.iter().map(AsFd::as_fd))
    }

    /// Everything to poll for reading (level-triggered), and the event to hand to
    /// [`MmioTransport::handle`] then.
    pub fn sources(&self) -> impl Iterator<Item = (Event, BorrowedFd<'_>)> {
        let queues = self.notifiers.iter().enumerate();
        let queues = queues.map(|(index, fd)| (Event::Queue(index), fd.as_fd()));
        let own = self.poll_fd.iter().map(|fd| (Event::Device, fd.as_fd()));
        queues.chain(own)
    }

    /// Does the work that `event` announces, bounded; what is left is announced again.
    pub fn handle(&self, event: Event) {
        if let Event::Queue(index) = event
            && let Some(notifier) = self.notifiers.get(index)
            && let Err(error) = notifier.take()
        {
            tracing::error!(%error, index, "cannot read a queue notification");
        }
        let mut live = self.lock();
        let outcome = match event {
            Event::Queue(index) => live.device.notify(index),
            Event::Device => live.device.poll(),
        };
        match (outcome, event) {
            (Ok(Work::Done), _) => {}
            (Ok(Work::More), Event::Queue(index)) => self.notify(index),
            // Any queue's notification brings the device back.
            (Ok(Work::More), Event::Device) => self.notify(0),
            (Err(error), _) => self.fail(&mut live, &error),
        }
    }

    /// A read by the guest at `offset` of the register window, of any length.
    pub fn read(&self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        if let Some(offset) = offset.checked_sub(offset::CONFIG) {
            self.lock().device.read_config(offset, data);
            return;
        }
        // Section 4.2.2.2: registers are read and written as aligned 32-bit words only.
        if let Ok(word) = <&mut [u8; 4]>::try_from(data) {
            *word = match offset {
                offset::INTERRUPT_STATUS => self.interrupt.status(),
                register => self.lock().registers.read(register),
            }
            .to_le_bytes();
        }
    }

    /// A write by the guest at `offset` of the register window, of any length.
    pub fn write(&self, offset: u64, data: &[u8]) {
        if let Some(offset) = offset.checked_sub(offset::CONFIG) {
            self.lock().device.write_config(offset, data);
            return;
        }
        let Ok(word) = <[u8; 4]>::try_from(data) else {
            return;
        };
        let value = u32::from_le_bytes(word);
        match offset {
            offset::INTERRUPT_ACK => self.interrupt.acknowledge(value),
            offset::QUEUE_NOTIFY => {
                if let Ok(index) = usize::try_from(value) {
                    self.notify(index);
                }
            }
            register => self.write_register(register, value),
        }
    }

    fn write_register(&self, register: u64, value: u32) {
        let mut live = self.lock();
        let before = live.registers.phase();
        match live.registers.write(register, value) {
            Effect::None => {}
            Effect::Start => self.start(&mut live),
            Effect::Stop => {
                self.stop(&mut live);
                self.interrupt.acknowledge(u32::MAX);
            }
        }
        if before != Phase::Driver && live.registers.phase() == Phase::Driver {
            // The driver reads the configuration space only after this.
            live.unannounced = false;
        }
    }

    fn start(&self, live: &mut Live<D>) {
        match live.registers.build_queues(&live.memory) {
            Ok(queues) => self.run(live, queues),
            Err(error) => return self.fail(live, &error),
        }
        if std::mem::take(&mut live.unannounced) {
            self.interrupt.configuration();
        }
    }

    fn run(&self, live: &mut Live<D>, queues: Vec<Queue>) {
        let run = |queue| Virtqueue::new(queue, live.memory.clone(), self.interrupt.clone());
        let queues = queues.into_iter().map(run).collect();
        let features = live.registers.driver_features();
        live.device.start(queues, features);
    }

    /// The driver is gone, or cannot go on.
    fn stop(&self, live: &mut Live<D>) {
        drop(live.device.stop());
        live.device.reset();
    }

    /// Section 2.1.2: the device says that it needs a reset, and the driver is told.
    fn fail(&self, live: &mut Live<D>, error: &(dyn std::error::Error + 'static)) {
        self.stop(live);
        live.registers.broken();
        self.interrupt.configuration();
        let lines_left = |lines: u8| lines.checked_sub(1);
        if self
            .log_lines
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, lines_left)
            .is_ok()
        {
            let device_id = self.identity.device_id;
            tracing::warn!(
                device_id,
                error,
                "the driver broke its device; it needs a reset"
            );
        }
    }

    fn notify(&self, index: usize) {
        if let Some(notifier) = self.notifiers.get(index)
            && let Err(error) = notifier.signal()
        {
            tracing::error!(%error, index, "cannot notify a queue");
        }
    }

    /// A panic of another thread does not make the state worse than a hostile guest could.
    fn lock(&self) -> MutexGuard<'_, Live<D>> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

mod state;
#[cfg(test)]
mod tests;

pub use state::TransportState;
