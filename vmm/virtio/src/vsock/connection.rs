// SPDX-License-Identifier: Apache-2.0
//! One connection, without its socket: packets, results of reads and writes, and the time go in;
//! packets and permissions come out.
//!
//! ```text
//!             RESPONSE           both ways of the host are over
//!  Requesting ────────► Open ──────────────────────────────────► Closing
//!      │                  │ RST, SHUTDOWN of both ways,              │ RST, or no answer
//!      │ RST, no answer   │ violation                                │ in time
//!      └──────────────────┴───────────────► Ended ◄──────────────────┘
//! ```
//! An ended connection is over for the guest. It stays until the outbox, what the guest sent and
//! the host's program has not read yet, is empty or the program is gone.
//!
//! The two ways end apart from each other: SHUTDOWN flags of the guest on one side, end of file
//! and a vanished reader on the other. A violation is anything that a correct guest cannot send;
//! it is answered with RST.

use std::collections::VecDeque;

use super::flow::{FromGuest, ToGuest};
use super::packet::{Header, Op, Packet, Ports, SHUTDOWN_RECEIVE, SHUTDOWN_SEND};
use super::{CLOSE_TICKS, REQUEST_TICKS, Tick};

/// What a packet means for the host's side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(super) enum Reaction {
    /// Nothing beyond the changed state.
    None,
    /// The guest accepts: the host's program gets its OK.
    Accepted,
    /// The data of the packet has been admitted. What of it the host's program takes at once is
    /// to be reported to [`Connection::forwarded`], the rest given to [`Connection::buffer`].
    Deliver,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Requesting { deadline: Tick },
    Open,
    Closing { deadline: Tick },
    Ended,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Connection {
    ports: Ports,
    phase: Phase,
    from_guest: FromGuest,
    to_guest: ToGuest,
    /// Data of the guest that the host's program has not taken. No longer than BUF_ALLOC.
    outbox: VecDeque<u8>,
    guest: Side,
    host: Side,
    /// SHUTDOWN flags that the guest has been told.
    told: u32,
    owed: Owed,
}

/// What one side still does.
#[derive(Clone, Copy, Debug)]
struct Side {
    sends: bool,
    receives: bool,
}

/// Packets to the guest that are not derived from other state.
#[derive(Clone, Copy, Debug, Default)]
struct Owed {
    request: bool,
    reset: bool,
    credit_update: bool,
    credit_request: bool,
    /// The guest was asked for credit since it last gave any.
    asked: bool,
}

impl Connection {
    /// A connection that the host's program asks for.
    pub fn request(ports: Ports, now: Tick) -> Self {
        let both = Side {
            sends: true,
            receives: true,
        };
        Self {
            ports,
            phase: Phase::Requesting {
                deadline: now.after(REQUEST_TICKS),
            },
            from_guest: FromGuest::default(),
            to_guest: ToGuest::default(),
            outbox: VecDeque::new(),
            guest: both,
            host: both,
            told: 0,
            owed: Owed {
                request: true,
                ..Owed::default()
            },
        }
    }

    pub fn ports(&self) -> Ports {
        self.ports
    }

    /// A packet of the guest for this connection.
    pub fn receive(&mut self, packet: &Packet, now: Tick) -> Reaction {
        if self.phase == Phase::Ended {
            // The guest's own packets cross ours, and its RST ends the matter.
            self.owed.reset |= packet.op != Op::Reset;
            return Reaction::None;
        }
        self.to_guest.update(packet.buf_alloc, packet.fwd_cnt);
        if self.to_guest.credit() > 0 {
            self.owed.asked = false;
        }
        let reaction = match (self.phase, packet.op) {
            (_, Op::Reset) => {
                self.phase = Phase::Ended;
                Reaction::None
            }
            (Phase::Requesting { .. }, Op::Response) => {
                self.phase = Phase::Open;
                Reaction::Accepted
            }
            (Phase::Requesting { .. }, _) | (_, Op::Request | Op::Response) => self.violation(),
            (_, Op::Data) => self.admit(packet.len),
            (_, Op::Shutdown) => {
                self.guest.sends &= packet.flags & SHUTDOWN_SEND == 0;
                self.guest.receives &= packet.flags & SHUTDOWN_RECEIVE == 0;
                if !self.guest.sends && !self.guest.receives {
                    // It has sent everything and wants nothing: the RST confirms that.
                    self.reset();
                }
                Reaction::None
            }
            (_, Op::CreditUpdate) => Reaction::None,
            (_, Op::CreditRequest) => {
                self.owed.credit_update = true;
                Reaction::None
            }
        };
        self.settle(now);
        reaction
    }

    /// Something under this connection's ports that is not a packet.
    pub fn receive_nonsense(&mut self) {
        self.reset();
    }

    /// Data of the guest that bypassed the outbox.
    pub fn forwarded(&mut self, len: usize) {
        self.from_guest.forward(len);
    }

    /// Admitted data that has to wait for the host's program.
    pub fn buffer(&mut self, data: &[u8]) {
        self.outbox.extend(data);
    }

    /// Whether new data may go to the host's program directly.
    pub fn outbox_is_empty(&self) -> bool {
        self.outbox.is_empty()
    }

    /// What the host's program has to take next, before any newer data.
    pub fn outbox(&self) -> (&[u8], &[u8]) {
        self.outbox.as_slices()
    }

    /// The host's program has taken `len` bytes of the outbox.
    pub fn outbox_taken(&mut self, len: usize, now: Tick) {
        let len = len.min(self.outbox.len());
        self.outbox.drain(..len);
        self.from_guest.forward(len);
        if self.outbox.is_empty() {
            // Room for the next slow reader, not for this one.
            self.outbox = VecDeque::new();
        }
        self.settle(now);
    }

    /// How many bytes may be read from the host's program now, and must then be sent.
    pub fn allowance(&self) -> usize {
        if self.phase == Phase::Open && self.host.sends && self.guest.receives {
            self.to_guest.credit()
        } else {
            0
        }
    }

    /// The host's program has something to send and there is no allowance.
    pub fn want_credit(&mut self) {
        let stalled = self.phase == Phase::Open && self.host.sends && self.guest.receives;
        if stalled && self.to_guest.credit() == 0 && !self.owed.asked {
            self.owed.asked = true;
            self.owed.credit_request = true;
        }
    }

    /// `len` bytes within the allowance were read: they are as good as sent.
    pub fn commit(&mut self, len: usize) {
        self.to_guest.send(len);
    }

    /// The header for `len` bytes that were committed.
    pub fn data_header(&mut self, len: usize) -> Header {
        let mut header = self.header(Op::Data);
        header.len = u32::try_from(len).unwrap_or(0);
        header
    }

    /// Whether committed data may still go to the guest.
    pub fn guest_receives(&self) -> bool {
        self.guest.receives && matches!(self.phase, Phase::Open | Phase::Closing { .. })
    }

    /// The host's program has sent everything.
    pub fn host_sent_all(&mut self, now: Tick) {
        self.host.sends = false;
        self.settle(now);
    }

    /// The host's program takes nothing any more; what it did not take is lost with it.
    pub fn host_stopped_receiving(&mut self, now: Tick) {
        self.host.receives = false;
        let lost = self.outbox.len();
        self.outbox = VecDeque::new();
        self.from_guest.forward(lost);
        if matches!(self.phase, Phase::Requesting { .. }) {
            // It did not wait for the answer.
            self.reset();
        }
        self.settle(now);
    }

    /// The guest's driver has gone, without a word.
    pub fn guest_vanished(&mut self) {
        self.phase = Phase::Ended;
        self.owed = Owed::default();
    }

    /// A second has passed.
    pub fn tick(&mut self, now: Tick) {
        if self.deadline().is_some_and(|deadline| deadline <= now) {
            self.reset();
        }
    }

    /// When [`Connection::tick`] will do something.
    pub fn deadline(&self) -> Option<Tick> {
        match self.phase {
            Phase::Requesting { deadline } | Phase::Closing { deadline } => Some(deadline),
            Phase::Open | Phase::Ended => None,
        }
    }

    /// The host's program will get nothing after the outbox: its side can be shut down.
    pub fn nothing_follows(&self) -> bool {
        self.outbox.is_empty() && (!self.guest.sends || self.phase == Phase::Ended)
    }

    /// What the host's program sends goes nowhere.
    pub fn ignores_host(&self) -> bool {
        !self.guest.receives || self.phase == Phase::Ended
    }

    /// Nothing is left to do for the host's program: its socket can be closed.
    pub fn is_over_for_host(&self) -> bool {
        match self.phase {
            Phase::Requesting { .. } | Phase::Open => false,
            Phase::Closing { .. } => true,
            Phase::Ended => self.outbox.is_empty(),
        }
    }

    /// Nothing is left to do on either side.
    pub fn is_finished(&self) -> bool {
        self.phase == Phase::Ended && self.outbox.is_empty() && !self.owed.reset
    }

    /// Whether the guest has heard of it and not yet of its end.
    pub fn is_known_to_guest(&self) -> bool {
        !self.owed.request && (self.phase != Phase::Ended || self.owed.reset)
    }

    /// Whether [`Connection::next_control`] has a packet.
    pub fn has_control(&self) -> bool {
        self.due().is_some()
    }

    /// The next packet to the guest that is not data.
    pub fn next_control(&mut self) -> Option<Header> {
        let op = self.due()?;
        match op {
            Op::Request => self.owed.request = false,
            Op::Reset => self.owed.reset = false,
            Op::CreditUpdate => self.owed.credit_update = false,
            Op::CreditRequest => self.owed.credit_request = false,
            Op::Shutdown => self.told = self.shutdown_flags(),
            Op::Response | Op::Data => {}
        }
        let mut header = self.header(op);
        if op == Op::Shutdown {
            header.flags = self.told;
        }
        Some(header)
    }

    fn due(&self) -> Option<Op> {
        let open = matches!(self.phase, Phase::Open | Phase::Closing { .. });
        if self.owed.reset {
            Some(Op::Reset)
        } else if self.owed.request && matches!(self.phase, Phase::Requesting { .. }) {
            Some(Op::Request)
        } else if open && (self.owed.credit_update || self.from_guest.update_due()) {
            Some(Op::CreditUpdate)
        } else if open && self.owed.credit_request {
            Some(Op::CreditRequest)
        } else if open && self.shutdown_flags() != self.told {
            Some(Op::Shutdown)
        } else {
            None
        }
    }

    fn header(&mut self, op: Op) -> Header {
        let mut header = Header::to_guest(self.ports, op);
        self.from_guest.announce(&mut header);
        header
    }

    fn shutdown_flags(&self) -> u32 {
        let send = if self.host.sends { 0 } else { SHUTDOWN_SEND };
        let receive = if self.host.receives {
            0
        } else {
            SHUTDOWN_RECEIVE
        };
        send | receive
    }

    fn admit(&mut self, len: usize) -> Reaction {
        if !self.guest.sends || !self.from_guest.admit(len) {
            self.violation()
        } else if self.host.receives {
            Reaction::Deliver
        } else {
            // Sent before the guest could know that nobody reads it.
            self.from_guest.forward(len);
            Reaction::None
        }
    }

    /// Draws the conclusions from which ways are over.
    fn settle(&mut self, now: Tick) {
        if self.phase != Phase::Open {
            return;
        }
        if !self.guest.receives {
            self.host.sends = false;
        }
        // With everything delivered both ways there is nothing to stay for.
        if !self.guest.sends && !self.host.sends && self.outbox.is_empty() {
            self.host.receives = false;
        }
        if !self.host.sends && !self.host.receives {
            self.phase = Phase::Closing {
                deadline: now.after(CLOSE_TICKS),
            };
        }
    }

    fn violation(&mut self) -> Reaction {
        self.reset();
        Reaction::None
    }

    fn reset(&mut self) {
        self.phase = Phase::Ended;
        self.owed.reset = true;
    }
}

#[cfg(test)]
mod tests;
