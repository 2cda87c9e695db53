// SPDX-License-Identifier: Apache-2.0
//! Memory as the kernel counts it: `/proc/meminfo` and `/proc/<pid>/smaps`, read and understood.

use std::fs;
use std::io;

/// A nameless mapping of at least this size in a VMM is guest memory: no guest has less than 128 MiB,
/// and nothing else in a VMM is half as large.
const LEAST_GUEST_MAPPING: u64 = 100 << 20;
/// The file that a restored guest's memory is a private view of.
const GUEST_MEMORY_FILE: &str = "memory.bin";

/// Memory of one process, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Footprint {
    /// Its proportional share of everything but guest memory.
    pub own_pss: u64,
    /// What of guest memory it alone has, because it was written to.
    pub guest_dirty: u64,
}

impl Footprint {
    /// Of a living process.
    pub fn of_process(pid: u32) -> io::Result<Self> {
        fs::read_to_string(format!("/proc/{pid}/smaps")).map(|smaps| Self::parse(&smaps))
    }

    fn parse(smaps: &str) -> Self {
        let mut footprint = Self::default();
        let (mut name, mut is_guest) = (None, false);
        for line in smaps.lines() {
            let Some((key, bytes)) = field(line) else {
                name = Some(mapping_name(line));
                continue;
            };
            match key {
                "Size" => is_guest = is_guest_memory(name.unwrap_or_default(), bytes),
                "Pss" if !is_guest => footprint.own_pss += bytes,
                "Private_Dirty" if is_guest => footprint.guest_dirty += bytes,
                _ => {}
            }
        }
        footprint
    }
}

/// What the kernel reckons it could give to a new program, in bytes.
pub fn available() -> io::Result<u64> {
    let meminfo = fs::read_to_string("/proc/meminfo")?;
    parse_available(&meminfo).ok_or_else(|| io::Error::other("/proc/meminfo has no MemAvailable"))
}

/// The process that a process was made by.
pub fn parent(pid: u32) -> io::Result<u32> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("PPid:"));
    let parent = line.and_then(|pid| pid.trim().parse().ok());
    parent.ok_or_else(|| io::Error::other(format!("process {pid} has no parent")))
}

fn parse_available(meminfo: &str) -> Option<u64> {
    let mut fields = meminfo.lines().filter_map(field);
    fields.find_map(|(key, bytes)| (key == "MemAvailable").then_some(bytes))
}

/// `Key:   123 kB`; proc_pid_smaps(5) says kB and means KiB.
fn field(line: &str) -> Option<(&str, u64)> {
    let (key, rest) = line.split_once(':')?;
    let kib: u64 = rest.trim().strip_suffix("kB")?.trim_end().parse().ok()?;
    Some((key, kib << 10))
}

/// The sixth column of a mapping's first line.
fn mapping_name(line: &str) -> &str {
    let mut rest = line;
    for _ in 0..5 {
        rest = rest.trim_start();
        rest = rest.find(' ').map_or("", |end| &rest[end..]);
    }
    rest.trim()
}

fn is_guest_memory(name: &str, size: u64) -> bool {
    let path = name.strip_suffix(" (deleted)").unwrap_or(name);
    path.rsplit('/').next() == Some(GUEST_MEMORY_FILE)
        || (path.is_empty() && size >= LEAST_GUEST_MAPPING)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As Linux 6.12 writes it, shortened.
    const SMAPS: &str = "\
55d0c0000000-55d0c0100000 r-xp 00000000 fe:00 1234                       /usr/bin/cube-vmm
Size:               1024 kB
KernelPageSize:        4 kB
Rss:                 800 kB
Pss:                 100 kB
Pss_Dirty:             7 kB
Private_Dirty:         7 kB
VmFlags: rd ex mr mw me
7f0000000000-7f0080000000 rw-p 00000000 00:00 0 
Size:            2097152 kB
Pss:               90000 kB
Private_Dirty:     60000 kB
ProtectionKey:         0
VmFlags: rd wr mr mw me nr
7f0100000000-7f0100400000 rw-p 00000000 fe:01 77    /var/lib/cube/templates/k/memory.bin (deleted)
Size:               4096 kB
Pss:                 300 kB
Private_Dirty:       200 kB
7f0200000000-7f0200200000 rw-p 00000000 00:00 0 
Size:               2048 kB
Pss:                  50 kB
Private_Dirty:        50 kB
7ffd00000000-7ffd00021000 rw-p 00000000 00:00 0                          [stack]
Size:                132 kB
Pss:                  12 kB
Private_Dirty:        12 kB
";

    #[test]
    fn guest_memory_is_told_from_the_vmms_own() {
        let expect = Footprint {
            own_pss: (100 + 50 + 12) << 10,
            guest_dirty: (60_000 + 200) << 10,
        };
        assert_eq!(Footprint::parse(SMAPS), expect);
    }

    #[test]
    fn a_name_may_have_spaces() {
        let line = "7f00-7f01 rw-p 00000000 fe:01 77    /a b/memory.bin (deleted)";
        assert_eq!(mapping_name(line), "/a b/memory.bin (deleted)");
        assert!(is_guest_memory("/a b/memory.bin (deleted)", 4096));
        assert!(!is_guest_memory("/a/not-memory.bin", 4096));
        assert!(!is_guest_memory("[heap]", LEAST_GUEST_MAPPING));
    }

    #[test]
    fn available_memory_is_found_by_its_name() {
        let meminfo = "MemTotal:  8000000 kB\nMemFree: 1 kB\nMemAvailable:    4096 kB\n";
        assert_eq!(parse_available(meminfo), Some(4 << 20));
        assert_eq!(parse_available("MemTotal: 1 kB\n"), None);
    }

    #[test]
    fn a_living_process_has_a_footprint_and_a_parent() {
        let pid = std::process::id();
        assert!(Footprint::of_process(pid).unwrap().own_pss > 0);
        assert_eq!(parent(pid).unwrap(), std::os::unix::process::parent_id());
    }
}
