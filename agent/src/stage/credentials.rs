// SPDX-License-Identifier: Apache-2.0
//! Who a process is and what it may do: limits, user and groups, capabilities.
//!
//! Order matters: limits are raised while the stage may still do so; the bounding set shrinks and groups are
//! set before the user changes, which costs the right to do either; the capability sets come after, because
//! changing the user clears them; ambient ones last, because they must be permitted and inheritable already.

use std::fs;
use std::io;

use rustix::fs::{FileType, Gid, Uid, fchown, fstat};
use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, setrlimit};
use rustix::stdio::{stderr, stdin, stdout};
use rustix::thread::{
    CapabilitySet, CapabilitySets, clear_ambient_capability_set,
    configure_capability_in_ambient_set, remove_capability_from_bounding_set, set_capabilities,
    set_keep_capabilities, set_thread_groups, set_thread_res_gid, set_thread_res_uid,
};

use super::error::StageError;
use super::{CapabilityPlan, ProcessPlan};
use crate::cause::Cause;

/// How readily the kernel kills this process for want of memory. Needs the machine's own /proc.
pub fn set_oom_score(plan: &ProcessPlan) -> Result<(), StageError> {
    match plan.oom_score_adj {
        Some(score) => fs::write("/proc/self/oom_score_adj", score.to_string())
            .map_err(|source| attribute("oom score adjustment", source)),
        None => Ok(()),
    }
}

/// Everything up to the capability sets that the process starts with. `keep_admin`: leave CAP_SYS_ADMIN in
/// force, which installing a seccomp filter needs; [`drop_to`] takes it away.
pub fn apply(plan: &ProcessPlan, keep_admin: bool) -> Result<(), StageError> {
    for limit in &plan.rlimits {
        set_limit(limit.resource, limit.soft, limit.hard)
            .map_err(|source| attribute(format!("resource limit {}", limit.resource), source))?;
    }
    own_streams(plan).map_err(|source| attribute("owner of the standard streams", source))?;
    let capabilities = &plan.capabilities;
    shrink_bounding_set(capabilities.bounding)
        .map_err(|source| attribute("bounding capabilities", source))?;
    become_user(plan).map_err(|errno| {
        attribute(
            format!("user and groups ({}:{})", plan.uid, plan.gid),
            errno,
        )
    })?;
    let extra = if keep_admin {
        CapabilitySet::SYS_ADMIN.bits()
    } else {
        0
    };
    set_capabilities(None, sets(capabilities, extra))
        .and_then(|()| set_ambient(capabilities.ambient))
        .map_err(|errno| attribute("capabilities", errno))
}

/// Exactly the sets of the plan.
pub fn drop_to(capabilities: &CapabilityPlan) -> Result<(), StageError> {
    set_capabilities(None, sets(capabilities, 0)).map_err(|errno| attribute("capabilities", errno))
}

fn attribute(what: impl Into<String>, source: impl Into<Cause>) -> StageError {
    StageError::Attribute {
        what: what.into(),
        source: source.into(),
    }
}

fn set_limit(resource: u32, soft: u64, hard: u64) -> io::Result<()> {
    // In the order of the numbers on x86 (asm-generic/resource.h), as the plan has them.
    const RESOURCES: [Resource; 16] = [
        Resource::Cpu,
        Resource::Fsize,
        Resource::Data,
        Resource::Stack,
        Resource::Core,
        Resource::Rss,
        Resource::Nproc,
        Resource::Nofile,
        Resource::Memlock,
        Resource::As,
        Resource::Locks,
        Resource::Sigpending,
        Resource::Msgqueue,
        Resource::Nice,
        Resource::Rtprio,
        Resource::Rttime,
    ];
    let resource = usize::try_from(resource)
        .ok()
        .and_then(|index| RESOURCES.get(index))
        .ok_or(io::ErrorKind::InvalidInput)?;
    // The largest number means "no limit" both to the specification's clients and to the kernel.
    let value = |limit: u64| (limit != u64::MAX).then_some(limit);
    let limit = Rlimit {
        current: value(soft),
        maximum: value(hard),
    };
    Ok(setrlimit(*resource, limit)?)
}

/// Lets a process open its own streams again through /dev/stdout and the like.
fn own_streams(plan: &ProcessPlan) -> io::Result<()> {
    for stream in [stdin(), stdout(), stderr()] {
        let status = fstat(stream)?;
        let is_null = FileType::from_raw_mode(status.st_mode) == FileType::CharacterDevice
            && status.st_rdev == rustix::fs::makedev(1, 3);
        if is_null || status.st_uid == plan.uid {
            continue;
        }
        fchown(stream, Some(Uid::from_raw(plan.uid)), None::<Gid>)?;
    }
    Ok(())
}

fn shrink_bounding_set(keep: u64) -> io::Result<()> {
    for number in 0..u64::BITS {
        let bit = 1 << number;
        if keep & bit != 0 {
            continue;
        }
        match remove_capability_from_bounding_set(CapabilitySet::from_bits_retain(bit)) {
            Ok(()) => {}
            // Past the last capability that the kernel knows.
            Err(Errno::INVAL) => break,
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}

fn become_user(plan: &ProcessPlan) -> rustix::io::Result<()> {
    let groups: Vec<Gid> = plan.groups.iter().copied().map(Gid::from_raw).collect();
    set_thread_groups(&groups)?;
    let gid = Gid::from_raw(plan.gid);
    set_thread_res_gid(gid, gid, gid)?;
    set_keep_capabilities(true)?;
    let uid = Uid::from_raw(plan.uid);
    set_thread_res_uid(uid, uid, uid)?;
    set_keep_capabilities(false)
}

fn sets(plan: &CapabilityPlan, extra: u64) -> CapabilitySets {
    let set = CapabilitySet::from_bits_retain;
    CapabilitySets {
        effective: set(plan.effective | extra),
        permitted: set(plan.permitted | extra),
        inheritable: set(plan.inheritable),
    }
}

/// A capability that may not become ambient (not permitted, not inheritable) is left out: runc warns and
/// goes on, and clients rely on it.
fn set_ambient(wanted: u64) -> rustix::io::Result<()> {
    clear_ambient_capability_set()?;
    for number in 0..u64::BITS {
        let bit = 1 << number;
        if wanted & bit == 0 {
            continue;
        }
        match configure_capability_in_ambient_set(CapabilitySet::from_bits_retain(bit), true) {
            Ok(()) | Err(Errno::PERM) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}
