// SPDX-License-Identifier: Apache-2.0
//! The smallest thing that the loader takes for a kernel.

const SETUP_SECTORS: u8 = 1;
const SETUP_BYTES: usize = (SETUP_SECTORS as usize + 1) * 512;
/// The 64-bit entry point lies so far behind the setup part.
const ENTRY: usize = 0x200;
const BODY_BYTES: u32 = 4096;

/// A bzImage whose 64-bit entry point is `code` (Documentation/arch/x86/boot.rst).
pub fn around(code: &[u8]) -> Vec<u8> {
    let mut image = vec![0; SETUP_BYTES + BODY_BYTES as usize];
    let mut put = |at: usize, bytes: &[u8]| image[at..at + bytes.len()].copy_from_slice(bytes);
    put(0x1f1, &[SETUP_SECTORS]);
    put(0x1f4, &(BODY_BYTES / 16).to_le_bytes()); // syssize
    put(0x1fe, &0xaa55u16.to_le_bytes());
    put(0x202, b"HdrS");
    put(0x206, &0x020fu16.to_le_bytes()); // version
    put(0x211, &[1]); // loadflags: loaded high
    put(0x22c, &0x7fff_ffffu32.to_le_bytes()); // initrd_addr_max
    put(0x234, &[1]); // relocatable
    put(0x236, &1u16.to_le_bytes()); // xloadflags: 64-bit entry
    put(0x260, &0x10_0000u32.to_le_bytes()); // init_size
    put(SETUP_BYTES + ENTRY, code);
    image
}
