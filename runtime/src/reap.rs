// SPDX-License-Identifier: Apache-2.0
//! Removing a sandbox from its files alone: after any process died, twice, on half-made directories.
//!
//! The `delete` action of the shim, a failed create and an orderly destroy all end here, so there is
//! one way in which a sandbox goes: kill the VMM, remove its host cgroups and what it left in a network
//! namespace that was given to it, remove its directory last, because the directory is what a later
//! attempt works from.
//!
//! A pid alone is never trusted. The process is opened first (a pidfd cannot come to mean another one),
//! then its start time is compared with the saved one; only then it is killed.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, retry_on_intr};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use thiserror::Error;

use crate::cgroup;
use crate::layout::{Layout, LayoutError, SandboxKey, SandboxState, VmmState};
use crate::network::{self, UndoError};

/// How long a killed VMM may take to go. Giving back its memory takes a second or so where everything
/// is emulated; the shim's `delete` has 5 s for everything (containerd's cleanup time-out).
const DEATH_TIMEOUT: Duration = Duration::from_secs(3);

/// What was there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reaped {
    /// Whether there was anything at all.
    pub found: bool,
    /// The VMM's process id, if the directory named one.
    pub pid: Option<u32>,
    /// Whether the VMM was still alive and had to be killed.
    pub killed: bool,
}

/// Kills what is left of a sandbox and removes its files. A sandbox that is not there is done.
///
/// Blocking; a few milliseconds at most unless a VMM has to be killed.
pub fn reap(layout: &Layout, key: &SandboxKey) -> Result<Reaped, ReapError> {
    reap_dir(&layout.path(key))
}

/// The same for a directory whose key is not known.
pub fn reap_dir(dir: &Path) -> Result<Reaped, ReapError> {
    if !dir.exists() {
        return Ok(Reaped::default());
    }
    let mut reaped = Reaped {
        found: true,
        ..Reaped::default()
    };
    match SandboxState::read(dir) {
        Ok(Some(state)) => {
            reaped.pid = Some(state.vmm.pid);
            reaped.killed = kill(state.vmm)?;
            cgroup::remove(&state.cgroups);
            network::undo(&state.network).map_err(ReapError::network)?;
        }
        // Made but never filled: a VMM of it, if any, ended with its control socket.
        Ok(None) => {}
        Err(error @ LayoutError::Parse { .. }) => {
            tracing::warn!(error = %crate::error::chain(&error), "removing a sandbox without its state");
        }
        Err(source) => {
            return Err(ReapError::State {
                source: Box::new(source),
            });
        }
    }
    remove_dir(dir)?;
    Ok(reaped)
}

/// Kills the process if it still is the one that was saved, and waits for its end.
fn kill(vmm: VmmState) -> Result<bool, ReapError> {
    let Some(pid) = i32::try_from(vmm.pid).ok().and_then(Pid::from_raw) else {
        return Ok(false);
    };
    let process = match pidfd_open(pid, PidfdFlags::empty()) {
        Ok(process) => process,
        Err(Errno::SRCH) => return Ok(false),
        Err(source) => return Err(ReapError::Kill { source }),
    };
    if !vmm.is_alive() {
        return Ok(false);
    }
    end_process(&process)?;
    Ok(true)
}

/// Kills a process and waits until it is gone (or only waits for its parent to notice).
pub(crate) fn end_process(process: &OwnedFd) -> Result<(), ReapError> {
    match pidfd_send_signal(process, Signal::KILL) {
        Ok(()) => {}
        Err(Errno::SRCH) => return Ok(()),
        Err(source) => return Err(ReapError::Kill { source }),
    }
    let limit = Timespec {
        tv_sec: DEATH_TIMEOUT.as_secs().try_into().unwrap_or(1),
        tv_nsec: 0,
    };
    // A pidfd becomes readable when its process has ended, whether or not anybody waited for it.
    let mut watched = [PollFd::from_borrowed_fd(process.as_fd(), PollFlags::IN)];
    let ended = retry_on_intr(|| poll(&mut watched, Some(&limit)));
    match ended.map_err(|source| ReapError::Kill { source })? {
        0 => Err(ReapError::Undead),
        _ => Ok(()),
    }
}

pub(crate) fn remove_dir(dir: &Path) -> Result<(), ReapError> {
    match fs::remove_dir_all(dir) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(ReapError::Remove {
            path: dir.into(),
            source,
        }),
        _ => Ok(()),
    }
}

/// What could not be removed.
#[derive(Debug, Error)]
pub enum ReapError {
    /// The state file is there but cannot be read.
    #[error("what is left of the sandbox cannot be known")]
    State {
        /// Why.
        source: Box<LayoutError>,
    },
    /// The VMM could not be killed.
    #[error("the VMM could not be killed")]
    Kill {
        /// Why.
        source: Errno,
    },
    /// The VMM would not die.
    #[error("the VMM was killed and still has not ended after {} s", DEATH_TIMEOUT.as_secs())]
    Undead,
    /// Its wiring would not go.
    #[error("what is left of the sandbox's network could not be removed")]
    Network(#[source] Box<UndoError>),
    /// The directory would not go.
    #[error("the sandbox directory {} could not be removed", path.display())]
    Remove {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl ReapError {
    pub(crate) fn network(source: UndoError) -> Self {
        ReapError::Network(Box::new(source))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Child, Command};

    fn key() -> SandboxKey {
        SandboxKey {
            address: "/a".into(),
            namespace: "n".into(),
            id: "i".into(),
        }
    }

    fn sleeper() -> Child {
        Command::new("sleep").arg("60").spawn().unwrap()
    }

    fn left_over(layout: &Layout, vmm: VmmState) -> PathBuf {
        let dir = layout.path(&key());
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join("serial.log"), "x").unwrap();
        let state = SandboxState::new(key(), 2, 2048, vmm);
        state.write(&dir).unwrap();
        dir
    }

    #[test]
    fn nothing_there_is_done() {
        let run = tempfile::tempdir().unwrap();
        let reaped = reap(&Layout::new(run.path()), &key()).unwrap();
        assert_eq!(reaped, Reaped::default());
    }

    #[test]
    fn a_living_vmm_is_killed_and_its_files_go() {
        let run = tempfile::tempdir().unwrap();
        let layout = Layout::new(run.path());
        let mut child = sleeper();
        let dir = left_over(&layout, VmmState::of(child.id()).unwrap());
        let reaped = reap(&layout, &key()).unwrap();
        assert!(reaped.killed);
        assert_eq!(reaped.pid, Some(child.id()));
        assert!(!dir.exists());
        assert!(child.try_wait().unwrap().is_some());
        assert!(!reap(&layout, &key()).unwrap().found);
    }

    #[test]
    fn a_process_that_took_over_the_pid_is_left_alone() {
        let run = tempfile::tempdir().unwrap();
        let layout = Layout::new(run.path());
        let mut child = sleeper();
        let mut vmm = VmmState::of(child.id()).unwrap();
        vmm.start_ticks -= 1;
        let dir = left_over(&layout, vmm);
        assert!(!reap(&layout, &key()).unwrap().killed);
        assert!(!dir.exists());
        assert!(child.try_wait().unwrap().is_none());
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn a_dead_vmm_and_impossible_pids_only_cost_their_files() {
        let run = tempfile::tempdir().unwrap();
        let layout = Layout::new(run.path());
        let mut child = sleeper();
        let dead = VmmState::of(child.id()).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        for pid in [dead.pid, 0, u32::MAX] {
            let dir = left_over(&layout, VmmState { pid, ..dead });
            assert!(!reap(&layout, &key()).unwrap().killed);
            assert!(!dir.exists());
        }
    }

    #[test]
    fn half_made_directories_go() {
        let run = tempfile::tempdir().unwrap();
        let layout = Layout::new(run.path());
        let dir = layout.path(&key());
        for state in [None, Some("{\"vers"), Some("")] {
            fs::create_dir_all(&dir).unwrap();
            if let Some(text) = state {
                fs::write(dir.join("sandbox.json"), text).unwrap();
            }
            assert!(reap(&layout, &key()).unwrap().found);
            assert!(!dir.exists());
        }
    }

    #[test]
    fn a_cgroup_path_outside_the_hierarchy_is_not_touched() {
        let run = tempfile::tempdir().unwrap();
        let layout = Layout::new(run.path());
        let victim = run.path().join("victim");
        fs::create_dir(&victim).unwrap();
        let dir = layout.path(&key());
        fs::create_dir_all(&dir).unwrap();
        let vmm = VmmState {
            pid: 0,
            start_ticks: 0,
        };
        let mut state = SandboxState::new(key(), 2, 2048, vmm);
        state.cgroups = vec![victim.clone(), "/sys/fs/cgroup/../../tmp".into()];
        state.write(&dir).unwrap();
        reap(&layout, &key()).unwrap();
        assert!(victim.exists());
    }
}
