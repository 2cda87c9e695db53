// SPDX-License-Identifier: Apache-2.0
//! Where everything is: guest-physical addresses, ports and interrupts, the same in every
//! machine of this version. A change here makes snapshots of older versions unusable.
//!
//! ```text
//!        0 .. 9fc00        low memory: zero page, page tables, command line
//!   a0000 .. 100000        no memory for Linux; ACPI tables at e0000
//!  100000 .. low end       memory, the kernel at 1000000, the initramfs at the end
//! c0000000 .. 100000000    the gap: virtio windows at d0000000, IOAPIC, local APICs, KVM's pages
//! 100000000 ..             the memory above 3 GiB
//! ```

use crate::config::Shape;

/// The boot parameters ("zero page"), one page.
pub const ZERO_PAGE: u64 = 0x7000;
/// Descriptors and page tables for the first instruction.
pub const BOOT_TABLES: u64 = 0x1_0000;
/// The kernel's command line.
pub const CMDLINE: u64 = 0x2_0000;
/// Room for it: what Linux accepts (`COMMAND_LINE_SIZE`), with the end mark.
pub const CMDLINE_MAX: usize = 2048;
/// Where low memory ends: the last KiB below 640 KiB belongs to firmware on every PC.
pub const LOW_MEMORY_END: u64 = 0x9_fc00;
/// The ACPI tables, in the range that PCs keep firmware in.
pub const ACPI: u64 = 0xe_0000;
/// Room for the ACPI tables.
pub const ACPI_MAX: u64 = 0x1_0000;
/// Where memory goes on after the firmware's range.
pub const HIGH_MEMORY: u64 = 0x10_0000;
/// Where the kernel is loaded: its preferred address, so that it does not have to move.
pub const KERNEL: u64 = 0x100_0000;

/// The gap in memory under 4 GiB.
pub const GAP: u64 = 0xc000_0000;
/// Where memory goes on above the gap.
pub const GAP_END: u64 = 0x1_0000_0000;

/// The first virtio register window; the others follow.
pub const VIRTIO: u64 = 0xd000_0000;
/// Distance and size of the virtio windows.
pub const VIRTIO_WINDOW: u64 = cube_virtio::MMIO_SIZE;
/// KVM's interrupt controllers, at the addresses that are fixed on PCs.
pub const IOAPIC: u32 = 0xfec0_0000;
/// See [`IOAPIC`].
pub const LOCAL_APIC: u32 = 0xfee0_0000;

/// The serial console, where PCs have their first.
pub const SERIAL_PORT: u16 = 0x3f8;
/// Ports of an 8250.
pub const SERIAL_PORTS: u16 = 8;
/// The serial console's interrupt.
pub const SERIAL_GSI: u32 = 4;
/// The first virtio interrupt; the others follow, up to the IOAPIC's 24.
pub const VIRTIO_GSI: u32 = 5;

/// ACPI's sleep control register; its sleep status register is the next port.
pub const SLEEP_PORT: u16 = 0x600;
/// ACPI's reset register.
pub const RESET_PORT: u16 = 0x604;
/// The command port of a PC's keyboard controller, the reset line of last resort.
pub const KEYBOARD_PORT: u16 = 0x64;

/// Ranges of guest memory (start, length), ascending.
pub fn memory(shape: Shape) -> Vec<(u64, u64)> {
    let bytes = shape.memory_bytes();
    if bytes <= GAP {
        vec![(0, bytes)]
    } else {
        vec![(0, GAP), (GAP_END, bytes - GAP)]
    }
}

/// Where the memory below the gap ends.
pub fn low_end(shape: Shape) -> u64 {
    shape.memory_bytes().min(GAP)
}

#[cfg(test)]
mod tests {
    use super::*;
    use cube_hv::LONG_MODE_BYTES;

    #[test]
    fn nothing_overlaps() {
        let mut taken = vec![
            ("zero page", ZERO_PAGE, 0x1000),
            ("boot tables", BOOT_TABLES, LONG_MODE_BYTES),
            ("command line", CMDLINE, CMDLINE_MAX as u64),
            ("acpi", ACPI, ACPI_MAX),
            ("kernel", KERNEL, 1),
            ("ioapic", u64::from(IOAPIC), 0x1000),
            ("local apic", u64::from(LOCAL_APIC), 0x1000),
        ];
        for device in 0..24 - u64::from(VIRTIO_GSI) {
            taken.push(("virtio", VIRTIO + device * VIRTIO_WINDOW, VIRTIO_WINDOW));
        }
        taken.sort_by_key(|(_, start, _)| *start);
        for pair in taken.windows(2) {
            assert!(pair[0].1 + pair[0].2 <= pair[1].1, "{pair:?}");
        }
    }

    #[test]
    fn boot_data_lies_in_low_memory_and_devices_in_the_gap() {
        const {
            assert!(CMDLINE + CMDLINE_MAX as u64 <= LOW_MEMORY_END);
            assert!(ACPI >= LOW_MEMORY_END && ACPI + ACPI_MAX <= HIGH_MEMORY);
            assert!(VIRTIO >= GAP && VIRTIO < GAP_END);
        }
    }

    #[test]
    fn memory_beyond_the_gap_continues_above_it() {
        let shape = |mib| Shape::new(1, mib).unwrap();
        assert_eq!(memory(shape(512)), [(0, 512 << 20)]);
        assert_eq!(memory(shape(3072)), [(0, GAP)]);
        assert_eq!(memory(shape(4096)), [(0, GAP), (GAP_END, 1 << 30)]);
        assert_eq!(low_end(shape(8192)), GAP);
    }
}
