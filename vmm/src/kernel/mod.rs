// SPDX-License-Identifier: Apache-2.0
//! The guest's kernel: an x86-64 `bzImage`, as distributions ship it under `/boot`, or the
//! `vmlinux` inside it.
//!
//! Both are entered by the Linux 64-bit boot protocol (Documentation/arch/x86/boot.rst). The
//! compressed one unpacks itself in the guest and places itself at random; the other is where
//! it has to be when it is loaded, and leaves 20 MiB of guest memory untouched. Everything
//! that the boot depends on is checked first, so that a wrong or cut file is an error with a
//! name and not a guest that does nothing.

mod bzimage;
mod elf;
#[cfg(test)]
mod tests;

use cube_hv::GuestMemory;
use linux_loader::loader::bootparam::setup_header;
use thiserror::Error;

use crate::image::{Image, ImageError};

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
    #[error("the kernel is not an x86 bzImage or vmlinux but {found}")]
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
    /// The file contradicts itself.
    #[error("the kernel is damaged: {what}")]
    Damaged {
        /// What is wrong.
        what: &'static str,
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
    /// Its header, which becomes part of the boot parameters.
    pub header: setup_header,
    /// Guest-physical address of the first instruction, in 64-bit mode.
    pub entry: u64,
    /// The first address that is not the kernel's while it starts.
    pub end: u64,
}

impl Kernel {
    /// Checks the image and puts it into memory; `low_end` is where the guest's memory below
    /// 4 GiB ends.
    pub fn load(image: &Image, memory: &GuestMemory, low_end: u64) -> Result<Self, KernelError> {
        let mut start = [0; 4];
        expect_length(image, start.len() as u64)?;
        image.read(&mut start, 0)?;
        if start == elf::MAGIC {
            elf::load(image, memory, low_end)
        } else {
            bzimage::load(image, memory, low_end, start)
        }
    }
}

fn expect_length(image: &Image, expected: u64) -> Result<(), KernelError> {
    let found = image.length();
    if found < expected {
        return Err(KernelError::Truncated { found, expected });
    }
    Ok(())
}

fn expect_memory(needed: u64, have: u64) -> Result<(), KernelError> {
    if needed > have {
        return Err(KernelError::TooLarge { needed, have });
    }
    Ok(())
}
