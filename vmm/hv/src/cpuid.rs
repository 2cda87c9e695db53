// SPDX-License-Identifier: Apache-2.0
//! What the guest's `cpuid` says: what KVM supports, with our topology and without what no
//! snapshot could carry.
//!
//! All virtual processors are cores of one package with one thread each. Features are the
//! host's, as far as KVM supports them; the performance counters are taken away, because they
//! count the host's events and cannot move to another host, and so is virtualisation.
//!
//! Leaves by Intel SDM vol. 2 (CPUID) and AMD APM vol. 3 (appendix E), the KVM leaves by
//! Documentation/virt/kvm/x86/cpuid.rst.

use kvm_bindings::{KVM_CPUID_FLAG_SIGNIFCANT_INDEX, kvm_cpuid_entry2};

const FEATURES: u32 = 1;
const CACHES_INTEL: u32 = 4;
const PERFORMANCE: u32 = 0xa;
const TOPOLOGY: u32 = 0xb;
const TOPOLOGY_V2: u32 = 0x1f;
const FEATURES_AMD: u32 = 0x8000_0001;
const SIZES_AMD: u32 = 0x8000_0008;
const CACHES_AMD: u32 = 0x8000_001d;
const NODES_AMD: u32 = 0x8000_001e;
const PERFORMANCE_AMD: u32 = 0x8000_0022;
const TOPOLOGY_AMD: u32 = 0x8000_0026;

/// The CPUID of processor `id` out of `vcpus`.
pub fn for_vcpu(supported: &[kvm_cpuid_entry2], id: u8, vcpus: u8) -> Vec<kvm_cpuid_entry2> {
    let topology = Topology::new(id, vcpus);
    let amd = supported.iter().any(is_amd);
    let mut entries: Vec<_> = supported
        .iter()
        .filter(|entry| !matches!(entry.function, TOPOLOGY | TOPOLOGY_V2 | TOPOLOGY_AMD))
        .copied()
        .collect();
    for entry in &mut entries {
        match entry.function {
            FEATURES => topology.features(entry),
            CACHES_INTEL | CACHES_AMD => topology.caches(entry),
            PERFORMANCE | PERFORMANCE_AMD => clear(entry),
            FEATURES_AMD => topology.features_amd(entry, amd),
            SIZES_AMD if amd => topology.sizes_amd(entry),
            NODES_AMD => topology.nodes_amd(entry),
            _ => {}
        }
    }
    entries.extend(topology.levels());
    entries
}

fn is_amd(entry: &kvm_cpuid_entry2) -> bool {
    // "Auth", "enti", "cAMD"
    entry.function == 0
        && [entry.ebx, entry.edx, entry.ecx]
            .map(u32::to_le_bytes)
            .concat()
            == b"AuthenticAMD"
}

fn clear(entry: &mut kvm_cpuid_entry2) {
    (entry.eax, entry.ebx, entry.ecx, entry.edx) = (0, 0, 0, 0);
}

/// Where one processor sits in the package.
#[derive(Clone, Copy)]
struct Topology {
    id: u32,
    vcpus: u32,
    /// Bits of an APIC id that number the cores of a package.
    core_bits: u32,
}

impl Topology {
    fn new(id: u8, vcpus: u8) -> Self {
        let vcpus = u32::from(vcpus.max(1));
        Self {
            id: u32::from(id),
            vcpus,
            core_bits: vcpus.next_power_of_two().trailing_zeros(),
        }
    }

    fn features(self, entry: &mut kvm_cpuid_entry2) {
        const X2APIC: u32 = 1 << 21;
        const TSC_DEADLINE: u32 = 1 << 24;
        const HYPERVISOR: u32 = 1 << 31;
        const HTT: u32 = 1 << 28;
        const VMX: u32 = 1 << 5;
        // A guest inside the guest would be one more state to save, and nobody here asks for it.
        entry.ecx &= !VMX;
        // The timer is KVM's own, so KVM_GET_SUPPORTED_CPUID leaves the bit to us.
        entry.ecx |= X2APIC | TSC_DEADLINE | HYPERVISOR;
        entry.ebx = entry.ebx & 0xffff | self.addressable() << 16 | self.id << 24;
        if self.vcpus > 1 {
            entry.edx |= HTT;
        } else {
            entry.edx &= !HTT;
        }
    }

    /// Each core has its own first and second level cache; the third is the package's.
    fn caches(self, entry: &mut kvm_cpuid_entry2) {
        let level = entry.eax >> 5 & 7;
        let sharing = if level >= 3 {
            self.addressable() - 1
        } else {
            0
        };
        entry.eax = entry.eax & !(0xfff << 14) | sharing << 14;
        if entry.function == CACHES_INTEL {
            let cores = self.addressable() - 1;
            entry.eax = entry.eax & !(0x3f << 26) | cores << 26;
        }
    }

    fn features_amd(self, entry: &mut kvm_cpuid_entry2, amd: bool) {
        const CMP_LEGACY: u32 = 1 << 1;
        const SVM: u32 = 1 << 2;
        const PERFORMANCE_COUNTERS: u32 = 1 << 23 | 1 << 24 | 1 << 28;
        entry.ecx &= !(PERFORMANCE_COUNTERS | CMP_LEGACY | SVM);
        if amd && self.vcpus > 1 {
            entry.ecx |= CMP_LEGACY;
        }
    }

    fn sizes_amd(self, entry: &mut kvm_cpuid_entry2) {
        entry.ecx = entry.ecx & !0xf0ff | self.core_bits << 12 | (self.vcpus - 1);
    }

    fn nodes_amd(self, entry: &mut kvm_cpuid_entry2) {
        (entry.eax, entry.ebx, entry.ecx, entry.edx) = (self.id, self.id, 0, 0);
    }

    /// Leaf 0xb: the thread level, the core level, the end.
    fn levels(self) -> [kvm_cpuid_entry2; 3] {
        const THREAD: u32 = 1;
        const CORE: u32 = 2;
        let level = |index, bits, threads, kind: u32| kvm_cpuid_entry2 {
            function: TOPOLOGY,
            index,
            flags: KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
            eax: bits,
            ebx: threads,
            ecx: kind << 8 | index,
            edx: self.id,
            ..Default::default()
        };
        [
            level(0, 0, 1, THREAD),
            level(1, self.core_bits, self.vcpus, CORE),
            level(2, 0, 0, 0),
        ]
    }

    /// How many APIC ids the package spans, a power of two.
    fn addressable(self) -> u32 {
        1 << self.core_bits
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaf(function: u32, eax: u32) -> kvm_cpuid_entry2 {
        kvm_cpuid_entry2 {
            function,
            eax,
            ..Default::default()
        }
    }

    fn find(entries: &[kvm_cpuid_entry2], function: u32, index: u32) -> kvm_cpuid_entry2 {
        *entries
            .iter()
            .find(|entry| entry.function == function && entry.index == index)
            .unwrap()
    }

    #[test]
    fn every_processor_gets_its_own_apic_id() {
        let supported = [leaf(FEATURES, 0), leaf(TOPOLOGY, 7), leaf(TOPOLOGY_V2, 7)];
        for vcpus in 1..=8 {
            for id in 0..vcpus {
                let entries = for_vcpu(&supported, id, vcpus);
                assert_eq!(find(&entries, FEATURES, 0).ebx >> 24, u32::from(id));
                let core = find(&entries, TOPOLOGY, 1);
                assert_eq!((core.ebx, core.edx), (u32::from(vcpus), u32::from(id)));
                assert!(1u32 << core.eax >= u32::from(vcpus));
                assert!(!entries.iter().any(|entry| entry.function == TOPOLOGY_V2));
            }
        }
    }

    #[test]
    fn the_guest_knows_that_it_is_one_and_has_a_deadline_timer() {
        let entries = for_vcpu(&[leaf(FEATURES, 0)], 0, 1);
        let features = find(&entries, FEATURES, 0);
        assert_eq!(features.ecx, 1 << 21 | 1 << 24 | 1 << 31);
        assert_eq!(features.edx >> 28 & 1, 0);
    }

    #[test]
    fn performance_counters_are_gone() {
        let supported = [leaf(PERFORMANCE, 0x0730_0404), leaf(PERFORMANCE_AMD, 1)];
        let entries = for_vcpu(&supported, 0, 2);
        assert_eq!(find(&entries, PERFORMANCE, 0).eax, 0);
        assert_eq!(find(&entries, PERFORMANCE_AMD, 0).eax, 0);
    }

    #[test]
    fn the_guest_cannot_be_a_host() {
        let mut supported = [leaf(FEATURES, 0), leaf(FEATURES_AMD, 0)];
        for entry in &mut supported {
            entry.ecx = u32::MAX;
        }
        let entries = for_vcpu(&supported, 0, 1);
        assert_eq!(find(&entries, FEATURES, 0).ecx >> 5 & 1, 0);
        assert_eq!(find(&entries, FEATURES_AMD, 0).ecx >> 2 & 1, 0);
    }

    #[test]
    fn only_the_third_level_cache_is_shared() {
        let topology = Topology::new(0, 6);
        let shared = |level: u32| {
            let mut entry = leaf(CACHES_INTEL, level << 5 | 0xfff << 14 | 0x3f << 26);
            topology.caches(&mut entry);
            (entry.eax >> 14 & 0xfff, entry.eax >> 26)
        };
        assert_eq!(shared(1), (0, 7));
        assert_eq!(shared(3), (7, 7));
    }
}
