// SPDX-License-Identifier: Apache-2.0
//! Tests of the slot through its queue.

mod restore;

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};

use tempfile::NamedTempFile;

use super::request::Status;
use super::{AttachError, Block, MAX_DISCARD_SECTORS, MAX_REQUEST_BYTES};
use crate::testing::{BUFFERS, Driver, Part};

const IN: u32 = 0;
const OUT: u32 = 1;
const FLUSH: u32 = 4;
const GET_ID: u32 = 8;
const DISCARD: u32 = 11;
const WRITE_ZEROES: u32 = 13;

const HEADER: u64 = BUFFERS;
const STATUS: u64 = BUFFERS + 0x100;
const DATA: u64 = BUFFERS + 0x1000;

const SECTORS: u64 = 64;

fn disk_of(bytes: &[u8]) -> NamedTempFile {
    let mut file = NamedTempFile::new().unwrap();
    file.write_all(bytes).unwrap();
    file
}

/// A disk whose every sector is filled with its own number.
fn numbered() -> NamedTempFile {
    let bytes: Vec<u8> = (0..SECTORS)
        .flat_map(|n| [u8::try_from(n).unwrap(); 512])
        .collect();
    disk_of(&bytes)
}

fn read_write(file: &NamedTempFile) -> File {
    OpenOptions::new()
        .read(true)
        .write(true)
        .open(file.path())
        .unwrap()
}

fn read_only(file: &NamedTempFile) -> File {
    File::open(file.path()).unwrap()
}

fn slot_with(file: &NamedTempFile) -> Driver<Block> {
    let mut block = Block::new(3);
    block.attach(read_write(file), false).unwrap();
    Driver::start(block)
}

fn content(file: &NamedTempFile) -> Vec<u8> {
    let mut bytes = Vec::new();
    read_only(file).read_to_end(&mut bytes).unwrap();
    bytes
}

impl Driver<Block> {
    /// One request with header and status; the status that it got.
    fn block(&mut self, kind: u32, sector: u64, data: &[Part]) -> u8 {
        let mut header = [0; 16];
        header[0..4].copy_from_slice(&kind.to_le_bytes());
        header[8..16].copy_from_slice(&sector.to_le_bytes());
        self.poke(HEADER, &header);
        self.poke(STATUS, &[0xff]);
        let mut parts = vec![Part::Read(HEADER, 16)];
        parts.extend(data);
        parts.push(Part::Write(STATUS, 1));
        let writable: u32 = parts
            .iter()
            .map(|part| {
                if let Part::Write(_, len) = part {
                    *len
                } else {
                    0
                }
            })
            .sum();
        let len = self.request(0, &parts);
        assert_eq!(len, Some(writable));
        self.peek(STATUS, 1)[0]
    }

    fn range(&mut self, kind: u32, sector: u64, sectors: u32, flags: u32) -> u8 {
        let mut range = [0; 16];
        range[0..8].copy_from_slice(&sector.to_le_bytes());
        range[8..12].copy_from_slice(&sectors.to_le_bytes());
        range[12..16].copy_from_slice(&flags.to_le_bytes());
        self.poke(DATA, &range);
        self.block(kind, 0, &[Part::Read(DATA, 16)])
    }

    fn capacity(&self) -> u64 {
        u64::from_le_bytes(self.config(0))
    }
}

const OK: u8 = Status::Ok as u8;
const IO_ERROR: u8 = Status::IoError as u8;
const UNSUPPORTED: u8 = Status::Unsupported as u8;

#[test]
fn an_empty_slot_knows_its_name_and_reads_nothing() {
    let mut driver = Driver::start(Block::new(5));
    assert_eq!(driver.capacity(), 0);
    assert_eq!(driver.block(GET_ID, 0, &[Part::Write(DATA, 20)]), OK);
    assert_eq!(driver.peek(DATA, 20), *b"cube-slot-5\0\0\0\0\0\0\0\0\0");
    assert_eq!(driver.block(IN, 0, &[Part::Write(DATA, 512)]), IO_ERROR);
    assert_eq!(driver.block(OUT, 0, &[Part::Read(DATA, 512)]), IO_ERROR);
    assert_eq!(driver.block(FLUSH, 0, &[]), OK);
}

#[test]
fn attaching_and_detaching_tells_the_driver() {
    let file = numbered();
    let mut driver = Driver::start(Block::new(0));
    let generation = driver.read(0xfc);
    assert_eq!(driver.interrupts(), 0);

    driver
        .transport
        .configure(|block| block.attach(read_write(&file), false))
        .unwrap();
    assert_eq!(driver.capacity(), SECTORS);
    assert_eq!(driver.interrupts(), 2);
    assert_ne!(driver.read(0xfc), generation);
    assert_eq!(driver.block(IN, 0, &[Part::Write(DATA, 512)]), OK);
    driver.interrupts();

    assert!(driver.transport.configure(Block::detach).is_some());
    assert_eq!(driver.capacity(), 0);
    assert_eq!(driver.interrupts(), 2);
    assert_eq!(driver.block(IN, 0, &[Part::Write(DATA, 512)]), IO_ERROR);
}

#[test]
fn reads_and_writes_reach_the_right_sectors() {
    let file = numbered();
    let mut driver = slot_with(&file);
    let scattered = [Part::Write(DATA + 7, 1000), Part::Write(DATA + 0x2000, 24)];
    assert_eq!(driver.block(IN, 9, &scattered), OK);
    assert_eq!(driver.peek(DATA + 7, 512), [9; 512]);
    assert_eq!(driver.peek(DATA + 519, 488), [10; 488]);
    assert_eq!(driver.peek(DATA + 0x2000, 24), [10; 24]);

    driver.poke(DATA, &[0xaa; 1024]);
    let gathered = [Part::Read(DATA, 3), Part::Read(DATA + 3, 1021)];
    assert_eq!(driver.block(OUT, 62, &gathered), OK);
    assert_eq!(driver.block(FLUSH, 0, &[]), OK);
    let bytes = content(&file);
    assert_eq!(bytes[62 * 512..], [0xaa; 1024]);
    assert_eq!(bytes[61 * 512..62 * 512], [61; 512]);
}

#[test]
fn requests_larger_than_the_bounce_buffer_arrive_whole() {
    let bytes: Vec<u8> = (0..600 * 512u32)
        .map(|at| u8::try_from(at / 512 % 251).unwrap())
        .collect();
    let file = disk_of(&bytes);
    let mut driver = slot_with(&file);
    let len = u32::try_from(bytes.len()).unwrap();
    assert_eq!(driver.block(IN, 0, &[Part::Write(DATA, len)]), OK);
    assert_eq!(driver.peek(DATA, bytes.len()), bytes);
    let inverted: Vec<u8> = bytes.iter().map(|byte| !byte).collect();
    driver.poke(DATA, &inverted);
    assert_eq!(driver.block(OUT, 0, &[Part::Read(DATA, len)]), OK);
    assert_eq!(content(&file), inverted);
}

#[test]
fn nothing_past_the_end_is_touched() {
    let file = numbered();
    let mut driver = slot_with(&file);
    for sector in [SECTORS, SECTORS - 1, u64::MAX / 512, u64::MAX] {
        assert_eq!(
            driver.block(IN, sector, &[Part::Write(DATA, 1024)]),
            IO_ERROR,
            "{sector}"
        );
        assert_eq!(
            driver.block(OUT, sector, &[Part::Read(DATA, 1024)]),
            IO_ERROR,
            "{sector}"
        );
        assert_eq!(driver.range(DISCARD, sector, 2, 0), IO_ERROR, "{sector}");
        assert_eq!(
            driver.range(WRITE_ZEROES, sector, 2, 0),
            IO_ERROR,
            "{sector}"
        );
    }
    assert_eq!(content(&file).len(), 64 * 512);
}

#[test]
fn a_capacity_is_whole_sectors() {
    let file = disk_of(&[1; 1300]);
    let mut driver = slot_with(&file);
    assert_eq!(driver.capacity(), 2);
    assert_eq!(driver.block(OUT, 2, &[Part::Read(DATA, 512)]), IO_ERROR);
}

#[test]
fn a_read_only_disk_is_read_only() {
    let file = numbered();
    let mut driver = Driver::start(Block::new(0));
    driver
        .transport
        .configure(|block| block.attach(read_only(&file), true))
        .unwrap();
    assert_eq!(driver.block(IN, 1, &[Part::Write(DATA, 512)]), OK);
    assert_eq!(driver.block(OUT, 1, &[Part::Read(DATA, 512)]), IO_ERROR);
    assert_eq!(driver.range(DISCARD, 1, 1, 0), IO_ERROR);
    assert_eq!(driver.range(WRITE_ZEROES, 1, 1, 0), IO_ERROR);
    assert_eq!(driver.block(FLUSH, 0, &[]), OK);
    assert_eq!(content(&file)[512..1024], [1; 512]);
}

#[test]
fn files_that_cannot_be_disks_are_refused() {
    let file = numbered();
    let attach = |opened: File, read_only| Block::new(0).attach(opened, read_only);
    let is_mode = |result| matches!(result, Err(AttachError::OpenMode { .. }));
    assert!(is_mode(attach(read_write(&file), true)));
    assert!(is_mode(attach(read_only(&file), false)));
    assert!(is_mode(attach(
        OpenOptions::new().write(true).open(file.path()).unwrap(),
        false
    )));
    let appending = OpenOptions::new()
        .read(true)
        .append(true)
        .open(file.path())
        .unwrap();
    assert!(is_mode(attach(appending, false)));
    let directory = File::open(file.path().parent().unwrap()).unwrap();
    assert!(matches!(
        attach(directory, true),
        Err(AttachError::NotADisk { .. })
    ));

    let mut block = Block::new(0);
    block.attach(read_write(&file), false).unwrap();
    let second = block.attach(read_write(&file), false);
    assert!(matches!(second, Err(AttachError::Occupied { slot: 0 })));
}

#[test]
fn discarded_and_zeroed_ranges_read_as_zero() {
    let file = numbered();
    let mut driver = slot_with(&file);
    // Not every file system of a test machine can do it; one that cannot says so.
    for (sector, kind, flags) in [
        (8, DISCARD, 0),
        (24, WRITE_ZEROES, 0),
        (40, WRITE_ZEROES, 1),
    ] {
        match driver.range(kind, sector, 8, flags) {
            OK => {
                assert_eq!(driver.block(IN, sector, &[Part::Write(DATA, 8 * 512)]), OK);
                assert_eq!(driver.peek(DATA, 8 * 512), [0; 8 * 512]);
            }
            status => assert_eq!(status, UNSUPPORTED),
        }
    }
    assert_eq!(content(&file).len(), 64 * 512);
    assert_eq!(driver.range(DISCARD, 0, 8, 1), UNSUPPORTED);
    assert_eq!(driver.range(WRITE_ZEROES, 0, 8, 2), UNSUPPORTED);
    assert_eq!(
        driver.range(DISCARD, 0, MAX_DISCARD_SECTORS + 1, 0),
        IO_ERROR
    );
    assert_eq!(driver.range(DISCARD, 0, 0, 0), OK);
}

#[test]
fn requests_that_make_no_sense_get_an_error() {
    let file = numbered();
    let mut driver = slot_with(&file);
    assert_eq!(driver.block(99, 0, &[]), UNSUPPORTED);
    assert_eq!(driver.block(IN, 0, &[Part::Write(DATA, 511)]), IO_ERROR);
    assert_eq!(driver.block(OUT, 0, &[Part::Read(DATA, 513)]), IO_ERROR);
    let too_long = u32::try_from(MAX_REQUEST_BYTES + 512).unwrap();
    assert_eq!(
        driver.block(IN, 0, &[Part::Write(DATA, too_long)]),
        IO_ERROR
    );
    assert_eq!(
        driver.block(IN, 0, &[Part::Write(u64::MAX - 100, 512)]),
        IO_ERROR
    );
    assert_eq!(
        driver.block(OUT, 0, &[Part::Read(u64::MAX - 100, 512)]),
        IO_ERROR
    );
    assert_eq!(driver.block(DISCARD, 0, &[Part::Read(DATA, 32)]), IO_ERROR);
    // No header, no status byte, nothing at all.
    driver.poke(STATUS, &[0xff]);
    assert_eq!(
        driver.request(0, &[Part::Read(HEADER, 15), Part::Write(STATUS, 1)]),
        Some(1)
    );
    assert_eq!(driver.peek(STATUS, 1), [IO_ERROR]);
    assert_eq!(driver.request(0, &[Part::Read(HEADER, 16)]), Some(0));
    assert_eq!(driver.request(0, &[Part::Write(u64::MAX, 1)]), Some(0));
}

#[test]
fn a_failing_file_is_an_error_and_not_the_end() {
    let file = numbered();
    let mut driver = slot_with(&file);
    file.as_file().set_len(512).unwrap();
    assert_eq!(driver.block(IN, 1, &[Part::Write(DATA, 512)]), IO_ERROR);
    assert_eq!(driver.block(IN, 0, &[Part::Write(DATA, 512)]), OK);
}

#[test]
fn a_full_queue_is_served_and_wraps() {
    let file = numbered();
    let mut driver = slot_with(&file);
    driver.poke(HEADER, &[0; 16]);
    for _ in 0..10 {
        let mut heads = Vec::new();
        while driver.queues[0].free() >= 3 {
            let parts = [
                Part::Read(HEADER, 16),
                Part::Write(DATA, 512),
                Part::Write(STATUS, 1),
            ];
            heads.push(driver.queues[0].add(&parts));
        }
        driver.kick(0);
        for head in heads {
            assert_eq!(driver.queues[0].take(), Some((head, 513)));
        }
    }
}
