// SPDX-License-Identifier: Apache-2.0
//! Mapping memory into the guest before it runs (`KVM_PRE_FAULT_MEMORY`, KVM API, section 4.143).
//!
//! Without it the first touch of each page leaves the guest, even if the page is at hand. Pages are
//! mapped as a read would map them: one that this process has a copy of is writable at once, one of a
//! shared file stays shared.

// UNSAFETY: an ioctl that no library wraps yet.
#![allow(
    unsafe_code,
    reason = "the kernel is given the address of a description"
)]

use kvm_bindings::{KVMIO, kvm_pre_fault_memory};
use vmm_sys_util::errno;
use vmm_sys_util::ioctl::ioctl_with_mut_ref;
use vmm_sys_util::ioctl_iowr_nr;

use super::{Vcpu, VcpuError};

ioctl_iowr_nr!(KVM_PRE_FAULT_MEMORY, KVMIO, 0xd5, kvm_pre_fault_memory);

impl Vcpu {
    /// Maps whole pages, guest-physical, into the guest of a processor that does not run.
    pub fn pre_fault(&self, start: u64, bytes: u64) -> Result<(), VcpuError> {
        let mut range = kvm_pre_fault_memory {
            gpa: start,
            size: bytes,
            ..Default::default()
        };
        // The kernel moves the start forward; an interrupted call goes on from there.
        while range.size > 0 {
            // SAFETY: the kernel reads and writes the structure, which outlives the call.
            let result =
                unsafe { ioctl_with_mut_ref(&self.fd, KVM_PRE_FAULT_MEMORY(), &mut range) };
            if result == 0 {
                continue;
            }
            let error = errno::Error::last();
            if !matches!(error.errno(), libc::EINTR | libc::EAGAIN) {
                return Err(self.refused("mapped memory")(error));
            }
        }
        Ok(())
    }
}
