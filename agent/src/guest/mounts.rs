// SPDX-License-Identifier: Apache-2.0
//! The file systems of the machine itself.

use std::fs;
use std::io;

use rustix::mount::{MountFlags, mount, mount_bind, mount_move};
use rustix::process::{chdir, chroot};

use super::BootError;
use crate::cause::Cause;

/// Where the only cgroup hierarchy is.
pub const CGROUP: &str = "/sys/fs/cgroup";

struct Mount {
    target: &'static str,
    fs_type: &'static str,
    flags: MountFlags,
    data: &'static std::ffi::CStr,
}

/// Everything, in order.
pub fn make() -> Result<(), BootError> {
    leave_rootfs().map_err(failed("the root directory on itself"))?;
    let safe = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    let no_exec = MountFlags::NOSUID | MountFlags::NOEXEC;
    let table = [
        one("/proc", "proc", safe, c""),
        one("/sys", "sysfs", safe, c""),
        one("/dev", "devtmpfs", no_exec, c"mode=755"),
        one(
            "/dev/pts",
            "devpts",
            no_exec,
            c"mode=620,gid=5,ptmxmode=666",
        ),
        one("/run", "tmpfs", safe, c"mode=755"),
        // favordynmods: joining a cgroup costs no grace period of the kernel.
        one(
            CGROUP,
            "cgroup2",
            safe,
            c"nsdelegate,memory_recursiveprot,favordynmods",
        ),
    ];
    for Mount {
        target,
        fs_type,
        flags,
        data,
    } in table
    {
        fs::create_dir_all(target)
            .and_then(|()| Ok(mount(fs_type, target, fs_type, flags, data)?))
            .map_err(failed(target))?;
    }
    Ok(())
}

fn one(
    target: &'static str,
    fs_type: &'static str,
    flags: MountFlags,
    data: &'static std::ffi::CStr,
) -> Mount {
    Mount {
        target,
        fs_type,
        flags,
        data,
    }
}

fn failed(what: &'static str) -> impl FnOnce(io::Error) -> BootError {
    move |error| BootError::Mount {
        what,
        source: Cause::from(error),
    }
}

/// The initramfs is the kernel's root of all mounts, which pivot_root(2) cannot replace. A bind mount of it
/// moved on top of itself can be replaced, in the mount namespace of each container.
fn leave_rootfs() -> io::Result<()> {
    let alias = "/root";
    fs::create_dir_all(alias)?;
    mount_bind("/", alias)?;
    chdir(alias)?;
    mount_move(".", "/")?;
    chroot(".")?;
    Ok(chdir("/")?)
}
