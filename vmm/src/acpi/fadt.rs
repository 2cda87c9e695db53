// SPDX-License-Identifier: Apache-2.0
//! The fixed ACPI description table (section 5.2.9).

use super::table::{HEADER_BYTES, table};
use crate::layout::{RESET_PORT, SLEEP_PORT};

/// `SLP_TYP` of the off state, as the DSDT's `_S5` names it.
pub(crate) const POWER_OFF: u8 = 5;

const REVISION: u8 = 6;
const MINOR_REVISION: u8 = 5;
const LENGTH: usize = 276;

const BOOT_ARCH: usize = 109;
/// No VGA, no CMOS clock; and, by its absence, no keyboard controller to probe.
const NO_VGA: u16 = 1 << 2;
const NO_CMOS_CLOCK: u16 = 1 << 5;

const FLAGS: usize = 112;
const WBINVD_WORKS: u32 = 1 << 0;
const NO_FIXED_POWER_BUTTON: u32 = 1 << 4;
const NO_FIXED_SLEEP_BUTTON: u32 = 1 << 5;
const HAS_RESET_REGISTER: u32 = 1 << 10;
const REDUCED_HARDWARE: u32 = 1 << 20;

const RESET_REGISTER: usize = 116;
const RESET_VALUE: usize = 128;
const MINOR: usize = 131;
const DSDT: usize = 140;
const SLEEP_CONTROL_REGISTER: usize = 244;
const SLEEP_STATUS_REGISTER: usize = 256;

/// The table for a machine whose DSDT is at this address.
pub(super) fn fadt(dsdt: u64) -> Vec<u8> {
    let mut body = [0; LENGTH - HEADER_BYTES];
    let mut put = |at: usize, bytes: &[u8]| {
        let start = at - HEADER_BYTES;
        body[start..start + bytes.len()].copy_from_slice(bytes);
    };
    put(BOOT_ARCH, &(NO_VGA | NO_CMOS_CLOCK).to_le_bytes());
    let flags = WBINVD_WORKS
        | NO_FIXED_POWER_BUTTON
        | NO_FIXED_SLEEP_BUTTON
        | HAS_RESET_REGISTER
        | REDUCED_HARDWARE;
    put(FLAGS, &flags.to_le_bytes());
    put(RESET_REGISTER, &byte_port(RESET_PORT));
    put(RESET_VALUE, &[crate::power::RESET_VALUE]);
    put(MINOR, &[MINOR_REVISION]);
    put(DSDT, &dsdt.to_le_bytes());
    put(SLEEP_CONTROL_REGISTER, &byte_port(SLEEP_PORT));
    put(SLEEP_STATUS_REGISTER, &byte_port(SLEEP_PORT + 1));
    table(b"FACP", REVISION, &body)
}

/// A generic address structure (section 5.2.3.2) for a port of one byte.
fn byte_port(port: u16) -> [u8; 12] {
    const SYSTEM_IO: u8 = 1;
    const BITS: u8 = 8;
    const BYTE_ACCESS: u8 = 1;
    let mut address = [0; 12];
    address[..4].copy_from_slice(&[SYSTEM_IO, BITS, 0, BYTE_ACCESS]);
    address[4..].copy_from_slice(&u64::from(port).to_le_bytes());
    address
}
