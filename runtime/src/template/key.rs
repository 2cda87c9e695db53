// SPDX-License-Identifier: Apache-2.0
//! The template key: what decides what is in a template, as one digest.

use std::fmt;

use cube_snapshot::manifest::{FORMAT, Shape};
use sha2::{Digest, Sha256};

use super::digest::hex;

/// Hex digits of a key that name its directory: 64 bits, as for sandboxes.
const NAME_DIGITS: usize = 16;

/// Everything that decides what is in a template. The host it is made on does not: a template that was
/// made elsewhere has the right name and is found unfit.
#[derive(Clone, Debug)]
pub(crate) struct Ingredients<'a> {
    /// Digest of the guest's kernel.
    pub(crate) kernel_sha256: &'a str,
    /// Digest of its initramfs, which has the agent in it.
    pub(crate) initramfs_sha256: &'a str,
    /// What the configuration adds to the kernel's command line.
    pub(crate) cmdline: &'a str,
    /// The size of the machine.
    pub(crate) shape: Shape,
    /// Version of the protocol between host and agent.
    pub(crate) protocol: u32,
    /// The VMM; its own part of the command line and its devices are part of its version.
    pub(crate) vmm: &'a str,
}

/// Names one template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TemplateKey(String);

impl TemplateKey {
    pub(crate) fn of(ingredients: &Ingredients<'_>) -> Self {
        let Ingredients {
            kernel_sha256,
            initramfs_sha256,
            cmdline,
            shape,
            protocol,
            vmm,
        } = ingredients;
        // Each value with its length, so that no two lists of values have one text.
        let mut text = String::new();
        for (name, value) in [
            ("format", FORMAT.to_string().as_str()),
            ("kernel", kernel_sha256),
            ("initramfs", initramfs_sha256),
            ("cmdline", cmdline),
            ("vcpus", shape.vcpus.to_string().as_str()),
            ("memory_mib", shape.memory_mib.to_string().as_str()),
            ("protocol", protocol.to_string().as_str()),
            ("vmm", vmm),
        ] {
            text.push_str(&format!("{name} {} {value}\n", value.len()));
        }
        Self(hex(&Sha256::digest(text.as_bytes())))
    }

    /// All its digits.
    pub(crate) fn digits(&self) -> &str {
        &self.0
    }

    /// The name of its directory.
    pub(crate) fn name(&self) -> &str {
        self.0.get(..NAME_DIGITS).unwrap_or(&self.0)
    }
}

impl fmt::Display for TemplateKey {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ingredients() -> Ingredients<'static> {
        Ingredients {
            kernel_sha256: "aa",
            initramfs_sha256: "bb",
            cmdline: "",
            shape: Shape {
                vcpus: 2,
                memory_mib: 2048,
            },
            protocol: 1,
            vmm: "0.1.0",
        }
    }

    #[test]
    fn the_key_is_frozen_because_a_changed_one_forgets_every_template() {
        // printf 'format 1 1\nkernel 2 aa\ninitramfs 2 bb\ncmdline 0 \nvcpus 1 2\nmemory_mib 4 2048\nprotocol 1 1\nvmm 5 0.1.0\n' | sha256sum
        let key = TemplateKey::of(&ingredients());
        assert_eq!(key.name(), "befad17030a88136");
        assert_eq!(key.digits().len(), 64);
    }

    #[test]
    fn each_ingredient_changes_it() {
        let key = TemplateKey::of(&ingredients());
        let check = |change: fn(&mut Ingredients<'static>)| {
            let mut other = ingredients();
            change(&mut other);
            assert_ne!(TemplateKey::of(&other), key, "{other:?}");
        };
        check(|i| i.kernel_sha256 = "ab");
        check(|i| i.initramfs_sha256 = "ab");
        check(|i| i.cmdline = "quiet");
        check(|i| i.cmdline = "\nvcpus 1 2");
        check(|i| i.shape.vcpus = 3);
        check(|i| i.shape.memory_mib = 4096);
        check(|i| i.protocol = 2);
        check(|i| i.vmm = "0.1.1");
    }
}
