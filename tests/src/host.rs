// SPDX-License-Identifier: Apache-2.0
//! What this host can run, and a mount namespace of our own.

use std::fs::File;

use cube_hv::probe::{self, Grade};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

use crate::series::{guest_image, our_programs};

/// Why virtual machines cannot be tested here; nothing if they can.
pub fn why_no_machines() -> Option<String> {
    let device = match File::options().read(true).write(true).open("/dev/kvm") {
        Ok(device) => device,
        Err(error) => return Some(format!("/dev/kvm cannot be opened: {error}")),
    };
    match probe::measure(device.into()) {
        Err(error) => return Some(format!("KVM is not usable: {error}")),
        Ok(speed) if speed.grade() == Grade::Unusable => {
            return Some(format!(
                "KVM is emulated: {:.0} ns for an instruction",
                speed.ns_per_instruction
            ));
        }
        Ok(_) => {}
    }
    let programs = ["containerd-shim-cube-v1", "cube-vmm", "cube-snapshotter"]
        .map(|name| our_programs().join(name));
    let files = ["vmlinuz", "initramfs"].map(|name| guest_image().join(name));
    let missing = programs.iter().chain(&files).find(|path| !path.exists())?;
    Some(format!(
        "{} is missing (make build image)",
        missing.display()
    ))
}

/// Why no container can be tested here.
pub fn why_no_containers() -> Option<String> {
    (!rustix::process::geteuid().is_root()).then(|| "not root".into())
}

/// Leaves the host's mount namespace: what the tests and their daemons mount is theirs and goes with them.
pub fn own_mounts() -> nix::Result<()> {
    unshare(CloneFlags::CLONE_NEWNS)?;
    let none: Option<&str> = None;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)
}
