// SPDX-License-Identifier: Apache-2.0
//! The container's file tree: from the mounted root file system to the process's `/`.
//!
//! Everything is built from outside, through descriptors below the new root and the machine's own /proc,
//! before the root changes: afterwards nothing of the machine is needed, and nothing of it is left.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::mount::{
    MountPropagationFlags, UnmountFlags, mount_bind_recursive, mount_change, unmount,
};
use rustix::process::{chdir, fchdir, pivot_root};
use rustix::system::{setdomainname, sethostname};

use super::error::StageError;
use super::root::Root;
use super::{ContainerPlan, devices, machine_id, mounts, paths};
use crate::cause::Cause;

/// A container's tree while it is being built.
pub struct Tree<'p> {
    plan: &'p ContainerPlan,
    /// For everything that resolves paths in it.
    pub root: Root,
    null: OwnedFd,
}

impl<'p> Tree<'p> {
    /// Mounts and devices; what they need of host name and system settings comes first.
    pub fn build(plan: &'p ContainerPlan) -> Result<Self, StageError> {
        let null = open_null().map_err(failed("open the machine's /dev/null for"))?;
        detach_from_machine(plan).map_err(failed("bind"))?;
        let root = Root::open(&plan.rootfs).map_err(failed("open"))?;
        name(plan)?;
        mounts::make(&root, &plan.mounts)?;
        machine_id::provide(&root, &plan.machine_id)?;
        devices::make(&root, &plan.devices)?;
        set_sysctls(plan)?;
        Ok(Self { plan, root, null })
    }

    /// The last changes, then `/` is this tree and the old one is gone.
    pub fn enter(self) -> Result<(), StageError> {
        paths::write_protect(&self.root, &self.plan.read_only_paths)?;
        paths::mask(&self.root, &self.null, &self.plan.masked_paths)?;
        let top = self
            .root
            .find(Path::new("/"), OFlags::PATH | OFlags::DIRECTORY)
            .map_err(failed("open"))?;
        if self.plan.read_only {
            paths::remount_read_only(&top).map_err(failed("write-protect"))?;
        }
        pivot(&top).map_err(failed("change"))?;
        let propagation = MountPropagationFlags::from_bits_retain(self.plan.propagation);
        mount_change("/", propagation).map_err(failed("set the propagation of"))
    }
}

fn failed<E: Into<Cause>>(action: &'static str) -> impl FnOnce(E) -> StageError {
    move |source| StageError::Root {
        action,
        source: source.into(),
    }
}

fn open_null() -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    Ok(openat(CWD, "/dev/null", flags, Mode::empty())?)
}

/// From here on nothing that this namespace mounts is seen outside, and the root is a mount of its own with
/// a private parent, which pivot_root(2) demands.
fn detach_from_machine(plan: &ContainerPlan) -> rustix::io::Result<()> {
    let no_leaks = MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC;
    mount_change("/", no_leaks)?;
    mount_change(&plan.rootfs, MountPropagationFlags::PRIVATE)?;
    mount_bind_recursive(&plan.rootfs, &plan.rootfs)
}

fn name(plan: &ContainerPlan) -> Result<(), StageError> {
    let failed = |what: &str, errno: rustix::io::Errno| StageError::Attribute {
        what: what.to_owned(),
        source: errno.into(),
    };
    if !plan.hostname.is_empty() {
        sethostname(plan.hostname.as_bytes()).map_err(|errno| failed("host name", errno))?;
    }
    if !plan.domainname.is_empty() {
        setdomainname(plan.domainname.as_bytes()).map_err(|errno| failed("domain name", errno))?;
    }
    Ok(())
}

/// Through the machine's /proc/sys, which shows the writer's own namespaces.
fn set_sysctls(plan: &ContainerPlan) -> Result<(), StageError> {
    for (key, value) in &plan.sysctls {
        fs::write(Path::new("/proc/sys").join(key), value).map_err(|source| {
            StageError::Sysctl {
                key: key.display().to_string(),
                value: value.clone(),
                source: source.into(),
            }
        })?;
    }
    Ok(())
}

/// The old root ends up mounted on top of the new one, where it can be let go: no directory for it is
/// needed in the image (pivot_root(2), "pivot_root(".", ".")").
fn pivot(top: impl AsFd) -> rustix::io::Result<()> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let old = openat(CWD, "/", flags, Mode::empty())?;
    fchdir(top)?;
    pivot_root(".", ".")?;
    fchdir(&old)?;
    // Letting go of the old tree must not unmount anything in the machine.
    let no_leaks = MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC;
    mount_change(".", no_leaks)?;
    unmount(".", UnmountFlags::DETACH)?;
    chdir("/")
}
