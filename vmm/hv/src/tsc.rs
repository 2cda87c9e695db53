// SPDX-License-Identifier: Apache-2.0
//! How far a processor's TSC is from the host's (Documentation/virt/kvm/devices/vcpu.rst, section 4).

// UNSAFETY: two ioctls that no library wraps for a processor on this architecture both ways.
#![allow(unsafe_code, reason = "the kernel is given the address of a number")]

use kvm_bindings::{KVM_VCPU_TSC_CTRL, KVM_VCPU_TSC_OFFSET, KVMIO, kvm_device_attr};
use kvm_ioctls::VcpuFd;
use vmm_sys_util::errno;
use vmm_sys_util::ioctl::ioctl_with_ref;
use vmm_sys_util::ioctl_iow_nr;

ioctl_iow_nr!(KVM_SET_DEVICE_ATTR, KVMIO, 0xe1, kvm_device_attr);
ioctl_iow_nr!(KVM_GET_DEVICE_ATTR, KVMIO, 0xe2, kvm_device_attr);

/// The offset of a processor.
pub(crate) fn offset(vcpu: &VcpuFd) -> Result<u64, errno::Error> {
    let mut offset = 0u64;
    let attribute = attribute(&raw mut offset);
    // SAFETY: the kernel writes the eight bytes of `offset`, which outlives the call.
    let result = unsafe { ioctl_with_ref(vcpu, KVM_GET_DEVICE_ATTR(), &attribute) };
    answer(result).map(|()| offset)
}

/// Sets the offset of a processor.
pub(crate) fn set_offset(vcpu: &VcpuFd, offset: u64) -> Result<(), errno::Error> {
    let mut offset = offset;
    let attribute = attribute(&raw mut offset);
    // SAFETY: the kernel reads the eight bytes of `offset`, which outlives the call.
    answer(unsafe { ioctl_with_ref(vcpu, KVM_SET_DEVICE_ATTR(), &attribute) })
}

fn attribute(offset: *mut u64) -> kvm_device_attr {
    kvm_device_attr {
        flags: 0,
        group: KVM_VCPU_TSC_CTRL,
        attr: u64::from(KVM_VCPU_TSC_OFFSET),
        addr: offset as u64,
    }
}

fn answer(result: i32) -> Result<(), errno::Error> {
    if result == 0 {
        Ok(())
    } else {
        Err(errno::Error::last())
    }
}
