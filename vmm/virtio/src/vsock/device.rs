// SPDX-License-Identifier: Apache-2.0
//! The queues of the socket device. What is in the packets is the muxer's.

use std::os::fd::{BorrowedFd, OwnedFd};

use super::interruption::Interruption;
use super::muxer::Muxer;
use super::poller::VsockError;
use super::{DEVICE_ID, GUEST_CID, QUEUE_SIZES};
use crate::device::{Device, Identity, Work, read_config_bytes};
use crate::queue::{QueueError, Virtqueue};
use crate::state::{DeviceState, QueueState};

/// A socket device.
#[derive(Debug)]
pub struct Vsock {
    pub(super) muxer: Muxer,
    pub(super) interruption: Interruption,
    queues: Option<Queues>,
}

#[derive(Debug)]
struct Queues {
    receive: Virtqueue,
    transmit: Virtqueue,
    /// Buffers for events, of which a restore may have one to report.
    event: Virtqueue,
}

impl Vsock {
    /// A stopped device for the programs that connect to `listener`, a listening Unix stream
    /// socket. It becomes non-blocking.
    pub fn new(listener: OwnedFd) -> Result<Self, VsockError> {
        let muxer = Muxer::new(listener)?;
        Ok(Self::from_parts(muxer, Interruption::default()))
    }

    pub(super) fn from_parts(muxer: Muxer, interruption: Interruption) -> Self {
        Self {
            muxer,
            interruption,
            queues: None,
        }
    }

    /// How many connections a restore of what is saved now would cut off.
    pub fn connections(&self) -> u32 {
        self.muxer.connections()
    }

    /// Moves packets both ways as far as they go.
    fn serve(&mut self) -> Result<Work, QueueError> {
        let Self {
            muxer,
            interruption,
            queues: Some(queues),
        } = self
        else {
            return Ok(Work::Done);
        };
        let sent = transmit(&mut queues.transmit, muxer)?;
        if !interruption.is_over() {
            interruption.proceed(&mut queues.event)?;
        }
        if !interruption.is_over() {
            // The driver's next event buffer brings this back.
            return Ok(match sent {
                Sent::More => Work::More,
                Sent::All | Sent::Blocked => Work::Done,
            });
        }
        let received = receive(&mut queues.receive, muxer)?;
        // Transmission may have waited for the room that reception has made.
        let resumed = sent == Sent::Blocked && muxer.can_receive();
        if sent == Sent::More || received == Work::More || resumed {
            return Ok(Work::More);
        }
        Ok(Work::Done)
    }
}

impl Device for Vsock {
    fn identity(&self) -> Identity {
        Identity {
            device_id: DEVICE_ID,
            features: 0,
            queue_sizes: QUEUE_SIZES,
        }
    }

    /// struct virtio_vsock_config (section 5.10.4).
    fn read_config(&self, offset: u64, data: &mut [u8]) {
        read_config_bytes(&GUEST_CID.to_le_bytes(), offset, data);
    }

    fn start(&mut self, queues: Vec<Virtqueue>, _features: u64) {
        let [receive, transmit, event] = <[Virtqueue; 3]>::try_from(queues)
            .expect("the transport hands over as many queues as the identity names");
        self.queues = Some(Queues {
            receive,
            transmit,
            event,
        });
        self.muxer.guest_appeared();
    }

    /// Connections stay: packets under way are in the queues or not yet made.
    fn stop(&mut self) -> Vec<QueueState> {
        let Some(Queues {
            receive,
            transmit,
            event,
        }) = self.queues.take()
        else {
            return Vec::new();
        };
        vec![receive.stop(), transmit.stop(), event.stop()]
    }

    fn reset(&mut self) {
        self.muxer.guest_vanished();
        self.interruption = Interruption::default();
    }

    fn save(&self) -> DeviceState {
        DeviceState::Vsock(self.to_state())
    }

    /// The queues depend on each other, the receive queue on the event queue too, and what is left
    /// of a call is announced under the number that it came with: all are looked at for each.
    fn notify(&mut self, _index: usize) -> Result<Work, QueueError> {
        self.serve()
    }

    fn poll_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.muxer.fd())
    }

    fn poll(&mut self) -> Result<Work, QueueError> {
        self.muxer.poll();
        self.serve()
    }
}

/// How far transmission came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sent {
    All,
    /// The bound on one call was reached.
    More,
    /// The answers to the guest's packets find no room.
    Blocked,
}

/// Packets from the guest.
fn transmit(queue: &mut Virtqueue, muxer: &mut Muxer) -> Result<Sent, QueueError> {
    let mut budget = queue.size();
    let sent = loop {
        queue.disable_notification()?;
        while budget > 0
            && muxer.can_receive()
            && let Some(chain) = queue.pop()?
        {
            muxer.receive(chain.readable(queue.memory()))?;
            queue.complete(chain, 0)?;
            budget -= 1;
        }
        if budget == 0 {
            break Sent::More;
        }
        if !muxer.can_receive() {
            break Sent::Blocked;
        }
        if !queue.enable_notification()? {
            break Sent::All;
        }
    };
    queue.signal()?;
    Ok(sent)
}

/// Packets to the guest, while it has buffers and the host has packets.
fn receive(queue: &mut Virtqueue, muxer: &mut Muxer) -> Result<Work, QueueError> {
    let mut budget = queue.size();
    while muxer.has_packet() {
        if budget == 0 {
            queue.signal()?;
            return Ok(Work::More);
        }
        let Some(chain) = queue.pop()? else {
            // Only now is it of interest when the guest adds buffers.
            if queue.enable_notification()? {
                continue;
            }
            break;
        };
        match muxer.next_packet(chain.writable(queue.memory()))? {
            Some(len) => queue.complete(chain, u32::try_from(len).unwrap_or(0))?,
            None => queue.unpop(chain),
        }
        budget -= 1;
    }
    queue.signal()?;
    Ok(Work::Done)
}
