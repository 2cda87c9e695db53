// SPDX-License-Identifier: Apache-2.0
//! The ACPI tables of the machine: how a stock kernel finds its processors, interrupt
//! controllers, devices and the off switch. Reduced hardware: there is no legacy PC behind it.
//!
//! Written once before the first instruction and never touched again. Section numbers in this
//! module are those of the ACPI specification 6.5.
//!
//! | file | what |
//! |---|---|
//! | `table` | the header and checksum that all tables share, and the two root tables |
//! | `fadt` | fixed features: reset, power off, what a PC has and this machine has not |
//! | `madt` | processors and interrupt controllers |
//! | `dsdt` | devices |
//! | `aml` | the byte code that `dsdt` is written in |

mod aml;
mod dsdt;
mod fadt;
mod madt;
mod table;

pub(crate) use dsdt::Window;
pub(crate) use fadt::POWER_OFF;

/// All tables as one block for the address `at`, and the address of its root pointer (RSDP).
pub(crate) fn tables(at: u64, vcpus: u8, windows: &[Window]) -> (Vec<u8>, u64) {
    let mut block = Block {
        at,
        bytes: Vec::new(),
    };
    let dsdt = block.place(&dsdt::dsdt(windows));
    let fadt = block.place(&fadt::fadt(dsdt));
    let madt = block.place(&madt::madt(vcpus));
    let xsdt = block.place(&table::xsdt(&[fadt, madt]));
    let rsdp = block.place(&table::rsdp(xsdt));
    (block.bytes, rsdp)
}

struct Block {
    at: u64,
    bytes: Vec<u8>,
}

impl Block {
    /// Appends a table and gives its address. Section 5.2.5.1: the RSDP lies on 16 bytes.
    fn place(&mut self, table: &[u8]) -> u64 {
        self.bytes.resize(self.bytes.len().next_multiple_of(16), 0);
        let address = self.at + self.bytes.len() as u64;
        self.bytes.extend_from_slice(table);
        address
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout;

    fn machine(vcpus: u8) -> (Vec<u8>, u64) {
        let windows: Vec<_> = (0..14).map(Window::virtio).collect();
        tables(layout::ACPI, vcpus, &windows)
    }

    fn u32_at(bytes: &[u8], at: usize) -> u32 {
        u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
    }

    fn u64_at(bytes: &[u8], at: usize) -> u64 {
        u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
    }

    /// The table at a guest address, after checking its length and sum.
    fn table(block: &[u8], address: u64) -> &[u8] {
        let start = usize::try_from(address - layout::ACPI).unwrap();
        let length = u32_at(block, start + 4) as usize;
        let table = &block[start..start + length];
        assert_eq!(
            table.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte)),
            0
        );
        table
    }

    #[test]
    fn the_root_leads_to_every_table_and_all_sums_are_zero() {
        for vcpus in 1..=8 {
            let (block, rsdp) = machine(vcpus);
            let start = usize::try_from(rsdp - layout::ACPI).unwrap();
            let root = &block[start..start + 36];
            assert_eq!(&root[..8], b"RSD PTR ");
            for part in [&root[..20], root] {
                assert_eq!(
                    part.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte)),
                    0
                );
            }
            let xsdt = table(&block, u64_at(root, 24));
            let entries: Vec<_> = xsdt[36..].chunks(8).map(|entry| u64_at(entry, 0)).collect();
            let names: Vec<_> = entries.iter().map(|at| &table(&block, *at)[..4]).collect();
            assert_eq!(names, [b"FACP", b"APIC"]);
            let fadt = table(&block, entries[0]);
            assert_eq!(&table(&block, u64_at(fadt, 140))[..4], b"DSDT");
        }
    }

    #[test]
    fn the_tables_fit_their_place() {
        assert!(machine(8).0.len() as u64 <= layout::ACPI_MAX);
    }
}
