// SPDX-License-Identifier: Apache-2.0
//! From a descriptor chain to a command that has been checked (virtio 1.2, section 5.2.6).
//!
//! The chain is taken as two streams of bytes, as section 2.7.4 wants: where the driver cuts them
//! into descriptors means nothing.

use std::ops::Range;

use super::{ID_BYTES, MAX_DISCARD_SECTORS, MAX_REQUEST_BYTES, SECTOR_BYTES};
use crate::chain::Span;
use crate::queue::Request;

/// Request types.
const T_IN: u32 = 0;
const T_OUT: u32 = 1;
const T_FLUSH: u32 = 4;
const T_GET_ID: u32 = 8;
const T_DISCARD: u32 = 11;
const T_WRITE_ZEROES: u32 = 13;

/// The only flag of a discard or write-zeroes range.
const FLAG_UNMAP: u32 = 1;

const HEADER_BYTES: usize = 16;
const STATUS_BYTES: usize = 1;
const RANGE_BYTES: usize = 16;

/// The last byte of every request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Status {
    Ok = 0,
    IoError = 1,
    Unsupported = 2,
}

/// What the driver wants. Positions are in bytes and do not overflow; whether they are within the
/// disk is the disk's to say.
#[derive(Debug)]
pub(super) enum Command<'a> {
    Read { offset: u64, into: Span<'a> },
    Write { offset: u64, from: Span<'a> },
    Flush,
    Identify { into: Span<'a> },
    Discard { range: Range<u64> },
    WriteZeroes { range: Range<u64>, unmap: bool },
}

/// A request: where its status goes, and the command or the status that refuses it.
#[derive(Debug)]
pub(super) struct Parsed<'a> {
    pub status: Span<'a>,
    pub command: Result<Command<'a>, Status>,
}

/// `None` when there is not even a byte for the status.
pub(super) fn parse(request: Request<'_>) -> Option<Parsed<'_>> {
    let at = request.writable.len().checked_sub(STATUS_BYTES)?;
    let (into, status) = request.writable.split_at(at)?;
    Some(Parsed {
        status,
        command: command(request.readable, into),
    })
}

fn command<'a>(readable: Span<'a>, into: Span<'a>) -> Result<Command<'a>, Status> {
    let mut header = [0; HEADER_BYTES];
    let (head, from) = readable.split_at(HEADER_BYTES).ok_or(Status::IoError)?;
    head.read(&mut header).map_err(|_| Status::IoError)?;
    let [t0, t1, t2, t3, _, _, _, _, sector @ ..] = header;
    let offset = || {
        u64::from_le_bytes(sector)
            .checked_mul(SECTOR_BYTES)
            .ok_or(Status::IoError)
    };

    match u32::from_le_bytes([t0, t1, t2, t3]) {
        T_IN => Ok(Command::Read {
            offset: offset()?,
            into: whole_sectors(into)?,
        }),
        T_OUT => Ok(Command::Write {
            offset: offset()?,
            from: whole_sectors(from)?,
        }),
        T_FLUSH => Ok(Command::Flush),
        T_GET_ID => {
            let (into, _) = into
                .split_at(into.len().min(ID_BYTES))
                .ok_or(Status::IoError)?;
            Ok(Command::Identify { into })
        }
        T_DISCARD => match range(from)? {
            (range, 0) => Ok(Command::Discard { range }),
            _ => Err(Status::Unsupported),
        },
        T_WRITE_ZEROES => match range(from)? {
            (range, flags @ (0 | FLAG_UNMAP)) => Ok(Command::WriteZeroes {
                range,
                unmap: flags == FLAG_UNMAP,
            }),
            _ => Err(Status::Unsupported),
        },
        _ => Err(Status::Unsupported),
    }
}

fn whole_sectors(data: Span<'_>) -> Result<Span<'_>, Status> {
    let whole = (data.len() as u64).is_multiple_of(SECTOR_BYTES);
    if whole && data.len() <= MAX_REQUEST_BYTES {
        Ok(data)
    } else {
        Err(Status::IoError)
    }
}

/// The one range of a discard or write-zeroes request, and its flags.
fn range(from: Span<'_>) -> Result<(Range<u64>, u32), Status> {
    let mut bytes = [0; RANGE_BYTES];
    // The configuration space allows one range in a request.
    if from.len() != RANGE_BYTES {
        return Err(Status::IoError);
    }
    from.read(&mut bytes).map_err(|_| Status::IoError)?;
    let [s0, s1, s2, s3, s4, s5, s6, s7, n0, n1, n2, n3, flags @ ..] = bytes;
    let sector = u64::from_le_bytes([s0, s1, s2, s3, s4, s5, s6, s7]);
    let sectors = u32::from_le_bytes([n0, n1, n2, n3]);
    if sectors > MAX_DISCARD_SECTORS {
        return Err(Status::IoError);
    }
    let start = sector.checked_mul(SECTOR_BYTES).ok_or(Status::IoError)?;
    let len = u64::from(sectors) * SECTOR_BYTES;
    let end = start.checked_add(len).ok_or(Status::IoError)?;
    Ok((start..end, u32::from_le_bytes(flags)))
}
