// SPDX-License-Identifier: Apache-2.0
//! `mounts[]`, in the order of the spec.

use std::ffi::CString;
use std::io;

use rustix::fs::{OFlags, fstat};
use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};

use super::MountPlan;
use super::error::StageError;
use super::root::{Root, proc_path};

/// Makes all of them.
pub fn make(root: &Root, mounts: &[MountPlan]) -> Result<(), StageError> {
    mounts.iter().try_for_each(|plan| {
        one(root, plan).map_err(|source| StageError::Mount {
            fs_type: plan.fs_type.clone(),
            destination: plan.destination.clone(),
            source: source.into(),
        })
    })
}

fn one(root: &Root, plan: &MountPlan) -> io::Result<()> {
    let directory = if matches!(plan.fs_type.as_str(), "proc" | "sysfs") {
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
    let mut data = plan.data.clone();
    let sets_mode = data.split(',').any(|option| option.starts_with("mode="));
    if plan.fs_type == "tmpfs" && !sets_mode {
        // A tmpfs keeps the permissions of the directory that it covers, as runc's does.
        let mode = fstat(&directory)?.st_mode & 0o7777;
        let separator = if data.is_empty() { "" } else { "," };
        data = format!("mode={mode:o}{separator}{data}");
    }
    let data = CString::new(data).map_err(io::Error::other)?;
    mount(
        plan.fs_type.as_str(),
        proc_path(&directory),
        plan.fs_type.as_str(),
        MountFlags::from_bits_retain(plan.flags),
        data.as_c_str(),
    )?;
    if !plan.propagation.is_empty() {
        let mounted = root.find(&plan.destination, OFlags::PATH)?;
        for flags in &plan.propagation {
            let flags = MountPropagationFlags::from_bits_retain(*flags);
            mount_change(proc_path(&mounted), flags)?;
        }
    }
    Ok(())
}
