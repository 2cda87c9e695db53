// SPDX-License-Identifier: Apache-2.0
//! Model-specific registers that firmware sets before a kernel starts.

use kvm_bindings::kvm_msr_entry;

const IA32_MISC_ENABLE: u32 = 0x1a0;
const MISC_ENABLE_FAST_STRING: u64 = 1;

const IA32_MTRR_DEF_TYPE: u32 = 0x2ff;
const MTRR_ENABLE: u64 = 1 << 11;
const MTRR_WRITE_BACK: u64 = 6;

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
