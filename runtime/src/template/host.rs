// SPDX-License-Identifier: Apache-2.0
//! What a template depends on in the host it was made on.
//!
//! A saved guest goes on believing what it found out when it booted: its processor's features, the
//! clock that KVM gives it. Elsewhere it would fail in ways that nobody could explain, so the manifest
//! says where it was made and another host makes its own.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::BorrowedFd;

/// How much of `/proc/cpuinfo` is read: the first processor's part is half of it, and a host may have
/// hundreds.
const CPUINFO_BYTES: u64 = 8 << 10;

/// The lines of `/proc/cpuinfo` that tell processors apart for a guest.
const CPUINFO_FIELDS: [&str; 6] = [
    "vendor_id",
    "cpu family",
    "model",
    "stepping",
    "microcode",
    "flags",
];

/// The KVM modules; whichever is loaded runs the machines.
const KVM_MODULES: [&str; 2] = ["kvm_intel", "kvm_amd"];

/// A host, as far as a saved guest can tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostFingerprint {
    /// Its processor.
    pub cpu: String,
    /// Its KVM.
    pub kvm: String,
    /// Its kernel.
    pub kernel: String,
}

/// Describes the host that `kvm` belongs to.
pub(crate) fn of_host(_kvm: BorrowedFd<'_>) -> io::Result<HostFingerprint> {
    let mut text = String::new();
    File::open("/proc/cpuinfo")?
        .take(CPUINFO_BYTES)
        .read_to_string(&mut text)?;
    let loaded = KVM_MODULES
        .into_iter()
        .find(|module| std::path::Path::new("/sys/module").join(module).exists());
    let kernel = rustix::system::uname();
    Ok(HostFingerprint {
        cpu: cpu(&text),
        kvm: loaded.unwrap_or("kvm").to_owned(),
        kernel: format!(
            "{} {}",
            kernel.release().to_string_lossy(),
            kernel.version().to_string_lossy()
        ),
    })
}

/// The first processor in few words; its flags, hundreds of words, as a checksum of them.
fn cpu(cpuinfo: &str) -> String {
    let first = cpuinfo.split("\n\n").next().unwrap_or_default();
    let fields = CPUINFO_FIELDS.into_iter().filter_map(|name| {
        let line = first.lines().find(|line| {
            line.strip_prefix(name)
                .is_some_and(|rest| rest.trim_start().starts_with(':'))
        })?;
        let (_, value) = line.split_once(':')?;
        Some(match name {
            "flags" => super::digest::short(value.trim().as_bytes()),
            _ => value.trim().to_owned(),
        })
    });
    fields.collect::<Vec<_>>().join("-")
}

#[cfg(test)]
mod tests {
    use super::*;

    const CPUINFO: &str = "processor\t: 0\nvendor_id\t: AuthenticAMD\ncpu family\t: 23\nmodel\t\t: 1\n\
        model name\t: AMD EPYC\nstepping\t: 2\nmicrocode\t: 0x1\nflags\t\t: fpu svm\n\nprocessor\t: 1\nmodel\t\t: 9\n";

    #[test]
    fn a_processor_is_its_numbers_and_a_digest_of_its_flags() {
        let found = cpu(CPUINFO);
        assert!(found.starts_with("AuthenticAMD-23-1-2-0x1-"), "{found}");
        assert_ne!(found, cpu(&CPUINFO.replace("fpu svm", "fpu svm avx")));
        assert_eq!(found, cpu(&CPUINFO.replace(": 9", ": 8")));
    }

    #[test]
    fn this_host_is_the_same_twice() {
        let any = File::open("/dev/null").unwrap();
        let describe = || of_host(std::os::fd::AsFd::as_fd(&any)).unwrap();
        assert_eq!(describe(), describe());
        assert!(!describe().cpu.is_empty());
    }
}
