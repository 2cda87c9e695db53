// SPDX-License-Identifier: Apache-2.0
//! What a snapshot relies on of its host. The runtime writes it down with a snapshot and compares it
//! before it makes a machine of it; a machine on another host could go wrong in any way.

use std::os::fd::{BorrowedFd, OwnedFd};

use cube_hv::{Kvm, KvmError};
use rustix::system::uname;
use thiserror::Error;

/// A host, in words that are compared and shown and not taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostFingerprint {
    /// The processor: vendor, model, microcode, features that guests are offered.
    pub cpu: String,
    /// What KVM saves of a processor.
    pub kvm: String,
    /// The kernel: release and build.
    pub kernel: String,
}

/// Why the host could not be described.
#[derive(Debug, Error)]
pub enum FingerprintError {
    /// No second descriptor for the device.
    #[error("the descriptor of /dev/kvm could not be duplicated")]
    Duplicate(#[source] std::io::Error),
    /// KVM does not answer.
    #[error("the host's KVM is unfit")]
    Kvm(#[from] KvmError),
}

/// Describes this host; `kvm` is an open `/dev/kvm`. Makes no machine; takes four system calls.
pub fn of_host(kvm: BorrowedFd<'_>) -> Result<HostFingerprint, FingerprintError> {
    let own: OwnedFd = kvm
        .try_clone_to_owned()
        .map_err(FingerprintError::Duplicate)?;
    let kvm = Kvm::new(own)?;
    let name = uname();
    let kernel = [name.release(), name.version()].map(|part| part.to_string_lossy());
    Ok(HostFingerprint {
        cpu: kvm.processor()?,
        kvm: kvm.registers()?,
        kernel: kernel.join(" "),
    })
}
