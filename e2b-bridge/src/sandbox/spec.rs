// SPDX-License-Identifier: Apache-2.0
//! The OCI spec of a sandbox's container.
//!
//! It is held: its first process executes nothing. What users start are jobs beside that, so that any image
//! will do. The border is the machine around the container; in it, root may do what root may.

use std::collections::BTreeMap;

use cube_containerd::ImageConfig;
use serde_json::{Value, json};

use super::SandboxId;

/// A version that every containerd in use knows.
const OCI_VERSION: &str = "1.0.2";
const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Has the agent hold the container instead of executing a program.
const HOLD: &str = "io.cube.hold";
const NAMESPACES: [&str; 5] = ["pid", "ipc", "uts", "mount", "network"];
/// All that a kernel of today has (capability.h).
const CAPABILITIES: &[&str] = &[
    "CAP_AUDIT_CONTROL",
    "CAP_AUDIT_READ",
    "CAP_AUDIT_WRITE",
    "CAP_BLOCK_SUSPEND",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_KILL",
    "CAP_LEASE",
    "CAP_LINUX_IMMUTABLE",
    "CAP_MAC_ADMIN",
    "CAP_MAC_OVERRIDE",
    "CAP_MKNOD",
    "CAP_NET_ADMIN",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_RAW",
    "CAP_PERFMON",
    "CAP_SETFCAP",
    "CAP_SETGID",
    "CAP_SETPCAP",
    "CAP_SETUID",
    "CAP_SYSLOG",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_CHROOT",
    "CAP_SYS_MODULE",
    "CAP_SYS_NICE",
    "CAP_SYS_PACCT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_WAKE_ALARM",
];

/// What the sandbox's processes find in their environment: the image's, ours, the client's.
pub fn environment(
    image: &ImageConfig,
    own: &BTreeMap<String, String>,
    asked: &BTreeMap<String, String>,
) -> Vec<String> {
    let mut merged: BTreeMap<&str, &str> = BTreeMap::new();
    let of_image = image.env.iter().map(String::as_str);
    let pairs = std::iter::once(DEFAULT_PATH)
        .chain(of_image)
        .filter_map(|entry| entry.split_once('='));
    merged.extend(pairs);
    let both = own.iter().chain(asked);
    merged.extend(both.map(|(name, value)| (name.as_str(), value.as_str())));
    let joined = merged.iter().map(|(name, value)| format!("{name}={value}"));
    joined.collect()
}

/// The container.
pub fn container(namespace: &str, id: &SandboxId, environment: &[String]) -> Value {
    json!({
        "ociVersion": OCI_VERSION,
        "annotations": {HOLD: "true"},
        "hostname": id.as_str(),
        "process": {
            "user": {"uid": 0, "gid": 0},
            "args": ["hold"],
            "env": environment,
            "cwd": "/",
            "capabilities": {
                "bounding": CAPABILITIES, "effective": CAPABILITIES, "permitted": CAPABILITIES,
            },
            "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 1_048_576, "soft": 65536}],
            "noNewPrivileges": false,
        },
        "root": {"path": "rootfs"},
        "mounts": mounts(),
        "linux": {
            "cgroupsPath": format!("/{namespace}/{id}"),
            "namespaces": NAMESPACES.map(|kind| json!({"type": kind})),
        },
    })
}

fn mounts() -> Value {
    let mount = |destination: &str, kind: &str, options: &[&str]| json!({"destination": destination, "type": kind, "source": kind, "options": options});
    json!([
        mount("/proc", "proc", &["nosuid", "noexec", "nodev"]),
        mount(
            "/dev",
            "tmpfs",
            &["nosuid", "strictatime", "mode=755", "size=65536k"]
        ),
        mount(
            "/dev/pts",
            "devpts",
            &[
                "nosuid",
                "noexec",
                "newinstance",
                "ptmxmode=0666",
                "mode=0620",
                "gid=5"
            ]
        ),
        mount("/dev/shm", "tmpfs", &["nosuid", "nodev", "mode=1777"]),
        mount("/dev/mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
        mount("/sys", "sysfs", &["nosuid", "noexec", "nodev"]),
        mount("/run", "tmpfs", &["nosuid", "strictatime", "mode=755"]),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clients_environment_wins_over_ours_and_ours_over_the_images() {
        let image = ImageConfig {
            env: vec!["PATH=/bin".into(), "A=image".into(), "B=image".into()],
            ..ImageConfig::default()
        };
        let own = [
            ("B".to_owned(), "own".to_owned()),
            ("C".to_owned(), "own".to_owned()),
        ]
        .into();
        let asked = [("C".to_owned(), "asked=1".to_owned())].into();
        assert_eq!(
            environment(&image, &own, &asked),
            ["A=image", "B=own", "C=asked=1", "PATH=/bin"]
        );
        let bare = environment(&ImageConfig::default(), &BTreeMap::new(), &BTreeMap::new());
        assert_eq!(bare, [DEFAULT_PATH]);
    }
}
