// SPDX-License-Identifier: Apache-2.0
//! The host's cgroup that a VMM lives in, from `linux.cgroupsPath` of the sandbox's spec.
//!
//! Only its place: what the guest takes is then charged to the container's or pod's cgroup, whose
//! limits are set by whoever made them (the kubelet), and the kernel's out-of-memory killer looks in the
//! right place. The limits of a container itself are cgroups in the guest.
//!
//! Only cgroup v2. On a v1 or hybrid host the VMM stays in the cgroup of its parent, with a log line.

use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::statfs;
use thiserror::Error;

/// Where the hierarchy is mounted on every system that containerd supports.
const ROOT: &str = "/sys/fs/cgroup";

/// `CGROUP2_SUPER_MAGIC` of linux/magic.h.
const CGROUP2_MAGIC: i64 = 0x6367_7270;

/// A cgroup stays busy for a moment after its last process ended.
const REMOVE_TIMEOUT: Duration = Duration::from_millis(500);

/// Attempts at making a path whose parents another sandbox may just be removing.
const MAKE_ATTEMPTS: usize = 5;

/// A cgroup made for one VMM.
#[derive(Debug)]
pub(crate) struct HostCgroup {
    /// The cgroup itself, then those above it that had to be made.
    made: Vec<PathBuf>,
}

/// Whether this host has cgroup v2 where everybody looks for it.
pub(crate) fn is_v2() -> bool {
    statfs(ROOT).is_ok_and(|fs| fs.f_type == CGROUP2_MAGIC)
}

impl HostCgroup {
    /// Makes the cgroup that a spec names; `None` on a host without cgroup v2.
    pub(crate) fn create(cgroups_path: &str) -> Result<Option<Self>, CgroupError> {
        if !is_v2() {
            tracing::info!(
                cgroups_path,
                "this host has no cgroup v2: the VMM stays in the cgroup of its parent"
            );
            return Ok(None);
        }
        let path = Path::new(ROOT).join(relative_path(cgroups_path)?);
        let made = make(&path).map_err(|source| CgroupError::Make { path, source })?;
        Ok(Some(Self { made }))
    }

    /// Moves a process in. Before it takes memory: what a process has taken stays where it was charged.
    pub(crate) fn add(&self, pid: u32) -> Result<(), CgroupError> {
        let path = self.path().join("cgroup.procs");
        fs::write(&path, pid.to_string()).map_err(|source| CgroupError::Add { pid, path, source })
    }

    /// The directories to remove, innermost first.
    pub(crate) fn made(&self) -> &[PathBuf] {
        &self.made
    }

    /// The file that counts how often the kernel killed in it for want of memory: see [`oom_killed`].
    pub(crate) fn memory_events(&self) -> PathBuf {
        self.path().join("memory.events")
    }

    fn path(&self) -> &Path {
        self.made.first().map_or(Path::new(ROOT), PathBuf::as_path)
    }
}

/// Whether the kernel killed a process of a cgroup for want of memory.
pub(crate) fn oom_killed(memory_events: &Path) -> bool {
    fs::read_to_string(memory_events).is_ok_and(|text| oom_kills(&text) > 0)
}

/// Removes cgroups that [`HostCgroup::made`] named, innermost first. Those in use by others stay.
pub(crate) fn remove(made: &[PathBuf]) {
    for (depth, path) in made.iter().enumerate() {
        if !is_below_root(path) {
            tracing::warn!(path = %path.display(), "not removed: not a cgroup");
            continue;
        }
        // Only the innermost held our process; one above it is busy because of somebody else.
        let patience = if depth == 0 {
            REMOVE_TIMEOUT
        } else {
            Duration::ZERO
        };
        if let Err(error) = remove_one(path, patience) {
            tracing::debug!(path = %path.display(), %error, "cgroup kept");
        }
    }
}

fn remove_one(path: &Path, patience: Duration) -> io::Result<()> {
    let deadline = Instant::now() + patience;
    loop {
        match fs::remove_dir(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error)
                if error.kind() == io::ErrorKind::ResourceBusy && Instant::now() < deadline =>
            {
                std::thread::sleep(Duration::from_millis(2));
            }
            other => return other,
        }
    }
}

/// Makes every missing directory of a path; what was made comes back, innermost first. The path itself
/// counts as made even if it was there: it is named after this sandbox alone.
fn make(path: &Path) -> io::Result<Vec<PathBuf>> {
    let mut attempt = 0;
    loop {
        let missing: Vec<PathBuf> = path
            .ancestors()
            .take_while(|part| *part == path || !part.exists())
            .map(Path::to_path_buf)
            .collect();
        let result = missing
            .iter()
            .rev()
            .try_for_each(|part| match fs::create_dir(part) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
                other => other,
            });
        attempt += 1;
        match result {
            Ok(()) => return Ok(missing),
            Err(error) if error.kind() == io::ErrorKind::NotFound && attempt < MAKE_ATTEMPTS => {}
            Err(error) => return Err(error),
        }
    }
}

/// From `linux.cgroupsPath` to a path below the root of the hierarchy: either a path, absolute or not,
/// or systemd's `slice:prefix:name`, as runc reads them.
fn relative_path(cgroups_path: &str) -> Result<PathBuf, CgroupError> {
    let invalid = || CgroupError::Path {
        path: cgroups_path.into(),
    };
    let parts: Vec<&str> = cgroups_path.split(':').collect();
    let path = match parts.as_slice() {
        [path] => PathBuf::from(path.trim_start_matches('/')),
        [slice, prefix, name] => {
            let unit = match (*prefix, *name) {
                (_, "") => return Err(invalid()),
                (prefix, name) if prefix.contains('/') || name.contains('/') => {
                    return Err(invalid());
                }
                (_, name) if name.ends_with(".slice") => name.to_owned(),
                ("", name) => format!("{name}.scope"),
                (prefix, name) => format!("{prefix}-{name}.scope"),
            };
            expand_slice(slice).ok_or_else(invalid)?.join(unit)
        }
        _ => return Err(invalid()),
    };
    let plain = path
        .components()
        .all(|part| matches!(part, Component::Normal(_)));
    if plain && path.components().next().is_some() {
        Ok(path)
    } else {
        Err(invalid())
    }
}

/// `a-b.slice` lies in `a.slice/` (systemd.slice(5)); an empty one is runc's default.
fn expand_slice(slice: &str) -> Option<PathBuf> {
    let slice = if slice.is_empty() {
        "system.slice"
    } else {
        slice
    };
    let stem = slice.strip_suffix(".slice")?;
    if stem == "-" {
        return Some(PathBuf::new());
    }
    let mut path = PathBuf::new();
    let mut name = String::new();
    for part in stem.split('-') {
        if part.is_empty() || part.contains('/') {
            return None;
        }
        if !name.is_empty() {
            name.push('-');
        }
        name.push_str(part);
        path.push(format!("{name}.slice"));
    }
    Some(path)
}

fn is_below_root(path: &Path) -> bool {
    path.strip_prefix(ROOT).is_ok_and(|rest| {
        rest.components().next().is_some()
            && rest
                .components()
                .all(|part| matches!(part, Component::Normal(_)))
    })
}

fn oom_kills(events: &str) -> u64 {
    events
        .lines()
        .find_map(|line| line.strip_prefix("oom_kill "))
        .and_then(|count| count.trim().parse().ok())
        .unwrap_or(0)
}

/// What can go wrong with a VMM's cgroup.
#[derive(Debug, Error)]
pub enum CgroupError {
    /// The spec's path is none.
    #[error("the cgroup path {path:?} is neither a path nor of the form slice:prefix:name")]
    Path {
        /// As the spec has it.
        path: String,
    },
    /// It could not be made.
    #[error("the cgroup {} could not be made", path.display())]
    Make {
        /// Its directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The VMM could not be moved into it.
    #[error("process {pid} could not be added to {}", path.display())]
    Add {
        /// The VMM.
        pid: u32,
        /// The file written to.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cgroup_paths_are_read_as_runc_reads_them() {
        let check = |text: &str, expect: Option<&str>| {
            let path = relative_path(text).ok();
            assert_eq!(path.as_deref(), expect.map(Path::new), "{text:?}");
        };
        check("/default/t1", Some("default/t1"));
        check("k8s.io/abc", Some("k8s.io/abc"));
        check("system.slice:cri:abc", Some("system.slice/cri-abc.scope"));
        check(
            "kubepods-burstable-pod1.slice:cri-containerd:abc",
            Some(
                "kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1.slice/cri-containerd-abc.scope",
            ),
        );
        check(":docker:x", Some("system.slice/docker-x.scope"));
        check("-.slice::x", Some("x.scope"));
        check("a.slice:p:x.slice", Some("a.slice/x.slice"));
        for bad in [
            "",
            "/",
            "../x",
            "/a/../../x",
            "a:b",
            "a.slice:b:",
            "x:y:z",
            "a--b.slice:p:n",
            "a.slice:p:../x",
        ] {
            check(bad, None);
        }
    }

    #[test]
    fn only_the_kernels_count_of_kills_counts() {
        assert_eq!(oom_kills("low 0\noom 3\noom_kill 2\noom_group_kill 0\n"), 2);
        assert_eq!(oom_kills("oom 3\n"), 0);
        assert_eq!(oom_kills(""), 0);
    }

    #[test]
    fn what_was_made_is_removed_but_what_others_use_stays() {
        let root = tempfile::tempdir().unwrap();
        let first = make(&root.path().join("ns/a")).unwrap();
        let second = make(&root.path().join("ns/b")).unwrap();
        assert_eq!(first.len(), 2);
        assert_eq!(second.len(), 1);
        for path in &first {
            // The parent is not empty yet: an error that is expected and harmless.
            assert_eq!(
                remove_one(path, Duration::ZERO).is_ok(),
                path.ends_with("a")
            );
        }
        assert!(root.path().join("ns/b").exists());
    }
}
