// SPDX-License-Identifier: Apache-2.0
//! One connection against a model of both its ends: a guest that behaves as Linux does, a program
//! on the host, and packets in flight both ways, moved on in any order.

use proptest::prelude::*;

use super::*;
use crate::vsock::{BUF_ALLOC, GUEST_CID, HOST_CID, MAX_PACKET_BYTES};

const PORTS: Ports = Ports {
    host: 7,
    guest: 1024,
};

/// Byte `at` of the stream that either side sends.
fn pattern(at: usize) -> u8 {
    u8::try_from(at % 251).unwrap()
}

fn stream(from: usize, len: usize) -> Vec<u8> {
    (from..from + len).map(pattern).collect()
}

/// What can happen next. Lengths are upper bounds.
#[derive(Clone, Debug)]
enum Step {
    HostWrites(usize),
    HostReads(usize),
    HostEnds,
    GuestWrites(usize),
    GuestReads(usize),
    GuestEnds,
    GuestCloses,
    ToGuest,
    FromGuest,
}

fn step() -> impl Strategy<Value = Step> {
    let len = || prop_oneof![0..100usize, 0..200_000usize];
    prop_oneof![
        8 => len().prop_map(Step::HostWrites),
        8 => len().prop_map(Step::HostReads),
        1 => Just(Step::HostEnds),
        8 => len().prop_map(Step::GuestWrites),
        8 => len().prop_map(Step::GuestReads),
        1 => Just(Step::GuestEnds),
        1 => Just(Step::GuestCloses),
        16 => Just(Step::ToGuest),
        16 => Just(Step::FromGuest),
    ]
}

/// A Linux guest with one socket, as far as a connection can tell.
#[derive(Debug)]
struct Guest {
    buf_alloc: u32,
    accepted: bool,
    sent: u32,
    /// Of the host: what it can take and has taken.
    host_alloc: u32,
    host_forwarded: u32,
    /// Arrived and not read yet.
    held: VecDeque<u8>,
    read: usize,
    forwarded: u32,
    wrote: usize,
    sends: bool,
    receives: bool,
    saw_end: bool,
    /// Had an RST, or sent one.
    over: bool,
}

#[derive(Debug)]
struct World {
    connection: Connection,
    now: Tick,
    guest: Guest,
    /// Packets on their way.
    to_guest: VecDeque<(Header, Vec<u8>)>,
    from_guest: VecDeque<(Header, Vec<u8>)>,
    host_wrote: usize,
    host_read: usize,
    host_sends: bool,
    accepted: bool,
}

impl World {
    fn new(buf_alloc: u32) -> Self {
        let guest = Guest {
            buf_alloc,
            accepted: false,
            sent: 0,
            host_alloc: 0,
            host_forwarded: 0,
            held: VecDeque::new(),
            read: 0,
            forwarded: 0,
            wrote: 0,
            sends: true,
            receives: true,
            saw_end: false,
            over: false,
        };
        Self {
            connection: Connection::request(PORTS, Tick(0)),
            now: Tick(0),
            guest,
            to_guest: VecDeque::new(),
            from_guest: VecDeque::new(),
            host_wrote: 0,
            host_read: 0,
            host_sends: true,
            accepted: false,
        }
    }

    fn act(&mut self, step: &Step) {
        match *step {
            Step::HostWrites(len) => self.host_writes(len),
            Step::HostReads(len) => self.host_reads(len),
            Step::HostEnds if self.accepted && self.host_sends => {
                self.host_sends = false;
                self.connection.host_sent_all(self.now);
            }
            Step::GuestWrites(len) => self.guest_writes(len),
            Step::GuestReads(len) => self.guest_reads(len),
            Step::GuestEnds if self.guest.can_send() => {
                self.guest.sends = false;
                self.guest_sends(Op::Shutdown, SHUTDOWN_SEND, Vec::new());
            }
            Step::GuestCloses if self.guest.accepted && !self.guest.over && self.guest.receives => {
                self.guest.sends = false;
                self.guest.receives = false;
                self.guest_sends(Op::Shutdown, SHUTDOWN_SEND | SHUTDOWN_RECEIVE, Vec::new());
            }
            Step::HostEnds | Step::GuestEnds | Step::GuestCloses => {}
            Step::ToGuest => self.deliver_to_guest(),
            Step::FromGuest => self.deliver_from_guest(),
        }
        while let Some(header) = self.connection.next_control() {
            self.to_guest.push_back((header, Vec::new()));
        }
        let (first, second) = self.connection.outbox();
        assert!(first.len() + second.len() <= BUF_ALLOC as usize);
    }

    /// As the muxer: reads within the allowance and sends in packets.
    fn host_writes(&mut self, len: usize) {
        let len = if self.host_sends {
            len.min(self.connection.allowance())
        } else {
            0
        };
        self.connection.want_credit();
        self.connection.commit(len);
        let data = stream(self.host_wrote, len);
        self.host_wrote += len;
        for packet in data.chunks(MAX_PACKET_BYTES) {
            let header = self.connection.data_header(packet.len());
            self.to_guest.push_back((header, packet.to_vec()));
        }
    }

    fn host_reads(&mut self, len: usize) {
        let (first, second) = self.connection.outbox();
        let data: Vec<u8> = first.iter().chain(second).take(len).copied().collect();
        self.host_takes(&data);
        self.connection.outbox_taken(data.len(), self.now);
    }

    fn host_takes(&mut self, data: &[u8]) {
        assert_eq!(data, stream(self.host_read, data.len()));
        self.host_read += data.len();
    }

    fn guest_writes(&mut self, len: usize) {
        let guest = &mut self.guest;
        let in_flight = guest.sent.wrapping_sub(guest.host_forwarded);
        let credit = guest.host_alloc.saturating_sub(in_flight) as usize;
        let len = len.min(credit).min(MAX_PACKET_BYTES);
        if guest.can_send() && len > 0 {
            let data = stream(guest.wrote, len);
            guest.wrote += len;
            guest.sent = guest.sent.wrapping_add(u32::try_from(len).unwrap());
            self.guest_sends(Op::Data, 0, data);
        }
    }

    fn guest_reads(&mut self, len: usize) {
        let guest = &mut self.guest;
        let len = len.min(guest.held.len());
        for byte in guest.held.drain(..len) {
            assert_eq!(byte, pattern(guest.read));
            guest.read += 1;
        }
        guest.forwarded = guest.forwarded.wrapping_add(u32::try_from(len).unwrap());
        let told = !guest.over && guest.accepted && len > 0;
        if told && guest.buf_alloc as usize - guest.held.len() < MAX_PACKET_BYTES + len {
            self.guest_sends(Op::CreditUpdate, 0, Vec::new());
        }
    }

    fn guest_sends(&mut self, op: Op, flags: u32, data: Vec<u8>) {
        let header = Header {
            src_cid: GUEST_CID,
            dst_cid: HOST_CID,
            src_port: PORTS.guest,
            dst_port: PORTS.host,
            len: u32::try_from(data.len()).unwrap(),
            flags,
            buf_alloc: self.guest.buf_alloc,
            fwd_cnt: self.guest.forwarded,
            ..Header::to_guest(PORTS, op)
        };
        self.from_guest.push_back((header, data));
    }

    /// The guest's kernel gets the next packet.
    fn deliver_to_guest(&mut self) {
        let Some((header, data)) = self.to_guest.pop_front() else {
            return;
        };
        self.guest.host_alloc = header.buf_alloc;
        self.guest.host_forwarded = header.fwd_cnt;
        if self.guest.over {
            return;
        }
        match header.op {
            op if op == Op::Request as u16 => {
                self.guest.accepted = true;
                self.guest_sends(Op::Response, 0, Vec::new());
            }
            op if op == Op::Data as u16 => {
                assert!(!self.guest.saw_end, "data after the end");
                if self.guest.receives {
                    self.guest.held.extend(data);
                    let held = self.guest.held.len();
                    assert!(held <= self.guest.buf_alloc as usize, "credit exceeded");
                }
            }
            op if op == Op::CreditRequest as u16 => {
                self.guest_sends(Op::CreditUpdate, 0, Vec::new());
            }
            op if op == Op::Shutdown as u16 => {
                self.guest.saw_end |= header.flags & SHUTDOWN_SEND != 0;
                if header.flags & SHUTDOWN_RECEIVE != 0 {
                    self.guest.sends = false;
                }
                if header.flags == SHUTDOWN_SEND | SHUTDOWN_RECEIVE {
                    self.guest.over = true;
                    self.guest_sends(Op::Reset, 0, Vec::new());
                }
            }
            op if op == Op::Reset as u16 => self.guest.over = true,
            op => assert_eq!(op, Op::CreditUpdate as u16),
        }
    }

    /// The connection gets the next packet, as from the muxer.
    fn deliver_from_guest(&mut self) {
        let Some((header, data)) = self.from_guest.pop_front() else {
            return;
        };
        let packet = Packet::parse(&header, data.len()).unwrap();
        match self.connection.receive(&packet, self.now) {
            Reaction::None => {}
            Reaction::Accepted => self.accepted = true,
            Reaction::Deliver => {
                // A reader that keeps up sometimes takes some at once.
                let direct = if self.connection.outbox_is_empty() {
                    data.len() / 2
                } else {
                    0
                };
                let (now, later) = data.split_at(direct);
                self.host_takes(now);
                self.connection.forwarded(direct);
                self.connection.buffer(later);
            }
        }
    }

    /// Everybody reads and every packet arrives, until nothing moves.
    fn come_to_rest(&mut self) {
        for _ in 0..1000 {
            let steps = [
                Step::ToGuest,
                Step::FromGuest,
                Step::HostReads(1 << 20),
                Step::GuestReads(1 << 20),
            ];
            for step in &steps {
                self.act(step);
            }
        }
        assert!(self.to_guest.is_empty() && self.from_guest.is_empty());
    }
}

impl Guest {
    fn can_send(&self) -> bool {
        self.accepted && self.sends && !self.over
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// Whatever the order of events: all bytes arrive, in order, within credit; after both sides
    /// have ended nothing is left.
    #[test]
    fn every_byte_arrives_and_the_end_comes_after_them(
        buf_alloc in prop_oneof![1..100u32, Just(256 << 10), Just(u32::MAX)],
        steps in proptest::collection::vec(step(), 0..200),
    ) {
        let mut world = World::new(buf_alloc);
        for step in &steps {
            world.act(step);
        }
        world.come_to_rest();
        let guest_closed_early = !world.guest.receives;
        if !guest_closed_early {
            prop_assert_eq!(world.guest.read, world.host_wrote);
        }
        prop_assert_eq!(world.host_read, world.guest.wrote);

        world.act(&Step::HostEnds);
        world.come_to_rest();
        prop_assert!(guest_closed_early || world.guest.saw_end || world.guest.over);
        world.act(&Step::GuestEnds);
        world.come_to_rest();
        prop_assert!(world.guest.over);
        prop_assert!(world.connection.is_finished(), "{world:?}");
        prop_assert_eq!(world.host_read, world.guest.wrote);
    }

    /// A guest that sends anything at any time: nothing panics, the buffer stays bounded, and
    /// an ended connection stays ended.
    #[test]
    fn hostile_packets_do_no_harm(
        packets in proptest::collection::vec(
            (0..9u16, 0..100_000usize, 0..5u32, any::<u32>(), any::<u32>(), 0..4u8),
            0..300,
        ),
    ) {
        let mut connection = Connection::request(PORTS, Tick(0));
        let mut now = Tick(0);
        for (op, len, flags, buf_alloc, fwd_cnt, host) in packets {
            let header = Header {
                src_cid: GUEST_CID,
                dst_cid: HOST_CID,
                src_port: PORTS.guest,
                dst_port: PORTS.host,
                len: u32::try_from(len).unwrap(),
                op,
                flags,
                buf_alloc,
                fwd_cnt,
                ..Header::to_guest(PORTS, Op::Data)
            };
            let was_over = connection.is_over_for_host();
            match Packet::parse(&header, len) {
                Ok(packet) => {
                    if connection.receive(&packet, now) == Reaction::Deliver {
                        connection.buffer(&vec![0; packet.len]);
                    }
                }
                Err(_) => connection.receive_nonsense(),
            }
            match host {
                0 => connection.commit(connection.allowance().min(MAX_PACKET_BYTES)),
                1 => connection.outbox_taken(1000, now),
                2 => connection.want_credit(),
                _ => now = now.after(1),
            }
            connection.tick(now);
            let (first, second) = connection.outbox();
            prop_assert!(first.len() + second.len() <= BUF_ALLOC as usize);
            prop_assert!(connection.is_over_for_host() || !was_over);
            // Control packets come from flags: they cannot pile up.
            let controls = std::iter::from_fn(|| connection.next_control()).count();
            prop_assert!(controls <= 4);
        }
    }
}

fn packet(op: Op, flags: u32, len: usize) -> Packet {
    Packet {
        ports: PORTS,
        op,
        len,
        flags,
        buf_alloc: 1000,
        fwd_cnt: 0,
        refusal: None,
    }
}

fn opened() -> Connection {
    let mut connection = Connection::request(PORTS, Tick(0));
    assert_eq!(connection.next_control().unwrap().op, Op::Request as u16);
    assert_eq!(
        connection.receive(&packet(Op::Response, 0, 0), Tick(0)),
        Reaction::Accepted
    );
    connection
}

fn next_op(connection: &mut Connection) -> Option<u16> {
    connection.next_control().map(|header| header.op)
}

#[test]
fn a_request_without_an_answer_is_given_up() {
    let mut connection = Connection::request(PORTS, Tick(5));
    assert_eq!(next_op(&mut connection), Some(Op::Request as u16));
    connection.tick(Tick(5 + REQUEST_TICKS - 1));
    assert!(!connection.is_over_for_host());
    connection.tick(Tick(5 + REQUEST_TICKS));
    assert!(connection.is_over_for_host());
    assert_eq!(next_op(&mut connection), Some(Op::Reset as u16));
    assert!(connection.is_finished());
}

#[test]
fn nothing_is_read_before_the_guest_accepts() {
    let mut connection = Connection::request(PORTS, Tick(0));
    assert_eq!(connection.allowance(), 0);
    let _reaction = connection.receive(&packet(Op::Response, 0, 0), Tick(0));
    assert_eq!(connection.allowance(), 1000);
}

#[test]
fn a_refused_request_is_over_at_once() {
    let mut connection = Connection::request(PORTS, Tick(0));
    next_op(&mut connection);
    assert_eq!(
        connection.receive(&packet(Op::Reset, 0, 0), Tick(0)),
        Reaction::None
    );
    assert!(connection.is_over_for_host() && connection.is_finished());
}

#[test]
fn a_program_that_goes_before_the_answer_resets() {
    let mut connection = Connection::request(PORTS, Tick(0));
    next_op(&mut connection);
    connection.host_stopped_receiving(Tick(0));
    assert_eq!(next_op(&mut connection), Some(Op::Reset as u16));
    assert!(connection.is_finished());
}

#[test]
fn violations_are_reset() {
    let violations = [
        packet(Op::Request, 0, 0),
        packet(Op::Response, 0, 0),
        packet(Op::Data, 0, BUF_ALLOC as usize + 1),
    ];
    for violation in &violations {
        let mut connection = opened();
        assert_eq!(connection.receive(violation, Tick(0)), Reaction::None);
        assert_eq!(next_op(&mut connection), Some(Op::Reset as u16));
        assert!(connection.is_finished());
    }
    let mut connection = opened();
    assert_eq!(
        connection.receive(&packet(Op::Shutdown, SHUTDOWN_SEND, 0), Tick(0)),
        Reaction::None
    );
    assert_eq!(
        connection.receive(&packet(Op::Data, 0, 1), Tick(0)),
        Reaction::None
    );
    assert_eq!(next_op(&mut connection), Some(Op::Reset as u16));
}

#[test]
fn the_outbox_survives_the_guest() {
    let mut connection = opened();
    assert_eq!(
        connection.receive(&packet(Op::Data, 0, 5), Tick(0)),
        Reaction::Deliver
    );
    connection.buffer(b"bytes");
    connection.guest_vanished();
    assert!(!connection.is_over_for_host() && !connection.nothing_follows());
    assert_eq!(connection.outbox().0, b"bytes");
    connection.outbox_taken(5, Tick(0));
    assert!(connection.nothing_follows() && connection.is_finished());
}

#[test]
fn a_shutdown_without_confirmation_ends_by_itself() {
    let mut connection = opened();
    connection.host_stopped_receiving(Tick(0));
    connection.host_sent_all(Tick(3));
    let header = connection.next_control().unwrap();
    assert_eq!(
        (header.op, header.flags),
        (Op::Shutdown as u16, SHUTDOWN_SEND | SHUTDOWN_RECEIVE)
    );
    assert!(connection.is_over_for_host() && !connection.is_finished());
    connection.tick(Tick(3 + CLOSE_TICKS));
    assert_eq!(next_op(&mut connection), Some(Op::Reset as u16));
    assert!(connection.is_finished());
}

#[test]
fn credit_is_asked_for_once_per_stall() {
    let mut connection = opened();
    connection.want_credit();
    assert_eq!(next_op(&mut connection), None);
    connection.commit(1000);
    connection.want_credit();
    connection.want_credit();
    assert_eq!(next_op(&mut connection), Some(Op::CreditRequest as u16));
    connection.want_credit();
    assert_eq!(next_op(&mut connection), None);
    let update = Packet {
        fwd_cnt: 1000,
        ..packet(Op::CreditUpdate, 0, 0)
    };
    assert_eq!(connection.receive(&update, Tick(0)), Reaction::None);
    connection.commit(1000);
    connection.want_credit();
    assert_eq!(next_op(&mut connection), Some(Op::CreditRequest as u16));
}
