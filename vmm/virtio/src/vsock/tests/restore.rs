// SPDX-License-Identifier: Apache-2.0
//! A guest whose machine is saved and restored, with connections and without.

use std::io::{Read, Write};
use std::os::unix::net::UnixListener;

use proptest::prelude::*;
use tempfile::TempDir;

use super::assert_open;
use super::guest::{EVENT, Guest, RX, Socket, TX};
use crate::registers::offset;
use crate::state::RestoreError;
use crate::testing::{BUFFERS, Part};
use crate::vsock::muxer::FIRST_HOST_PORT;
use crate::vsock::packet::{Op, Ports, SHUTDOWN_RECEIVE, SHUTDOWN_SEND};
use crate::vsock::{InterruptionState, MAX_PENDING_RESETS, RefusalState, Vsock, VsockState};

const RESET: [u8; 4] = [0; 4];

/// With buffers for events, as Linux has them: all that the queue takes.
fn guest() -> Guest {
    let mut guest = Guest::start();
    for _ in 0..8 {
        guest.add_event_buffer();
    }
    guest.driver.kick(EVENT);
    guest
}

/// A guest that has taken notice of its restore.
fn acknowledge(guest: &mut Guest) {
    guest.driver.run();
    assert_eq!(guest.event().as_deref(), Some(&RESET[..]));
    guest.refill_event();
}

fn close(guest: &mut Guest, mut socket: Socket) {
    guest.send(&socket.shutdown(SHUTDOWN_SEND | SHUTDOWN_RECEIVE), &[]);
    guest.expect(Op::Reset);
}

#[test]
fn without_connections_the_guest_hears_nothing_and_is_reached_at_once() {
    let mut source = guest();
    let (program, socket) = source.open(1024);
    close(&mut source, socket);
    drop(program);
    // A program that has only greeted, or not even that, is none of the guest's business.
    let _greeting = source.host_connects("CONN");
    assert_eq!(source.state().connections(), 0);
    let mut copy = source.fork();
    copy.driver.run();
    assert_eq!(copy.event(), None);
    let (mut program, mut socket) = copy.open(1024);
    let header = socket.data(b"hello");
    copy.send(&header, b"hello");
    let mut buffer = [0; 5];
    program.read_exact(&mut buffer).unwrap();
    assert_eq!(&buffer, b"hello");
}

#[test]
fn with_a_connection_the_guest_hears_of_it_and_nothing_else_until_it_answers() {
    let mut source = guest();
    let (_program, _socket) = source.open(1024);
    assert_eq!(source.state().connections(), 1);
    let mut copy = source.fork();
    let waiting = copy.host_connects("CONNECT 1025\n");
    assert_eq!(copy.next(), None);
    assert_eq!(copy.event().as_deref(), Some(&RESET[..]));
    assert_eq!(copy.event(), None);
    assert_eq!(copy.driver.interrupts() & 1, 1);

    // Neither other notifications nor time pass for an answer.
    copy.driver.kick(EVENT);
    copy.driver.kick(RX);
    copy.driver.kick(TX);
    assert_eq!(copy.next(), None);
    assert_open(&waiting);

    copy.refill_event();
    assert_eq!(copy.expect(Op::Request).0.dst_port, 1025);
    assert_eq!(copy.event(), None);
    copy.open(1026);
}

#[test]
fn the_saved_machine_goes_on_with_its_connections() {
    let mut source = guest();
    let (mut program, mut socket) = source.open(1024);
    program.write_all(b"before").unwrap();
    let _copy = source.fork();
    assert_eq!(source.expect(Op::Data).1, b"before");
    program.write_all(b"after").unwrap();
    assert_eq!(source.expect(Op::Data).1, b"after");
    let header = socket.data(b"back");
    source.send(&header, b"back");
    let mut buffer = [0; 4];
    program.read_exact(&mut buffer).unwrap();
    assert_eq!(&buffer, b"back");
    assert_eq!(source.event(), None);
}

#[test]
fn an_event_waits_for_a_buffer() {
    let mut source = Guest::start();
    let (_program, _socket) = source.open(1024);
    let mut copy = source.fork();
    let _waiting = copy.host_connects("CONNECT 1\n");
    assert_eq!(copy.next(), None);
    // Not every buffer can hold it.
    let tiny = copy.driver.queues[EVENT].add(&[Part::Write(BUFFERS, 3)]);
    copy.driver.kick(EVENT);
    assert_eq!(copy.driver.queues[EVENT].take(), Some((tiny, 0)));
    copy.refill_event();
    assert_eq!(copy.event().as_deref(), Some(&RESET[..]));
    assert_eq!(copy.next(), None);
    copy.refill_event();
    copy.expect(Op::Request);
}

#[test]
fn a_driver_without_event_idx_is_told_as_well() {
    let mut source = Guest::start_plain();
    for _ in 0..8 {
        source.add_event_buffer();
    }
    let (_program, _socket) = source.open(1024);
    let mut copy = source.fork();
    copy.driver.run();
    assert_eq!(copy.event().as_deref(), Some(&RESET[..]));
    let _waiting = copy.host_connects("CONNECT 1\n");
    assert_eq!(copy.next(), None);
    copy.add_event_buffer();
    copy.driver.kick(EVENT);
    copy.expect(Op::Request);
}

#[test]
fn packets_of_lost_connections_are_refused_after_the_answer() {
    let mut source = guest();
    let (_program, mut socket) = source.open(1024);
    // One is in the queue when the machine is saved, its notification unserved.
    source.queue_packet(&socket.data(b"lost").to_bytes(), b"lost");
    let mut copy = source.fork();
    let header = socket.data(b"late");
    copy.send(&header, b"late");
    assert_eq!(copy.unsent(), 0);
    assert_eq!(copy.next(), None);
    acknowledge(&mut copy);
    for _ in 0..2 {
        assert_eq!(copy.expect(Op::Reset).0.dst_port, 1024);
    }
    assert_eq!(copy.next(), None);
    copy.open(1024);
}

#[test]
fn a_guest_that_talks_on_is_held_back_and_let_go() {
    let mut source = guest();
    let (_program, mut socket) = source.open(1024);
    let mut copy = source.fork();
    for _ in 0..MAX_PENDING_RESETS + 10 {
        let header = socket.data(b"x");
        copy.send(&header, b"x");
    }
    assert_eq!(copy.unsent(), 10);
    acknowledge(&mut copy);
    assert_eq!(copy.unsent(), 0);
    for _ in 0..MAX_PENDING_RESETS + 10 {
        copy.expect(Op::Reset);
    }
}

#[test]
fn answers_that_wait_for_room_are_not_lost() {
    let mut source = Guest::without_buffers();
    for port in 0..3 {
        let ports = Ports {
            host: 5,
            guest: 40 + port,
        };
        source.send(&Socket::new(ports).header(Op::Request), &[]);
    }
    assert_eq!(source.state().refusals.len(), 3);
    let mut copy = source.fork();
    for side in [&mut source, &mut copy] {
        for index in 0..4 {
            side.add_buffer(BUFFERS + 4096 * index);
        }
        side.driver.kick(RX);
        for port in 0..3 {
            let (header, _) = side.expect(Op::Reset);
            assert_eq!((header.src_port, header.dst_port), (5, 40 + port));
        }
        assert_eq!(side.next(), None);
    }
}

#[test]
fn ports_of_before_are_not_used_again() {
    let mut source = guest();
    for port in 0..5 {
        let (program, socket) = source.open(1024 + port);
        close(&mut source, socket);
        drop(program);
    }
    let next = source.state().next_port;
    assert_eq!(next, FIRST_HOST_PORT + 5);
    let mut copy = source.fork();
    let _program = copy.host_connects("CONNECT 9\n");
    assert_eq!(copy.expect(Op::Request).0.src_port, next);
}

#[test]
fn the_last_port_is_followed_by_the_first() {
    let state = VsockState {
        next_port: u32::MAX,
        refusals: Vec::new(),
        interruption: InterruptionState::None,
    };
    let vsock = Vsock::restore(listener().1.into(), &state).unwrap();
    assert_eq!(vsock.to_state(), state);
    let mut muxer = vsock.muxer;
    assert_eq!(
        [(); 2].map(|()| muxer.allocate_port()),
        [u32::MAX, FIRST_HOST_PORT]
    );
}

/// Three deep, at each moment of the guest's answer to the first.
#[test]
fn a_chain_of_restores_ends_with_a_working_guest() {
    for moment in 0..4 {
        let mut guest = guest();
        let (_program, _socket) = guest.open(1024);
        let mut events = 0;
        for depth in 0..3 {
            guest = guest.fork();
            assert_eq!(guest.event(), None, "depth {depth}");
            if moment > depth {
                guest.driver.run();
            }
            if guest.event().is_some() {
                events += 1;
                guest.refill_event();
            }
        }
        guest.driver.run();
        if guest.event().is_some() {
            events += 1;
            guest.refill_event();
        }
        // However often it was restored: it has heard of its lost connection once.
        assert_eq!(events, 1, "moment {moment}");
        assert_eq!(guest.state().interruption, InterruptionState::None);
        guest.open(1025);
    }
}

#[test]
fn an_answer_is_waited_for_across_a_second_restore() {
    let mut source = guest();
    let (_program, _socket) = source.open(1024);
    let first = source.fork();
    first.driver.run();
    assert_eq!(
        first.state().interruption,
        InterruptionState::Announced { available: 8 }
    );
    let mut second = first.fork();
    let _waiting = second.host_connects("CONNECT 3\n");
    assert_eq!(second.next(), None);
    // The event of the first is in the guest's memory, and there is no other.
    acknowledge(&mut second);
    second.expect(Op::Request);
    assert_eq!(second.event(), None);
}

#[test]
fn a_driver_that_starts_anew_has_nothing_to_be_told() {
    let mut source = guest();
    let (_program, _socket) = source.open(1024);
    let copy = source.fork();
    copy.driver.write(offset::STATUS, 0);
    assert_eq!(copy.state().interruption, InterruptionState::None);
    source.driver.write(offset::STATUS, 0);
    assert_eq!(source.state().connections(), 0);
}

#[test]
fn which_connections_the_guest_knows() {
    let mut source = Guest::without_buffers();
    let program = source.host_connects("CONNECT 9\n");
    let live = |guest: &Guest| guest.driver.transport.inspect(Vsock::connections);
    assert_eq!(live(&source), 0, "asked for, not told");
    source.add_buffer(BUFFERS);
    source.driver.kick(RX);
    assert_eq!(live(&source), 1, "told");
    drop(program);
    source.driver.run();
    assert_eq!(live(&source), 1, "the guest is not told of the end");
    let (request, _) = source.expect(Op::Request);
    assert_eq!(request.dst_port, 9);
    source.expect(Op::Reset);
    assert_eq!(live(&source), 0, "told of the end");
}

fn listener() -> (TempDir, UnixListener) {
    let directory = TempDir::new().unwrap();
    let listener = UnixListener::bind(directory.path().join("sock")).unwrap();
    (directory, listener)
}

#[test]
fn what_cannot_have_been_saved_is_refused() {
    let refusal = RefusalState {
        host_port: 1,
        guest_port: 2,
        kind: 1,
    };
    let state = |next_port, refusals| VsockState {
        next_port,
        refusals: vec![refusal; refusals],
        interruption: InterruptionState::None,
    };
    let restore = |state: &VsockState| Vsock::restore(listener().1.into(), state);
    assert!(restore(&state(FIRST_HOST_PORT, MAX_PENDING_RESETS)).is_ok());
    assert!(matches!(
        restore(&state(FIRST_HOST_PORT, MAX_PENDING_RESETS + 1)),
        Err(RestoreError::Refusals { .. })
    ));
    assert!(matches!(
        restore(&state(FIRST_HOST_PORT - 1, 0)),
        Err(RestoreError::Port { .. })
    ));
}

fn interruption() -> impl Strategy<Value = InterruptionState> {
    prop_oneof![
        Just(InterruptionState::None),
        any::<u32>().prop_map(|connections| InterruptionState::Unannounced { connections }),
        any::<u16>().prop_map(|available| InterruptionState::Announced { available }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// What a guest has to say and what programs do, saved at any time: the copy can be reached
    /// once it has answered, and the source still has its own connections.
    #[test]
    fn a_restored_device_is_the_saved_one(
        steps in proptest::collection::vec((0..7u8, 0..6usize), 0..25),
    ) {
        let mut source = guest();
        let mut open = Vec::new();
        for (step, which) in steps {
            match step {
                0 | 1 if open.len() < 6 => {
                    while source.next().is_some() {}
                    open.push(source.open(1024));
                }
                2 if which < open.len() => {
                    while source.next().is_some() {}
                    let (program, socket) = open.remove(which);
                    close(&mut source, socket);
                    drop(program);
                }
                3 if which < open.len() => {
                    let header = open[which].1.data(b"bytes");
                    source.send(&header, b"bytes");
                }
                4 if which < open.len() => open[which].0.write_all(b"bytes").unwrap(),
                5 => {
                    let ports = Ports { host: 1, guest: u32::try_from(which).unwrap() };
                    source.send(&Socket::new(ports).header(Op::Request), &[]);
                }
                6 => drop(source.host_connects("CONNECT")),
                _ => {}
            }
            if which == 0 {
                while source.next().is_some() {}
            }
        }
        let connections = source.state().connections();
        prop_assert_eq!(connections as usize, open.len());
        let mut copy = source.fork();
        copy.driver.run();
        let event = copy.event();
        prop_assert_eq!(event.is_some(), connections > 0);
        if event.is_some() {
            copy.refill_event();
        }
        while copy.next().is_some() {}
        copy.open(2000);
        while source.next().is_some() {}
        for (mut program, mut socket) in open {
            let header = socket.data(b"still");
            source.send(&header, b"still");
            let mut last = Vec::new();
            while !last.ends_with(b"still") {
                let mut byte = [0];
                program.read_exact(&mut byte).unwrap();
                last.extend(byte);
            }
        }
    }

    #[test]
    fn any_state_is_refused_or_works(
        next_port in prop_oneof![4 => FIRST_HOST_PORT.., 1 => any::<u32>()],
        refusals in proptest::collection::vec(any::<(u32, u32, u16)>(), 0..70),
        interruption in interruption(),
    ) {
        let refusals = refusals.into_iter().map(|(host_port, guest_port, kind)| RefusalState {
            host_port,
            guest_port,
            kind,
        });
        let state = VsockState { next_port, refusals: refusals.collect(), interruption };
        let source = guest();
        let (directory, listener) = listener();
        if let Ok(vsock) = Vsock::restore(listener.into(), &state) {
            let transport = source.driver.transport.save();
            let driver = source.driver.resume(vsock, &transport).unwrap();
            let mut copy = source.with(driver, directory);
            while copy.next().is_some() {}
            if copy.event().is_some() {
                copy.refill_event();
            }
            while copy.next().is_some() {}
            // A made-up count of buffers may have to be passed first.
            if copy.state().interruption == InterruptionState::None {
                copy.open(2000);
            }
        }
    }
}
