// SPDX-License-Identifier: Apache-2.0
//! Tests of the device with programs on the host and a driver in the guest.

mod guest;
mod hostile;
mod restore;
mod stream;

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};

use guest::{Guest, Socket};

use super::packet::{Header, Op, Ports, SHUTDOWN_RECEIVE, SHUTDOWN_SEND};
use super::{GREETING_TICKS, GUEST_CID, MAX_CONNECTIONS, REQUEST_TICKS, Vsock};
use crate::testing::Driver;

/// The program's socket was closed without a byte.
fn assert_closed(mut program: UnixStream) {
    let mut rest = Vec::new();
    match program.read_to_end(&mut rest) {
        Ok(_) => assert_eq!(rest, b""),
        Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset),
    }
}

fn assert_open(program: &UnixStream) {
    program.set_nonblocking(true).unwrap();
    let error = (&mut &*program).read(&mut [0]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::WouldBlock);
    program.set_nonblocking(false).unwrap();
}

fn seconds_pass(guest: &Guest, seconds: u64) {
    for _ in 0..seconds {
        guest
            .driver
            .transport
            .configure(|vsock: &mut Vsock| vsock.muxer.second_passed());
    }
    guest.driver.kick(guest::TX);
}

#[test]
fn the_configuration_space_is_the_guests_address() {
    assert_eq!(
        u64::from_le_bytes(Guest::start().driver.config(0)),
        GUEST_CID
    );
}

#[test]
fn bytes_go_both_ways() {
    let mut guest = Guest::start();
    let (mut program, mut socket) = guest.open(1024);
    program.write_all(b"to the guest").unwrap();
    let (header, data) = guest.expect(Op::Data);
    assert_eq!(data, b"to the guest");
    socket.hear(&header);
    let header = socket.data(b"to the host");
    guest.send(&header, b"to the host");
    let mut buffer = [0; 11];
    program.read_exact(&mut buffer).unwrap();
    assert_eq!(&buffer, b"to the host");
    assert_eq!(guest.next(), None);
}

#[test]
fn a_port_without_a_listener_closes_without_ok() {
    let mut guest = Guest::start();
    let program = guest.host_connects("CONNECT 5\n");
    let (request, _) = guest.expect(Op::Request);
    let mut socket = Socket::new(Ports {
        host: request.src_port,
        guest: 5,
    });
    guest.send(&socket.header(Op::Reset), &[]);
    assert_closed(program);
    assert_eq!(guest.next(), None);
}

#[test]
fn without_a_driver_every_program_is_turned_away() {
    let directory = tempfile::TempDir::new().unwrap();
    let path = directory.path().join("sock");
    let listener = UnixListener::bind(&path).unwrap();
    let driver = Driver::start(Vsock::new(listener.into()).unwrap());
    driver.write(crate::registers::offset::STATUS, 0);
    let mut program = UnixStream::connect(&path).unwrap();
    program.write_all(b"CONNECT 1024\n").unwrap();
    driver.run();
    assert_closed(program);
}

#[test]
fn greetings_may_come_in_pieces_and_have_data_behind_them() {
    let mut guest = Guest::start();
    let mut program = guest.host_connects("CONN");
    assert_eq!(guest.next(), None);
    program.write_all(b"ECT 77\nearly data").unwrap();
    let (request, _) = guest.expect(Op::Request);
    assert_eq!(request.dst_port, 77);
    let mut socket = Socket::new(Ports {
        host: request.src_port,
        guest: 77,
    });
    guest.send(&socket.header(Op::Response), &[]);
    assert_eq!(guest.expect(Op::Data).1, b"early data");
}

#[test]
fn other_greetings_are_refused() {
    let mut guest = Guest::start();
    for greeting in [
        "GET / HTTP/1.1\r\n",
        "CONNECT 99999999999\n",
        "CONNECT 00000000000000000000001024\n",
    ] {
        let program = guest.host_connects(greeting);
        guest.driver.run();
        assert_closed(program);
    }
    let half = guest.host_connects("CONNECT 10");
    half.shutdown(std::net::Shutdown::Write).unwrap();
    guest.driver.run();
    assert_closed(half);
    assert_eq!(guest.next(), None);
}

#[test]
fn unfinished_greetings_and_unanswered_requests_are_given_up() {
    let mut guest = Guest::start();
    let greeting = guest.host_connects("CONNECT ");
    let request = guest.host_connects("CONNECT 9\n");
    guest.expect(Op::Request);
    seconds_pass(&guest, GREETING_TICKS - 1);
    assert_open(&greeting);
    seconds_pass(&guest, 1);
    assert_closed(greeting);
    seconds_pass(&guest, REQUEST_TICKS - GREETING_TICKS - 1);
    assert_open(&request);
    seconds_pass(&guest, 1);
    assert_closed(request);
    guest.expect(Op::Reset);
}

#[test]
fn a_request_is_given_up_even_if_the_guest_takes_nothing() {
    let mut guest = Guest::without_buffers();
    let program = guest.host_connects("CONNECT 9\n");
    seconds_pass(&guest, REQUEST_TICKS);
    assert_closed(program);
}

#[test]
fn the_timer_runs_only_while_something_has_a_deadline() {
    let mut guest = Guest::start();
    let (_program, _socket) = guest.open(1024);
    assert!(
        guest
            .driver
            .transport
            .inspect(|vsock| vsock.muxer.timer_runs())
    );
    seconds_pass(&guest, 1);
    assert!(
        !guest
            .driver
            .transport
            .inspect(|vsock| vsock.muxer.timer_runs())
    );
}

#[test]
fn connections_of_the_guest_are_refused() {
    let mut guest = Guest::start();
    let mut socket = Socket::new(Ports {
        host: 1000,
        guest: 40_000,
    });
    guest.send(&socket.header(Op::Request), &[]);
    let (header, _) = guest.expect(Op::Reset);
    assert_eq!((header.src_port, header.dst_port), (1000, 40_000));
    // Not even with the port of a connection.
    let (_program, mut other) = guest.open(1024);
    let mut header = other.header(Op::Request);
    header.src_port = 40_000;
    guest.send(&header, &[]);
    assert_eq!(guest.expect(Op::Reset).0.dst_port, 40_000);
}

#[test]
fn more_programs_than_the_limit_are_turned_away() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    // Both ends of every socket are in this process.
    let wanted = 2 * MAX_CONNECTIONS as u64 + 200;
    let mut limit = getrlimit(Resource::Nofile);
    if limit.maximum.is_some_and(|maximum| maximum < wanted) {
        println!("skipped: this process cannot have {wanted} descriptors");
        return;
    }
    limit.current = limit.current.map(|current| current.max(wanted));
    setrlimit(Resource::Nofile, limit).unwrap();

    let mut guest = Guest::start();
    let mut programs: Vec<_> = (0..MAX_CONNECTIONS)
        .map(|_| guest.host_connects("C"))
        .collect();
    assert_closed(guest.host_connects(""));
    drop(programs.pop());
    guest.driver.run();
    assert_open(&guest.host_connects("C"));
}

#[test]
fn the_end_of_the_programs_data_reaches_the_guest_after_it() {
    let mut guest = Guest::start();
    let (mut program, mut socket) = guest.open(1024);
    program.write_all(b"last words").unwrap();
    program.shutdown(std::net::Shutdown::Write).unwrap();
    let (header, data) = guest.expect(Op::Data);
    assert_eq!(data, b"last words");
    socket.hear(&header);
    assert_eq!(guest.expect(Op::Shutdown).0.flags, SHUTDOWN_SEND);
    // The other way is still open.
    let header = socket.data(b"answer");
    guest.send(&header, b"answer");
    guest.send(&socket.shutdown(SHUTDOWN_SEND), &[]);
    let mut answer = Vec::new();
    program.read_to_end(&mut answer).unwrap();
    assert_eq!(answer, b"answer");
    // Both ways are over: the host says so and the guest confirms.
    assert_eq!(
        guest.expect(Op::Shutdown).0.flags,
        SHUTDOWN_SEND | SHUTDOWN_RECEIVE
    );
    guest.send(&socket.header(Op::Reset), &[]);
    assert_eq!(guest.next(), None);
}

#[test]
fn a_program_that_closes_has_its_data_delivered() {
    let mut guest = Guest::start();
    let (mut program, _socket) = guest.open(1024);
    program.write_all(&[7; 10_000]).unwrap();
    drop(program);
    let mut received = 0;
    while received < 10_000 {
        match guest.next() {
            Some((header, data)) if header.op == Op::Data as u16 => {
                assert!(data.iter().all(|byte| *byte == 7));
                received += data.len();
            }
            // That nobody reads any more may be said before the data is through.
            Some((header, _)) => assert_eq!(
                (header.op, header.flags),
                (Op::Shutdown as u16, SHUTDOWN_RECEIVE)
            ),
            None => panic!("only {received} bytes came"),
        }
    }
    assert_eq!(
        guest.expect(Op::Shutdown).0.flags,
        SHUTDOWN_SEND | SHUTDOWN_RECEIVE
    );
}

#[test]
fn a_guest_that_closes_has_its_data_delivered_to_a_late_reader() {
    let mut guest = Guest::start();
    let (mut program, mut socket) = guest.open(1024);
    // More than the socket of the program holds, so that some of it waits in the outbox.
    let packet = vec![5; 64 << 10];
    for _ in 0..4 {
        let header = socket.data(&packet);
        guest.send(&header, &packet);
    }
    guest.send(&socket.shutdown(SHUTDOWN_SEND | SHUTDOWN_RECEIVE), &[]);
    guest.expect(Op::Reset);
    let reader = std::thread::spawn(move || {
        let mut all = Vec::new();
        program.read_to_end(&mut all).map(|_| all)
    });
    while !reader.is_finished() {
        guest.driver.run_once(std::time::Duration::from_millis(10));
    }
    assert_eq!(reader.join().unwrap().unwrap(), vec![5; 256 << 10]);
}

#[test]
fn a_guest_that_restarts_leaves_delivered_data_and_closed_sockets() {
    let mut guest = Guest::start();
    let (mut program, mut socket) = guest.open(1024);
    let waiting = guest.host_connects("CONNECT 1025\n");
    let header = socket.data(b"before the end");
    guest.send(&header, b"before the end");
    guest.driver.write(crate::registers::offset::STATUS, 0);
    let mut all = Vec::new();
    program.read_to_end(&mut all).unwrap();
    assert_eq!(all, b"before the end");
    assert_closed(waiting);
}

#[test]
fn a_program_that_stops_reading_does_not_stop_the_others() {
    let mut guest = Guest::start();
    let (_stuck, mut first) = guest.open(1024);
    let (mut reading, mut second) = guest.open(1025);
    let packet = vec![1; 64 << 10];
    while first.credit() >= packet.len() {
        let header = first.data(&packet);
        guest.send(&header, &packet);
        while let Some((header, _)) = guest.next() {
            first.hear(&header);
        }
    }
    let header = second.data(b"through");
    guest.send(&header, b"through");
    let mut buffer = [0; 7];
    reading.read_exact(&mut buffer).unwrap();
    assert_eq!(&buffer, b"through");
}

#[test]
fn a_vanished_program_makes_the_guests_writes_fail() {
    let mut guest = Guest::start();
    let (program, mut socket) = guest.open(1024);
    drop(program);
    assert_eq!(
        guest.expect(Op::Shutdown).0.flags & SHUTDOWN_RECEIVE,
        SHUTDOWN_RECEIVE
    );
    let header: Header = socket.data(b"too late");
    guest.send(&header, b"too late");
    guest.send(&socket.header(Op::Reset), &[]);
    assert_eq!(guest.unsent(), 0);
}

#[test]
fn a_guest_that_stops_receiving_makes_the_programs_writes_fail() {
    let mut guest = Guest::start();
    let (mut program, mut socket) = guest.open(1024);
    guest.send(&socket.shutdown(SHUTDOWN_RECEIVE), &[]);
    assert_eq!(guest.expect(Op::Shutdown).0.flags, SHUTDOWN_SEND);
    assert_eq!(
        program.write_all(b"x").unwrap_err().kind(),
        ErrorKind::BrokenPipe
    );
    // The other way is still open.
    let header = socket.data(b"still here");
    guest.send(&header, b"still here");
    guest.send(&socket.shutdown(SHUTDOWN_SEND), &[]);
    let mut all = Vec::new();
    program.read_to_end(&mut all).unwrap();
    assert_eq!(all, b"still here");
    guest.expect(Op::Reset);
}
