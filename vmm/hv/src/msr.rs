// SPDX-License-Identifier: Apache-2.0
//! Model-specific registers: those that firmware sets before a kernel starts, and those that belong
//! to a saved processor.

use kvm_bindings::kvm_msr_entry;

const IA32_TSC: u32 = 0x10;
const IA32_TSC_DEADLINE: u32 = 0x6e0;

const IA32_MISC_ENABLE: u32 = 0x1a0;
const MISC_ENABLE_FAST_STRING: u64 = 1;

const IA32_MTRR_DEF_TYPE: u32 = 0x2ff;
const MTRR_ENABLE: u64 = 1 << 11;
const MTRR_WRITE_BACK: u64 = 6;

/// Memory types and their ranges (Intel SDM vol. 4, table 2-2). KVM keeps them without offering them
/// in `KVM_GET_MSR_INDEX_LIST`.
const MTRRS: [u32; 12] = [
    IA32_MTRR_DEF_TYPE,
    0x250,
    0x258,
    0x259,
    0x268,
    0x269,
    0x26a,
    0x26b,
    0x26c,
    0x26d,
    0x26e,
    0x26f,
];

/// Writing these is not setting a value: KVM writes the time of the host's boot to the guest's memory.
/// Linux reads it when it asks, at boot, and not again.
const WALL_CLOCKS: [u32; 2] = [0x11, 0x4b56_4d00];

/// The registers and their values. Everything else starts as KVM resets it.
pub(crate) fn at_boot() -> [kvm_msr_entry; 2] {
    let entry = |index, data| kvm_msr_entry {
        index,
        data,
        ..Default::default()
    };
    [
        entry(IA32_MISC_ENABLE, MISC_ENABLE_FAST_STRING),
        // Without this Linux takes all memory for uncachable and warns.
        entry(IA32_MTRR_DEF_TYPE, MTRR_ENABLE | MTRR_WRITE_BACK),
    ]
}

/// What to save, given what KVM offers.
pub(crate) fn to_save(offered: &[u32]) -> Vec<u32> {
    let ours = MTRRS.iter().filter(|index| !offered.contains(index));
    let all = offered.iter().chain(ours).copied();
    all.filter(|index| !WALL_CLOCKS.contains(index)).collect()
}

/// The order of a restore: see [`crate::vcpu`]'s `state`. The sort that uses it is stable.
pub(crate) fn rank(index: u32) -> u8 {
    match index {
        IA32_TSC => 0,
        IA32_TSC_DEADLINE => 2,
        _ => 1,
    }
}

/// The TSC, and what comes after it, of registers in the order of [`rank`].
pub(crate) fn split_tsc(entries: &[kvm_msr_entry]) -> (&[kvm_msr_entry], &[kvm_msr_entry]) {
    entries.split_at(
        entries
            .iter()
            .take_while(|entry| entry.index == IA32_TSC)
            .count(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tsc_is_first_and_its_deadline_last() {
        let mut indices = to_save(&[IA32_TSC_DEADLINE, 0x174, IA32_TSC, 0x11]);
        indices.sort_by_key(|index| rank(*index));
        assert_eq!(indices.first(), Some(&IA32_TSC));
        assert_eq!(indices.last(), Some(&IA32_TSC_DEADLINE));
        assert!(indices.contains(&IA32_MTRR_DEF_TYPE) && !indices.contains(&0x11));
    }

    #[test]
    fn nothing_is_saved_twice() {
        let indices = to_save(&[IA32_MTRR_DEF_TYPE, 0x174]);
        let unique: std::collections::BTreeSet<_> = indices.iter().collect();
        assert_eq!(indices.len(), unique.len());
    }
}
