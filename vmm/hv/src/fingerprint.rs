// SPDX-License-Identifier: Apache-2.0
//! What a saved machine relies on of its host, in words that can be compared.
//!
//! A guest keeps what it found out about its processor when it booted. So a machine may only be
//! restored where KVM offers the same features, registers and microcode. The words are for people and
//! for equality; nobody parses them.

use kvm_bindings::{Msrs, kvm_cpuid_entry2, kvm_msr_entry};

use crate::kvm::{Kvm, KvmError};

const IA32_UCODE_REV: u32 = 0x8b;

/// Leaves that say which processor executed them (Intel SDM vol. 2, CPUID; AMD APM vol. 3, appendix E).
const PLACES: [u32; 4] = [0xb, 0x1f, 0x8000_001e, 0x8000_0026];
/// Of leaf 1's EBX: the size of a cache line; the rest is the place of the processor.
const CACHE_LINE: u32 = 0xff00;

impl Kvm {
    /// The processor: vendor, model, microcode, and a checksum of the features that KVM offers.
    pub fn processor(&self) -> Result<String, KvmError> {
        let cpuid = self.supported_cpuid()?;
        let leaf = |function| cpuid.iter().find(|entry| entry.function == function);
        let vendor = leaf(0).map_or_else(String::new, |leaf| {
            let letters = [leaf.ebx, leaf.edx, leaf.ecx]
                .map(u32::to_le_bytes)
                .concat();
            String::from_utf8_lossy(&letters).into_owned()
        });
        let signature = leaf(1).map_or(0, |leaf| leaf.eax);
        let features = checksum(&cpuid);
        let microcode = self.microcode();
        Ok(format!(
            "{vendor} {signature:#x}, microcode {microcode:#x}, features {features:08x}"
        ))
    }

    /// A checksum of the model-specific registers that KVM saves.
    pub fn registers(&self) -> Result<String, KvmError> {
        let mut crc = crc32fast::Hasher::new();
        for index in self.msrs()? {
            crc.update(&index.to_le_bytes());
        }
        Ok(format!("registers {:08x}", crc.finalize()))
    }

    /// 0 on hosts that do not say.
    fn microcode(&self) -> u64 {
        let entry = kvm_msr_entry {
            index: IA32_UCODE_REV,
            ..Default::default()
        };
        let read = || {
            let mut one = Msrs::from_entries(&[entry]).ok()?;
            let count = self.system.get_msrs(&mut one).ok()?;
            Some(one.as_slice().get(..count)?.first()?.data)
        };
        read().unwrap_or(0)
    }
}

/// Of everything that is the same on each processor of the host.
fn checksum(cpuid: &[kvm_cpuid_entry2]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    for entry in cpuid {
        if PLACES.contains(&entry.function) {
            continue;
        }
        let ebx = match entry.function {
            1 => entry.ebx & CACHE_LINE,
            _ => entry.ebx,
        };
        for word in [
            entry.function,
            entry.index,
            entry.eax,
            ebx,
            entry.ecx,
            entry.edx,
        ] {
            crc.update(&word.to_le_bytes());
        }
    }
    crc.finalize()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_place_of_a_processor_does_not_count_and_a_feature_does() {
        let leaf = |function, ebx, ecx| kvm_cpuid_entry2 {
            function,
            ebx,
            ecx,
            ..Default::default()
        };
        let of = |apic_id: u32, ecx| {
            checksum(&[leaf(1, apic_id << 24 | 0x800, ecx), leaf(0xb, apic_id, 0)])
        };
        assert_eq!(of(0, 1), of(7, 1));
        assert_ne!(of(0, 1), of(0, 3));
    }
}
