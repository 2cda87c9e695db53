// SPDX-License-Identifier: Apache-2.0
//! A `vmlinux`: an ELF file whose segments name their physical addresses (System V ABI,
//! chapter 5). It has no header of the boot protocol, so this makes the one that a boot loader
//! would have left.

use cube_hv::GuestMemory;
use linux_loader::loader::bootparam::setup_header;

use super::bzimage::{BOOT_FLAG, LOADED_HIGH, MAGIC as HEADER_MAGIC, MIN_VERSION};
use super::{Kernel, KernelError, expect_length, expect_memory};
use crate::image::Image;
use crate::layout;

pub(super) const MAGIC: [u8; 4] = [0x7f, b'E', b'L', b'F'];

const HEADER_BYTES: usize = 64;
const SEGMENT_BYTES: usize = 56;
/// Linux has five.
const MAX_SEGMENTS: u16 = 32;

const CLASS_64_LITTLE_ENDIAN: [u8; 2] = [2, 1];
const TYPE_EXECUTABLE: u16 = 2;
const MACHINE_X86_64: u16 = 62;
const SEGMENT_LOAD: u32 = 1;

/// Linux finds an initramfs anywhere below this when its boot loader says nothing else.
const INITRAMFS_MAX: u32 = 0x7fff_ffff;

pub(super) fn load(
    image: &Image,
    memory: &GuestMemory,
    low_end: u64,
) -> Result<Kernel, KernelError> {
    let header = Header::read(image)?;
    let mut end = 0;
    let mut holds_entry = false;
    for index in 0..header.segments {
        let Some(segment) = Segment::read(image, &header, index)? else {
            continue;
        };
        expect_memory(segment.end, low_end)?;
        image.copy(segment.offset, segment.bytes, memory, segment.address)?;
        holds_entry |= (segment.address..segment.end).contains(&header.entry);
        end = segment.end.max(end);
    }
    if !holds_entry {
        return Err(KernelError::Damaged {
            what: "its first instruction is not in it",
        });
    }
    Ok(Kernel {
        header: boot_header(),
        entry: header.entry,
        end,
    })
}

fn boot_header() -> setup_header {
    setup_header {
        boot_flag: BOOT_FLAG,
        header: HEADER_MAGIC,
        version: MIN_VERSION,
        loadflags: LOADED_HIGH,
        initrd_addr_max: INITRAMFS_MAX,
        ..Default::default()
    }
}

struct Header {
    entry: u64,
    segments_at: u64,
    segments: u16,
}

impl Header {
    fn read(image: &Image) -> Result<Self, KernelError> {
        expect_length(image, HEADER_BYTES as u64)?;
        let mut bytes = [0; HEADER_BYTES];
        image.read(&mut bytes, 0)?;
        let field = Fields(&bytes);
        let missing = if bytes[4..6] != CLASS_64_LITTLE_ENDIAN || field.u16(18) != MACHINE_X86_64 {
            "x86-64 code"
        } else if field.u16(16) != TYPE_EXECUTABLE {
            "a fixed address (it is not an executable)"
        } else if usize::from(field.u16(54)) != SEGMENT_BYTES || field.u16(56) > MAX_SEGMENTS {
            "a program header that this loader knows"
        } else {
            return Ok(Self {
                entry: field.u64(24),
                segments_at: field.u64(32),
                segments: field.u16(56),
            });
        };
        Err(KernelError::Unsupported { missing })
    }
}

/// A part of the file that belongs into memory.
struct Segment {
    offset: u64,
    bytes: u64,
    address: u64,
    /// Where its memory ends; beyond `bytes` it is zero, as fresh memory is.
    end: u64,
}

impl Segment {
    fn read(image: &Image, header: &Header, index: u16) -> Result<Option<Self>, KernelError> {
        let overflow = KernelError::Damaged {
            what: "a segment lies beyond all addresses",
        };
        let place = header
            .segments_at
            .checked_add(u64::from(index) * SEGMENT_BYTES as u64);
        let Some((place, place_end)) =
            place.and_then(|at| Some((at, at.checked_add(SEGMENT_BYTES as u64)?)))
        else {
            return Err(overflow);
        };
        expect_length(image, place_end)?;
        let mut raw = [0; SEGMENT_BYTES];
        image.read(&mut raw, place)?;
        let field = Fields(&raw);
        if field.u32(0) != SEGMENT_LOAD {
            return Ok(None);
        }
        let (offset, address) = (field.u64(8), field.u64(24));
        let (bytes, memory) = (field.u64(32), field.u64(40));
        let (Some(file_end), Some(end)) = (
            offset.checked_add(bytes),
            address.checked_add(memory.max(bytes)),
        ) else {
            return Err(overflow);
        };
        expect_length(image, file_end)?;
        if address < layout::HIGH_MEMORY {
            return Err(KernelError::Damaged {
                what: "a segment lies where the boot parameters are",
            });
        }
        Ok(Some(Self {
            offset,
            bytes,
            address,
            end,
        }))
    }
}

/// Little-endian numbers at fixed places of a structure.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn u16(&self, at: usize) -> u16 {
        u16::from_le_bytes(self.bytes(at))
    }

    fn u32(&self, at: usize) -> u32 {
        u32::from_le_bytes(self.bytes(at))
    }

    fn u64(&self, at: usize) -> u64 {
        u64::from_le_bytes(self.bytes(at))
    }

    fn bytes<const N: usize>(&self, at: usize) -> [u8; N] {
        let bytes = self
            .0
            .get(at..at + N)
            .and_then(|bytes| bytes.try_into().ok());
        bytes.expect("the places are those of the structure")
    }
}
