// SPDX-License-Identifier: Apache-2.0
//! The bundle: the directory in which containerd describes one container to the shim.
//!
//! Read: `config.json`, the OCI runtime spec. Written: `address`, which containerd 1.x dials after a
//! restart, and `cube-task.json`, from which `delete` knows the task's pid and real exit after a crash.

use std::collections::HashMap;
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::task::Exited;

const CONFIG_FILE: &str = "config.json";
const ADDRESS_FILE: &str = "address";
const TASK_FILE: &str = "cube-task.json";

/// Largest spec: it travels to the guest in one ttrpc message, and those end at 4 MiB.
const MAX_CONFIG: u64 = 3 << 20;

/// CRI's annotation that says whether a container is a pod's sandbox or one of its containers.
const CONTAINER_TYPE: &str = "io.kubernetes.cri.container-type";
/// CRI's annotation that names the pod's sandbox.
const SANDBOX_ID: &str = "io.kubernetes.cri.sandbox-id";

/// What could not be done with a bundle.
#[derive(Debug, Error)]
pub enum BundleError {
    /// A file could not be read.
    #[error("{path:?} could not be read")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file could not be written.
    #[error("{path:?} could not be written")]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The spec is too large for one message to the guest.
    #[error("{path:?} is larger than 3 MiB, the most a guest can be sent")]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
    /// A file is not what it should be.
    #[error("{path:?} is not valid")]
    Parse {
        /// The file.
        path: PathBuf,
        /// Where and why.
        source: serde_json::Error,
    },
    /// A pod's container that names no pod.
    #[error(
        "{path:?} says that it is a pod's container but not of which pod (annotation {SANDBOX_ID})"
    )]
    NoSandboxId {
        /// The file.
        path: PathBuf,
    },
}

/// Whose sandbox a container lives in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Grouping {
    /// Its own: a container alone, or the sandbox container of a pod.
    Leader,
    /// That of its pod.
    Member {
        /// The pod's sandbox.
        sandbox_id: String,
    },
}

impl Grouping {
    /// The sandbox's id, if it is somebody else's.
    pub fn sandbox_id(&self) -> Option<&str> {
        match self {
            Grouping::Leader => None,
            Grouping::Member { sandbox_id } => Some(sandbox_id),
        }
    }
}

/// Reads the OCI spec, byte for byte.
pub fn read_config(bundle: &Path) -> Result<Vec<u8>, BundleError> {
    let path = bundle.join(CONFIG_FILE);
    let mut text = Vec::new();
    let read =
        fs::File::open(&path).and_then(|file| file.take(MAX_CONFIG + 1).read_to_end(&mut text));
    match read {
        Ok(length) if length as u64 > MAX_CONFIG => Err(BundleError::TooLarge { path }),
        Ok(_) => Ok(text),
        Err(source) => Err(BundleError::Read { path, source }),
    }
}

/// Tells from the spec's annotations whose sandbox the container lives in. A bundle without a spec
/// is a sandbox of the sandbox API.
pub fn grouping(bundle: &Path) -> Result<Grouping, BundleError> {
    #[derive(Deserialize)]
    struct Annotated {
        #[serde(default)]
        annotations: Option<HashMap<String, String>>,
    }
    let text = match read_config(bundle) {
        Err(BundleError::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            return Ok(Grouping::Leader);
        }
        other => other?,
    };
    let path = bundle.join(CONFIG_FILE);
    let spec: Annotated =
        serde_json::from_slice(&text).map_err(|source| BundleError::Parse { path, source })?;
    let mut annotations = spec.annotations.unwrap_or_default();
    if annotations.get(CONTAINER_TYPE).map(String::as_str) != Some("container") {
        return Ok(Grouping::Leader);
    }
    match annotations.remove(SANDBOX_ID) {
        Some(sandbox_id) => Ok(Grouping::Member { sandbox_id }),
        None => Err(BundleError::NoSandboxId {
            path: bundle.join(CONFIG_FILE),
        }),
    }
}

/// Leaves the shim's address where containerd 1.x looks for it after a restart.
pub fn write_address(bundle: &Path, address: &[u8]) -> Result<(), BundleError> {
    replace(bundle, ADDRESS_FILE, address)
}

/// The socket whose address was left there.
pub fn read_address(bundle: &Path) -> Option<PathBuf> {
    let address = fs::read_to_string(bundle.join(ADDRESS_FILE)).ok()?;
    address.strip_prefix("unix://").map(PathBuf::from)
}

/// What outlives the shim: saved at Create and again when the first process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskState {
    /// The pid that containerd knows the task by.
    pub pid: u32,
    /// How its first process ended.
    pub exit: Option<ExitState>,
}

/// See [`TaskState`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitState {
    /// Its exit code.
    pub status: u32,
    /// When, in nanoseconds since the epoch.
    pub at_ns: u64,
}

impl TaskState {
    /// Reads it; none if the task was never created.
    pub fn load(bundle: &Path) -> Result<Option<Self>, BundleError> {
        let path = bundle.join(TASK_FILE);
        let text = match fs::read(&path) {
            Err(source) if source.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(BundleError::Read { path, source }),
            Ok(text) => text,
        };
        match serde_json::from_slice(&text) {
            Ok(state) => Ok(Some(state)),
            Err(source) => Err(BundleError::Parse { path, source }),
        }
    }

    /// Writes it in one step.
    pub fn save(&self, bundle: &Path) -> Result<(), BundleError> {
        let text = serde_json::to_vec(self).expect("three numbers are always JSON");
        replace(bundle, TASK_FILE, &text)
    }
}

impl From<Exited> for ExitState {
    fn from(exited: Exited) -> Self {
        let since = exited.at.duration_since(UNIX_EPOCH).unwrap_or_default();
        Self {
            status: exited.status,
            at_ns: u64::try_from(since.as_nanos()).unwrap_or(u64::MAX),
        }
    }
}

impl ExitState {
    /// When.
    pub fn at(&self) -> SystemTime {
        UNIX_EPOCH + Duration::from_nanos(self.at_ns)
    }
}

/// Writes a whole file or nothing: a reader after a crash sees the old content or the new.
fn replace(bundle: &Path, name: &str, content: &[u8]) -> Result<(), BundleError> {
    let path = bundle.join(name);
    let draft = bundle.join(format!(".{name}"));
    fs::write(&draft, content)
        .and_then(|()| fs::rename(&draft, &path))
        .map_err(|source| BundleError::Write { path, source })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bundle(config: &str) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(CONFIG_FILE), config).unwrap();
        dir
    }

    #[test]
    fn annotations_decide_the_grouping() {
        let check = |config: &str, expect: Grouping| {
            assert_eq!(grouping(bundle(config).path()).unwrap(), expect, "{config}");
        };
        check("{}", Grouping::Leader);
        check(r#"{"annotations":null}"#, Grouping::Leader);
        check(
            r#"{"annotations":{"io.kubernetes.cri.container-type":"sandbox","io.kubernetes.cri.sandbox-id":"s"}}"#,
            Grouping::Leader,
        );
        let sandbox_id = "s".to_owned();
        check(
            r#"{"annotations":{"io.kubernetes.cri.container-type":"container","io.kubernetes.cri.sandbox-id":"s"}}"#,
            Grouping::Member { sandbox_id },
        );
    }

    #[test]
    fn a_bundle_without_a_spec_leads() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(grouping(dir.path()).unwrap(), Grouping::Leader);
    }

    #[test]
    fn a_member_of_no_pod_is_an_error() {
        let dir = bundle(r#"{"annotations":{"io.kubernetes.cri.container-type":"container"}}"#);
        let error = grouping(dir.path()).unwrap_err();
        assert!(matches!(error, BundleError::NoSandboxId { .. }));
    }

    #[test]
    fn a_spec_that_no_message_holds_is_refused() {
        let dir = bundle(&" ".repeat(usize::try_from(MAX_CONFIG).unwrap() + 1));
        let error = read_config(dir.path()).unwrap_err();
        assert!(matches!(error, BundleError::TooLarge { .. }));
    }

    #[test]
    fn the_task_file_comes_back_as_it_was() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(TaskState::load(dir.path()).unwrap(), None);
        let exit = Some(ExitState {
            status: 3,
            at_ns: 1_700_000_000_123_456_789,
        });
        for state in [TaskState { pid: 7, exit: None }, TaskState { pid: 7, exit }] {
            state.save(dir.path()).unwrap();
            assert_eq!(TaskState::load(dir.path()).unwrap(), Some(state));
        }
    }
}
