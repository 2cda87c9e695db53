// SPDX-License-Identifier: Apache-2.0
//! What the process gives up before the first instruction of a guest.
//!
//! Afterwards it has the descriptors it was handed and nothing else: an empty root directory,
//! its own network (or the sandbox's), IPC and host name, no privilege and no way to get one.
//! It must run while the process has one thread: namespaces and credentials belong to
//! threads, and threads inherit them.
//!
//! The process stays in the PID namespace and cgroup that its parent chose, and keeps the
//! parent's OOM score.

use std::os::fd::{AsFd, OwnedFd};

use nix::sched::{CloneFlags, unshare};
use nix::unistd::{Gid, Uid, setgroups, setresgid, setresuid};
use rustix::fs::CWD;
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountPropagationFlags, MoveMountFlags, UnmountFlags,
    fsconfig_create, fsconfig_set_string, fsmount, fsopen, mount_change, move_mount, unmount,
};
use rustix::process::{
    DumpableBehavior, Resource, Rlimit, chdir, fchdir, pivot_root, set_dumpable_behavior, setrlimit,
};
use rustix::thread::{
    CapabilitySet, CapabilitySets, LinkNameSpaceType, clear_ambient_capability_set,
    move_into_link_name_space, remove_capability_from_bounding_set, set_capabilities,
    set_no_new_privs,
};
use thiserror::Error;

/// Which step of entering the jail failed. The process must not run a guest then.
#[derive(Debug, Error)]
#[error("cube-vmm could not {step}")]
pub struct JailError {
    step: &'static str,
    #[source]
    source: Errno,
}

/// Enters the jail. `netns` is the network namespace to live in; without it the process gets
/// one with nothing in it.
pub(crate) fn enter(netns: Option<&OwnedFd>, uid: u32, gid: u32) -> Result<(), JailError> {
    enter_namespaces(netns)?;
    leave_the_file_system()?;
    set_limits()?;
    drop_privileges(uid, gid)
}

fn enter_namespaces(netns: Option<&OwnedFd>) -> Result<(), JailError> {
    let mut own = CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWIPC | CloneFlags::CLONE_NEWUTS;
    match netns {
        Some(netns) => {
            let kind = Some(LinkNameSpaceType::Network);
            move_into_link_name_space(netns.as_fd(), kind)
                .map_err(failed("enter the sandbox's network namespace"))?;
        }
        None => own |= CloneFlags::CLONE_NEWNET,
    }
    unshare(own)
        .map_err(errno)
        .map_err(failed("leave the host's namespaces (is it root?)"))
}

/// Makes an empty, read-only file system the root and lets go of the host's.
fn leave_the_file_system() -> Result<(), JailError> {
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    mount_change("/", private).map_err(failed("cut its mounts off from the host's"))?;

    let root = empty_file_system().map_err(failed("make an empty file system"))?;
    // It has to be mounted somewhere to become the root; this directory exists on every host.
    move_mount(
        &root,
        "",
        CWD,
        "/proc",
        MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH,
    )
    .map_err(failed("mount its empty root"))?;
    // With both arguments the same the old root ends up on top of the new one (pivot_root(2)).
    fchdir(&root)
        .and_then(|()| pivot_root(".", "."))
        .and_then(|()| unmount(".", UnmountFlags::DETACH))
        .and_then(|()| chdir("/"))
        .map_err(failed("change to its empty root"))
}

fn empty_file_system() -> Result<OwnedFd, Errno> {
    let context = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(&context, "size", "4096")?;
    fsconfig_set_string(&context, "mode", "0555")?;
    fsconfig_create(&context)?;
    let bare = MountAttrFlags::MOUNT_ATTR_RDONLY
        | MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, bare)
}

/// Open files: what vsock allows for its connections (a little over 1000), and as much again
/// for everything else.
const MAX_DESCRIPTORS: u64 = 2048;

/// The process's memory is the guest's memory and goes into no core file. How many files it
/// may open is not left to whatever the parent had.
fn set_limits() -> Result<(), JailError> {
    let exactly = |limit| Rlimit {
        current: Some(limit),
        maximum: Some(limit),
    };
    setrlimit(Resource::Core, exactly(0)).map_err(failed("forbid core files"))?;
    setrlimit(Resource::Nofile, exactly(MAX_DESCRIPTORS)).map_err(failed("limit its open files"))
}

fn drop_privileges(uid: u32, gid: u32) -> Result<(), JailError> {
    set_no_new_privs(true).map_err(failed("forbid new privileges"))?;
    empty_bounding_set().map_err(failed("drop the capability bounding set"))?;
    set_credentials(uid, gid).map_err(failed("become an unprivileged user"))?;
    // Changing the user has emptied these already; now it does not depend on that.
    clear_ambient_capability_set().map_err(failed("drop its ambient capabilities"))?;
    let none = CapabilitySets {
        effective: CapabilitySet::empty(),
        permitted: CapabilitySet::empty(),
        inheritable: CapabilitySet::empty(),
    };
    set_capabilities(None, none).map_err(failed("drop its capabilities"))?;
    // After the change of user, which sets it from /proc/sys/fs/suid_dumpable.
    set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(failed("forbid debuggers"))
}

/// Capabilities are numbered from 0 without gaps, and the kernel refuses the first number that
/// it does not know.
fn empty_bounding_set() -> Result<(), Errno> {
    for number in 0..u64::BITS {
        match remove_capability_from_bounding_set(CapabilitySet::from_bits_retain(1 << number)) {
            Err(Errno::INVAL) if number > 0 => return Ok(()),
            result => result?,
        }
    }
    Ok(())
}

fn set_credentials(uid: u32, gid: u32) -> Result<(), Errno> {
    let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
    setgroups(&[])
        .and_then(|()| setresgid(gid, gid, gid))
        .and_then(|()| setresuid(uid, uid, uid))
        .map_err(errno)
}

fn errno(errno: nix::errno::Errno) -> Errno {
    Errno::from_raw_os_error(errno as i32)
}

fn failed(step: &'static str) -> impl FnOnce(Errno) -> JailError {
    move |source| JailError { step, source }
}
