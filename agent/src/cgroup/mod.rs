// SPDX-License-Identifier: Apache-2.0
//! One cgroup v2 per container: made, limited, frozen, counted, killed, removed (kernel
//! Documentation/admin-guide/cgroup-v2.rst). Files are written directly; there is no daemon to agree with.
//!
//! [`limits`] translates the specification's limits, [`devices`] its rules about devices, [`stats`] reads the counters, [`oom`] waits for the
//! kernel's out-of-memory killer. The processes in it are nobody's concern here.

mod devices;
mod limits;
mod oom;
mod stats;

use std::fs;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::fs::{CWD, Mode, OFlags, openat};
use thiserror::Error;
use tokio::time::sleep;

use crate::cause::Cause;
use crate::sys;

pub use devices::{DeviceRule, device_rules};
pub use limits::{LimitError, settings};
pub use oom::OomWatch;
pub use stats::Stats;

/// How long the kernel may take to freeze or to bury what was killed. Both are quick unless a process hangs
/// in an uninterruptible wait on a disk that went away.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(10);

/// Between two looks at a cgroup that has not settled yet.
const SETTLE_POLL: Duration = Duration::from_millis(1);

/// Most cgroups and processes that are looked at in one container. A container may make cgroups of its own
/// and is limited by them and by its memory, not by its good will.
const MAX_VISITED: usize = 65_536;

/// A cgroup that did not do what it was told.
#[derive(Debug, Error)]
pub enum CgroupError {
    /// mkdir.
    #[error("cannot make cgroup {}", path.display())]
    Make {
        /// Where.
        path: PathBuf,
        /// The kernel's answer.
        #[source]
        source: Cause,
    },
    /// A control file refused a value.
    #[error("cannot write {value:?} to {}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// The value.
        value: String,
        /// The kernel's answer.
        #[source]
        source: Cause,
    },
    /// bpf(2).
    #[error("cannot restrict the devices of cgroup {}", path.display())]
    Devices {
        /// Which.
        path: PathBuf,
        /// The kernel's answer.
        #[source]
        source: Cause,
    },
    /// A control file or a directory cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The kernel's answer.
        #[source]
        source: Cause,
    },
    /// It is still there, or still populated, after the time-out.
    #[error("cgroup {} is not {state} after {} s", path.display(), SETTLE_TIMEOUT.as_secs())]
    Unsettled {
        /// Which.
        path: PathBuf,
        /// What was waited for.
        state: &'static str,
    },
    /// rmdir.
    #[error("cannot remove cgroup {}", path.display())]
    Remove {
        /// Where.
        path: PathBuf,
        /// The kernel's answer.
        #[source]
        source: Cause,
    },
}

/// A value for a control file.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Setting {
    /// Name of the file.
    pub file: String,
    /// What to write.
    pub value: String,
}

/// Lets the cgroups below `parent` have every controller that the kernel offers there.
pub fn delegate(parent: &Path) -> Result<(), CgroupError> {
    let available = read(&parent.join("cgroup.controllers"))?;
    for controller in available.split_whitespace() {
        // One by one: a controller that cannot be had (cpu with real-time processes about) must not cost
        // the others. What is missing shows when a limit is set.
        if let Err(error) = write(
            &parent.join("cgroup.subtree_control"),
            &format!("+{controller}"),
        ) {
            tracing::warn!(controller, error = %crate::cause::chain(&error), "controller missing");
        }
    }
    Ok(())
}

/// The cgroup of one container. Dropping it removes it if it is empty; [`Cgroup::remove`] waits until it is.
#[derive(Debug)]
pub struct Cgroup {
    path: PathBuf,
    is_removed: AtomicBool,
}

impl Cgroup {
    /// Makes it.
    pub fn create(path: PathBuf) -> Result<Self, CgroupError> {
        match fs::create_dir(&path) {
            Ok(()) => Ok(Self {
                path,
                is_removed: AtomicBool::new(false),
            }),
            Err(source) => Err(CgroupError::Make {
                path,
                source: source.into(),
            }),
        }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// For a process to be born in it.
    pub fn open(&self) -> Result<OwnedFd, CgroupError> {
        open_dir(&self.path)
    }

    /// Sets limits, in the given order.
    pub fn apply(&self, settings: &[Setting]) -> Result<(), CgroupError> {
        settings
            .iter()
            .try_for_each(|setting| write(&self.path.join(&setting.file), &setting.value))
    }

    /// Lets its processes use the devices that the rules allow, and no others.
    pub fn restrict_devices(&self, rules: &[DeviceRule]) -> Result<(), CgroupError> {
        let failed = |source: io::Error| CgroupError::Devices {
            path: self.path.clone(),
            source: source.into(),
        };
        let filter = devices::filter(rules).map_err(failed)?;
        let directory = fs::File::open(&self.path).map_err(failed)?;
        sys::attach_device_filter(directory.as_fd(), filter.as_fd()).map_err(failed)
    }

    /// Stops every process in it, or lets them go on; answers when that is so.
    pub async fn freeze(&self, frozen: bool) -> Result<(), CgroupError> {
        let digit = if frozen { "1" } else { "0" };
        write(&self.path.join("cgroup.freeze"), digit)?;
        let state = if frozen { "frozen" } else { "thawed" };
        self.settle("frozen", digit, state).await
    }

    /// Kills every process in it, frozen ones too.
    pub fn kill_now(&self) -> Result<(), CgroupError> {
        write(&self.path.join("cgroup.kill"), "1")
    }

    /// Kills every process in it and answers when they are gone.
    pub async fn kill(&self) -> Result<(), CgroupError> {
        // A deletion that is tried again.
        if self.is_removed.load(Ordering::Relaxed) {
            return Ok(());
        }
        self.kill_now()?;
        self.settle("populated", "0", "empty").await
    }

    /// Removes it with those that the container made below it. It must be empty.
    pub async fn remove(&self) -> Result<(), CgroupError> {
        let deadline = Instant::now() + SETTLE_TIMEOUT;
        loop {
            // The kernel counts a dying process a moment longer than its parent does.
            match remove_tree(&self.path) {
                Ok(()) => {
                    self.is_removed.store(true, Ordering::Relaxed);
                    return Ok(());
                }
                // Removed halfway by an earlier attempt, or emptied by the container itself just now.
                Err(error) if error.kind() == io::ErrorKind::NotFound && self.path.exists() => {}
                Err(error)
                    if error.kind() == io::ErrorKind::ResourceBusy && Instant::now() < deadline =>
                {
                    sleep(SETTLE_POLL).await;
                }
                Err(source) => {
                    return Err(CgroupError::Remove {
                        path: self.path.clone(),
                        source: source.into(),
                    });
                }
            }
        }
    }

    /// Every process in it and below it, by its number for the reader.
    pub fn pids(&self) -> Result<Vec<u32>, CgroupError> {
        let mut pids = Vec::new();
        for directory in tree(&self.path).map_err(|source| CgroupError::Read {
            path: self.path.clone(),
            source: source.into(),
        })? {
            match read(&directory.join("cgroup.procs")) {
                Ok(text) => pids.extend(text.lines().filter_map(|line| line.parse::<u32>().ok())),
                // Removed by the container since it was listed, or threaded and thus listed elsewhere.
                Err(error) if directory == self.path => return Err(error),
                Err(_) => {}
            }
            if pids.len() > MAX_VISITED {
                pids.truncate(MAX_VISITED);
                break;
            }
        }
        Ok(pids)
    }

    /// How often the kernel killed a process in it or below it for want of memory.
    pub fn oom_kills(&self) -> Result<u64, CgroupError> {
        oom::kills(&self.path)
    }

    /// Waits for a key of cgroup.events.
    async fn settle(&self, key: &str, value: &str, state: &'static str) -> Result<(), CgroupError> {
        let events = self.path.join("cgroup.events");
        let deadline = Instant::now() + SETTLE_TIMEOUT;
        loop {
            let text = read(&events)?;
            if pairs(&text).any(|(k, v)| k == key && v == value) {
                return Ok(());
            }
            if Instant::now() >= deadline {
                return Err(CgroupError::Unsettled {
                    path: self.path.clone(),
                    state,
                });
            }
            sleep(SETTLE_POLL).await;
        }
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        if self.is_removed.load(Ordering::Relaxed) {
            return;
        }
        if let Err(error) = remove_tree(&self.path) {
            tracing::error!(path = %self.path.display(), %error, "cgroup not removed");
        }
    }
}

/// The cgroup that a process is in, which may be one that the container made below its own.
pub fn open_of_process(base: &Cgroup, root: &Path, pid: u32) -> Result<OwnedFd, CgroupError> {
    let file = PathBuf::from(format!("/proc/{pid}/cgroup"));
    let text = read(&file)?;
    // "0::/path", seen from the agent's cgroup namespace, whose root is mounted at `root`.
    let path = text
        .lines()
        .find_map(|line| line.strip_prefix("0::/"))
        .map(|path| root.join(path))
        .filter(|path| path.starts_with(&base.path))
        .ok_or_else(|| CgroupError::Read {
            path: file,
            source: Cause::new("the process is not in the container's cgroup"),
        })?;
    open_dir(&path)
}

fn open_dir(path: &Path) -> Result<OwnedFd, CgroupError> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    openat(CWD, path, flags, Mode::empty()).map_err(|errno| CgroupError::Read {
        path: path.to_path_buf(),
        source: errno.into(),
    })
}

fn write(path: &Path, value: &str) -> Result<(), CgroupError> {
    // Never created: a file that the kernel does not have is a limit that it does not know.
    let result = fs::OpenOptions::new()
        .write(true)
        .open(path)
        .and_then(|mut file| file.write_all(value.as_bytes()));
    result.map_err(|source| CgroupError::Write {
        path: path.to_path_buf(),
        value: value.to_owned(),
        source: source.into(),
    })
}

fn read(path: &Path) -> Result<String, CgroupError> {
    fs::read_to_string(path).map_err(|source| CgroupError::Read {
        path: path.to_path_buf(),
        source: source.into(),
    })
}

/// Lines of a key and a value.
fn pairs(text: &str) -> impl Iterator<Item = (&str, &str)> {
    text.lines().filter_map(|line| line.split_once(' '))
}

/// A cgroup and those below it, from the top down. Not deeper or more than [`MAX_VISITED`].
fn tree(top: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = vec![top.to_path_buf()];
    let mut next = 0;
    while let Some(directory) = found.get(next).cloned() {
        next += 1;
        let entries = match fs::read_dir(&directory) {
            Err(error) if next > 1 && error.kind() == io::ErrorKind::NotFound => continue,
            other => other?,
        };
        for entry in entries {
            let entry = entry?;
            if entry.file_type()?.is_dir() && found.len() < MAX_VISITED {
                found.push(entry.path());
            }
        }
    }
    Ok(found)
}

fn remove_tree(top: &Path) -> io::Result<()> {
    tree(top)?.iter().rev().try_for_each(fs::remove_dir)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trees_are_listed_and_removed_as_a_whole() {
        let dir = tempfile::tempdir().unwrap();
        let top = dir.path().join("c");
        fs::create_dir_all(top.join("a/b")).unwrap();
        fs::create_dir_all(top.join("d")).unwrap();
        let found = tree(&top).unwrap();
        assert_eq!(found[0], top);
        assert_eq!(found.len(), 4);
        remove_tree(&top).unwrap();
        assert!(!top.exists());
        assert!(tree(&top).is_err());
    }
}
