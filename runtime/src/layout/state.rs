// SPDX-License-Identifier: Apache-2.0
//! What is saved of a sandbox, so that another process can find and remove it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{LayoutError, STATE_FILE, SandboxKey};

/// Version of [`SandboxState`]. Readers of another version still remove the directory.
const VERSION: u32 = 1;

/// `sandbox.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SandboxState {
    /// Of this structure.
    pub version: u32,
    /// Who it is.
    pub key: SandboxKey,
    /// Virtual processors.
    pub vcpus: u8,
    /// Guest memory in MiB.
    pub memory_mib: u32,
    /// When it was made, seconds since the epoch.
    pub created_s: u64,
    /// Its VMM's process.
    pub vmm: VmmState,
    /// The host cgroups to remove with it, innermost first.
    pub cgroups: Vec<PathBuf>,
    /// Name of the template that it was restored from; none if it was booted.
    #[serde(default)]
    pub template: Option<String>,
}

/// A process that cannot be mistaken for a later one with the same pid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmmState {
    /// Its process id.
    pub pid: u32,
    /// Field 22 of `/proc/<pid>/stat`: clock ticks from the host's boot to its start.
    pub start_ticks: u64,
}

impl SandboxState {
    /// The state of a sandbox that starts now.
    pub(crate) fn new(key: SandboxKey, vcpus: u8, memory_mib: u32, vmm: VmmState) -> Self {
        let since_epoch = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        Self {
            version: VERSION,
            key,
            vcpus,
            memory_mib,
            created_s: since_epoch.map_or(0, |age| age.as_secs()),
            vmm,
            cgroups: Vec::new(),
            template: None,
        }
    }

    /// Writes it into a sandbox's directory; a reader sees the old or the new one, never half of it.
    pub(crate) fn write(&self, dir: &Path) -> Result<(), LayoutError> {
        let path = dir.join(STATE_FILE);
        let fresh = dir.join("sandbox.json.new");
        let write = || -> io::Result<()> {
            fs::write(&fresh, serde_json::to_vec_pretty(self)?)?;
            fs::rename(&fresh, &path)
        };
        write().map_err(|source| LayoutError::Write {
            path: path.clone(),
            source,
        })
    }

    /// Reads it from a sandbox's directory; `None` if none was written yet.
    pub fn read(dir: &Path) -> Result<Option<Self>, LayoutError> {
        let path = dir.join(STATE_FILE);
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(LayoutError::Read { path, source }),
        };
        serde_json::from_slice(&bytes)
            .map(Some)
            .map_err(|source| LayoutError::Parse { path, source })
    }
}

impl VmmState {
    /// Names a living process; `None` if there is none of this pid.
    pub(crate) fn of(pid: u32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        Some(Self {
            pid,
            start_ticks: start_ticks(&stat)?,
        })
    }

    /// Whether the process of this pid is still the one that was named. A zombie counts as alive.
    pub fn is_alive(&self) -> bool {
        Self::of(self.pid) == Some(*self)
    }
}

/// Field 22 of a `stat` line. The second field is a name in parentheses that may hold anything,
/// so counting starts behind the last parenthesis (proc_pid_stat(5)).
fn start_ticks(stat: &str) -> Option<u64> {
    let (_, fields) = stat.rsplit_once(')')?;
    fields.split_ascii_whitespace().nth(19)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state() -> SandboxState {
        let key = SandboxKey {
            address: "/a".into(),
            namespace: "n".into(),
            id: "i".into(),
        };
        let vmm = VmmState {
            pid: 7,
            start_ticks: 99,
        };
        SandboxState::new(key, 2, 2048, vmm)
    }

    #[test]
    fn what_was_written_is_read() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(SandboxState::read(dir.path()).unwrap(), None);
        state().write(dir.path()).unwrap();
        assert_eq!(SandboxState::read(dir.path()).unwrap(), Some(state()));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_cut_file_is_an_error_that_names_it() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(STATE_FILE), "{\"version\":1,").unwrap();
        let error = SandboxState::read(dir.path()).unwrap_err();
        assert!(error.to_string().contains(STATE_FILE), "{error}");
    }

    #[test]
    fn start_ticks_survive_any_process_name() {
        let tail = "S 1 1 1 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 4242 9 9";
        for name in ["vmm", "a b", "a) b", ")) ("] {
            assert_eq!(start_ticks(&format!("12 ({name}) {tail}")), Some(4242));
        }
        assert_eq!(start_ticks("12 (x) S 1"), None);
        assert_eq!(start_ticks(""), None);
    }

    #[test]
    fn this_process_is_alive_and_another_start_time_is_not() {
        let me = VmmState::of(std::process::id()).unwrap();
        assert!(me.is_alive());
        let other = VmmState {
            start_ticks: me.start_ticks + 1,
            ..me
        };
        assert!(!other.is_alive());
    }
}
