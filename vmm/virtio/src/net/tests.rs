// SPDX-License-Identifier: Apache-2.0
//! Tests of the device through its queues. The wire is a pair of datagram sockets, which keeps
//! frames apart as a tap does.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::sync::{Arc, Mutex};

use proptest::prelude::*;

use super::{HEADER_BYTES, Link, MAX_FRAME_BYTES, Net, Offload, RECEIVE_BUDGET, feature};
use crate::registers::offset;
use crate::testing::{BUFFERS, Driver, DriverQueue, F_EVENT_IDX, F_VERSION_1, Part};

const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const RX: usize = 0;
const TX: usize = 1;
/// A change of the configuration, in the interrupt status.
const CONFIGURATION: u32 = 2;
const MERGEABLE: u64 = F_VERSION_1 | F_EVENT_IDX | feature::MRG_RXBUF;

#[derive(Debug)]
struct Pair {
    ours: OwnedFd,
    offload: Arc<Mutex<Offload>>,
}

impl AsFd for Pair {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.ours.as_fd()
    }
}

impl Link for Pair {
    fn set_offload(&self, offload: Offload) -> io::Result<()> {
        *self.offload.lock().unwrap() = offload;
        Ok(())
    }
}

/// The host's end of a device's wire.
struct Wire {
    socket: UnixDatagram,
    offload: Arc<Mutex<Offload>>,
}

fn attach(driver: &Driver<Net>) -> Wire {
    let (ours, socket) = UnixDatagram::pair().unwrap();
    ours.set_nonblocking(true).unwrap();
    socket.set_nonblocking(true).unwrap();
    let offload = Arc::default();
    let link = Pair {
        ours: ours.into(),
        offload: Arc::clone(&offload),
    };
    let attach = |net: &mut Net| net.attach(Box::new(link));
    driver.transport.configure(attach).unwrap();
    Wire { socket, offload }
}

fn start(features: u64) -> Driver<Net> {
    Driver::with_features(Net::new(MAC).unwrap(), features)
}

fn frame(len: usize, fill: u8) -> Vec<u8> {
    let mut frame = vec![0; HEADER_BYTES];
    frame.resize(len, fill);
    frame
}

fn buffers(driver: &mut Driver<Net>, lens: &[u32]) {
    for (index, len) in (0..).zip(lens) {
        driver.queues[RX].add(&[Part::Write(BUFFERS + 0x1000 * index, *len)]);
    }
    driver.kick(RX);
}

#[test]
fn has_its_address_and_a_carrier_while_it_has_a_link() {
    let driver = start(MERGEABLE);
    assert_eq!(driver.config(0), MAC);
    assert_eq!(driver.config(6), [0, 0]);
    let _wire = attach(&driver);
    assert_eq!(driver.config(6), [1, 0]);
    assert_eq!(driver.interrupts() & CONFIGURATION, CONFIGURATION);
    assert!(driver.transport.configure(Net::detach));
    assert_eq!(driver.config(6), [0, 0]);
    assert_eq!(driver.interrupts() & CONFIGURATION, CONFIGURATION);
    assert!(!driver.transport.configure(Net::detach), "twice");
}

#[test]
fn discards_what_is_sent_without_a_link() {
    let mut driver = start(MERGEABLE);
    buffers(&mut driver, &[1500]);
    // More packets than the queue is long, so that it wraps.
    for _ in 0..600 {
        let frame = [
            Part::Read(BUFFERS + 0x1000, 12),
            Part::Read(BUFFERS + 0x2000, 1500),
        ];
        assert_eq!(driver.request(TX, &frame), Some(0));
    }
    assert_eq!(driver.queues[RX].take(), None);
}

#[test]
fn a_second_link_is_refused() {
    let driver = start(MERGEABLE);
    let _wire = attach(&driver);
    let (ours, _theirs) = UnixDatagram::pair().unwrap();
    let link = Pair {
        ours: ours.into(),
        offload: Arc::default(),
    };
    let second = |net: &mut Net| net.attach(Box::new(link));
    assert!(driver.transport.configure(second).is_err());
}

#[test]
fn sends_a_frame_as_it_is_however_the_driver_cuts_it() {
    let mut driver = start(MERGEABLE);
    let wire = attach(&driver);
    let sent: Vec<u8> = (0..=255).cycle().take(70).collect();
    driver.poke(BUFFERS, &sent);
    let parts = [
        Part::Read(BUFFERS, 5),
        Part::Read(BUFFERS + 5, 40),
        Part::Read(BUFFERS + 45, 25),
    ];
    assert_eq!(driver.request(TX, &parts), Some(0));
    let mut got = [0; 100];
    assert_eq!(wire.socket.recv(&mut got).unwrap(), 70);
    assert_eq!(got[..70], sent);
}

#[test]
fn does_not_send_what_is_no_frame() {
    let mut driver = start(MERGEABLE);
    let wire = attach(&driver);
    let too_long = u32::try_from(MAX_FRAME_BYTES + 1).unwrap();
    for part in [
        Part::Read(BUFFERS, 11),
        Part::Read(BUFFERS, too_long),
        Part::Read(u64::MAX - 10, 100),
        Part::Write(BUFFERS, 100),
    ] {
        assert_eq!(driver.request(TX, &[part]), Some(0), "{part:?}");
    }
    let error = wire.socket.recv(&mut [0; 4]).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
}

#[test]
fn receives_into_one_buffer_or_several() {
    let mut driver = start(MERGEABLE);
    let wire = attach(&driver);
    buffers(&mut driver, &[100, 60, 60, 60]);
    wire.socket.send(&frame(80, 1)).unwrap();
    wire.socket.send(&frame(150, 2)).unwrap();
    driver.run();
    let (_, len) = driver.queues[RX].take().unwrap();
    assert_eq!(len, 80);
    assert_eq!(driver.peek(BUFFERS, 14)[10..], [1, 0, 1, 1]);
    let lens: Vec<u32> = std::iter::from_fn(|| driver.queues[RX].take())
        .map(|used| used.1)
        .collect();
    assert_eq!(lens, [60, 60, 30]);
    assert_eq!(driver.peek(BUFFERS + 0x1000, 14)[10..], [3, 0, 2, 2]);
    assert_eq!(driver.peek(BUFFERS + 0x3000, 30), [2; 30]);
}

#[test]
fn a_frame_without_room_waits_for_it_and_wakes_nobody() {
    let mut driver = start(MERGEABLE);
    let wire = attach(&driver);
    buffers(&mut driver, &[50]);
    wire.socket.send(&frame(80, 7)).unwrap();
    driver.run();
    assert_eq!(driver.queues[RX].take(), None);
    assert!(!driver.run_once(std::time::Duration::ZERO), "it spins");
    driver.queues[RX].add(&[Part::Write(BUFFERS + 0x1000, 50)]);
    assert!(driver.queues[RX].wants_notification());
    driver.kick(RX);
    let lens: Vec<u32> = std::iter::from_fn(|| driver.queues[RX].take())
        .map(|used| used.1)
        .collect();
    assert_eq!(lens, [50, 30]);
}

#[test]
fn without_merging_a_frame_that_fits_no_buffer_is_dropped_and_the_next_is_not() {
    let mut driver = start(F_VERSION_1 | F_EVENT_IDX);
    let wire = attach(&driver);
    buffers(&mut driver, &[100, 100]);
    wire.socket.send(&frame(101, 1)).unwrap();
    wire.socket.send(&frame(100, 2)).unwrap();
    driver.run();
    assert_eq!(driver.queues[RX].take().map(|used| used.1), Some(100));
    assert_eq!(driver.queues[RX].take(), None);
}

#[test]
fn more_frames_than_one_call_moves_all_arrive() {
    let mut driver = start(MERGEABLE);
    let wire = attach(&driver);
    let mut received = 0;
    for _ in 0..3 {
        buffers(&mut driver, &[64; 50]);
        // Few at a time: a socket keeps only some datagrams.
        for _ in 0..RECEIVE_BUDGET / 8 * 6 {
            if wire.socket.send(&frame(20, 3)).is_err() {
                driver.run();
                wire.socket.send(&frame(20, 3)).unwrap();
            }
            driver.run();
        }
        received += std::iter::from_fn(|| driver.queues[RX].take()).count();
    }
    assert_eq!(received, 3 * (RECEIVE_BUDGET / 8 * 6));
}

#[test]
fn the_link_is_told_what_the_driver_can_take() {
    let all = MERGEABLE | feature::OFFERED;
    let check = |features, expect| {
        let before = attach(&start(features));
        assert_eq!(*before.offload.lock().unwrap(), expect, "{features:#x}");
    };
    let everything = Offload {
        checksum: true,
        tso4: true,
        tso6: true,
        ecn: true,
    };
    check(all, everything);
    check(MERGEABLE, Offload::default());
    check(all & !feature::GUEST_CSUM, Offload::default());
    let only6 = Offload {
        tso4: false,
        ..everything
    };
    check(all & !feature::GUEST_TSO4, only6);
}

#[test]
fn a_restored_device_has_no_link_and_takes_one() {
    let mut driver = start(MERGEABLE | feature::OFFERED);
    let wire = attach(&driver);
    buffers(&mut driver, &[100, 100]);
    wire.socket.send(&frame(80, 1)).unwrap();
    driver.run();
    assert_eq!(driver.queues[RX].take().map(|used| used.1), Some(80));
    let mut copy = driver.fork(|state| Net::restore(state.net().unwrap()).unwrap());
    assert_eq!(copy.config(6), [0, 0]);
    let wire = attach(&copy);
    assert!(wire.offload.lock().unwrap().tso6);
    wire.socket.send(&frame(90, 2)).unwrap();
    copy.run();
    assert_eq!(copy.queues[RX].take().map(|used| used.1), Some(90));
}

#[test]
fn a_wire_whose_other_end_is_gone_does_not_spin() {
    let mut driver = start(MERGEABLE);
    drop(attach(&driver));
    buffers(&mut driver, &[100]);
    driver.poke(BUFFERS, &frame(20, 1));
    assert_eq!(driver.request(TX, &[Part::Read(BUFFERS, 20)]), Some(0));
    for _ in 0..10 {
        driver.run_once(std::time::Duration::ZERO);
    }
    assert!(!driver.run_once(std::time::Duration::ZERO), "it spins");
}

#[test]
fn a_wire_that_ends_has_no_carrier_and_is_not_asked_again() {
    let mut driver = start(MERGEABLE);
    let wire = attach(&driver);
    buffers(&mut driver, &[100, 100]);
    wire.socket.send(&[]).unwrap();
    driver.run();
    assert_eq!(driver.config(6), [0, 0]);
    wire.socket.send(&frame(80, 1)).unwrap();
    driver.kick(RX);
    assert_eq!(driver.queues[RX].take(), None);
    assert!(!driver.run_once(std::time::Duration::ZERO), "it spins");
    assert!(driver.transport.configure(Net::detach));
    let wire = attach(&driver);
    assert_eq!(driver.config(6), [1, 0]);
    wire.socket.send(&frame(80, 1)).unwrap();
    driver.run();
    assert_eq!(driver.queues[RX].take().map(|used| used.1), Some(80));
}

/// What a driver does after its device has failed: everything anew.
fn restart(driver: &mut Driver<Net>) {
    driver.negotiate(MERGEABLE);
    for index in [RX, TX] {
        let queue = DriverQueue::new(driver.memory.clone(), index, driver.queues[index].size);
        driver.poke(queue.avail, &[0; 0x1000]);
        driver.poke(queue.used, &[0; 0x1000]);
        driver.set_up(index, &queue);
        driver.queues[index] = queue;
    }
    driver.write(offset::STATUS, 15);
}

#[test]
fn buffers_of_a_driver_that_broke_its_queue_mean_nothing_to_the_next_one() {
    let mut driver = start(MERGEABLE);
    let wire = attach(&driver);
    driver.queues[RX].add(&[Part::Write(BUFFERS, 1000)]);
    driver.queues[RX].add(&[Part::Write(u64::MAX - 4000, 2000)]);
    driver.kick(RX);
    wire.socket.send(&frame(2000, 1)).unwrap();
    driver.run();
    assert!(!driver.transport.is_running(), "memory that is not there");
    restart(&mut driver);
    buffers(&mut driver, &[100]);
    wire.socket.send(&frame(80, 2)).unwrap();
    driver.run();
    assert_eq!(driver.queues[RX].take().map(|used| used.1), Some(80));
}

#[test]
fn a_malformed_buffer_among_too_few_loses_and_repeats_none() {
    let mut driver = start(MERGEABLE);
    let wire = attach(&driver);
    let good = driver.queues[RX].add(&[Part::Write(BUFFERS, 50)]);
    // What the device may write comes after what it reads, never before.
    let bad = driver.queues[RX].add(&[Part::Write(BUFFERS, 50), Part::Read(BUFFERS, 50)]);
    driver.kick(RX);
    wire.socket.send(&frame(80, 1)).unwrap();
    driver.run();
    let mut back: Vec<_> = std::iter::from_fn(|| driver.queues[RX].take()).collect();
    back.sort_unstable();
    let mut expect = [(good, 0), (bad, 0)];
    expect.sort_unstable();
    assert_eq!(back, expect);
    buffers(&mut driver, &[100]);
    assert_eq!(
        driver.queues[RX].take().map(|used| used.1),
        Some(80),
        "the frame has waited"
    );
}

#[derive(Clone, Copy, Debug)]
enum Act {
    Buffer(u64, u32),
    Backwards,
    Publish(u16),
    Frame(usize),
    Send(u64, u32),
    Restart,
}

fn act() -> impl Strategy<Value = Act> {
    let addr = prop_oneof![4 => BUFFERS..BUFFERS + 0x10_0000, 1 => any::<u64>()];
    prop_oneof![
        6 => (addr.clone(), 0u32..3000).prop_map(|(addr, len)| Act::Buffer(addr, len)),
        1 => Just(Act::Backwards),
        1 => any::<u16>().prop_map(Act::Publish),
        6 => (0usize..4000).prop_map(Act::Frame),
        2 => (addr, any::<u32>()).prop_map(|(addr, len)| Act::Send(addr, len)),
        2 => Just(Act::Restart),
    ]
}

proptest! {
    /// Nothing that a driver does ends the VMM or keeps its thread busy, and the device of a driver that
    /// starts anew works.
    #[test]
    fn a_hostile_driver_harms_only_itself(acts in prop::collection::vec(act(), 1..40)) {
        let mut driver = start(MERGEABLE);
        let wire = attach(&driver);
        for act in acts {
            match act {
                Act::Buffer(addr, len) if driver.queues[RX].free() > 0 => {
                    driver.queues[RX].add(&[Part::Write(addr, len)]);
                }
                Act::Backwards if driver.queues[RX].free() > 1 => {
                    driver.queues[RX].add(&[Part::Write(BUFFERS, 9), Part::Read(BUFFERS, 9)]);
                }
                Act::Buffer(..) | Act::Backwards => {}
                Act::Publish(head) => driver.queues[RX].publish(head),
                Act::Frame(len) => {
                    // The wire may be full.
                    let _full = wire.socket.send(&frame(HEADER_BYTES + len, 1));
                }
                Act::Send(addr, len) if driver.queues[TX].free() > 0 => {
                    driver.queues[TX].add(&[Part::Read(addr, len)]);
                }
                Act::Send(..) => {}
                Act::Restart => restart(&mut driver),
            }
            driver.write(offset::QUEUE_NOTIFY, 0);
            driver.write(offset::QUEUE_NOTIFY, 1);
            let calls = (0..1000).take_while(|_| driver.run_once(std::time::Duration::ZERO)).count();
            prop_assert!(calls < 1000, "it spins");
        }
        restart(&mut driver);
        driver.queues[RX].add(&[Part::Write(BUFFERS, 5000)]);
        driver.kick(RX);
        let _full = wire.socket.send(&frame(60, 2));
        driver.run();
        prop_assert!(driver.queues[RX].take().is_some());
    }

    /// Whatever the lengths, each frame arrives whole, in order and in as many buffers as its header says.
    #[test]
    fn frames_arrive_whole_in_buffers_of_any_length(
        lens in prop::collection::vec(HEADER_BYTES..3000, 1..12),
        room in prop::collection::vec(12u32..2500, 1..60),
    ) {
        let mut driver = start(MERGEABLE);
        let wire = attach(&driver);
        let space: Vec<(u64, u32)> = (0..).map(|index| BUFFERS + 0x1000 * index).zip(room.iter().copied()).collect();
        let mut heads = std::collections::HashMap::new();
        for (addr, len) in &space {
            heads.insert(driver.queues[RX].add(&[Part::Write(*addr, *len)]), (*addr, *len as usize));
        }
        driver.kick(RX);
        let mut free: usize = room.iter().map(|len| *len as usize).sum();
        for (fill, len) in (1..).zip(&lens) {
            wire.socket.send(&frame(*len, fill)).unwrap();
            driver.run();
            let Some((head, first)) = driver.queues[RX].take() else {
                prop_assert!(free < *len);
                break;
            };
            free -= heads[&head].1;
            let count = u16::from_le_bytes(driver.peek(heads[&head].0 + 10, 2).try_into().unwrap());
            let mut got = driver.peek(heads[&head].0, first as usize);
            for _ in 1..count {
                let (head, more) = driver.queues[RX].take().expect("as many buffers as the header says");
                free -= heads[&head].1;
                got.extend(driver.peek(heads[&head].0, more as usize));
            }
            prop_assert_eq!(driver.queues[RX].take(), None);
            prop_assert_eq!(got.len(), *len);
            prop_assert!(got.iter().skip(HEADER_BYTES).all(|byte| *byte == fill));
        }
    }
}
