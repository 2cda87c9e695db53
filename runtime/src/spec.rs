// SPDX-License-Identifier: Apache-2.0
//! From an OCI runtime spec to the size and identity of a machine, and what a spec may not ask for.
//!
//! Only the host's half is judged here. What the guest sets up (devices, capabilities, rlimits, seccomp,
//! masked paths) passes through as the client wrote it and is the agent's to judge.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use cube_net::policy::{Policy, PolicyError};
use oci_spec::runtime::{LinuxNamespaceType, LinuxResources, Mount, Spec};
use thiserror::Error;

use crate::config::Config;
use crate::error::Kind;
use crate::host_files;
use crate::layout::SandboxKey;
use crate::rootfs::RootfsMount;
use crate::snapshot::{SnapshotError, SnapshotName};

/// Most virtual processors of a machine; a container with a larger quota gets these.
const MAX_VCPUS: u8 = cube_vmm::config::MAX_VCPUS;

/// Least memory limit of a container: what docker accepts for runc. Measured in a guest, setting a
/// process up takes a moment longer below 2 MiB, half a minute at 512 KiB, and is killed at 256 KiB.
pub const MIN_CONTAINER_MEMORY: i64 = 6 << 20;

/// The kernel's CPU bandwidth period where a spec gives a quota alone (cgroup v2, `cpu.max`).
const DEFAULT_PERIOD_US: u64 = 100_000;

/// Longest host name that a kernel takes (`__NEW_UTS_LEN`).
const MAX_HOSTNAME: usize = 64;

/// What CRI says of a whole pod on its first container, whose own limits are those of `pause`.
const POD_MEMORY: &str = "io.kubernetes.cri.sandbox-memory";
const POD_CPU_QUOTA: &str = "io.kubernetes.cri.sandbox-cpu-quota";
const POD_CPU_PERIOD: &str = "io.kubernetes.cri.sandbox-cpu-period";

/// What CRI says of every container.
const POD_CONTAINER: &str = "io.kubernetes.cri.container-type";

/// The annotation with a sandbox's egress policy, on its first container (see [`Policy`]).
pub const EGRESS: &str = "io.cube.egress";

/// The annotation with the name of the snapshot that a sandbox starts from; in an Update, of the one that it
/// is saved as.
pub const SNAPSHOT: &str = "io.cube.snapshot";

/// The OCI runtime spec of a container: read once, and kept as the client wrote it for the agent to read.
#[derive(Clone, Debug)]
pub struct OciSpec {
    json: Vec<u8>,
    read: Spec,
}

impl OciSpec {
    /// Reads a bundle's `config.json`.
    pub fn parse(json: Vec<u8>) -> serde_json::Result<Self> {
        let read = serde_json::from_slice(&json)?;
        Ok(Self { json, read })
    }

    /// What it says.
    pub fn read(&self) -> &Spec {
        &self.read
    }

    /// Byte for byte what was parsed.
    pub fn into_json(self) -> Vec<u8> {
        self.json
    }
}

/// What a sandbox is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SandboxSpec {
    /// Who it is.
    pub key: SandboxKey,
    /// The network namespace to live in; none: one of its own.
    pub netns: Option<PathBuf>,
    /// The machine's host name.
    pub hostname: String,
    /// Virtual processors, 1 to 8.
    pub vcpus: u8,
    /// Guest memory in MiB.
    pub memory_mib: u32,
    /// The host cgroup for the VMM, as `linux.cgroupsPath` names it.
    pub cgroup: Option<String>,
    /// What it may send to; none: anybody.
    pub egress: Option<Policy>,
    /// The snapshot that it starts from; none: a template.
    pub from: Option<StartFrom>,
}

/// A snapshot to start from, and what its container's disk is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StartFrom {
    /// The snapshot.
    pub snapshot: SnapshotName,
    /// The root file system of the container that goes on: it gets the snapshot's content.
    pub rootfs: Vec<RootfsMount>,
}

impl SandboxSpec {
    /// Reads a sandbox's wishes from the OCI spec of its first container.
    pub fn from_oci(key: SandboxKey, spec: &Spec, config: &Config) -> Result<Self, SpecError> {
        check_container(spec)?;
        let wishes = Wishes::of(spec);
        let linux = spec.linux().as_ref();
        Ok(Self {
            hostname: hostname(spec, &key),
            netns: network(spec)?,
            vcpus: wishes
                .vcpus()
                .clamp(config.vcpus, MAX_VCPUS.max(config.vcpus)),
            memory_mib: wishes.memory_mib(config, host_memory_mib()),
            cgroup: linux
                .and_then(|linux| linux.cgroups_path().as_ref())
                .map(|path| path.display().to_string())
                .filter(|path| !path.is_empty()),
            egress: match spec.annotations() {
                Some(annotations) => egress(annotations)?,
                None => None,
            }
            .or_else(|| config.egress.policy.clone()),
            from: None,
            key,
        })
    }
}

/// The snapshot among annotations, if there is one.
pub fn snapshot(annotations: &HashMap<String, String>) -> Result<Option<SnapshotName>, SpecError> {
    let name = annotations.get(SNAPSHOT).map(|name| name.parse());
    name.transpose().map_err(SpecError::Snapshot)
}

/// The policy among annotations, if there is one.
pub fn egress(annotations: &HashMap<String, String>) -> Result<Option<Policy>, SpecError> {
    let policy = annotations.get(EGRESS).map(|text| Policy::parse(text));
    policy.transpose().map_err(SpecError::Egress)
}

/// Refuses what no container of a sandbox can have.
pub(crate) fn check_container(spec: &Spec) -> Result<(), SpecError> {
    network(spec)?;
    let mut binds = spec
        .mounts()
        .iter()
        .flatten()
        .filter(|mount| is_bind(mount));
    if let Some(mount) = binds.find(|mount| !is_possible(spec, mount)) {
        return Err(SpecError::Bind {
            source_path: mount.source().clone().unwrap_or_default(),
            destination: mount.destination().clone(),
        });
    }
    let in_container = spec.hooks().as_ref();
    if in_container.is_some_and(|hooks| hooks.start_container().iter().flatten().next().is_some()) {
        return Err(SpecError::StartContainerHook);
    }
    match resources(spec).and_then(memory_limit) {
        Some(bytes) if bytes < MIN_CONTAINER_MEMORY => Err(SpecError::Memory { bytes }),
        _ => Ok(()),
    }
}

/// The network namespace: a path, or none for one of its own.
fn network(spec: &Spec) -> Result<Option<PathBuf>, SpecError> {
    let namespaces = spec
        .linux()
        .as_ref()
        .and_then(|linux| linux.namespaces().as_ref());
    let network = namespaces
        .into_iter()
        .flatten()
        .find(|namespace| namespace.typ() == LinuxNamespaceType::Network)
        .ok_or(SpecError::HostNetwork)?;
    Ok(network
        .path()
        .clone()
        .filter(|path| !path.as_os_str().is_empty()))
}

/// Small files are copied, and a pod's /dev/shm is the machine's own.
fn is_possible(spec: &Spec, mount: &Mount) -> bool {
    let annotations = spec.annotations().as_ref();
    let of_a_pod = annotations.is_some_and(|all| all.contains_key(POD_CONTAINER));
    let shared_memory = of_a_pod && mount.destination().as_path() == Path::new("/dev/shm");
    shared_memory || host_files::is_file(mount)
}

pub(crate) fn is_bind(mount: &Mount) -> bool {
    mount.typ().as_deref() == Some("bind")
        || mount
            .options()
            .iter()
            .flatten()
            .any(|option| option == "bind" || option == "rbind")
}

/// The spec's name; else the sandbox's id, cut like the short ids that people know.
fn hostname(spec: &Spec, key: &SandboxKey) -> String {
    match spec.hostname() {
        Some(name) if !name.is_empty() => name.clone(),
        _ => {
            let mut name = key.id.replace(|c: char| !c.is_ascii_alphanumeric(), "-");
            name.truncate(MAX_HOSTNAME);
            name
        }
    }
}

fn resources(spec: &Spec) -> Option<&LinuxResources> {
    spec.linux().as_ref()?.resources().as_ref()
}

/// A limit that limits: zero and -1 mean none.
fn memory_limit(resources: &LinuxResources) -> Option<i64> {
    let limit = resources.memory().as_ref()?.limit();
    limit.filter(|bytes| *bytes > 0)
}

fn host_memory_mib() -> u64 {
    let info = rustix::system::sysinfo();
    info.totalram.saturating_mul(info.mem_unit.into()) >> 20
}

/// How much of what a spec asks for.
#[derive(Debug, Default, PartialEq, Eq)]
struct Wishes {
    memory: Option<u64>,
    /// Microseconds of CPU in each period.
    quota: Option<(u64, u64)>,
}

impl Wishes {
    fn of(spec: &Spec) -> Self {
        let positive = |value: i64| u64::try_from(value).ok().filter(|value| *value > 0);
        let resources = resources(spec);
        let cpu = resources.and_then(|resources| resources.cpu().as_ref());
        let quota = cpu.and_then(|cpu| Some((positive(cpu.quota()?)?, cpu.period())));
        let noted = |name| {
            let notes = spec.annotations().as_ref()?;
            positive(notes.get(name)?.parse().ok()?)
        };
        let pod_quota = noted(POD_CPU_QUOTA).map(|quota| (quota, noted(POD_CPU_PERIOD)));
        Self {
            memory: resources
                .and_then(memory_limit)
                .and_then(positive)
                .max(noted(POD_MEMORY)),
            quota: pod_quota.or(quota).map(|(quota, period)| {
                let period = period.filter(|period| *period > 0);
                (quota, period.unwrap_or(DEFAULT_PERIOD_US))
            }),
        }
    }

    fn vcpus(&self) -> u8 {
        let whole = self
            .quota
            .map_or(0, |(quota, period)| quota.div_ceil(period));
        u8::try_from(whole).unwrap_or(u8::MAX)
    }

    /// The default, or the next power of two if the limit and the guest's own need are more. Few shapes,
    /// because each has a template of its own, which the first start of it has to wait for: from 2 GiB to the
    /// most that a machine can have there are nine. Memory that is not touched costs
    /// nothing but the guest's notes about it, 1/64, once in the template.
    ///
    /// Never more than the host has, because a limit above that limits nothing (docker writes 2^63 for
    /// "none").
    fn memory_mib(&self, config: &Config, host_mib: u64) -> u32 {
        let default = u64::from(config.memory_mib);
        let wanted = self.memory.map_or(0, |bytes| {
            (bytes.div_ceil(1 << 20))
                .saturating_add(config.memory_overhead_mib.into())
                .checked_next_power_of_two()
                .unwrap_or(u64::MAX)
        });
        let most = host_mib
            .min(cube_vmm::config::MAX_MEMORY_MIB.into())
            .max(default);
        u32::try_from(wanted.clamp(default, most)).unwrap_or(config.memory_mib)
    }
}

/// What a spec may not ask for.
#[derive(Debug, Error)]
pub enum SpecError {
    /// No network namespace entry.
    #[error("host networking is not possible in a microVM; drop --net-host")]
    HostNetwork,
    /// A file or directory of the host.
    #[error(
        "the bind mount of {} at {} is not supported: a microVM cannot see the host's files; regular \
         files of up to 1 MiB are copied into it, and directories can come with the image",
        source_path.display(),
        destination.display()
    )]
    Bind {
        /// On the host.
        source_path: PathBuf,
        /// In the container.
        destination: PathBuf,
    },
    /// A program of the image, to be run by the runtime.
    #[error(
        "startContainer hooks are not supported: they run in the container, which is in a microVM"
    )]
    StartContainerHook,
    /// A policy that is none.
    #[error("the annotation {EGRESS} cannot be used")]
    Egress(#[source] PolicyError),
    /// A name of a snapshot that is none.
    #[error("the annotation {SNAPSHOT} cannot be used")]
    Snapshot(#[source] SnapshotError),
    /// Less memory than a process needs to come to life.
    #[error(
        "a memory limit of {bytes} bytes is below the {MIN_CONTAINER_MEMORY} bytes that a container needs to start"
    )]
    Memory {
        /// The limit asked for.
        bytes: i64,
    },
}

impl SpecError {
    /// The class of this failure.
    pub fn kind(&self) -> Kind {
        match self {
            SpecError::HostNetwork
            | SpecError::Memory { .. }
            | SpecError::Egress(_)
            | SpecError::Snapshot(_) => Kind::InvalidArgument,
            SpecError::Bind { .. } | SpecError::StartContainerHook => Kind::Unimplemented,
        }
    }
}

#[cfg(test)]
mod tests;
