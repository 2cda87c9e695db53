// SPDX-License-Identifier: Apache-2.0
//! Tests of a queue whose driver does not follow the rules.

use proptest::prelude::*;
use virtio_queue::mock::MockSplitQueue;
use vm_memory::{Bytes, GuestAddress};

use super::*;
use crate::event::EventFd;
use crate::testing::{BUFFERS, DriverQueue, Part, memory};

const SIZE: u16 = 16;

fn device_queue(memory: &GuestMemoryMmap, driver: &DriverQueue) -> Virtqueue {
    let mut queue = Queue::new(SIZE).unwrap();
    queue
        .try_set_desc_table_address(GuestAddress(driver.desc))
        .unwrap();
    queue
        .try_set_avail_ring_address(GuestAddress(driver.avail))
        .unwrap();
    queue
        .try_set_used_ring_address(GuestAddress(driver.used))
        .unwrap();
    queue.set_ready(true);
    assert!(queue.is_valid(memory));
    Virtqueue::new(
        queue,
        memory.clone(),
        Interrupt::new(EventFd::new().unwrap()),
    )
}

fn pair() -> (Virtqueue, DriverQueue) {
    let memory = memory();
    let driver = DriverQueue::new(memory.clone(), 0, SIZE);
    (device_queue(&memory, &driver), driver)
}

/// All requests there are, as lengths of their readable and writable parts.
fn drain(queue: &mut Virtqueue) -> Vec<(usize, usize)> {
    let mut seen = Vec::new();
    let work = queue.drain(|request| {
        seen.push((request.readable.len(), request.writable.len()));
        0
    });
    assert_eq!(work.unwrap(), Work::Done);
    seen
}

#[test]
fn rust_vmms_own_driver_is_understood() {
    let memory = memory();
    let mut mock = MockSplitQueue::create(&memory, GuestAddress(0x1000), SIZE);
    mock.add_chain(3).unwrap();
    let queue: Queue = mock.create_queue().unwrap();
    let mut queue = Virtqueue::new(
        queue,
        memory.clone(),
        Interrupt::new(EventFd::new().unwrap()),
    );
    assert_eq!(drain(&mut queue), [(0x3000, 0)]);
    assert_eq!(mock.used().idx().load(), 1);
}

#[test]
fn malformed_chains_are_returned_and_the_others_served() {
    let (mut queue, mut driver) = pair();
    let malformed: [&[(u16, u16, u16)]; 5] = [
        &[(0, 1, 0)],            // to itself
        &[(0, 1, 1), (1, 1, 0)], // in a circle
        &[(0, 1, 200)],          // out of the table
        &[(0, 3, 1), (1, 0, 0)], // readable after writable
        &[(0, 4, 0)],            // an indirect table of an odd length
    ];
    for descriptors in malformed {
        for (index, flags, next) in descriptors {
            driver.write_descriptor(*index, BUFFERS, 7, *flags, *next);
        }
        driver.publish(0);
        assert_eq!(drain(&mut queue), []);
        assert_eq!(driver.take(), Some((0, 0)));
        driver.write_descriptor(2, BUFFERS, 5, 0, 0);
        driver.publish(2);
        assert_eq!(drain(&mut queue), [(5, 0)]);
        assert_eq!(driver.take(), Some((2, 0)));
    }
}

#[test]
fn a_chain_is_no_longer_than_the_queue_even_in_an_indirect_table() {
    let (mut queue, mut driver) = pair();
    let table = BUFFERS + 0x1000;
    for (entries, expected) in [(SIZE, Some(usize::from(SIZE))), (SIZE + 1, None)] {
        for index in 0..entries {
            let next = u16::from(index + 1 < entries);
            let mut bytes = [0; 16];
            bytes[0..8].copy_from_slice(&BUFFERS.to_le_bytes());
            bytes[8] = 1;
            bytes[12..14].copy_from_slice(&next.to_le_bytes());
            bytes[14..16].copy_from_slice(&(index + 1).to_le_bytes());
            let at = GuestAddress(table + 16 * u64::from(index));
            queue.memory.write_slice(&bytes, at).unwrap();
        }
        driver.write_descriptor(0, table, 16 * u32::from(entries), 4, 0);
        driver.publish(0);
        let expected: Vec<_> = expected.map(|len| (len, 0)).into_iter().collect();
        assert_eq!(drain(&mut queue), expected);
        assert_eq!(driver.take(), Some((0, 0)));
    }
}

#[test]
fn one_call_serves_no_more_than_a_queue_full() {
    let (mut queue, mut driver) = pair();
    driver.add(&[Part::Read(BUFFERS, 1)]);
    let mut served = 0;
    // A driver that adds a request for each that is served.
    let work = queue.drain(|_| {
        driver.write_descriptor(3, BUFFERS, 1, 0, 0);
        driver.publish(3);
        served += 1;
        0
    });
    assert_eq!(work.unwrap(), Work::More);
    assert_eq!(served, SIZE);
}

#[test]
fn a_request_that_was_put_back_comes_again() {
    let (mut queue, mut driver) = pair();
    let head = driver.add(&[Part::Write(BUFFERS, 3)]);
    let chain = queue.pop().unwrap().unwrap();
    queue.unpop(chain);
    let chain = queue.pop().unwrap().unwrap();
    queue.complete(chain, 3).unwrap();
    assert_eq!(driver.take(), Some((head, 3)));
    assert!(queue.pop().unwrap().is_none());
}

#[test]
fn a_head_outside_of_the_table_breaks_the_queue() {
    let (mut queue, mut driver) = pair();
    driver.publish(SIZE);
    assert!(matches!(
        queue.drain(|_| 0),
        Err(QueueError::Complete { head: SIZE, .. })
    ));
}

#[test]
fn spans_split_and_copy_across_segments() {
    let (mut queue, mut driver) = pair();
    let memory = queue.memory().clone();
    memory
        .write_slice(b"abcdef", GuestAddress(BUFFERS))
        .unwrap();
    driver.add(&[
        Part::Read(BUFFERS, 2),
        Part::Read(BUFFERS, 0),
        Part::Read(BUFFERS + 2, 4),
    ]);
    let chain = queue.pop().unwrap().unwrap();
    let span = chain.readable(&memory);
    assert_eq!(span.len(), 6);
    let (first, rest) = span.split_at(3).unwrap();
    let (mut three, mut two) = ([0; 3], [0; 2]);
    first.read(&mut three).unwrap();
    rest.read(&mut two).unwrap();
    assert_eq!((&three, &two), (b"abc", b"de"));
    assert!(first.read(&mut [0; 4]).is_err());
    assert!(span.split_at(7).is_none());
    let pieces: Vec<_> = rest.pieces().collect();
    assert_eq!(
        pieces,
        [Segment {
            addr: GuestAddress(BUFFERS + 3),
            len: 3
        }]
    );
}

proptest! {
    /// Descriptors, rings and indices of any content: calls end, and with an error or a bounded
    /// number of requests.
    #[test]
    fn any_rings_are_served_within_bounds(
        descriptors in proptest::collection::vec(
            (prop_oneof![Just(BUFFERS), any::<u64>()], any::<u32>(), 0..8u16, 0..SIZE + 2),
            usize::from(SIZE),
        ),
        heads in proptest::collection::vec(0..SIZE + 1, 1..40),
        jump in prop_oneof![9 => Just(0u16), 1 => any::<u16>()],
    ) {
        let (mut queue, mut driver) = pair();
        for (index, (addr, len, flags, next)) in (0..).zip(&descriptors) {
            driver.write_descriptor(index, *addr, *len, *flags, *next);
        }
        let mut published = 0u16;
        for head in heads {
            driver.publish(head);
            published += 1;
            if jump != 0 {
                driver.set_avail_idx(published.wrapping_add(jump));
            }
            let mut served = 0;
            let mut longest = 0;
            let outcome = queue.drain(|request| {
                served += 1;
                longest = longest.max(request.readable.pieces().count() + request.writable.pieces().count());
                let mut byte = [0];
                if request.writable.write(&byte).is_ok() { 1 } else { u32::from(request.readable.read(&mut byte).is_ok()) }
            });
            prop_assert!(served <= SIZE);
            prop_assert!(longest <= usize::from(SIZE));
            if outcome.is_err() {
                break;
            }
        }
    }
}
