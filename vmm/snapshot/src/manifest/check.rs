// SPDX-License-Identifier: Apache-2.0
//! Whether a template is the one that is wanted, and if not, in which respect.

use thiserror::Error;

use super::{Fingerprints, Manifest, Shape};

/// What a template must say to be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expected {
    /// Its key.
    pub key: String,
    /// The size of its machine.
    pub shape: Shape,
    /// What it was made on and of.
    pub fingerprints: Fingerprints,
}

/// The first respect in which a template is another than the one wanted.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("it was made for {what} {found}, here it is {expected}")]
pub struct Mismatch {
    /// In words.
    pub what: &'static str,
    /// What the template says.
    pub found: String,
    /// What was expected.
    pub expected: String,
}

impl Manifest {
    /// Compares everything that decides whether this template can be used here. What people would ask
    /// for first is compared first.
    pub fn check_compatible(&self, expected: &Expected) -> Result<(), Mismatch> {
        // Taken apart, so that a new field is not forgotten here.
        let Fingerprints {
            cpu,
            kvm,
            host_kernel,
            guest_kernel,
            kernel_sha256,
            initramfs_sha256,
            agent,
            protocol,
            vmm,
        } = &self.fingerprints;
        let wanted = &expected.fingerprints;
        let shape = |shape: Shape| format!("{} vCPU, {} MiB", shape.vcpus, shape.memory_mib);
        same("the shape", &shape(self.shape), &shape(expected.shape))?;
        same("the processor", cpu, &wanted.cpu)?;
        same("the KVM", kvm, &wanted.kvm)?;
        same("the host's kernel", host_kernel, &wanted.host_kernel)?;
        same("the guest's kernel", guest_kernel, &wanted.guest_kernel)?;
        same(
            "the guest's kernel with the digest",
            kernel_sha256,
            &wanted.kernel_sha256,
        )?;
        same(
            "the initramfs with the digest",
            initramfs_sha256,
            &wanted.initramfs_sha256,
        )?;
        same("the agent", agent, &wanted.agent)?;
        same(
            "the agent's protocol",
            &protocol.to_string(),
            &wanted.protocol.to_string(),
        )?;
        same("the VMM", vmm, &wanted.vmm)?;
        same("the template key", &self.key, &expected.key)
    }
}

fn same(what: &'static str, found: &str, expected: &str) -> Result<(), Mismatch> {
    if found == expected {
        return Ok(());
    }
    Err(Mismatch {
        what,
        found: found.to_owned(),
        expected: expected.to_owned(),
    })
}
