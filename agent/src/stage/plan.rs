// SPDX-License-Identifier: Apache-2.0
//! What a stage is told to do. Written by the agent, read once by the stage of the same binary, so its form
//! may change freely. Values are checked where they are made (`crate::oci`); here they only travel.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::seccomp::Filter;

/// The whole task of one stage.
#[derive(Debug, Deserialize, Serialize)]
pub struct Plan {
    /// Name for error messages and the session keyring.
    pub container_id: String,
    /// The first process builds the container; a further one joins it.
    pub container: Option<ContainerPlan>,
    /// Namespaces of the process behind [`JOIN_FD`](super::JOIN_FD) to join.
    pub join: SharedNamespaces,
    /// Give it a terminal of the container.
    pub terminal: bool,
    /// The process itself.
    pub process: ProcessPlan,
    /// System calls that it may make.
    pub seccomp: Option<Filter>,
}

/// Namespaces that two processes share.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct SharedNamespaces {
    /// Mounts and the view of cgroups: everything of the same container.
    pub mount: bool,
    /// System V IPC and message queues.
    pub ipc: bool,
    /// Host name.
    pub uts: bool,
}

impl SharedNamespaces {
    /// Whether there is anything to join.
    pub fn any(self) -> bool {
        self.mount || self.ipc || self.uts
    }
}

/// The surroundings of a container.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct ContainerPlan {
    /// Where the agent mounted the root file system.
    pub rootfs: PathBuf,
    /// File of the machine with its id, if it has one.
    pub machine_id: PathBuf,
    /// No process may write to it.
    pub read_only: bool,
    /// `MS_*` for all mounts that exist at the start.
    pub propagation: u32,
    /// In this order.
    pub mounts: Vec<MountPlan>,
    /// On top of the standard ones.
    pub devices: Vec<DevicePlan>,
    /// Made unreadable.
    pub masked_paths: Vec<PathBuf>,
    /// Made read-only.
    pub read_only_paths: Vec<PathBuf>,
    /// Path below /proc/sys, value.
    pub sysctls: Vec<(PathBuf, String)>,
    /// Empty: as it is.
    pub hostname: String,
    /// Empty: as it is.
    pub domainname: String,
    /// The first process executes nothing: it holds the container.
    pub is_held: bool,
}

impl ContainerPlan {
    /// Whether a path of the machine is mounted somewhere.
    pub fn binds(&self, path: &Path) -> bool {
        let source = MountSource::Directory(path.to_path_buf());
        self.mounts.iter().any(|mount| mount.source == source)
    }
}

/// One mount.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct MountPlan {
    /// Absolute, without dots, inside of the container.
    pub destination: PathBuf,
    /// What is mounted there.
    pub source: MountSource,
    /// `MS_*`.
    pub flags: u32,
    /// `MS_*`, each applied after the mount.
    pub propagation: Vec<u32>,
}

/// Where the contents of a mount come from.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum MountSource {
    /// A file system that needs no source.
    FileSystem {
        /// Its kind.
        fs_type: String,
        /// Its own options.
        data: String,
    },
    /// A file of the machine.
    File(PathBuf),
    /// A directory of the machine.
    Directory(PathBuf),
}

/// One device node or FIFO.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct DevicePlan {
    /// Absolute, without dots, inside of the container.
    pub path: PathBuf,
    /// Else a character device.
    pub is_fifo: bool,
    /// Of the device.
    pub major: u32,
    /// Of the device.
    pub minor: u32,
    /// Permissions.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

/// A process.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct ProcessPlan {
    /// Command and arguments; at least the command.
    pub args: Vec<String>,
    /// `NAME=value`.
    pub env: Vec<String>,
    /// Absolute, without dots.
    pub cwd: PathBuf,
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
    /// File mode bits that are never set.
    pub umask: u32,
    /// Privileges.
    pub capabilities: CapabilityPlan,
    /// Limits of resources.
    pub rlimits: Vec<RlimitPlan>,
    /// Neither set-user-ID nor file capabilities give it more.
    pub no_new_privileges: bool,
    /// `None`: as it is.
    pub oom_score_adj: Option<i32>,
    /// Of its terminal, if it has one.
    pub window: Option<WindowSize>,
}

/// The five sets, as bits.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize)]
pub struct CapabilityPlan {
    /// Upper bound for whatever is executed later.
    pub bounding: u64,
    /// In force.
    pub effective: u64,
    /// Kept by programs that ask for them.
    pub inheritable: u64,
    /// May be put in force.
    pub permitted: u64,
    /// Kept by every program.
    pub ambient: u64,
}

/// One `setrlimit`.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
pub struct RlimitPlan {
    /// `RLIMIT_*`.
    pub resource: u32,
    /// In force.
    pub soft: u64,
    /// The most that it may raise it to.
    pub hard: u64,
}

/// Of a terminal.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
pub struct WindowSize {
    /// Width in characters.
    pub columns: u16,
    /// Height in characters.
    pub rows: u16,
}
