// SPDX-License-Identifier: Apache-2.0
//! 64-bit mode without firmware: descriptor table, identity page tables, registers.
//!
//! It is the state that the 64-bit entry of the Linux boot protocol asks for
//! (Documentation/arch/x86/boot.rst, "64-bit Boot Protocol"): paging on with an identity map,
//! flat `__BOOT_CS` (0x10) and `__BOOT_DS` (0x18) loaded, interrupts off.

use kvm_bindings::{kvm_regs, kvm_segment, kvm_sregs};
use vm_memory::{Address, Bytes, GuestAddress, GuestMemoryError};

use crate::memory::GuestMemory;

/// Guest memory that [`LongMode::install`] fills: one page for the descriptors, one each for
/// the two upper page table levels, four for the first 4 GiB in 2 MiB pages.
pub const LONG_MODE_BYTES: u64 = 7 * PAGE;

const PAGE: u64 = 4096;
const MAPPED_GIB: u64 = 4;
const ENTRIES_PER_TABLE: u64 = 512;

const CODE_SELECTOR: u16 = 0x10;
const DATA_SELECTOR: u16 = 0x18;
/// Flat, present, ring 0 (Intel SDM vol. 3, section 3.4.5): 64-bit code, and writable data.
const CODE_DESCRIPTOR: u64 = 0x00af_9b00_0000_ffff;
const DATA_DESCRIPTOR: u64 = 0x00cf_9300_0000_ffff;

const PRESENT_WRITABLE: u64 = 0b11;
const LARGE_PAGE: u64 = 1 << 7;

const CR0_PE: u64 = 1;
const CR0_ET: u64 = 1 << 4;
const CR0_PG: u64 = 1 << 31;
const CR4_PAE: u64 = 1 << 5;
const EFER_LME: u64 = 1 << 8;
const EFER_LMA: u64 = 1 << 10;
/// Bit 1 of RFLAGS is always set; interrupts stay off.
const RFLAGS_AT_ENTRY: u64 = 1 << 1;

/// Tables for 64-bit mode at one place in guest memory.
#[derive(Clone, Copy, Debug)]
pub struct LongMode {
    base: GuestAddress,
}

impl LongMode {
    /// Writes the tables into [`LONG_MODE_BYTES`] bytes of guest memory from `base`, a page
    /// boundary below 4 GiB.
    pub fn install(memory: &GuestMemory, base: GuestAddress) -> Result<Self, GuestMemoryError> {
        let mode = Self { base };
        let write = |at: u64, value: u64| memory.write_obj(value, GuestAddress(at));
        let descriptors = base.raw_value();
        write(descriptors, 0)?;
        write(descriptors + u64::from(CODE_SELECTOR), CODE_DESCRIPTOR)?;
        write(descriptors + u64::from(DATA_SELECTOR), DATA_DESCRIPTOR)?;

        let (level4, level3, level2) = (mode.page(1), mode.page(2), mode.page(3));
        write(level4, level3 | PRESENT_WRITABLE)?;
        for gib in 0..MAPPED_GIB {
            write(level3 + gib * 8, (level2 + gib * PAGE) | PRESENT_WRITABLE)?;
        }
        for large in 0..MAPPED_GIB * ENTRIES_PER_TABLE {
            let target = large << 21;
            write(level2 + large * 8, target | PRESENT_WRITABLE | LARGE_PAGE)?;
        }
        Ok(mode)
    }

    fn page(self, number: u64) -> u64 {
        self.base.raw_value() + number * PAGE
    }

    pub(crate) fn set_segments(self, special: &mut kvm_sregs) {
        special.gdt.base = self.page(0);
        special.gdt.limit = DATA_SELECTOR + 7;
        special.idt.base = 0;
        special.idt.limit = 0;
        special.cs = segment(CODE_SELECTOR, CODE_DESCRIPTOR);
        let data = segment(DATA_SELECTOR, DATA_DESCRIPTOR);
        special.ds = data;
        special.es = data;
        special.fs = data;
        special.gs = data;
        special.ss = data;
        special.cr3 = self.page(1);
        special.cr4 = CR4_PAE;
        special.cr0 = CR0_PE | CR0_ET | CR0_PG;
        special.efer = EFER_LME | EFER_LMA;
    }

    pub(crate) fn registers(entry: GuestAddress, argument: u64) -> kvm_regs {
        kvm_regs {
            rip: entry.raw_value(),
            rsi: argument,
            rflags: RFLAGS_AT_ENTRY,
            ..Default::default()
        }
    }
}

/// The hidden part of a segment register, as loading this flat descriptor would set it.
fn segment(selector: u16, descriptor: u64) -> kvm_segment {
    let bit = |at: u32| u8::from(descriptor >> at & 1 == 1);
    kvm_segment {
        selector,
        base: 0,
        limit: u32::MAX,
        type_: (descriptor >> 40 & 0xf) as u8,
        s: bit(44),
        dpl: 0,
        present: bit(47),
        avl: 0,
        l: bit(53),
        db: bit(54),
        g: bit(55),
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory;

    #[test]
    fn the_last_large_page_maps_the_end_of_four_gib() {
        let guest = memory::allocate(&[(0, 0x10_0000)]).unwrap();
        LongMode::install(&guest, GuestAddress(0x9000)).unwrap();
        let last = 0x9000 + LONG_MODE_BYTES - 8;
        let entry: u64 = guest.read_obj(GuestAddress(last)).unwrap();
        assert_eq!(entry, 0xffe0_0000 | PRESENT_WRITABLE | LARGE_PAGE);
    }

    #[test]
    fn segments_are_64_bit_code_and_flat_data() {
        let code = segment(CODE_SELECTOR, CODE_DESCRIPTOR);
        assert_eq!((code.type_, code.l, code.db, code.g), (0xb, 1, 0, 1));
        let data = segment(DATA_SELECTOR, DATA_DESCRIPTOR);
        assert_eq!((data.type_, data.l, data.db, data.present), (3, 0, 1, 1));
    }
}
