// SPDX-License-Identifier: Apache-2.0
//! Virtio devices behind virtio-mmio registers, without a hypervisor.
//!
//! A device sees three things: guest memory, its queues and an interrupt, all three inside the
//! [`Virtqueue`]s it is started with. It never sees KVM, guest-physical register addresses or the
//! bus; the VMM owns those and connects them to an [`MmioTransport`].
//!
//! ```text
//!  vCPU thread ── read/write(offset) ──► MmioTransport ── start/stop/config ──► Device
//!       │ QueueNotify (ioeventfd)             ▲                                  │  ▲
//!       └──────────► queue EventFd ── poll ── I/O thread: handle(Event) ─────────┘  │
//!                          host sockets (vsock's own epoll fd) ── poll ─────────────┘
//!  guest ◄── irqfd ◄── interrupt EventFd + status register ◄── Interrupt ◄── queues, config
//! ```
//!
//! # Threads
//! A transport is shared as `Arc<MmioTransport<D>>`, which coerces to `Arc<MmioTransport<dyn
//! Device>>` for the bus and the poll loop. Every method takes `&self` from any thread; one mutex
//! inside guards the registers and the device.
//! * **vCPU threads** call [`MmioTransport::read`] and [`MmioTransport::write`]. The interrupt
//!   registers and QueueNotify, the only ones in use while a device runs, never take the mutex,
//!   so a vCPU does not wait for a disk. Writing the status register may start or stop the device
//!   on the vCPU thread, after the request in progress.
//! * **An I/O thread** polls each of [`MmioTransport::sources`] level-triggered and calls
//!   [`MmioTransport::handle`] with its [`Event`]. Requests are carried out inside that call. A
//!   thread of its own may poll the sources of one transport, for example of a disk.
//! * **The control thread** calls [`MmioTransport::configure`] to change what a device is
//!   (a disk appears in a slot); the driver is told by a configuration interrupt.
//!
//! # Wiring one transport
//! 1. [`MmioTransport::new`] makes the event file descriptors. [`MmioTransport::irq`] becomes an
//!    irqfd (edge-triggered).
//! 2. For each `(index, fd)` of [`MmioTransport::notifiers`]: an ioeventfd on the 32-bit write of
//!    `index` to [`QUEUE_NOTIFY`]. A write that reaches [`MmioTransport::write`] all the same has
//!    the same effect.
//! 3. MMIO exits within [`MMIO_SIZE`] bytes go to `read` and `write`.
//!
//! # Saving and restoring
//! [`MmioTransport::save`] and [`MmioTransport::restore`], with the order and what has to stand
//! still in `mmio/state.rs`; [`state`] has all that is saved. A restored device is made by the
//! constructor beside its state (`Vsock::restore`, `Net::restore`, `Block::restore`, `Rng::new`)
//! and wired like any other, in whichever order: what has to happen is kept in its eventfds.
//!
//! # What the guest cannot do
//! It cannot panic this crate, make it allocate in proportion to a guest value, keep a call to
//! `handle` running for ever, or change a queue after DRIVER_OK. Each bound is a named constant
//! beside its reason. A guest that breaks the queue protocol gets DEVICE_NEEDS_RESET and its
//! device stops until it is reset; the log lines it can cause are counted.

pub mod block;
mod chain;
mod device;
mod event;
mod interrupt;
mod mmio;
pub mod net;
mod queue;
mod registers;
pub mod rng;
pub mod state;
#[cfg(test)]
mod testing;
pub mod vsock;

pub use chain::{Chain, MemoryError, Segment, Span};
pub use device::{Device, Identity, Work, read_config_bytes};
pub use mmio::{Event, MMIO_SIZE, MmioTransport, QUEUE_NOTIFY, TransportError};
pub use queue::{QueueError, Request, Virtqueue};
pub use state::{DeviceState, RestoreError, STATE_VERSION, TransportState};
