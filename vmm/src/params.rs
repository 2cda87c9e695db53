// SPDX-License-Identifier: Apache-2.0
//! What the kernel is told at its start: the boot parameters ("zero page"), with the memory
//! map, the initramfs and the command line.
//!
//! Documentation/arch/x86/boot.rst and zero-page.rst.

use cube_hv::GuestMemory;
use linux_loader::loader::bootparam::{boot_e820_entry, boot_params, setup_header};
use thiserror::Error;
use vm_memory::{Bytes, GuestAddress, GuestMemoryError};

use crate::config::Shape;
use crate::image::{Image, ImageError};
use crate::kernel::Kernel;
use crate::layout;

/// Before the runtime's own words. The guest has one console and no PCI. Nothing but errors
/// belongs on a console where every byte costs two exits. A panic must end the machine at
/// once, through ACPI's reset register: on reduced hardware Linux would try EFI, which is not
/// there, and then jump into a BIOS, which is not there either (`reboot_init`). The kernel's
/// tests of its own ciphers, a seventh of the boot, find the same in every machine. An idle machine
/// sleeps: no watchdog of a clock that is not used (twice a second), no averages of stalls (`psi`,
/// every two seconds); both wake it and dirty memory in each clone. Nor does it zero what it is about
/// to overwrite (`init_on_alloc`, on in Debian): each zeroed page is one more copy in each clone.
const BASE_CMDLINE: &str = "console=ttyS0 quiet panic=-1 reboot=acpi pci=off \
    clocksource=kvm-clock tsc=nowatchdog psi=0 init_on_alloc=0 \
    8250.nr_uarts=1 cryptomgr.notests=1";

/// Why the kernel could not be told.
#[derive(Debug, Error)]
pub enum ParamsError {
    /// The initramfs cannot be read or placed.
    #[error("the initramfs cannot be loaded")]
    Initramfs(#[from] ImageError),
    /// Kernel and initramfs do not fit together.
    #[error(
        "the initramfs of {bytes} bytes does not fit into the machine's memory beside the kernel, \
         which leaves {room}"
    )]
    NoRoom {
        /// Its size.
        bytes: u64,
        /// What the kernel leaves.
        room: u64,
    },
    /// The command line is longer than the kernel reads.
    #[error("the kernel command line has {bytes} bytes, the kernel reads {max}")]
    Cmdline {
        /// Its length.
        bytes: usize,
        /// What fits.
        max: usize,
    },
    /// Guest memory refused.
    #[error("the boot parameters cannot be written into the guest's memory")]
    Write(#[from] GuestMemoryError),
}

/// Where the initramfs lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Placed {
    start: u32,
    bytes: u32,
}

/// Copies the initramfs to the end of the memory that the kernel can find it in.
pub(crate) fn place_initramfs(
    image: &Image,
    kernel: &Kernel,
    shape: Shape,
    memory: &GuestMemory,
) -> Result<Placed, ParamsError> {
    const PAGE: u64 = 4096;
    let bytes = image.length();
    let end = layout::low_end(shape).min(u64::from(kernel.header.initrd_addr_max) + 1);
    let room = end.saturating_sub(kernel.end);
    let no_room = ParamsError::NoRoom { bytes, room };
    let start = match end.checked_sub(bytes) {
        Some(start) if start - start % PAGE >= kernel.end => start - start % PAGE,
        _ => return Err(no_room),
    };
    image.copy(0, bytes, memory, start)?;
    match (u32::try_from(start), u32::try_from(bytes)) {
        (Ok(start), Ok(bytes)) => Ok(Placed { start, bytes }),
        _ => Err(no_room),
    }
}

/// The kernel's whole command line.
pub(crate) fn cmdline(extra: &str) -> Result<String, ParamsError> {
    let line = match extra.trim() {
        "" => BASE_CMDLINE.to_owned(),
        extra => format!("{BASE_CMDLINE} {extra}"),
    };
    let max = layout::CMDLINE_MAX - 1;
    if line.len() > max {
        return Err(ParamsError::Cmdline {
            bytes: line.len(),
            max,
        });
    }
    Ok(line)
}

/// Writes the command line and the boot parameters; `rsdp` is where the ACPI tables begin.
pub(crate) fn write(
    memory: &GuestMemory,
    shape: Shape,
    kernel: &Kernel,
    initramfs: Placed,
    cmdline: &str,
    rsdp: u64,
) -> Result<(), ParamsError> {
    memory.write_slice(cmdline.as_bytes(), GuestAddress(layout::CMDLINE))?;
    memory.write_obj(0u8, GuestAddress(layout::CMDLINE + cmdline.len() as u64))?;

    let map = memory_map(shape);
    let mut params = boot_params {
        hdr: header(&kernel.header, initramfs),
        acpi_rsdp_addr: rsdp,
        ..Default::default()
    };
    params.e820_entries = u8::try_from(map.len()).expect("a handful of ranges");
    for (slot, (addr, size, kind)) in params.e820_table.iter_mut().zip(map) {
        *slot = boot_e820_entry {
            addr,
            size,
            r#type: kind,
        };
    }
    memory.write_obj(params, GuestAddress(layout::ZERO_PAGE))?;
    Ok(())
}

fn header(of_kernel: &setup_header, initramfs: Placed) -> setup_header {
    /// A boot loader that has no number of its own.
    const UNKNOWN_LOADER: u8 = 0xff;
    setup_header {
        type_of_loader: UNKNOWN_LOADER,
        cmd_line_ptr: u32::try_from(layout::CMDLINE).expect("low memory"),
        ramdisk_image: initramfs.start,
        ramdisk_size: initramfs.bytes,
        ..*of_kernel
    }
}

/// Start, length and kind of each range. What is not named is not memory.
fn memory_map(shape: Shape) -> Vec<(u64, u64, u32)> {
    const RAM: u32 = 1;
    const ACPI_TABLES: u32 = 3;
    let mut map = vec![
        (0, layout::LOW_MEMORY_END, RAM),
        (layout::ACPI, layout::ACPI_MAX, ACPI_TABLES),
    ];
    for (start, bytes) in layout::memory(shape) {
        let from = start.max(layout::HIGH_MEMORY);
        map.push((from, start + bytes - from, RAM));
    }
    map
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kernel() -> Kernel {
        Kernel {
            header: setup_header {
                initrd_addr_max: 0x7fff_ffff,
                ..Default::default()
            },
            entry: 0x100_0200,
            end: 0x400_0000,
        }
    }

    fn initramfs(bytes: u64) -> Image {
        let file = tempfile::tempfile().unwrap();
        file.set_len(bytes).unwrap();
        Image::new(file.into()).unwrap()
    }

    fn shape(mib: u32) -> Shape {
        Shape::new(1, mib).unwrap()
    }

    #[test]
    fn the_memory_map_names_all_memory_once() {
        for mib in [128, 2048, 3072, 3073, 8192] {
            let map = memory_map(shape(mib));
            for pair in map.windows(2) {
                assert!(pair[0].0 + pair[0].1 <= pair[1].0, "{pair:?}");
            }
            let ram: u64 = map
                .iter()
                .filter(|range| range.2 == 1)
                .map(|range| range.1)
                .sum();
            let firmware = layout::HIGH_MEMORY - layout::LOW_MEMORY_END;
            assert_eq!(ram, (u64::from(mib) << 20) - firmware);
        }
    }

    #[test]
    fn the_initramfs_ends_the_memory_the_kernel_can_see() {
        let memory = cube_hv::memory::allocate(&layout::memory(shape(4096))).unwrap();
        let placed =
            |mib| place_initramfs(&initramfs(5000), &kernel(), shape(mib), &memory).unwrap();
        assert_eq!(placed(128).start, (128 << 20) - 8192);
        assert_eq!(placed(4096).start, 0x8000_0000 - 8192);
    }

    #[test]
    fn an_initramfs_that_would_meet_the_kernel_is_refused() {
        let memory = cube_hv::memory::allocate(&layout::memory(shape(128))).unwrap();
        let refused = place_initramfs(&initramfs(65 << 20), &kernel(), shape(128), &memory);
        assert!(matches!(
            refused,
            Err(ParamsError::NoRoom { room, .. }) if room == 64 << 20
        ));
    }

    #[test]
    fn the_longest_extra_words_fit_the_command_line() {
        let line = cmdline(&"x".repeat(crate::config::MAX_EXTRA_CMDLINE)).unwrap();
        assert!(line.len() < layout::CMDLINE_MAX);
        assert_eq!(cmdline(" ").unwrap(), BASE_CMDLINE);
    }
}
