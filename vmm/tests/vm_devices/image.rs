// SPDX-License-Identifier: Apache-2.0
//! The guest's first root file system: a busybox, the drivers, and this test program itself with
//! the libraries that it needs.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::guest::GUEST;
use crate::machine::initramfs::Archive;

/// Drivers, in the order of their needs.
const MODULES: [&str; 9] = [
    "drivers/virtio/virtio_mmio.ko",
    "drivers/block/virtio_blk.ko",
    "drivers/char/hw_random/virtio-rng.ko",
    "net/core/failover.ko",
    "drivers/net/net_failover.ko",
    "drivers/net/virtio_net.ko",
    "net/vmw_vsock/vsock.ko",
    "net/vmw_vsock/vmw_vsock_virtio_transport_common.ko",
    "net/vmw_vsock/vmw_vsock_virtio_transport.ko",
];

/// A root file system in which this program can run.
pub fn initramfs() -> Vec<u8> {
    let own = std::env::current_exe().unwrap();
    let mut files = vec![("bin/busybox".to_owned(), fs::read("/bin/busybox").unwrap())];
    for library in libraries(&own) {
        let bytes = fs::read(&library).unwrap();
        files.push((
            library.to_str().unwrap().trim_start_matches('/').to_owned(),
            bytes,
        ));
    }
    files.push(("guest_half".to_owned(), stripped(&own)));
    let mut script = "#!/bin/busybox sh\n\
        /bin/busybox --install -s /bin; export PATH=/bin\n\
        mount -t proc none /proc; mount -t sysfs none /sys; mount -t devtmpfs none /dev\n\
        ip link set lo up\n"
        .to_owned();
    for module in MODULES {
        let name = Path::new(module).file_name().unwrap().to_str().unwrap();
        files.push((format!("modules/{name}"), module_bytes(module)));
        writeln!(
            script,
            "insmod /modules/{name} || echo cannot load {name} >/dev/console"
        )
        .unwrap();
    }
    writeln!(script, "ip link set eth0 up").unwrap();
    writeln!(
        script,
        "{GUEST}=1 /guest_half --exact guest::guest_half --nocapture >/dev/console 2>&1"
    )
    .unwrap();
    writeln!(script, "poweroff -f").unwrap();
    files.push(("init".to_owned(), script.into_bytes()));

    let mut archive = Archive::default();
    let mut directories: Vec<PathBuf> = ["bin", "dev", "proc", "sys"].map(PathBuf::from).into();
    for (name, _) in &files {
        directories.extend(Path::new(name).ancestors().skip(1).map(Path::to_owned));
    }
    directories.sort();
    directories.dedup();
    for directory in directories.iter().filter(|path| path.as_os_str() != "") {
        archive.add(directory.to_str().unwrap(), 0o040_755, b"");
    }
    for (name, content) in &files {
        archive.add(name, 0o100_755, content);
    }
    archive.finish()
}

/// The shared libraries of a program and their loader.
fn libraries(program: &Path) -> Vec<PathBuf> {
    let output = Command::new("ldd").arg(program).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let path = |line: &str| {
        line.split_whitespace()
            .find(|word| word.starts_with('/'))
            .map(PathBuf::from)
    };
    text.lines().filter_map(path).collect()
}

/// A program without its symbols, which are most of it.
fn stripped(program: &Path) -> Vec<u8> {
    let target = tempfile::NamedTempFile::new().unwrap();
    let status = Command::new("strip")
        .arg("-o")
        .arg(target.path())
        .arg(program)
        .status();
    let file = if status.is_ok_and(|status| status.success()) {
        target.path()
    } else {
        program
    };
    fs::read(file).unwrap()
}

fn module_bytes(module: &str) -> Vec<u8> {
    let root = "/var/cache/cube/kernel/current/lib/modules";
    let release = fs::read_dir(root)
        .expect("run dev/setup")
        .next()
        .unwrap()
        .unwrap()
        .path();
    fs::read(release.join("kernel").join(module)).unwrap()
}
