// SPDX-License-Identifier: Apache-2.0
//! The guest's kernel: an x86-64 `bzImage`, as distributions ship it under `/boot`.
//!
//! Follows Documentation/arch/x86/boot.rst, "64-bit Boot Protocol". Everything that the boot
//! depends on is checked first, so that a wrong or cut file is an error with a name and not a
//! guest that does nothing.

use cube_hv::GuestMemory;
use linux_loader::loader::bootparam::{XLF_KERNEL_64, setup_header};
use thiserror::Error;
use vm_memory::ByteValued;

use crate::image::{Image, ImageError};
use crate::layout;

/// Why a file is not a kernel that can be booted here.
#[derive(Debug, Error)]
pub enum KernelError {
    /// The file cannot be read.
    #[error("the kernel cannot be read")]
    Image(#[from] ImageError),
    /// The file ends too early.
    #[error("the kernel is cut off: it has {found} bytes of {expected}")]
    Truncated {
        /// Bytes in the file.
        found: u64,
        /// Bytes its header speaks of.
        expected: u64,
    },
    /// The file is something else.
    #[error("the kernel is not an x86 bzImage but {found}")]
    Foreign {
        /// What it seems to be.
        found: &'static str,
    },
    /// The kernel lacks what this loader needs.
    #[error("the kernel is too old or built without {missing}")]
    Unsupported {
        /// What is missing.
        missing: &'static str,
    },
    /// It does not fit.
    #[error("the kernel needs {needed} bytes of memory at start, the machine has {have}")]
    TooLarge {
        /// What the kernel needs, with everything below it.
        needed: u64,
        /// What is there.
        have: u64,
    },
}

/// A kernel in guest memory.
#[derive(Debug)]
pub(crate) struct Kernel {
    /// Its own header, which becomes part of the boot parameters.
    pub header: setup_header,
    /// Guest-physical address of the first instruction, in 64-bit mode.
    pub entry: u64,
    /// The first address that is not the kernel's while it unpacks itself.
    pub end: u64,
}

const HEADER_OFFSET: u64 = 0x1f1;
const MAGIC: u32 = 0x5372_6448; // "HdrS"
const BOOT_FLAG: u16 = 0xaa55;
/// The first version with `xloadflags`.
const MIN_VERSION: u16 = 0x020c;
const LOADED_HIGH: u8 = 1;
const SECTOR: u64 = 512;
/// `setup_sects` of kernels that leave it zero.
const DEFAULT_SETUP_SECTORS: u8 = 4;
/// `syssize` counts in these units.
const PARAGRAPH: u64 = 16;
/// The 64-bit entry lies so far into the loaded part.
const ENTRY_OFFSET: u64 = 0x200;

impl Kernel {
    /// Checks the image and copies it to [`layout::KERNEL`]; `low_end` is where the guest's
    /// memory below 4 GiB ends.
    pub fn load(image: &Image, memory: &GuestMemory, low_end: u64) -> Result<Self, KernelError> {
        let header = read_header(image)?;
        check(&header)?;
        let setup = match header.setup_sects {
            0 => DEFAULT_SETUP_SECTORS,
            sectors => sectors,
        };
        let loaded_from = (u64::from(setup) + 1) * SECTOR;
        let expected = loaded_from + u64::from(header.syssize) * PARAGRAPH;
        let found = image.length();
        if found < expected {
            return Err(KernelError::Truncated { found, expected });
        }
        let end = layout::KERNEL + u64::from(header.init_size).max(found - loaded_from);
        if end > low_end {
            return Err(KernelError::TooLarge {
                needed: end,
                have: low_end,
            });
        }
        image.copy_from(loaded_from, memory, layout::KERNEL)?;
        Ok(Self {
            header,
            entry: layout::KERNEL + ENTRY_OFFSET,
            end,
        })
    }
}

fn read_header(image: &Image) -> Result<setup_header, KernelError> {
    let expected = HEADER_OFFSET + size_of::<setup_header>() as u64;
    let found = image.length();
    if found < expected {
        return Err(KernelError::Truncated { found, expected });
    }
    let mut start = [0; 4];
    image.read(&mut start, 0)?;
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

/// What people mistake for a bzImage, by its first bytes.
fn kind(start: [u8; 4]) -> &'static str {
    match start {
        [0x7f, b'E', b'L', b'F'] => "an ELF file (a vmlinux?)",
        [0x1f, 0x8b, ..] => "a gzip file",
        [0x28, 0xb5, 0x2f, 0xfd] => "a zstd file",
        [b'M', b'Z', ..] => "a program for EFI or Windows, or a kernel for another processor",
        [b'0', b'7', b'0', b'7'] => "a cpio archive (an initramfs?)",
        _ => "something unknown",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use vm_memory::{Bytes, GuestAddress};

    const MEMORY: u64 = 64 << 20;
    const SETUP_SECTORS: u8 = 1;
    const BODY: &[u8] = &[0xab; 4096];

    /// The smallest image that passes.
    fn header() -> setup_header {
        setup_header {
            setup_sects: SETUP_SECTORS,
            syssize: u32::try_from(BODY.len() as u64 / PARAGRAPH).unwrap(),
            boot_flag: BOOT_FLAG,
            header: MAGIC,
            version: 0x020f,
            loadflags: LOADED_HIGH,
            relocatable_kernel: 1,
            xloadflags: XLF_KERNEL_64,
            init_size: 1 << 20,
            ..Default::default()
        }
    }

    fn file(header: setup_header) -> Vec<u8> {
        let mut bytes = vec![0; (usize::from(SETUP_SECTORS) + 1) * 512];
        bytes[0x1f1..0x1f1 + size_of::<setup_header>()].copy_from_slice(header.as_slice());
        bytes.extend_from_slice(BODY);
        bytes
    }

    fn load(bytes: &[u8]) -> (Result<Kernel, KernelError>, GuestMemory) {
        let mut image = tempfile::tempfile().unwrap();
        image.write_all(bytes).unwrap();
        let memory = cube_hv::memory::allocate(&[(0, MEMORY)]).unwrap();
        let image = Image::new(image.into()).unwrap();
        (Kernel::load(&image, &memory, MEMORY), memory)
    }

    fn refusal(bytes: &[u8]) -> String {
        load(bytes).0.unwrap_err().to_string()
    }

    #[test]
    fn a_kernel_is_placed_whole_behind_its_setup_part() {
        let (kernel, memory) = load(&file(header()));
        let kernel = kernel.unwrap();
        assert_eq!(kernel.entry, 0x100_0200);
        assert_eq!(kernel.end, 0x100_0000 + (1 << 20));
        let mut loaded = vec![0; BODY.len()];
        memory
            .read_slice(&mut loaded, GuestAddress(layout::KERNEL))
            .unwrap();
        assert_eq!(loaded, BODY);
    }

    #[test]
    fn a_kernel_cut_anywhere_is_told_from_a_whole_one() {
        let whole = file(header());
        for length in [0, 100, 0x1f1, 0x26b, 600, 1024, whole.len() - 1] {
            let text = refusal(&whole[..length]);
            assert!(
                text.starts_with("the kernel is cut off"),
                "{length}: {text}"
            );
        }
    }

    #[test]
    fn other_files_are_named() {
        let check = |start: &[u8], expect: &str| {
            let mut bytes = vec![0; 4096];
            bytes[..start.len()].copy_from_slice(start);
            assert_eq!(
                refusal(&bytes),
                format!("the kernel is not an x86 bzImage but {expect}")
            );
        };
        check(b"\x7fELF", "an ELF file (a vmlinux?)");
        check(b"\x1f\x8b\x08", "a gzip file");
        check(b"070701", "a cpio archive (an initramfs?)");
        check(b"", "something unknown");
    }

    #[test]
    fn what_the_loader_needs_is_named() {
        let refused = |change: fn(&mut setup_header)| {
            let mut bad = header();
            change(&mut bad);
            refusal(&file(bad))
        };
        assert!(refused(|h| h.version = 0x020b).contains("boot protocol 2.12"));
        assert!(refused(|h| h.xloadflags = 0).contains("64-bit entry"));
        assert!(refused(|h| h.init_size = u32::MAX).contains("of memory at start"));
    }
}
