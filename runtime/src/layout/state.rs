// SPDX-License-Identifier: Apache-2.0
//! What is saved of a sandbox, so that another process can find and remove it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use cube_net::policy::Policy;
use cube_net::wire::{Identity, Namespace, NamespaceError};
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
    /// Its network on the host.
    #[serde(default)]
    pub network: NetworkState,
}

/// A sandbox's network, as far as it has to be shown, and removed by somebody else.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkState {
    /// The namespace that it was given; none: its VMM's own, which goes with it.
    pub namespace: Option<NamespaceState>,
    /// The interfaces that the guest has taken over, by slot. They are written down before they are
    /// wired.
    pub interfaces: Vec<InterfaceState>,
    /// What it may send to; none: anybody.
    #[serde(default)]
    pub egress: Option<Policy>,
}

/// A namespace that cannot be mistaken for a later one at the same path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamespaceState {
    /// Where it was found.
    pub path: PathBuf,
    /// Of the file system of namespaces.
    pub device: u64,
    /// Of the namespace in it.
    pub inode: u64,
}

impl NamespaceState {
    pub(crate) fn of(namespace: &Namespace) -> Result<Self, NamespaceError> {
        let Identity { device, inode } = namespace.identity()?;
        Ok(Self {
            path: namespace.path().into(),
            device,
            inode,
        })
    }
}

/// An interface of a sandbox.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InterfaceState {
    /// Its name, in the namespace and in the guest.
    pub name: String,
    /// Its addresses with their prefix, `10.4.0.2/24`.
    pub addresses: Vec<String>,
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
            network: NetworkState::default(),
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

/// The state of a sandbox that runs, and the file that says so.
#[derive(Debug)]
pub(crate) struct Record {
    dir: PathBuf,
    state: Mutex<SandboxState>,
}

impl Record {
    /// Of the sandbox in this directory, which has its file already.
    pub(crate) fn new(dir: &Path, state: SandboxState) -> Self {
        Self {
            dir: dir.into(),
            state: Mutex::new(state),
        }
    }

    /// Changes the network in the file, then here.
    pub(crate) fn set_network(&self, network: NetworkState) -> Result<(), LayoutError> {
        let mut state = self.lock();
        let changed = SandboxState {
            network,
            ..state.clone()
        };
        changed.write(&self.dir)?;
        *state = changed;
        Ok(())
    }

    /// The network as it is written down.
    pub(crate) fn network(&self) -> NetworkState {
        self.lock().network.clone()
    }

    fn lock(&self) -> MutexGuard<'_, SandboxState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
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
    fn a_network_is_written_at_once_and_an_older_file_has_none() {
        let dir = tempfile::tempdir().unwrap();
        let record = Record::new(dir.path(), state());
        let network = NetworkState {
            namespace: Some(NamespaceState {
                path: "/run/netns/a".into(),
                device: 4,
                inode: 5,
            }),
            egress: None,
            interfaces: vec![InterfaceState {
                name: "eth0".into(),
                addresses: vec!["10.4.0.2/24".into()],
            }],
        };
        record.set_network(network.clone()).unwrap();
        let read = SandboxState::read(dir.path()).unwrap().unwrap();
        assert_eq!(
            (&read.network, record.network()),
            (&network, network.clone())
        );

        let mut older = serde_json::to_value(&read).unwrap();
        older.as_object_mut().unwrap().remove("network");
        fs::write(dir.path().join(STATE_FILE), older.to_string()).unwrap();
        let read = SandboxState::read(dir.path()).unwrap().unwrap();
        assert_eq!(read.network, NetworkState::default());
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
