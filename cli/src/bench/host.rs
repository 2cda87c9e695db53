// SPDX-License-Identifier: Apache-2.0
//! What kind of host a figure is from. Figures of hosts that differ in any of this are not comparable.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use cube_vmm::probe::{self, Grade};
use serde::Serialize;

use super::shell;
use cube_containerd::Mount;

const VULNERABILITIES: &str = "/sys/devices/system/cpu/vulnerabilities";
const GOVERNOR: &str = "/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor";
const HUGE_PAGES: &str = "/sys/kernel/mm/transparent_hugepage/enabled";

/// A host's fingerprint. What could not be found out is absent.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Host {
    /// The processor's name.
    pub cpu: Option<String>,
    /// Logical processors.
    pub cpus: usize,
    /// Of the first processor.
    pub microcode: Option<String>,
    /// Whether a hypervisor is under this host.
    pub virtual_machine: bool,
    /// Whether this is the project's development VM.
    pub dev_vm: bool,
    /// How KVM runs a guest here.
    pub kvm: Option<Kvm>,
    /// All memory.
    pub memory_mib: u64,
    /// The kernel's release.
    pub kernel: String,
    /// What the processor is vulnerable to, and what the kernel does about it.
    pub mitigations: BTreeMap<String, String>,
    /// The setting of transparent huge pages.
    pub huge_pages: Option<String>,
    /// Version of the cgroup hierarchy.
    pub cgroup: u8,
    /// The frequency governor of the first processor.
    pub governor: Option<String>,
    /// containerd's version, where it was used.
    pub containerd: Option<String>,
    /// This program's version.
    pub version: &'static str,
    /// The commit of the checkout that this program lies in; `-dirty` with changes.
    pub commit: Option<String>,
}

/// The speed of a guest's kernel code.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Kvm {
    /// `hardware`, `emulated` or `unusable`.
    pub grade: &'static str,
    /// For one simple instruction.
    pub ns_per_instruction: f64,
    /// To leave the guest and come back.
    pub exit_us: f64,
}

impl Host {
    /// Of the host that this runs on.
    pub fn look(containerd: Option<String>) -> Self {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let flags = cpu_field(&cpuinfo, "flags").unwrap_or_default();
        let info = rustix::system::sysinfo();
        Self {
            cpu: cpu_field(&cpuinfo, "model name"),
            cpus: std::thread::available_parallelism().map_or(1, usize::from),
            microcode: cpu_field(&cpuinfo, "microcode"),
            virtual_machine: flags.split(' ').any(|flag| flag == "hypervisor"),
            dev_vm: std::env::var_os("CUBE_DEV_VM").is_some(),
            kvm: kvm(),
            memory_mib: info.totalram.saturating_mul(info.mem_unit.into()) >> 20,
            kernel: rustix::system::uname()
                .release()
                .to_string_lossy()
                .into_owned(),
            mitigations: mitigations(),
            huge_pages: line_of(HUGE_PAGES).and_then(|line| chosen(&line)),
            cgroup: if Path::new("/sys/fs/cgroup/cgroup.controllers").exists() {
                2
            } else {
                1
            },
            governor: line_of(GOVERNOR),
            containerd,
            version: env!("CARGO_PKG_VERSION"),
            commit: commit(),
        }
    }
}

/// The file system that a container's disk lies on.
pub fn filesystem_of(rootfs: &[Mount]) -> Option<String> {
    let mount = rootfs.first()?;
    let upper = mount
        .options
        .iter()
        .find_map(|option| option.strip_prefix("upperdir="));
    let path = PathBuf::from(upper.unwrap_or(&mount.source));
    let magic = rustix::fs::statfs(&path).ok()?.f_type;
    Some(filesystem_name(magic))
}

/// The numbers of linux/magic.h, and XFS's of its own header.
fn filesystem_name(magic: i64) -> String {
    let known = match magic {
        0x5846_5342 => "xfs",
        0xef53 => "ext4",
        0x9123_683e => "btrfs",
        0x0102_1994 => "tmpfs",
        0x794c_7630 => "overlayfs",
        0x6573_5546 => "fuse",
        other => return format!("{other:#x}"),
    };
    known.to_owned()
}

fn kvm() -> Option<Kvm> {
    let speed = probe::measure(shell::open_kvm().ok()?.into()).ok()?;
    Some(Kvm {
        grade: match speed.grade() {
            Grade::Hardware => "hardware",
            Grade::Emulated => "emulated",
            Grade::Unusable => "unusable",
        },
        ns_per_instruction: two_digits(speed.ns_per_instruction),
        exit_us: two_digits(speed.exit_us),
    })
}

fn two_digits(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}

fn mitigations() -> BTreeMap<String, String> {
    let entries = fs::read_dir(VULNERABILITIES)
        .into_iter()
        .flatten()
        .flatten();
    let entries = entries.filter_map(|entry| {
        let found = line_of(entry.path())?;
        Some((entry.file_name().to_string_lossy().into_owned(), found))
    });
    entries
        .filter(|(_, found)| found != "Not affected")
        .collect()
}

fn commit() -> Option<String> {
    let program = std::env::current_exe().ok()?;
    let output = Command::new("git")
        .arg("-C")
        .arg(program.parent()?)
        .args(["describe", "--always", "--dirty", "--abbrev=12"])
        .output()
        .ok()?;
    let commit = String::from_utf8(output.stdout).ok()?.trim().to_owned();
    (output.status.success() && !commit.is_empty()).then_some(commit)
}

fn line_of(path: impl AsRef<Path>) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    Some(text.trim().to_owned())
}

/// The first processor's value of a field.
fn cpu_field(cpuinfo: &str, name: &str) -> Option<String> {
    let fields = cpuinfo.lines().filter_map(|line| line.split_once(':'));
    let mut values = fields.filter(|(key, _)| key.trim() == name);
    values.next().map(|(_, value)| value.trim().to_owned())
}

/// Of `always [madvise] never`: `madvise`.
fn chosen(line: &str) -> Option<String> {
    let (_, rest) = line.split_once('[')?;
    Some(rest.split_once(']')?.0.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_processor_speaks_for_all() {
        let cpuinfo = "processor\t: 0\nmodel name\t: A: B\nmicrocode\t: 0x1\n\nmodel name\t: C\n";
        assert_eq!(cpu_field(cpuinfo, "model name").as_deref(), Some("A: B"));
        assert_eq!(cpu_field(cpuinfo, "microcode").as_deref(), Some("0x1"));
        assert_eq!(cpu_field(cpuinfo, "flags"), None);
    }

    #[test]
    fn the_chosen_setting_is_in_brackets() {
        assert_eq!(chosen("always [madvise] never").as_deref(), Some("madvise"));
        assert_eq!(chosen("never"), None);
    }

    #[test]
    fn a_disk_is_on_the_file_system_of_its_file_or_upper_directory() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().to_str().unwrap();
        let here = filesystem_name(rustix::fs::statfs(dir.path()).unwrap().f_type);
        let mount = |source: &str, options: &[&str]| {
            vec![Mount {
                source: source.into(),
                options: options.iter().map(|&option| option.into()).collect(),
                ..Mount::default()
            }]
        };
        assert_eq!(filesystem_of(&mount(path, &["rw"])), Some(here.clone()));
        let upper = format!("upperdir={path}");
        assert_eq!(filesystem_of(&mount("overlay", &[&upper])), Some(here));
        assert_eq!(filesystem_of(&mount("/nonexistent/disk", &[])), None);
        assert_eq!(filesystem_name(0x5846_5342), "xfs");
        assert_eq!(filesystem_name(0x1234), "0x1234");
    }
}
