// SPDX-License-Identifier: Apache-2.0
//! The documents as clients write them: OCI runtime-spec 1.0 to 1.2, config.md and config-linux.md.
//! Field names are the specification's. A list that is absent or `null` is empty: Go writes both.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Deserializer};
use serde_json::Value;

fn nullable<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Option::<T>::deserialize(deserializer).map(Option::unwrap_or_default)
}

/// config.json.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Spec {
    /// The container's first process.
    pub process: Option<Process>,
    /// Only whether it is read-only counts: where it is, the host says otherwise.
    pub root: Option<Root>,
    #[serde(deserialize_with = "nullable")]
    #[allow(missing_docs, reason = "named by the specification")]
    pub hostname: String,
    #[serde(deserialize_with = "nullable")]
    #[allow(missing_docs, reason = "named by the specification")]
    pub domainname: String,
    /// Of them, those that this agent knows are read.
    #[serde(deserialize_with = "nullable")]
    pub annotations: BTreeMap<String, String>,
    /// In the order in which they are made.
    #[serde(deserialize_with = "nullable")]
    pub mounts: Vec<Mount>,
    #[serde(deserialize_with = "nullable")]
    #[allow(missing_docs, reason = "named by the specification")]
    pub hooks: Hooks,
    #[serde(deserialize_with = "nullable")]
    #[allow(missing_docs, reason = "named by the specification")]
    pub linux: Linux,
}

/// `root`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Root {
    /// No process may write to it.
    pub readonly: bool,
}

/// `hooks`: only those that would run in the guest.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Hooks {
    #[serde(deserialize_with = "nullable")]
    pub(super) create_container: Vec<Value>,
    #[serde(deserialize_with = "nullable")]
    pub(super) start_container: Vec<Value>,
}

/// `mounts[]`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Mount {
    pub(super) destination: PathBuf,
    #[serde(rename = "type", deserialize_with = "nullable")]
    pub(super) kind: String,
    #[serde(deserialize_with = "nullable")]
    pub(super) source: String,
    #[serde(deserialize_with = "nullable")]
    pub(super) options: Vec<String>,
}

/// `process`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Process {
    pub(super) console_size: Option<ConsoleSize>,
    pub(super) user: User,
    #[serde(deserialize_with = "nullable")]
    pub(super) args: Vec<String>,
    #[serde(deserialize_with = "nullable")]
    pub(super) env: Vec<String>,
    pub(super) cwd: PathBuf,
    pub(super) capabilities: Option<Capabilities>,
    #[serde(deserialize_with = "nullable")]
    pub(super) rlimits: Vec<Rlimit>,
    #[serde(deserialize_with = "nullable")]
    pub(super) no_new_privileges: bool,
    pub(super) oom_score_adj: Option<i32>,
    pub(super) io_priority: Option<Value>,
    pub(super) scheduler: Option<Value>,
    #[serde(rename = "execCPUAffinity")]
    pub(super) exec_cpu_affinity: Option<Value>,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct ConsoleSize {
    pub(super) height: u64,
    pub(super) width: u64,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct User {
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) umask: Option<u32>,
    #[serde(deserialize_with = "nullable")]
    pub(super) additional_gids: Vec<u32>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Capabilities {
    #[serde(deserialize_with = "nullable")]
    pub(super) bounding: Vec<String>,
    #[serde(deserialize_with = "nullable")]
    pub(super) effective: Vec<String>,
    #[serde(deserialize_with = "nullable")]
    pub(super) inheritable: Vec<String>,
    #[serde(deserialize_with = "nullable")]
    pub(super) permitted: Vec<String>,
    #[serde(deserialize_with = "nullable")]
    pub(super) ambient: Vec<String>,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct Rlimit {
    #[serde(rename = "type")]
    pub(super) kind: String,
    pub(super) hard: u64,
    pub(super) soft: u64,
}

/// `linux`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Linux {
    #[serde(deserialize_with = "nullable")]
    pub(super) uid_mappings: Vec<Value>,
    #[serde(deserialize_with = "nullable")]
    pub(super) gid_mappings: Vec<Value>,
    #[serde(deserialize_with = "nullable")]
    pub(super) sysctl: BTreeMap<String, String>,
    /// Limits.
    pub resources: Option<Resources>,
    #[serde(deserialize_with = "nullable")]
    pub(super) namespaces: Vec<Namespace>,
    #[serde(deserialize_with = "nullable")]
    pub(super) devices: Vec<Device>,
    /// System calls that processes may make.
    pub seccomp: Option<Seccomp>,
    #[serde(deserialize_with = "nullable")]
    pub(super) rootfs_propagation: String,
    #[serde(deserialize_with = "nullable")]
    pub(super) masked_paths: Vec<PathBuf>,
    #[serde(deserialize_with = "nullable")]
    pub(super) readonly_paths: Vec<PathBuf>,
    pub(super) intel_rdt: Option<Value>,
    pub(super) memory_policy: Option<Value>,
    pub(super) personality: Option<Value>,
    #[serde(deserialize_with = "nullable")]
    pub(super) time_offsets: BTreeMap<String, Value>,
    #[serde(deserialize_with = "nullable")]
    pub(super) net_devices: BTreeMap<String, Value>,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct Namespace {
    #[serde(rename = "type")]
    pub(super) kind: String,
    #[serde(default, deserialize_with = "nullable")]
    pub(super) path: String,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Device {
    pub(super) path: PathBuf,
    #[serde(rename = "type")]
    pub(super) kind: DeviceType,
    #[serde(default)]
    pub(super) major: i64,
    #[serde(default)]
    pub(super) minor: i64,
    pub(super) file_mode: Option<u32>,
    pub(super) uid: Option<u32>,
    pub(super) gid: Option<u32>,
}

/// `linux.devices[].type`.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq)]
pub(super) enum DeviceType {
    /// Block device.
    #[serde(rename = "b")]
    Block,
    /// Character device.
    #[serde(rename = "c", alias = "u")]
    Char,
    /// FIFO.
    #[serde(rename = "p")]
    Fifo,
}

/// `linux.seccomp`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[allow(missing_docs, reason = "named by the specification")]
pub struct Seccomp {
    pub default_action: String,
    pub default_errno_ret: Option<u32>,
    #[serde(deserialize_with = "nullable")]
    pub architectures: Vec<String>,
    #[serde(deserialize_with = "nullable")]
    pub flags: Vec<String>,
    #[serde(deserialize_with = "nullable")]
    pub syscalls: Vec<SyscallRule>,
}

/// `linux.seccomp.syscalls[]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs, reason = "named by the specification")]
pub struct SyscallRule {
    pub names: Vec<String>,
    pub action: String,
    pub errno_ret: Option<u32>,
    #[serde(default, deserialize_with = "nullable")]
    pub args: Vec<SyscallArg>,
}

/// `linux.seccomp.syscalls[].args[]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs, reason = "named by the specification")]
pub struct SyscallArg {
    pub index: u64,
    pub value: u64,
    #[serde(default)]
    pub value_two: u64,
    pub op: String,
}

/// `linux.resources`, and the document of an update.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[allow(missing_docs, reason = "named by the specification")]
pub struct Resources {
    #[serde(deserialize_with = "nullable")]
    pub devices: Vec<DeviceRule>,
    pub memory: Option<Memory>,
    pub cpu: Option<Cpu>,
    pub pids: Option<Pids>,
    #[serde(rename = "blockIO")]
    pub block_io: Option<BlockIo>,
    #[serde(deserialize_with = "nullable")]
    pub hugepage_limits: Vec<HugepageLimit>,
    pub network: Option<Network>,
    #[serde(deserialize_with = "nullable")]
    pub rdma: BTreeMap<String, Value>,
    #[serde(deserialize_with = "nullable")]
    pub unified: BTreeMap<String, String>,
}

/// `linux.resources.devices[]`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
#[allow(missing_docs, reason = "named by the specification")]
pub struct DeviceRule {
    pub allow: bool,
    #[serde(rename = "type", deserialize_with = "nullable")]
    pub kind: String,
    pub major: Option<i64>,
    pub minor: Option<i64>,
    #[serde(deserialize_with = "nullable")]
    pub access: String,
}

/// `linux.resources.memory`. The kernel and TCP limits of cgroup v1 have no counterpart and are not read.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[allow(missing_docs, reason = "named by the specification")]
pub struct Memory {
    pub limit: Option<i64>,
    pub reservation: Option<i64>,
    pub swap: Option<i64>,
    #[serde(rename = "disableOOMKiller")]
    pub disable_oom_killer: Option<bool>,
    pub check_before_update: Option<bool>,
}

/// `linux.resources.cpu`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[allow(missing_docs, reason = "named by the specification")]
pub struct Cpu {
    pub shares: Option<u64>,
    pub quota: Option<i64>,
    pub burst: Option<u64>,
    pub period: Option<u64>,
    pub realtime_runtime: Option<i64>,
    pub realtime_period: Option<u64>,
    #[serde(deserialize_with = "nullable")]
    pub cpus: String,
    #[serde(deserialize_with = "nullable")]
    pub mems: String,
    pub idle: Option<i64>,
}

/// `linux.resources.pids`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
#[allow(missing_docs, reason = "named by the specification")]
pub struct Pids {
    pub limit: Option<i64>,
}

/// `linux.resources.blockIO`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[allow(missing_docs, reason = "named by the specification")]
pub struct BlockIo {
    pub weight: Option<u16>,
    #[serde(deserialize_with = "nullable")]
    pub weight_device: Vec<Value>,
    #[serde(deserialize_with = "nullable")]
    pub throttle_read_bps_device: Vec<Value>,
    #[serde(deserialize_with = "nullable")]
    pub throttle_write_bps_device: Vec<Value>,
    #[serde(rename = "throttleReadIOPSDevice", deserialize_with = "nullable")]
    pub throttle_read_iops_device: Vec<Value>,
    #[serde(rename = "throttleWriteIOPSDevice", deserialize_with = "nullable")]
    pub throttle_write_iops_device: Vec<Value>,
}

/// `linux.resources.hugepageLimits[]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs, reason = "named by the specification")]
pub struct HugepageLimit {
    pub page_size: String,
    pub limit: u64,
}

/// `linux.resources.network`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
#[allow(missing_docs, reason = "named by the specification")]
pub struct Network {
    #[serde(rename = "classID")]
    pub class_id: Option<u32>,
    #[serde(deserialize_with = "nullable")]
    pub priorities: Vec<Value>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn null_and_absent_lists_are_empty() {
        let spec: Spec = serde_json::from_str(
            r#"{"ociVersion":"1.0.2","process":{"args":null,"cwd":"/","capabilities":null,"rlimits":null,
                "user":{"uid":0,"gid":0,"additionalGids":null}},
                "mounts":null,"hooks":null,"linux":{"namespaces":null,"sysctl":null,"resources":{"memory":{},"unified":null}}}"#,
        )
        .unwrap();
        assert!(spec.mounts.is_empty());
        assert!(spec.process.unwrap().args.is_empty());
        assert!(spec.linux.resources.unwrap().unified.is_empty());
    }

    #[test]
    fn unknown_fields_of_newer_clients_are_read_over() {
        let spec: Spec =
            serde_json::from_str(r#"{"newThing":1,"linux":{"other":{}},"vm":{}}"#).unwrap();
        assert!(spec.process.is_none());
    }
}
