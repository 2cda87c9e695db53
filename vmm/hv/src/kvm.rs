// SPDX-License-Identifier: Apache-2.0
//! The device file `/dev/kvm`, checked.

// UNSAFETY: adopts a raw descriptor, because kvm-ioctls offers no owned way in.
#![allow(
    unsafe_code,
    reason = "adopting a raw descriptor has no safe interface"
)]

use std::os::fd::{FromRawFd, IntoRawFd, OwnedFd};

use kvm_bindings::{CpuId, KVM_API_VERSION, KVM_MAX_CPUID_ENTRIES, kvm_cpuid_entry2};
use kvm_ioctls::Cap;
use thiserror::Error;
use vmm_sys_util::errno;

/// What makes a `/dev/kvm` unfit.
#[derive(Debug, Error)]
pub enum KvmError {
    /// The descriptor is something else.
    #[error("the descriptor given as /dev/kvm is not KVM (it gives API version {found})")]
    NotKvm {
        /// What `KVM_GET_API_VERSION` gave.
        found: i32,
    },
    /// The host's KVM lacks something that every machine needs.
    #[error("the host's KVM lacks {capability}; a Linux host of 5.10 or newer has it")]
    Lacks {
        /// What is missing.
        capability: &'static str,
    },
    /// KVM would not say what processor features it offers.
    #[error("KVM did not give the processor features it supports")]
    SupportedCpuid(#[source] errno::Error),
    /// KVM would not say what registers it saves.
    #[error("KVM did not give the model-specific registers that it saves")]
    Msrs(#[source] errno::Error),
}

/// An open `/dev/kvm` with everything a machine needs.
#[derive(Debug)]
pub struct Kvm {
    pub(crate) system: kvm_ioctls::Kvm,
}

/// What is asked of every host, with the name an administrator can search for.
const NEEDED: [(Cap, &str); 8] = [
    (Cap::UserMemory, "KVM_CAP_USER_MEMORY"),
    (Cap::Irqchip, "KVM_CAP_IRQCHIP"),
    (Cap::Irqfd, "KVM_CAP_IRQFD"),
    (Cap::Ioeventfd, "KVM_CAP_IOEVENTFD"),
    (Cap::ExtCpuid, "KVM_CAP_EXT_CPUID"),
    (Cap::SetTssAddr, "KVM_CAP_SET_TSS_ADDR"),
    (Cap::ImmediateExit, "KVM_CAP_IMMEDIATE_EXIT"),
    // The guest has no timer chip to calibrate against.
    (Cap::TscDeadlineTimer, "KVM_CAP_TSC_DEADLINE_TIMER"),
];

impl Kvm {
    /// Takes an open `/dev/kvm` and checks it.
    pub fn new(device: OwnedFd) -> Result<Self, KvmError> {
        // SAFETY: the descriptor is valid and owned, and its ownership moves into the `Kvm`.
        let system = unsafe { kvm_ioctls::Kvm::from_raw_fd(device.into_raw_fd()) };
        // KVM API, section 4.1: refuse to run on any other version.
        let found = system.get_api_version();
        if u32::try_from(found) != Ok(KVM_API_VERSION) {
            return Err(KvmError::NotKvm { found });
        }
        match NEEDED.iter().find(|(cap, _)| !system.check_extension(*cap)) {
            Some((_, capability)) => Err(KvmError::Lacks { capability }),
            None => Ok(Self { system }),
        }
    }

    /// The model-specific registers that KVM can save (KVM API, section 4.3).
    pub fn msrs(&self) -> Result<Vec<u32>, KvmError> {
        self.system
            .get_msr_index_list()
            .map(|list| list.as_slice().to_vec())
            .map_err(KvmError::Msrs)
    }

    /// The processor features that KVM can give a guest on this host (KVM API, section 4.46).
    pub fn supported_cpuid(&self) -> Result<Vec<kvm_cpuid_entry2>, KvmError> {
        self.system
            .get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
            .map(|cpuid: CpuId| cpuid.as_slice().to_vec())
            .map_err(KvmError::SupportedCpuid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;

    #[test]
    fn another_file_is_not_kvm() {
        let null = File::open("/dev/null").unwrap();
        assert!(matches!(
            Kvm::new(null.into()),
            Err(KvmError::NotKvm { found: -1 })
        ));
    }
}
