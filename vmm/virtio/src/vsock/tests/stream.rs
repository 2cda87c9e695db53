// SPDX-License-Identifier: Apache-2.0
//! Much data through one connection, both ways at once.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::guest::{Guest, Socket};
use crate::vsock::packet::{Op, SHUTDOWN_SEND};

const TOTAL: usize = 64 << 20;
/// A prime, so that no multiple of a buffer has the same bytes.
const PERIOD: usize = 65_521;

fn pattern() -> Vec<u8> {
    (0..2 * PERIOD)
        .map(|at| u8::try_from((at % PERIOD) * 31 % 256).unwrap())
        .collect()
}

/// The `len` bytes at `at` of the stream, `len` below the period.
fn expected(pattern: &[u8], at: usize, len: usize) -> &[u8] {
    &pattern[at % PERIOD..][..len]
}

fn write_all(mut program: UnixStream) -> JoinHandle<()> {
    thread::spawn(move || {
        let pattern = pattern();
        let mut at = 0;
        while at < TOTAL {
            let len = (TOTAL - at).min(50_000);
            program.write_all(expected(&pattern, at, len)).unwrap();
            at += len;
        }
        program.shutdown(Shutdown::Write).unwrap();
    })
}

fn read_all(mut program: UnixStream) -> JoinHandle<()> {
    thread::spawn(move || {
        let pattern = pattern();
        let mut buffer = vec![0; 30_000];
        let mut at = 0;
        loop {
            let len = program.read(&mut buffer).unwrap();
            assert_eq!(buffer[..len], *expected(&pattern, at, len), "at {at}");
            at += len;
            if len == 0 {
                break;
            }
            if at % 100 == 0 {
                thread::sleep(Duration::from_millis(1));
            }
        }
        assert_eq!(at, TOTAL);
    })
}

/// The guest's half: reads all, sends all, ends.
fn serve(guest: &mut Guest, socket: &mut Socket) {
    let pattern = pattern();
    let (mut sent, mut received, mut ended) = (0, 0, false);
    while sent < TOTAL || !ended {
        while let Some((header, data)) = guest.next() {
            assert_eq!(
                data,
                expected(&pattern, received, data.len()),
                "at {received}"
            );
            received += data.len();
            socket.hear(&header);
            if header.op == Op::CreditRequest as u16 || socket.is_low() {
                guest.send(&socket.header(Op::CreditUpdate), &[]);
            }
            ended |= header.op == Op::Shutdown as u16;
        }
        let len = (TOTAL - sent).min(socket.credit()).min(60_000);
        if len > 0 {
            let data = expected(&pattern, sent, len);
            let header = socket.data(data);
            guest.send(&header, data);
            sent += len;
            if sent == TOTAL {
                guest.send(&socket.shutdown(SHUTDOWN_SEND), &[]);
            }
        } else {
            guest.driver.run_once(Duration::from_millis(10));
        }
    }
    assert_eq!(received, TOTAL);
}

#[test]
fn sixty_four_mebibytes_arrive_both_ways_at_once() {
    let mut guest = Guest::start();
    let (program, mut socket) = guest.open(1024);
    let writer = write_all(program.try_clone().unwrap());
    let reader = read_all(program);
    serve(&mut guest, &mut socket);
    while !reader.is_finished() {
        guest.driver.run_once(Duration::from_millis(10));
    }
    writer.join().unwrap();
    reader.join().unwrap();
}
