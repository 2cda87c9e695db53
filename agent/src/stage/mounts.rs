// SPDX-License-Identifier: Apache-2.0
//! `mounts[]`, in the order of the spec.

use std::ffi::CString;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{OFlags, fstat};
use rustix::mount::{
    MountFlags, MountPropagationFlags, mount, mount_bind, mount_change, mount_remount,
};

use super::error::StageError;
use super::root::{Root, proc_path};
use super::{MountPlan, MountSource};

/// Makes all of them.
pub fn make(root: &Root, mounts: &[MountPlan]) -> Result<(), StageError> {
    mounts.iter().try_for_each(|plan| {
        one(root, plan).map_err(|source| StageError::Mount {
            what: match &plan.source {
                MountSource::FileSystem { fs_type, .. } => fs_type.clone(),
                MountSource::File(_) => "a file of the host".to_owned(),
                MountSource::Directory(_) => "a directory of the machine".to_owned(),
            },
            destination: plan.destination.clone(),
            source: source.into(),
        })
    })
}

fn one(root: &Root, plan: &MountPlan) -> io::Result<()> {
    let destination = &plan.destination;
    match &plan.source {
        MountSource::FileSystem { fs_type, data } => file_system(root, plan, fs_type, data)?,
        MountSource::File(path) => bind(root, plan, path, &root.make_file(destination)?)?,
        MountSource::Directory(path) => bind(root, plan, path, &root.make_dir(destination)?)?,
    }
    if !plan.propagation.is_empty() {
        let mounted = root.find(destination, OFlags::PATH)?;
        for flags in &plan.propagation {
            let flags = MountPropagationFlags::from_bits_retain(*flags);
            mount_change(proc_path(&mounted), flags)?;
        }
    }
    Ok(())
}

fn file_system(root: &Root, plan: &MountPlan, fs_type: &str, data: &str) -> io::Result<()> {
    let directory = if matches!(fs_type, "proc" | "sysfs") {
        // What masks and write-protects parts of these goes by their usual places: an image must not be
        // able to move them (CVE-2019-16884, CVE-2021-30465).
        let find = || root.find_plain(&plan.destination, OFlags::PATH | OFlags::DIRECTORY);
        match find() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                root.make_dir(&plan.destination)?;
                find()?
            }
            found => found?,
        }
    } else {
        root.make_dir(&plan.destination)?
    };
    let mut data = data.to_owned();
    let sets_mode = data.split(',').any(|option| option.starts_with("mode="));
    if fs_type == "tmpfs" && !sets_mode {
        // A tmpfs keeps the permissions of the directory that it covers, as runc's does.
        let mode = fstat(&directory)?.st_mode & 0o7777;
        let separator = if data.is_empty() { "" } else { "," };
        data = format!("mode={mode:o}{separator}{data}");
    }
    let data = CString::new(data).map_err(io::Error::other)?;
    let flags = MountFlags::from_bits_retain(plan.flags);
    mount(
        fs_type,
        proc_path(&directory),
        fs_type,
        flags,
        data.as_c_str(),
    )?;
    Ok(())
}

/// Flags of a bind mount are set by a second call; the first takes those of its source.
fn bind(root: &Root, plan: &MountPlan, source: &Path, target: &OwnedFd) -> io::Result<()> {
    mount_bind(source, proc_path(target))?;
    // The mount just made, no longer what is below it.
    let mounted = root.find(&plan.destination, OFlags::PATH)?;
    let flags = MountFlags::BIND | MountFlags::from_bits_retain(plan.flags);
    Ok(mount_remount(proc_path(&mounted), flags, "")?)
}
