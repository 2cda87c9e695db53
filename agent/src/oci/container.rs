// SPDX-License-Identifier: Apache-2.0
//! From a spec to the surroundings of a container: namespaces, mounts, devices, names.

use std::path::PathBuf;

use rustix::mount::MountPropagationFlags;

use super::spec::{Device, DeviceType, Linux, Spec};
use super::{SpecError, mounts};
use crate::stage::{ContainerPlan, DevicePlan, SharedNamespaces};
use crate::sys::NewNamespaces;

/// Whose namespaces a container lives in. Its mounts and its view of cgroups are always its own; its
/// network is the machine's.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Namespaces {
    /// Process ids.
    pub pid: Namespace,
    /// System V IPC and message queues.
    pub ipc: Namespace,
    /// Host name.
    pub uts: Namespace,
}

/// One of them.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Namespace {
    /// The machine's: the spec does not list this kind.
    #[default]
    Machine,
    /// Its own.
    New,
    /// That of the pod's first container: the spec gives a path, which can only be that container's on the
    /// host, because a machine holds one pod.
    Shared,
}

impl Namespaces {
    /// Those to make, mounts always.
    pub fn made(self) -> NewNamespaces {
        [
            (self.pid, NewNamespaces::PID),
            (self.ipc, NewNamespaces::IPC),
            (self.uts, NewNamespaces::UTS),
        ]
        .into_iter()
        .filter(|(source, _)| *source == Namespace::New)
        .fold(NewNamespaces::MOUNT, |all, (_, one)| all.with(one))
    }

    /// Those that the stage joins. Pids are not among them: one is born into those.
    pub fn joined(self) -> SharedNamespaces {
        SharedNamespaces {
            mount: false,
            ipc: self.ipc == Namespace::Shared,
            uts: self.uts == Namespace::Shared,
        }
    }

    /// Whether it is born into the pod's pids.
    pub fn shares_pid(self) -> bool {
        self.pid == Namespace::Shared
    }

    /// Whether anything is the pod's.
    pub fn shares_any(self) -> bool {
        self.shares_pid() || self.joined().any()
    }
}

/// Reads `linux.namespaces`.
pub fn namespaces(spec: &Spec) -> Result<Namespaces, SpecError> {
    let mut namespaces = Namespaces {
        pid: Namespace::Machine,
        ipc: Namespace::Machine,
        uts: Namespace::Machine,
    };
    let mut has_mount = false;
    for entry in &spec.linux.namespaces {
        let source = if entry.path.is_empty() {
            Namespace::New
        } else {
            Namespace::Shared
        };
        match entry.kind.as_str() {
            "pid" => namespaces.pid = source,
            "ipc" => namespaces.ipc = source,
            "uts" => namespaces.uts = source,
            "mount" if source == Namespace::New => has_mount = true,
            "cgroup" | "network" => {}
            "mount" => {
                return Err(unsupported(
                    "namespaces",
                    "a mount namespace with a path is",
                ));
            }
            "user" => return Err(unsupported("namespaces", "user namespaces are")),
            "time" => return Err(unsupported("namespaces", "time namespaces are")),
            other => {
                return Err(SpecError::invalid(
                    "linux.namespaces",
                    format!("type {other:?} is unknown"),
                ));
            }
        }
    }
    if !has_mount {
        return Err(unsupported(
            "namespaces",
            "a container without a mount namespace is",
        ));
    }
    Ok(namespaces)
}

/// Where in the machine is what a container's tree is built of.
#[derive(Debug, Default)]
pub struct Places {
    /// The root file system.
    pub rootfs: PathBuf,
    /// File with the machine's id.
    pub machine_id: PathBuf,
    /// The pod's /dev/shm.
    pub shared_memory: PathBuf,
    /// Files of the host: destination in the container, and where each is kept.
    pub files: Vec<(PathBuf, PathBuf)>,
}

/// The annotation of a container whose first process only holds it: see [`crate::stage`].
const HOLD: &str = "io.cube.hold";

/// Everything that the stage builds before the first process runs.
pub fn container_plan(spec: &Spec, places: &Places) -> Result<ContainerPlan, SpecError> {
    refuse_what_is_missing(spec)?;
    let linux = &spec.linux;
    Ok(ContainerPlan {
        rootfs: places.rootfs.clone(),
        machine_id: places.machine_id.clone(),
        read_only: spec.root.as_ref().is_some_and(|root| root.readonly),
        propagation: root_propagation(&linux.rootfs_propagation)?.bits(),
        mounts: mounts::plans(&spec.mounts, places)?,
        devices: linux.devices.iter().map(device).collect::<Result<_, _>>()?,
        masked_paths: inside("linux.maskedPaths", &linux.masked_paths)?,
        read_only_paths: inside("linux.readonlyPaths", &linux.readonly_paths)?,
        sysctls: sysctls(linux)?,
        hostname: spec.hostname.clone(),
        domainname: spec.domainname.clone(),
        is_held: spec
            .annotations
            .get(HOLD)
            .is_some_and(|value| value == "true"),
    })
}

fn refuse_what_is_missing(spec: &Spec) -> Result<(), SpecError> {
    let linux = &spec.linux;
    let table = [
        (
            !linux.uid_mappings.is_empty() || !linux.gid_mappings.is_empty(),
            "linux.uidMappings",
            "user namespaces are",
        ),
        (
            !spec.hooks.create_container.is_empty(),
            "hooks.createContainer",
            "hooks inside the guest are",
        ),
        (
            !spec.hooks.start_container.is_empty(),
            "hooks.startContainer",
            "hooks inside the guest are",
        ),
        (
            linux.intel_rdt.is_some(),
            "linux.intelRdt",
            "cache allocation is",
        ),
        (
            linux.memory_policy.is_some(),
            "linux.memoryPolicy",
            "memory policies are",
        ),
        (
            linux.personality.is_some(),
            "linux.personality",
            "personalities are",
        ),
        (
            !linux.time_offsets.is_empty(),
            "linux.timeOffsets",
            "time namespaces are",
        ),
        (
            !linux.net_devices.is_empty(),
            "linux.netDevices",
            "moving network devices is",
        ),
    ];
    match table.iter().find(|(present, ..)| *present) {
        Some((_, field, feature)) => Err(SpecError::unsupported(*field, *feature)),
        None => Ok(()),
    }
}

fn root_propagation(name: &str) -> Result<MountPropagationFlags, SpecError> {
    if name.is_empty() {
        // runc's default: what is unmounted outside vanishes inside, and nothing leaks out.
        return Ok(MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC);
    }
    mounts::propagation(name).ok_or_else(|| {
        SpecError::invalid("linux.rootfsPropagation", format!("{name:?} is unknown"))
    })
}

fn inside(field: &str, paths: &[PathBuf]) -> Result<Vec<PathBuf>, SpecError> {
    paths
        .iter()
        .map(|path| {
            mounts::absolute(path).ok_or_else(|| {
                SpecError::invalid(field, format!("{} is not an absolute path", path.display()))
            })
        })
        .collect()
}

fn device(device: &Device) -> Result<DevicePlan, SpecError> {
    let field = format!("linux.devices: {}", device.path.display());
    let path = mounts::absolute(&device.path)
        .ok_or_else(|| SpecError::invalid(&*field, "the path is not absolute"))?;
    let is_fifo = match device.kind {
        DeviceType::Char => false,
        DeviceType::Fifo => true,
        // Numbers of the host: in the guest they would name a disk of this machine, perhaps that of
        // another container.
        DeviceType::Block => {
            return Err(SpecError::unsupported(
                field,
                "block devices of the host are",
            ));
        }
    };
    let number = |what: &str, value: i64| {
        u32::try_from(value).map_err(|_| {
            SpecError::invalid(&*field, format!("{what} number {value} does not exist"))
        })
    };
    Ok(DevicePlan {
        path,
        is_fifo,
        major: number("major", device.major)?,
        minor: number("minor", device.minor)?,
        mode: device.file_mode.unwrap_or(0o666) & 0o7777,
        uid: device.uid.unwrap_or(0),
        gid: device.gid.unwrap_or(0),
    })
}

/// As paths below /proc/sys. Any key may be set: the kernel behind them is this machine's alone.
fn sysctls(linux: &Linux) -> Result<Vec<(PathBuf, String)>, SpecError> {
    linux
        .sysctl
        .iter()
        .map(|(key, value)| {
            let path = if key.contains('/') {
                key.clone()
            } else {
                key.replace('.', "/")
            };
            let is_key = path
                .split('/')
                .all(|part| !part.is_empty() && part != "." && part != "..");
            if is_key {
                Ok((PathBuf::from(path), value.clone()))
            } else {
                Err(SpecError::invalid(
                    "linux.sysctl",
                    format!("{key:?} is not a key"),
                ))
            }
        })
        .collect()
}

fn unsupported(field: &str, feature: &str) -> SpecError {
    SpecError::unsupported(format!("linux.{field}"), feature)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn spec(json: &str) -> Spec {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn namespaces_are_own_shared_or_the_machines() {
        let asked = namespaces(&spec(
            r#"{"linux":{"namespaces":[{"type":"mount"},{"type":"pid"},{"type":"ipc","path":"/proc/7/ns/ipc"},{"type":"network","path":"/run/netns/x"}]}}"#,
        ))
        .unwrap();
        assert_eq!(
            asked,
            Namespaces {
                pid: Namespace::New,
                ipc: Namespace::Shared,
                uts: Namespace::Machine
            }
        );
    }

    #[test]
    fn namespaces_that_cannot_be_made_are_refused() {
        for kind in ["user", "time"] {
            let json =
                format!(r#"{{"linux":{{"namespaces":[{{"type":"mount"}},{{"type":"{kind}"}}]}}}}"#);
            let error = namespaces(&spec(&json)).unwrap_err();
            assert!(error.to_string().contains(kind), "{error}");
        }
        assert!(namespaces(&spec("{}")).is_err());
    }

    #[test]
    fn sysctl_keys_cannot_leave_their_directory() {
        let plan = container_plan(
            &spec(
                r#"{"linux":{"sysctl":{"net.ipv4.ip_forward":"1","net/ipv4/conf/eth0.1/x":"2"}}}"#,
            ),
            &Places::default(),
        )
        .unwrap();
        assert_eq!(plan.sysctls[0].0, Path::new("net/ipv4/ip_forward"));
        assert_eq!(plan.sysctls[1].0, Path::new("net/ipv4/conf/eth0.1/x"));
        for key in ["..", "a/../../b", "/etc/x", "a..b", ""] {
            let json = format!(r#"{{"linux":{{"sysctl":{{"{key}":"1"}}}}}}"#);
            assert!(
                container_plan(&spec(&json), &Places::default()).is_err(),
                "{key}"
            );
        }
    }

    #[test]
    fn block_devices_of_the_host_are_refused() {
        let json = r#"{"linux":{"devices":[{"path":"/dev/sda","type":"b","major":8,"minor":0}]}}"#;
        let error = container_plan(&spec(json), &Places::default()).unwrap_err();
        assert_eq!(
            error.to_string(),
            "linux.devices: /dev/sda: block devices of the host are not supported"
        );
    }
}
