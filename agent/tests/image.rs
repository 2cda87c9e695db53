// SPDX-License-Identifier: Apache-2.0
//! `agent/image/build` with a kernel, modules and an agent that are only just enough: what it puts into an
//! image, that it always puts the same, and what it says of inputs that are not usable.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on should say where"
)]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tempfile::TempDir;

const RELEASE: &str = "6.1.2-test";

/// Inputs in a directory of their own.
struct Bench {
    dir: TempDir,
}

impl Bench {
    fn new() -> Self {
        let bench = Self {
            dir: tempfile::tempdir().unwrap(),
        };
        fs::write(bench.path("vmlinuz"), kernel()).unwrap();
        let modules = [
            ("drivers/virtio_mmio.ko", &[][..]),
            ("drivers/virtio_blk.ko", &[]),
            ("drivers/virtio-rng.ko", &[]),
            ("drivers/virtio_net.ko", &["drivers/failover.ko"]),
            ("drivers/failover.ko", &[]),
            ("net/vsock.ko", &[]),
            ("net/common.ko", &["net/vsock.ko"]),
            // As depmod writes it: all that is needed, nearest first.
            (
                "net/vmw_vsock_virtio_transport.ko",
                &["net/common.ko", "net/vsock.ko"],
            ),
            ("fs/xfs.ko", &[]),
        ];
        let mut dep = String::new();
        for (path, needs) in modules {
            let file = bench.path("modules").join(path);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, format!("\x7fELF {path}")).unwrap();
            dep.push_str(&format!("{path}: {}\n", needs.join(" ")));
        }
        fs::write(bench.path("modules/modules.dep"), dep).unwrap();
        fs::write(
            bench.path("modules/modules.builtin"),
            "kernel/fs/overlay.ko\n",
        )
        .unwrap();
        bench
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn build(&self, image: &str) -> Output {
        Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("image/build"))
            .arg(self.path(image))
            .env("CUBE_KERNEL", self.path("vmlinuz"))
            .env("CUBE_KERNEL_MODULES", self.path("modules"))
            .env("CUBE_AGENT", static_program(&self.path("agent")))
            .output()
            .unwrap()
    }

    /// Builds, which must fail and leave nothing.
    fn refusal(&self) -> String {
        let before = fs::read_dir(self.dir.path()).unwrap().count();
        let output = self.build("image");
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        assert!(!self.path("image").exists());
        assert!(fs::read_dir(self.dir.path()).unwrap().count() <= before + 1);
        String::from_utf8(output.stderr).unwrap()
    }
}

/// A bzImage's header around nothing (Documentation/arch/x86/boot.rst).
fn kernel() -> Vec<u8> {
    let mut image = vec![0; 2048];
    image[0x1f1] = 1;
    image[0x1f4..0x1f8].copy_from_slice(&64_u32.to_le_bytes());
    image[0x202..0x206].copy_from_slice(b"HdrS");
    image[0x20e..0x210].copy_from_slice(&0x100_u16.to_le_bytes());
    let version = format!("{RELEASE} (who@where) #1\0");
    image[0x300..0x300 + version.len()].copy_from_slice(version.as_bytes());
    image
}

/// An ELF header and a table of two sections at the end, with the words that Linux has somewhere.
fn unpacked_kernel() -> Vec<u8> {
    let mut image = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\x3e\0".to_vec();
    image.resize(192, 0);
    image[40..48].copy_from_slice(&128_u64.to_le_bytes());
    image[58..62].copy_from_slice(&[32, 0, 2, 0]);
    let words = format!("Linux version {RELEASE} (who@where)");
    image[64..64 + words.len()].copy_from_slice(words.as_bytes());
    image
}

/// A static program of a few instructions that answers as the agent does when it is asked for its version.
fn static_program(path: &Path) -> &Path {
    // write(1, text, len); exit(0)
    let text = b"cube-agent 9.8.7\n";
    let code: &[u8] = &[
        0xb8, 1, 0, 0, 0, 0xbf, 1, 0, 0, 0, 0x48, 0x8d, 0x35, 16, 0, 0, 0, 0xba, 17, 0, 0, 0, 0x0f,
        0x05, 0xb8, 60, 0, 0, 0, 0x31, 0xff, 0x0f, 0x05,
    ];
    let entry = 0x40_0078_u64;
    let size = (0x78 + code.len() + text.len()) as u64;
    let mut program = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\x3e\0\x01\0\0\0".to_vec();
    for word in [entry, 64, 0] {
        program.extend(word.to_le_bytes());
    }
    program.extend([0, 0, 0, 0, 64, 0, 56, 0, 1, 0, 0, 0, 0, 0, 0, 0]);
    program.extend([1, 0, 0, 0, 5, 0, 0, 0]);
    for word in [0, 0x40_0000, 0x40_0000, size, size, 0x1000] {
        program.extend(u64::to_le_bytes(word));
    }
    program.extend(code);
    program.extend(text);
    fs::write(path, program).unwrap();
    let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(path, executable).unwrap();
    path
}

/// Mode and contents by path.
fn unpack(mut archive: &[u8]) -> BTreeMap<String, (u32, Vec<u8>)> {
    let mut files = BTreeMap::new();
    loop {
        let (header, _) = archive.split_at(110);
        assert_eq!(&header[..6], b"070701");
        let field = |number: usize| {
            let digits = &header[6 + 8 * number..14 + 8 * number];
            usize::from_str_radix(std::str::from_utf8(digits).unwrap(), 16).unwrap()
        };
        let (mode, size, name_size) = (field(1), field(6), field(11));
        // Owner, group and time.
        assert_eq!((field(2), field(3), field(5)), (0, 0, 0));
        let name = String::from_utf8(archive[110..110 + name_size - 1].to_vec()).unwrap();
        let start = (110 + name_size).next_multiple_of(4);
        let data = archive[start..start + size].to_vec();
        if name == "TRAILER!!!" {
            return files;
        }
        files.insert(name, (u32::try_from(mode).unwrap(), data));
        archive = &archive[(start + size).next_multiple_of(4)..];
    }
}

#[test]
fn the_same_inputs_give_the_same_image() {
    let bench = Bench::new();
    for image in ["one", "two", "two"] {
        let output = bench.build(image);
        assert!(output.status.success(), "{output:?}");
    }
    for file in ["manifest.json", "initramfs", "vmlinuz"] {
        let read = |image: &str| fs::read(bench.path(image).join(file)).unwrap();
        assert!(read("one") == read("two"), "{file}");
    }
    let manifest = fs::read(bench.path("one/manifest.json")).unwrap();
    let manifest: serde_json::Value = serde_json::from_slice(&manifest).unwrap();
    assert_eq!(manifest["kernel_release"], RELEASE);
    assert_eq!(manifest["agent_version"], "9.8.7");
    // A change of any input is a change of the digest.
    fs::write(bench.path("modules/fs/xfs.ko"), "\x7fELF changed").unwrap();
    assert!(bench.build("three").status.success());
    let other = fs::read(bench.path("three/manifest.json")).unwrap();
    let other: serde_json::Value = serde_json::from_slice(&other).unwrap();
    assert_eq!(manifest["kernel_sha256"], other["kernel_sha256"]);
    assert_ne!(manifest["digest"], other["digest"]);
}

#[test]
fn an_initramfs_has_the_agent_and_its_modules_in_order() {
    let bench = Bench::new();
    assert!(bench.build("image").status.success());
    let files = unpack(&fs::read(bench.path("image/initramfs")).unwrap());
    assert_eq!(files["init"].0, 0o100_755);
    assert_eq!(files["init"].1, fs::read(bench.path("agent")).unwrap());
    assert_eq!(files["dev/console"].0, 0o020_600);
    assert_eq!(files["sbin/modprobe"], (0o120_777, b"/init".to_vec()));
    let text = |path: &str| String::from_utf8(files[path].1.clone()).unwrap();
    assert_eq!(
        text("lib/modules/boot"),
        "virtio_mmio.ko\nvsock.ko\ncommon.ko\nvmw_vsock_virtio_transport.ko\nvirtio_blk.ko\nvirtio-rng.ko\n"
    );
    // What is built in needs no files; what may never be needed is packed.
    assert_eq!(
        text("lib/modules/on-demand"),
        "fs-overlay\nfs-xfs xfs.ko.xz\nvirtio-net failover.ko.xz virtio_net.ko.xz\n"
    );
    assert!(files["lib/modules/xfs.ko.xz"].1.starts_with(b"\xfd7zXZ"));
    for module in text("lib/modules/boot").lines() {
        assert!(
            files.contains_key(&format!("lib/modules/{module}")),
            "{module}"
        );
    }
}

#[test]
fn an_unpacked_kernel_keeps_its_name() {
    let bench = Bench::new();
    fs::write(bench.path("vmlinuz"), unpacked_kernel()).unwrap();
    assert!(bench.build("image").status.success());
    let kernel = fs::read(bench.path("image/vmlinux")).unwrap();
    assert_eq!(kernel, unpacked_kernel());
    let manifest = fs::read_to_string(bench.path("image/manifest.json")).unwrap();
    assert!(manifest.contains(RELEASE), "{manifest}");
}

#[test]
fn inputs_that_are_not_usable_are_named() {
    let bench = Bench::new();
    let whole = fs::read(bench.path("vmlinuz")).unwrap();
    fs::write(bench.path("vmlinuz"), &whole[..1500]).unwrap();
    let said = bench.refusal();
    assert!(
        said.contains("vmlinuz is cut off: it has 1500 bytes of 2048"),
        "{said}"
    );
    fs::write(bench.path("vmlinuz"), "MZ, but no more").unwrap();
    assert!(bench.refusal().contains("is not a kernel"));
    fs::write(bench.path("vmlinuz"), &unpacked_kernel()[..100]).unwrap();
    let said = bench.refusal();
    assert!(
        said.contains("is cut off: it has 100 bytes of 192"),
        "{said}"
    );
    fs::remove_file(bench.path("vmlinuz")).unwrap();
    assert!(bench.refusal().contains("cannot read the kernel"));
    fs::write(bench.path("vmlinuz"), &whole).unwrap();

    fs::write(bench.path("modules/net/vsock.ko"), "rubbish").unwrap();
    assert!(bench.refusal().contains("vsock.ko is damaged"));
    fs::remove_file(bench.path("modules/modules.dep")).unwrap();
    assert!(bench.refusal().contains("no modules for kernel 6.1.2-test"));
}

#[test]
fn an_agent_that_is_not_static_is_refused() {
    let bench = Bench::new();
    let output = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("image/build"))
        .arg(bench.path("image"))
        .env("CUBE_KERNEL", bench.path("vmlinuz"))
        .env("CUBE_KERNEL_MODULES", bench.path("modules"))
        .env("CUBE_AGENT", env!("CARGO_BIN_EXE_cube-agent"))
        .output()
        .unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("is not static"), "{said}");
}
