// SPDX-License-Identifier: Apache-2.0
//! What the tests need of a host: KVM, a guest image, a VMM, and a container's disk made of busybox.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command as Program;

use cube_runtime::doctor::{self, Check, Status};
use cube_runtime::{Config, ContainerSpec, OciSpec, RootfsMount, Sandbox, SandboxKey, SandboxSpec};
use serde_json::{Value, json};
use tempfile::TempDir;

const APPLETS: [&str; 13] = [
    "sh",
    "cat",
    "echo",
    "sleep",
    "true",
    "uname",
    "id",
    "head",
    "sha256sum",
    "kill",
    "hostname",
    "ls",
    "adjtimex",
];

/// Where the templates of these tests are, for one run after the other: they are made once.
const TEMPLATES: &str = "/run/cube-vm-test-templates";

/// Where the VMMs of these tests are, in the host's cgroup hierarchy.
pub const CGROUP_PARENT: &str = "cube-vm-test";

/// A run directory of the test's own, and a configuration that uses it.
pub struct Bed {
    pub config: Config,
    dir: PathBuf,
    /// Goes with everything in it when the bed is dropped.
    _dir: Option<TempDir>,
}

/// Makes a bed, or says in one line why this host has none; `CUBE_REQUIRE_KVM=1` makes that a failure.
pub fn bed() -> Option<Bed> {
    if let Err(why) = possible() {
        assert!(
            std::env::var_os("CUBE_REQUIRE_KVM").is_none_or(|value| value != "1"),
            "cannot run: {why}"
        );
        println!("skipped: {why}");
        return None;
    }
    // Short, because socket paths are.
    let dir = tempfile::Builder::new()
        .prefix("cube-")
        .tempdir_in("/run")
        .unwrap();
    Some(Bed {
        config: config(dir.path().join("r"), TEMPLATES.into()),
        dir: dir.path().into(),
        _dir: Some(dir),
    })
}

/// The bed of another process, with a store of its own.
pub fn bed_in(dir: &Path) -> Option<Bed> {
    possible().ok()?;
    Some(Bed {
        config: config(dir.join("r"), dir.join("t")),
        dir: dir.into(),
        _dir: None,
    })
}

fn config(run: PathBuf, templates: PathBuf) -> Config {
    Config {
        image: image(),
        run,
        templates,
        vmm: std::env::var_os("CUBE_VMM").map(Into::into),
        // For chasing a boot: CUBE_TEST_CMDLINE="ignore_loglevel"; the log is kept with CUBE_TEST_SERIAL.
        cmdline: std::env::var("CUBE_TEST_CMDLINE").unwrap_or_default(),
        // A machine that is shared with a build is slow.
        boot_timeout_s: 300,
        claim_timeout_ms: 60_000,
        trace: true,
        ..Config::default()
    }
}

/// The key of a sandbox of this name.
pub fn key(id: &str) -> SandboxKey {
    SandboxKey {
        address: "/test".into(),
        namespace: "test".into(),
        id: id.into(),
    }
}

fn possible() -> Result<(), String> {
    let findings = doctor::examine(&Config::default(), &[Check::Root, Check::Kvm]);
    if let Some(bad) = findings
        .iter()
        .find(|finding| finding.status == Status::Bad)
    {
        return Err(bad.found.clone());
    }
    if !image().join("manifest.json").exists() {
        return Err(format!("there is no guest image in {}", image().display()));
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let vmm_found = std::env::var_os("CUBE_VMM").is_some()
        || std::env::split_paths(&path).any(|dir| dir.join("cube-vmm").exists());
    if vmm_found {
        Ok(())
    } else {
        Err("there is no cube-vmm on PATH".into())
    }
}

fn image() -> PathBuf {
    match std::env::var_os("CUBE_IMAGE") {
        Some(path) => path.into(),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/image"),
    }
}

impl Bed {
    /// A directory for the test's files.
    pub fn path(&self) -> &Path {
        &self.dir
    }

    /// Creates a sandbox of this name from an OCI spec's wishes.
    pub async fn sandbox(&self, id: &str) -> Sandbox {
        let mut spec = oci(&["true"]);
        spec["linux"]["cgroupsPath"] = format!("/{CGROUP_PARENT}/{id}").into();
        let spec = serde_json::from_value(spec).unwrap();
        let spec = SandboxSpec::from_oci(key(id), &spec, &self.config).unwrap();
        Sandbox::create(&self.config, spec).await.unwrap()
    }

    /// A container of busybox with this OCI spec.
    pub fn container(&self, id: &str, spec: &Value) -> ContainerSpec {
        let disk = self.path().join(format!("{id}.ext4"));
        make_disk(self.path(), &disk);
        ContainerSpec {
            id: id.into(),
            bundle: self.path().into(),
            oci: OciSpec::parse(spec.to_string().into_bytes()).unwrap(),
            rootfs: vec![RootfsMount {
                kind: "ext4".into(),
                source: disk.to_str().unwrap().into(),
                options: vec!["rw".into(), "loop".into()],
            }],
        }
    }

    /// A file of a container's disk, read without mounting it.
    pub fn file_on_disk(&self, id: &str, path: &str) -> String {
        let disk = self.path().join(format!("{id}.ext4"));
        let output = Program::new("debugfs")
            .args(["-R", &format!("cat {path}")])
            .arg(disk)
            .output()
            .unwrap();
        String::from_utf8(output.stdout).unwrap()
    }

    /// Fails if a destroyed sandbox left anything.
    pub fn assert_nothing_left(&self) {
        let left: Vec<_> = fs::read_dir(self.config.run.join("sandboxes"))
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect();
        assert!(left.is_empty(), "{left:?}");
        assert!(!Path::new("/sys/fs/cgroup").join(CGROUP_PARENT).exists());
    }
}

/// An OCI spec as `ctr run` writes it, small enough to read.
pub fn oci(args: &[&str]) -> Value {
    json!({
        "ociVersion": "1.1.0",
        "process": process(args),
        "root": {"path": "rootfs"},
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"]},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]},
            {"destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]},
            {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"]},
        ],
        "linux": {
            "cgroupsPath": format!("/{CGROUP_PARENT}/x"),
            "namespaces": [{"type": "pid"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"}, {"type": "network"}],
        },
    })
}

/// The process object of a spec.
pub fn process(args: &[&str]) -> Value {
    json!({
        "user": {"uid": 0, "gid": 0},
        "args": args,
        "env": ["PATH=/bin"],
        "cwd": "/",
        "capabilities": {"bounding": ["CAP_KILL"], "effective": ["CAP_KILL"], "permitted": ["CAP_KILL"]},
        "noNewPrivileges": true,
    })
}

/// Makes an ext4 image with busybox in it.
fn make_disk(scratch: &Path, disk: &Path) {
    let root = scratch.join("root");
    if !root.exists() {
        for dir in ["bin", "proc", "dev", "sys", "tmp", "etc"] {
            fs::create_dir_all(root.join(dir)).unwrap();
        }
        fs::copy("/bin/busybox", root.join("bin/busybox")).unwrap();
        // Empty: the machine's own belongs there (machine-id(5)).
        fs::write(root.join("etc/machine-id"), "").unwrap();
        for applet in APPLETS {
            symlink("busybox", root.join("bin").join(applet)).unwrap();
        }
        fs::write(root.join("bin/foreign"), foreign_elf()).unwrap();
        fs::set_permissions(
            root.join("bin/foreign"),
            std::os::unix::fs::PermissionsExt::from_mode(0o755),
        )
        .unwrap();
    }
    let made = Program::new("mkfs.ext4")
        .args(["-q", "-F", "-O", "^has_journal", "-d"])
        .arg(&root)
        .arg(disk)
        .arg("32m")
        .output()
        .unwrap();
    assert!(made.status.success(), "{made:?}");
}

/// The head of a program for another architecture (AArch64, `e_machine` 183).
fn foreign_elf() -> Vec<u8> {
    let mut elf = fs::read("/bin/busybox").unwrap();
    elf.truncate(4096);
    elf[18..20].copy_from_slice(&183u16.to_le_bytes());
    elf
}
