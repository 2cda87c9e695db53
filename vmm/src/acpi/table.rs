// SPDX-License-Identifier: Apache-2.0
//! What all ACPI tables share, and the root tables.

/// Bytes of the header that every table but the RSDP starts with (section 5.2.6).
pub(super) const HEADER_BYTES: usize = 36;

const OEM_ID: &[u8; 6] = b"CUBE  ";
const OEM_TABLE_ID: &[u8; 8] = b"CUBEVM  ";
const CREATOR_ID: &[u8; 4] = b"CUBE";
const OEM_REVISION: u32 = 1;
const CREATOR_REVISION: u32 = 1;

/// A whole table from its signature, revision and body.
pub(super) fn table(signature: &[u8; 4], revision: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(HEADER_BYTES + body.len()).expect("our tables have a few KiB");
    let mut table = Vec::with_capacity(HEADER_BYTES + body.len());
    table.extend_from_slice(signature);
    table.extend_from_slice(&length.to_le_bytes());
    table.push(revision);
    table.push(0); // the checksum, below
    table.extend_from_slice(OEM_ID);
    table.extend_from_slice(OEM_TABLE_ID);
    table.extend_from_slice(&OEM_REVISION.to_le_bytes());
    table.extend_from_slice(CREATOR_ID);
    table.extend_from_slice(&CREATOR_REVISION.to_le_bytes());
    table.extend_from_slice(body);
    table[9] = checksum(&table);
    table
}

/// The byte that makes the sum of all bytes zero.
fn checksum(bytes: &[u8]) -> u8 {
    let sum = bytes.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte));
    sum.wrapping_neg()
}

/// The list of the other tables (section 5.2.8).
pub(super) fn xsdt(tables: &[u64]) -> Vec<u8> {
    let body: Vec<u8> = tables.iter().flat_map(|at| at.to_le_bytes()).collect();
    table(b"XSDT", 1, &body)
}

/// The root pointer (section 5.2.5.3).
pub(super) fn rsdp(xsdt: u64) -> Vec<u8> {
    const REVISION: u8 = 2;
    const LENGTH: u32 = 36;
    let mut pointer = Vec::with_capacity(LENGTH as usize);
    pointer.extend_from_slice(b"RSD PTR ");
    pointer.push(0); // the checksum of the first 20 bytes, below
    pointer.extend_from_slice(OEM_ID);
    pointer.push(REVISION);
    pointer.extend_from_slice(&0u32.to_le_bytes()); // no 32-bit root table
    pointer.extend_from_slice(&LENGTH.to_le_bytes());
    pointer.extend_from_slice(&xsdt.to_le_bytes());
    pointer.extend_from_slice(&[0; 4]); // the checksum of everything, below; reserved
    pointer[8] = checksum(&pointer[..20]);
    pointer[32] = checksum(&pointer);
    pointer
}
