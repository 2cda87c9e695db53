// SPDX-License-Identifier: Apache-2.0
//! Processors and interrupt controllers: the multiple APIC description table (section 5.2.12).

use super::table::table;
use crate::layout::{IOAPIC, LOCAL_APIC};

const REVISION: u8 = 5;
/// Beyond the ids of all processors a machine can have.
const IOAPIC_ID: u8 = crate::config::MAX_VCPUS;

/// The table of a machine with so many processors. No legacy interrupt controller: the flags
/// are zero.
pub(super) fn madt(vcpus: u8) -> Vec<u8> {
    let mut body = Vec::new();
    body.extend_from_slice(&LOCAL_APIC.to_le_bytes());
    body.extend_from_slice(&0u32.to_le_bytes());
    for id in 0..vcpus {
        body.extend_from_slice(&local_apic(id));
    }
    body.extend_from_slice(&ioapic());
    body.extend_from_slice(&non_maskable_interrupt());
    table(b"APIC", REVISION, &body)
}

fn local_apic(id: u8) -> [u8; 8] {
    const ENABLED: u8 = 1;
    [0, 8, id, id, ENABLED, 0, 0, 0]
}

fn ioapic() -> [u8; 12] {
    let mut entry = [0; 12];
    entry[..3].copy_from_slice(&[1, 12, IOAPIC_ID]);
    entry[4..8].copy_from_slice(&IOAPIC.to_le_bytes());
    entry // its first interrupt is 0
}

/// Every processor's LINT1, as `cube_hv` sets it.
fn non_maskable_interrupt() -> [u8; 6] {
    const ALL_PROCESSORS: u8 = 0xff;
    [4, 6, ALL_PROCESSORS, 0, 0, 1]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::acpi::table::HEADER_BYTES;

    #[test]
    fn every_processor_is_enabled_under_its_number() {
        let madt = madt(3);
        let mut entries = &madt[HEADER_BYTES + 8..];
        let mut seen = Vec::new();
        while let [kind, length, rest @ ..] = entries {
            if *kind == 0 {
                seen.push((rest[1], rest[2]));
            }
            entries = &entries[usize::from(*length)..];
        }
        assert_eq!(seen, [(0, 1), (1, 1), (2, 1)]);
    }
}
