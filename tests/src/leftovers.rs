// SPDX-License-Identifier: Apache-2.0
//! What the host has now that it did not have before.
//!
//! A view is taken before a test and compared with one taken after: processes of a container's host
//! side, mounts, loop devices, cgroups, network interfaces and namespaces, and the files of a bed.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::ctr::NAMESPACE;

/// Programs that belong to one container. The kernel cuts names at 15 bytes.
const PROGRAMS: [&str; 4] = ["cube-vmm", "containerd-shim", "runc", "runc:[2:INIT]"];
/// Removal may lag behind the answer: the kernel frees loop devices and empty cgroups in its own time.
const GRACE: Duration = Duration::from_secs(15);
const POLL: Duration = Duration::from_millis(200);

/// Everything of those kinds that there is, one line each.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct View(BTreeSet<String>);

impl View {
    /// Looks now. `files`: directories to look into, and how deep.
    pub fn take(files: &[(PathBuf, usize)]) -> Self {
        let mut seen = BTreeSet::new();
        seen.extend(processes());
        seen.extend(mounts());
        seen.extend(loop_devices());
        seen.extend(names("/sys/class/net", "network interface"));
        seen.extend(names("/run/netns", "network namespace"));
        walk(Path::new("/sys/fs/cgroup"), 6, &mut |path| {
            // Directories of the namespace itself are made once and stay.
            let name = path.to_string_lossy();
            if path.is_dir() && name.contains("cube") && !name.ends_with(NAMESPACE) {
                seen.insert(format!("cgroup {name}"));
            }
        });
        for (dir, depth) in files {
            walk(dir, *depth, &mut |path| {
                seen.insert(format!("file {}", path.display()));
            });
        }
        Self(seen)
    }

    /// What is there in `self` and not in `before`.
    pub fn beyond(&self, before: &Self) -> Vec<String> {
        self.0.difference(&before.0).cloned().collect()
    }
}

/// What remains beyond `before` after the grace time; nothing as soon as there is nothing.
pub fn remaining(before: &View, files: &[(PathBuf, usize)]) -> Vec<String> {
    let begun = Instant::now();
    loop {
        let left = View::take(files).beyond(before);
        if left.is_empty() || begun.elapsed() > GRACE {
            return left;
        }
        thread::sleep(POLL);
    }
}

/// Kills those of the leftovers that are processes.
pub fn end_processes(left: &[String]) {
    for line in left {
        let mut words = line.split(' ');
        let pid = (words.next() == Some("process"))
            .then(|| words.next()?.parse().ok())
            .flatten();
        if let Some(pid) = pid.and_then(Pid::from_raw) {
            kill_process(pid, Signal::KILL).ok(); // it may have ended by now
        }
    }
}

fn processes() -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        // A process may end while it is looked at.
        let Ok(name) = fs::read_to_string(entry.path().join("comm")) else {
            continue;
        };
        if PROGRAMS.contains(&name.trim_end()) {
            let command = fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let command = String::from_utf8_lossy(&command).replace('\0', " ");
            found.push(format!(
                "process {} {}",
                entry.file_name().to_string_lossy(),
                command.trim()
            ));
        }
    }
    found
}

fn mounts() -> Vec<String> {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    // Fields: id, parent, device, root, mount point (proc_pid_mountinfo(5)).
    table
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        // The first namespace that is given a name makes it, and it stays (ip-netns(8)).
        .filter(|point| *point != "/run/netns")
        .map(|point| format!("mount {point}"))
        .collect()
}

fn loop_devices() -> Vec<String> {
    let devices = fs::read_dir("/sys/block").into_iter().flatten().flatten();
    devices
        .filter_map(|device| {
            let file = fs::read_to_string(device.path().join("loop/backing_file")).ok()?;
            Some(format!(
                "loop device {} of {}",
                device.file_name().to_string_lossy(),
                file.trim()
            ))
        })
        .collect()
}

fn names(dir: &str, kind: &str) -> Vec<String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries
        .map(|entry| format!("{kind} {}", entry.file_name().to_string_lossy()))
        .collect()
}

/// Shows every path below a directory. Files that go meanwhile are not there.
fn walk(dir: &Path, depth: usize, see: &mut dyn FnMut(&Path)) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        see(&path);
        if depth > 1 && entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            walk(&path, depth - 1, see);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_file_is_left_over_and_a_removed_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let watched = [(dir.path().to_path_buf(), 2)];
        fs::write(dir.path().join("old"), "").unwrap();
        let before = View::take(&watched);
        fs::remove_file(dir.path().join("old")).unwrap();
        fs::create_dir_all(dir.path().join("new/deep/deeper")).unwrap();
        let mut new = View::take(&watched).beyond(&before);
        new.retain(|line| line.contains(&*dir.path().to_string_lossy()));
        let below = |name: &str| format!("file {}/{name}", dir.path().display());
        assert_eq!(new, [below("new"), below("new/deep")]);
    }

    #[test]
    fn mounts_and_interfaces_are_seen() {
        let View(seen) = View::take(&[]);
        assert!(seen.contains("mount /proc"), "{seen:?}");
        assert!(seen.contains("network interface lo"), "{seen:?}");
    }
}
