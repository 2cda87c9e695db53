// SPDX-License-Identifier: Apache-2.0
//! See the module.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::epoll::{self, EventData, EventFlags};

use super::link::{Link, Offload};
use super::receive::{Receiver, Stopped};
use super::transmit::Transmitter;
use super::{DEVICE_ID, QUEUE_SIZES, RX_QUEUE, feature};
use crate::device::{Device, Identity, Work, read_config_bytes};
use crate::queue::{QueueError, Virtqueue};
use crate::state::{DeviceState, QueueState};

/// VIRTIO_NET_S_LINK_UP.
const LINK_UP: u16 = 1;

/// What a network device cannot be without.
#[derive(Debug, thiserror::Error)]
pub enum NetError {
    /// No epoll descriptor.
    #[error("cannot create an epoll descriptor")]
    Epoll(#[source] io::Error),
}

/// A device did not take a link.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// It has one.
    #[error("it has a link already")]
    Occupied,
    /// The descriptor cannot be polled.
    #[error("the link cannot be polled")]
    Poll(#[source] io::Error),
    /// The descriptor is no network interface's, or of a kernel that cannot do what the guest was promised.
    #[error("the link does not take the offloads that the guest has agreed to")]
    Offload(#[source] io::Error),
}

/// A network device.
#[derive(Debug)]
pub struct Net {
    pub(super) mac: [u8; 6],
    /// Holds the link while a frame could be taken from it: a guest without buffers would have its
    /// thread spin otherwise.
    wake: OwnedFd,
    wire: Option<Wire>,
    driver: Option<Driver>,
}

/// A link, and the buffers for its frames.
#[derive(Debug)]
struct Wire {
    link: Box<dyn Link>,
    /// Whether `wake` holds it.
    polled: bool,
    /// The interface behind it was removed. What is gone does not come back.
    gone: bool,
    receiver: Receiver,
    transmitter: Transmitter,
}

/// What the guest has made ready.
#[derive(Debug)]
struct Driver {
    features: u64,
    receive: Virtqueue,
    transmit: Virtqueue,
}

impl Net {
    /// A stopped device with the address `mac`, and no link.
    pub fn new(mac: [u8; 6]) -> Result<Self, NetError> {
        let wake = epoll::create(epoll::CreateFlags::CLOEXEC)
            .map_err(|error| NetError::Epoll(error.into()))?;
        Ok(Self {
            mac,
            wake,
            wire: None,
            driver: None,
        })
    }

    /// Gives the device a link: the guest sees its carrier come. To be called in
    /// [`crate::MmioTransport::configure`].
    pub fn attach(&mut self, link: Box<dyn Link>) -> Result<(), AttachError> {
        if self.wire.is_some() {
            return Err(AttachError::Occupied);
        }
        let offload = Offload::of(self.driver.as_ref().map_or(0, |driver| driver.features));
        link.set_offload(offload).map_err(AttachError::Offload)?;
        let mut wire = Wire {
            link,
            polled: false,
            gone: false,
            receiver: Receiver::new(),
            transmitter: Transmitter::new(),
        };
        wire.poll(&self.wake, true).map_err(AttachError::Poll)?;
        self.wire = Some(wire);
        Ok(())
    }

    /// Takes the link away; false if there was none. Nothing is sent or received through it
    /// afterwards. To be called in [`crate::MmioTransport::configure`].
    pub fn detach(&mut self) -> bool {
        let Some(mut wire) = self.wire.take() else {
            return false;
        };
        wire.watch(&self.wake, false);
        true
    }

    fn receive(&mut self) -> Result<Work, QueueError> {
        let Some(wire) = &mut self.wire else {
            return Ok(Work::Done);
        };
        let (Some(driver), false) = (&mut self.driver, wire.gone) else {
            wire.watch(&self.wake, false);
            return Ok(Work::Done);
        };
        let mergeable = driver.features & feature::MRG_RXBUF != 0;
        let stopped = wire
            .receiver
            .run(wire.link.as_fd(), &mut driver.receive, mergeable)?;
        let again = match stopped {
            Stopped::Budget => return Ok(Work::More),
            Stopped::Idle => true,
            // The driver says when it has buffers again.
            Stopped::NoBuffers => false,
            // Who took it away tells this device, and the device its driver.
            Stopped::Gone => {
                wire.gone = true;
                false
            }
        };
        wire.watch(&self.wake, again);
        Ok(Work::Done)
    }
}

impl Wire {
    /// Has `wake` hold the link, or not.
    fn poll(&mut self, wake: &OwnedFd, wanted: bool) -> io::Result<()> {
        if self.polled == wanted {
            return Ok(());
        }
        if wanted {
            epoll::add(wake, &*self.link, EventData::new_u64(0), EventFlags::IN)?;
        } else {
            epoll::delete(wake, &*self.link)?;
        }
        self.polled = wanted;
        Ok(())
    }

    /// The same where nobody can be told of a failure. No epoll fails this way; if one does, it is the
    /// host's doing, not the guest's.
    fn watch(&mut self, wake: &OwnedFd, wanted: bool) {
        if let Err(error) = self.poll(wake, wanted) {
            tracing::error!(%error, "a link cannot be polled as it should");
        }
    }
}

impl Device for Net {
    fn identity(&self) -> Identity {
        Identity {
            device_id: DEVICE_ID,
            features: feature::OFFERED,
            queue_sizes: QUEUE_SIZES,
        }
    }

    /// Section 5.1.4: the address, then the status.
    fn read_config(&self, offset: u64, data: &mut [u8]) {
        let up = self.wire.as_ref().is_some_and(|wire| !wire.gone);
        let status = if up { LINK_UP } else { 0 };
        let [a, b, c, d, e, f] = self.mac;
        let [low, high] = status.to_le_bytes();
        read_config_bytes(&[a, b, c, d, e, f, low, high], offset, data);
    }

    fn start(&mut self, queues: Vec<Virtqueue>, features: u64) {
        let Ok([receive, transmit]) = <[Virtqueue; 2]>::try_from(queues) else {
            return;
        };
        self.driver = Some(Driver {
            features,
            receive,
            transmit,
        });
        if let Some(wire) = &mut self.wire {
            if let Err(error) = wire.link.set_offload(Offload::of(features)) {
                tracing::error!(%error, "the link does not take the offloads that the guest has agreed to");
            }
            wire.watch(&self.wake, true);
        }
    }

    fn stop(&mut self) -> Vec<QueueState> {
        let Some(driver) = self.driver.take() else {
            return Vec::new();
        };
        vec![driver.receive.stop(), driver.transmit.stop()]
    }

    fn reset(&mut self) {
        if let Some(wire) = &mut self.wire {
            wire.receiver.forget();
        }
    }

    fn save(&self) -> DeviceState {
        DeviceState::Net(self.to_state())
    }

    fn notify(&mut self, index: usize) -> Result<Work, QueueError> {
        if index == RX_QUEUE {
            return self.receive();
        }
        let Some(driver) = &mut self.driver else {
            return Ok(Work::Done);
        };
        let wire = &mut self.wire;
        driver.transmit.drain(|request| {
            if let Some(wire) = wire {
                wire.transmitter.send(wire.link.as_fd(), request.readable);
            }
            0
        })
    }

    fn poll_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.wake.as_fd())
    }

    fn poll(&mut self) -> Result<Work, QueueError> {
        self.receive()
    }
}
