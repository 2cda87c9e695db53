// SPDX-License-Identifier: Apache-2.0
//! A `bzImage`: a setup part for firmware that this machine has not, then the program that
//! unpacks the kernel. Its 64-bit entry point is entered at [`layout::KERNEL`].

use cube_hv::GuestMemory;
use linux_loader::loader::bootparam::{XLF_KERNEL_64, setup_header};
use vm_memory::ByteValued;

use super::{Kernel, KernelError, expect_length, expect_memory};
use crate::image::Image;
use crate::layout;

const HEADER_OFFSET: u64 = 0x1f1;
pub(super) const MAGIC: u32 = 0x5372_6448; // "HdrS"
pub(super) const BOOT_FLAG: u16 = 0xaa55;
/// The first version with `xloadflags`.
pub(super) const MIN_VERSION: u16 = 0x020c;
pub(super) const LOADED_HIGH: u8 = 1;
const SECTOR: u64 = 512;
/// `setup_sects` of kernels that leave it zero.
const DEFAULT_SETUP_SECTORS: u8 = 4;
/// `syssize` counts in these units.
const PARAGRAPH: u64 = 16;
/// The 64-bit entry lies so far into the loaded part.
const ENTRY_OFFSET: u64 = 0x200;

pub(super) fn load(
    image: &Image,
    memory: &GuestMemory,
    low_end: u64,
    start: [u8; 4],
) -> Result<Kernel, KernelError> {
    let header = read_header(image, start)?;
    check(&header)?;
    let setup = match header.setup_sects {
        0 => DEFAULT_SETUP_SECTORS,
        sectors => sectors,
    };
    let loaded_from = (u64::from(setup) + 1) * SECTOR;
    expect_length(image, loaded_from + u64::from(header.syssize) * PARAGRAPH)?;
    // Distributions append a signature; it is loaded too, and unpacked over.
    let loaded = image.length() - loaded_from;
    let end = layout::KERNEL + u64::from(header.init_size).max(loaded);
    expect_memory(end, low_end)?;
    image.copy(loaded_from, loaded, memory, layout::KERNEL)?;
    Ok(Kernel {
        header,
        entry: layout::KERNEL + ENTRY_OFFSET,
        end,
    })
}

fn read_header(image: &Image, start: [u8; 4]) -> Result<setup_header, KernelError> {
    expect_length(image, HEADER_OFFSET + size_of::<setup_header>() as u64)?;
    let mut header = setup_header::default();
    image.read(header.as_mut_slice(), HEADER_OFFSET)?;
    if header.header != MAGIC || header.boot_flag != BOOT_FLAG {
        return Err(KernelError::Foreign { found: kind(start) });
    }
    Ok(header)
}

fn check(header: &setup_header) -> Result<(), KernelError> {
    let missing = if header.version < MIN_VERSION {
        "boot protocol 2.12"
    } else if header.loadflags & LOADED_HIGH == 0 {
        "a high load address"
    } else if header.xloadflags & XLF_KERNEL_64 == 0 {
        "a 64-bit entry point"
    } else if header.relocatable_kernel == 0 && header.pref_address != layout::KERNEL {
        "the ability to be relocated"
    } else {
        return Ok(());
    };
    Err(KernelError::Unsupported { missing })
}

/// What people mistake for a kernel, by its first bytes.
fn kind(start: [u8; 4]) -> &'static str {
    match start {
        [0x1f, 0x8b, ..] => "a gzip file",
        [0x28, 0xb5, 0x2f, 0xfd] => "a zstd file",
        [b'M', b'Z', ..] => "a program for EFI or Windows, or a kernel for another processor",
        [b'0', b'7', b'0', b'7'] => "a cpio archive (an initramfs?)",
        _ => "something unknown",
    }
}
