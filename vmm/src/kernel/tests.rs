// SPDX-License-Identifier: Apache-2.0
//! Both kinds of kernel, whole, cut, damaged and foreign.

use std::io::Write;

use linux_loader::loader::bootparam::XLF_KERNEL_64;
use proptest::prelude::*;
use vm_memory::{ByteValued, Bytes, GuestAddress};

use super::bzimage::{BOOT_FLAG, LOADED_HIGH, MAGIC};
use super::*;
use crate::layout;

const MEMORY: u64 = 64 << 20;
const SETUP_SECTORS: u8 = 1;
const BODY: &[u8] = &[0xab; 4096];

/// The smallest image that passes.
fn header() -> setup_header {
    setup_header {
        setup_sects: SETUP_SECTORS,
        syssize: u32::try_from(BODY.len() / 16).unwrap(),
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
            format!("the kernel is not an x86 bzImage or vmlinux but {expect}")
        );
    };
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

/// A vmlinux of one segment at 1 MiB: `BODY`, then as many zero bytes.
fn elf() -> Vec<u8> {
    let mut bytes = vec![0; 64 + 56];
    let mut put = |at: usize, field: &[u8]| bytes[at..at + field.len()].copy_from_slice(field);
    put(0, b"\x7fELF\x02\x01\x01");
    put(16, &[2, 0, 62, 0]); // executable, x86-64
    put(24, &0x10_0010u64.to_le_bytes()); // entry
    put(32, &64u64.to_le_bytes()); // program headers
    put(54, &[56, 0, 1, 0]); // their size and number
    put(64, &1u32.to_le_bytes()); // loaded
    put(64 + 8, &120u64.to_le_bytes()); // from here
    put(64 + 24, &0x10_0000u64.to_le_bytes()); // to here
    put(64 + 32, &(BODY.len() as u64).to_le_bytes());
    put(64 + 40, &(2 * BODY.len() as u64).to_le_bytes());
    bytes.extend_from_slice(BODY);
    bytes
}

#[test]
fn a_vmlinux_is_placed_where_it_says() {
    let (kernel, memory) = load(&elf());
    let kernel = kernel.unwrap();
    assert_eq!(kernel.entry, 0x10_0010);
    assert_eq!(kernel.end, 0x10_0000 + 2 * BODY.len() as u64);
    let mut loaded = vec![0; BODY.len()];
    memory
        .read_slice(&mut loaded, GuestAddress(0x10_0000))
        .unwrap();
    assert_eq!(loaded, BODY);
}

#[test]
fn a_vmlinux_cut_anywhere_is_told_from_a_whole_one() {
    let whole = elf();
    for length in [4, 63, 64, 119, 120, whole.len() - 1] {
        let text = refusal(&whole[..length]);
        assert!(
            text.starts_with("the kernel is cut off"),
            "{length}: {text}"
        );
    }
}

#[test]
fn a_damaged_vmlinux_is_named() {
    let refused = |at: usize, field: &[u8]| {
        let mut bytes = elf();
        bytes[at..at + field.len()].copy_from_slice(field);
        refusal(&bytes)
    };
    assert!(refused(18, &[40]).contains("without x86-64 code"));
    assert!(refused(16, &[3]).contains("without a fixed address"));
    assert!(refused(56, &[255, 255]).contains("a program header"));
    assert!(refused(24, &[0; 8]).contains("first instruction"));
    assert!(refused(32, &[255; 8]).contains("beyond all addresses"));
    assert!(refused(64 + 24, &[0; 8]).contains("boot parameters"));
    assert!(refused(64 + 24, &[255; 8]).contains("beyond all addresses"));
    assert!(refused(64 + 40, &[0, 0, 0, 0, 1]).contains("bytes of memory at start"));
}

proptest! {
    /// The file comes from the host, but not from this program.
    #[test]
    fn no_change_of_a_kernel_makes_the_loader_panic(
        vmlinux in any::<bool>(), at in 0usize..1200, value in any::<[u8; 8]>(),
    ) {
        let mut bytes = if vmlinux { elf() } else { file(header()) };
        for (byte, new) in bytes.iter_mut().skip(at).zip(value) {
            *byte = new;
        }
        let (result, _) = load(&bytes);
        prop_assert!(result.is_ok() || result.is_err());
    }
}
