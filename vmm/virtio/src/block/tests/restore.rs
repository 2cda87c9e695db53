// SPDX-License-Identifier: Apache-2.0
//! A slot that is saved and restored, with a disk and without.

use proptest::prelude::*;

use super::*;
use crate::block::{BlockState, DiskState};
use crate::registers::offset;
use crate::state::DeviceState;

const DISK: DiskState = DiskState {
    sectors: SECTORS,
    read_only: false,
};

fn restored(state: &DeviceState) -> Block {
    Block::restore(3, state.block().unwrap())
}

/// The disk that a reflink would make.
fn copy_of(file: &NamedTempFile) -> NamedTempFile {
    disk_of(&content(file))
}

fn seen(driver: &Driver<Block>) -> Option<DiskState> {
    driver.transport.save().device.block().unwrap().disk
}

fn attach(driver: &Driver<Block>, file: File, read_only: bool) -> Result<(), AttachError> {
    driver
        .transport
        .configure(|block| block.attach(file, read_only))
}

#[test]
fn an_empty_slot_takes_any_disk_after_a_restore() {
    let source = Driver::start(Block::new(3));
    assert_eq!(seen(&source), None);
    let mut copy = source.fork(restored);
    assert_eq!(copy.capacity(), 0);
    assert_eq!(copy.block(FLUSH, 0, &[]), OK);
    let file = numbered();
    attach(&copy, read_write(&file), false).unwrap();
    assert_eq!(copy.capacity(), SECTORS);
    assert_eq!(copy.block(IN, 7, &[Part::Write(DATA, 512)]), OK);
    assert_eq!(copy.peek(DATA, 512), [7; 512]);
}

#[test]
fn without_its_disk_a_slot_fails_requests_and_keeps_its_size() {
    let file = numbered();
    let source = slot_with(&file);
    assert_eq!(seen(&source), Some(DISK));
    let mut copy = source.fork(restored);
    assert_eq!(copy.capacity(), SECTORS);
    assert_eq!(copy.block(IN, 0, &[Part::Write(DATA, 512)]), IO_ERROR);
    assert_eq!(copy.block(OUT, 0, &[Part::Read(DATA, 512)]), IO_ERROR);
    assert_eq!(copy.block(FLUSH, 0, &[]), IO_ERROR);
    assert_eq!(copy.range(DISCARD, 0, 1, 0), IO_ERROR);
    assert_eq!(copy.block(GET_ID, 0, &[Part::Write(DATA, 20)]), OK);
    // It is still the slot of a machine that can be saved.
    assert_eq!(seen(&copy.fork(restored)), Some(DISK));
}

#[test]
fn a_disk_may_come_before_the_start_or_after_it() {
    let file = numbered();
    let source = slot_with(&file);
    let before = source.fork(|state| {
        let mut block = restored(state);
        block.attach(read_write(&file), false).unwrap();
        block
    });
    assert_eq!(before.interrupts(), 0);
    let after = source.fork(restored);
    attach(&after, read_write(&file), false).unwrap();
    assert_eq!(after.interrupts(), 2);
    for mut copy in [before, after] {
        assert_eq!(copy.capacity(), SECTORS);
        assert_eq!(seen(&copy), Some(DISK));
        assert_eq!(copy.block(IN, 9, &[Part::Write(DATA, 512)]), OK);
        assert_eq!(copy.peek(DATA, 512), [9; 512]);
    }
}

#[test]
fn another_disk_is_refused_until_the_old_one_is_detached() {
    let source = slot_with(&numbered());
    let copy = source.fork(restored);
    let (longer, same) = (disk_of(&[1; 65 * 512]), numbered());
    let is_different = |result| matches!(result, Err(AttachError::Different { .. }));
    assert!(is_different(attach(&copy, read_write(&longer), false)));
    assert!(is_different(attach(&copy, read_only(&same), true)));
    assert_eq!(seen(&copy), Some(DISK));
    assert!(copy.transport.configure(Block::detach).is_none());
    assert_eq!((seen(&copy), copy.capacity()), (None, 0));
    attach(&copy, read_write(&longer), false).unwrap();
    assert_eq!(copy.capacity(), 65);
}

#[test]
fn a_request_that_was_not_served_is_served_once_on_both_sides() {
    let file = numbered();
    let mut source = slot_with(&file);
    let mut header = [0; 16];
    header[0] = u8::try_from(OUT).unwrap();
    header[8] = 5;
    source.poke(HEADER, &header);
    source.poke(DATA, &[0xaa; 512]);
    let parts = [
        Part::Read(HEADER, 16),
        Part::Read(DATA, 512),
        Part::Write(STATUS, 1),
    ];
    let head = source.queues[0].add(&parts);
    source.write(offset::QUEUE_NOTIFY, 0);
    let clone = copy_of(&file);
    let mut copy = source.fork(|state| {
        let mut block = restored(state);
        block.attach(read_write(&clone), false).unwrap();
        block
    });
    for (side, file) in [(&mut source, &file), (&mut copy, &clone)] {
        assert_eq!(content(file)[5 * 512..6 * 512], [5; 512]);
        side.run();
        assert_eq!(side.queues[0].take(), Some((head, 1)));
        assert_eq!(side.queues[0].take(), None);
        assert_eq!(side.peek(STATUS, 1), [OK]);
        assert_eq!(content(file)[5 * 512..6 * 512], [0xaa; 512]);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    /// A disk in use, saved with a request that waits: copies of machine and disk end up where
    /// the source does, however long the chain.
    #[test]
    fn a_restored_slot_is_the_saved_one(
        writes in proptest::collection::vec((0..SECTORS, any::<u8>(), any::<bool>()), 1..12),
    ) {
        let mut file = numbered();
        let mut driver = slot_with(&file);
        let mut expected = content(&file);
        for (sector, byte, fork) in writes {
            let mut header = [0; 16];
            header[0] = u8::try_from(OUT).unwrap();
            header[8..].copy_from_slice(&sector.to_le_bytes());
            driver.poke(HEADER, &header);
            driver.poke(DATA, &[byte; 512]);
            let parts = [Part::Read(HEADER, 16), Part::Read(DATA, 512), Part::Write(STATUS, 1)];
            let head = driver.queues[0].add(&parts);
            if fork {
                let clone = copy_of(&file);
                driver = driver.fork(|state| {
                    let mut block = restored(state);
                    block.attach(read_write(&clone), false).unwrap();
                    block
                });
                driver.run();
                file = clone;
            } else {
                driver.kick(0);
            }
            prop_assert_eq!(driver.queues[0].take(), Some((head, 1)));
            let at = usize::try_from(sector).unwrap() * 512;
            expected[at..at + 512].fill(byte);
            prop_assert_eq!(content(&file), expected.clone());
        }
    }

    #[test]
    fn any_state_makes_a_slot(disk in any::<Option<(u64, bool)>>()) {
        let disk = disk.map(|(sectors, read_only)| DiskState { sectors, read_only });
        let mut driver = Driver::start(Block::restore(0, &BlockState { disk }));
        prop_assert_eq!(driver.capacity(), disk.map_or(0, |disk| disk.sectors));
        prop_assert_eq!(driver.block(IN, 0, &[Part::Write(DATA, 512)]), IO_ERROR);
        prop_assert_eq!(seen(&driver), disk);
    }
}
