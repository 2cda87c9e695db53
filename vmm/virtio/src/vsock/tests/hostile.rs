// SPDX-License-Identifier: Apache-2.0
//! A guest that breaks every rule it can.

use proptest::prelude::*;

use super::guest::{Guest, RX, Socket, TX};
use crate::registers::offset;
use crate::testing::{BUFFERS, Part};
use crate::vsock::MAX_PENDING_RESETS;
use crate::vsock::packet::{Header, Op, Ports};

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Headers that are nearly right, for a connection and for none, with data or without.
    #[test]
    fn any_packets_leave_the_device_working(
        packets in proptest::collection::vec(
            (
                prop_oneof![4 => Just(3u64), 1 => any::<u64>()],
                prop_oneof![4 => Just(2u64), 1 => any::<u64>()],
                prop_oneof![4 => Just(1u16), 1 => any::<u16>()],
                prop_oneof![8 => 0..9u16, 1 => any::<u16>()],
                prop_oneof![any::<u32>(), 0..10_000u32],
                0..10_000usize,
                any::<(bool, u32, u32, u32)>(),
            ),
            1..40,
        ),
    ) {
        let mut guest = Guest::start();
        let (_program, socket) = guest.open(1024);
        let mut socket = Some(socket);
        for (src_cid, dst_cid, kind, op, len, data, (known, flags, buf_alloc, fwd_cnt)) in packets {
            let ports = Ports { host: 99, guest: 98 };
            let mut other = Socket::new(ports);
            let target = socket.as_mut().filter(|_| known).unwrap_or(&mut other);
            let header = Header { src_cid, dst_cid, kind, op, len, flags, buf_alloc, fwd_cnt, ..target.header(Op::Data) };
            guest.send(&header, &vec![0; data]);
            while guest.next().is_some() {}
        }
        socket.take();
        prop_assert_eq!(guest.driver.read(offset::STATUS), 15);
        guest.open(1026);
    }
}

#[test]
fn packets_shorter_than_a_header_are_dropped() {
    let mut guest = Guest::start();
    guest.send_raw(&[0; 43], &[]);
    guest.send_raw(&[1], &[]);
    assert_eq!(guest.unsent(), 0);
    assert_eq!(guest.next(), None);
    guest.open(1024);
}

#[test]
fn a_header_may_lie_across_descriptors() {
    let mut guest = Guest::start();
    let (program, mut socket) = guest.open(1024);
    let header = socket.data(b"abc").to_bytes();
    let mut rest = header[20..].to_vec();
    rest.extend(b"abc");
    guest.send_raw(&header[..20], &rest);
    assert_eq!(guest.unsent(), 0);
    let mut buffer = [0; 3];
    std::io::Read::read_exact(&mut &program, &mut buffer).unwrap();
    assert_eq!(&buffer, b"abc");
}

#[test]
fn more_than_the_credit_is_reset() {
    let mut guest = Guest::start();
    let (_program, mut socket) = guest.open(1024);
    let packet = vec![0; 64 << 10];
    // The program's own socket takes some of it.
    for _ in 0..12 {
        let header = socket.data(&packet);
        guest.send(&header, &packet);
    }
    let mut last = None;
    while let Some((header, _)) = guest.next() {
        last = Some(header.op);
    }
    assert_eq!(last, Some(Op::Reset as u16));
    guest.open(1025);
}

#[test]
fn answers_without_room_hold_the_guest_back() {
    let mut guest = Guest::without_buffers();
    let ports = |guest_port| Ports {
        host: 5,
        guest: guest_port,
    };
    for port in 0..u32::try_from(MAX_PENDING_RESETS).unwrap() {
        guest.send(&Socket::new(ports(port)).header(Op::Request), &[]);
        assert_eq!(guest.unsent(), 0);
    }
    for port in 1000..1010 {
        guest.send(&Socket::new(ports(port)).header(Op::Request), &[]);
    }
    assert_eq!(guest.unsent(), 10);
    for index in 0..64 {
        guest.add_buffer(BUFFERS + index * 4096);
    }
    guest.driver.kick(RX);
    // The room made is used at once, without another notification.
    assert_eq!(guest.unsent(), 0);
    let mut answers = Vec::new();
    while let Some((header, _)) = guest.next() {
        assert_eq!(header.op, Op::Reset as u16);
        answers.push(header.dst_port);
    }
    let all: Vec<u32> = (0..u32::try_from(MAX_PENDING_RESETS).unwrap())
        .chain(1000..1010)
        .collect();
    assert_eq!(answers, all);
}

#[test]
fn buffers_outside_of_memory_cost_the_guest_its_device() {
    let mut guest = Guest::start();
    guest.driver.queues[TX].add(&[Part::Read(u64::MAX - 100, 44)]);
    guest.driver.kick(TX);
    assert_eq!(guest.driver.read(offset::STATUS), 15 | 64);

    let mut guest = Guest::without_buffers();
    guest.driver.queues[RX].add(&[Part::Write(1 << 40, 4096)]);
    guest.driver.kick(RX);
    assert_eq!(guest.driver.read(offset::STATUS), 15);
    let program = guest.host_connects("CONNECT 1024\n");
    guest.driver.run();
    assert_eq!(guest.driver.read(offset::STATUS), 15 | 64);
    super::assert_closed(program);
}

#[test]
fn tiny_buffers_are_returned_unused() {
    let mut guest = Guest::without_buffers();
    let tiny = guest.driver.queues[RX].add(&[Part::Write(BUFFERS, 44)]);
    let unwritable = guest.driver.queues[RX].add(&[Part::Read(BUFFERS, 4096)]);
    let _program = guest.host_connects("CONNECT 1024\n");
    assert_eq!(guest.driver.queues[RX].take(), Some((tiny, 0)));
    assert_eq!(guest.driver.queues[RX].take(), Some((unwritable, 0)));
    guest.add_buffer(BUFFERS);
    guest.driver.kick(RX);
    guest.expect(Op::Request);
}
