// SPDX-License-Identifier: Apache-2.0
//! `mounts[]`: options by name, as mount(8) and config.md spell them.

use std::path::{Component, Path, PathBuf};

use rustix::mount::{MountFlags, MountPropagationFlags};

use super::spec::Mount;
use super::{Places, SpecError};
use crate::stage::{MountPlan, MountSource};

/// File systems that need nothing of the host: the kernel makes their contents.
const VIRTUAL: [&str; 13] = [
    "binfmt_misc",
    "bpf",
    "configfs",
    "debugfs",
    "devpts",
    "fusectl",
    "hugetlbfs",
    "mqueue",
    "proc",
    "securityfs",
    "sysfs",
    "tmpfs",
    "tracefs",
];

/// The only place where a directory of the host may be asked for: it is the pod's, see [`Places`].
const SHARED_MEMORY: &str = "/dev/shm";

/// All mounts of a spec, and after them the files of the host that it says nothing of.
pub fn plans(mounts: &[Mount], places: &Places) -> Result<Vec<MountPlan>, SpecError> {
    let mut plans = mounts
        .iter()
        .map(|mount| plan(mount, places))
        .collect::<Result<Vec<_>, _>>()?;
    let safe = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    for (destination, kept) in &places.files {
        let source = MountSource::File(kept.clone());
        if !plans.iter().any(|plan| plan.source == source) {
            plans.push(MountPlan {
                destination: destination.clone(),
                source,
                flags: safe.bits(),
                propagation: Vec::new(),
            });
        }
    }
    Ok(plans)
}

/// One mount of a spec, resolved to what the kernel is asked for.
fn plan(mount: &Mount, places: &Places) -> Result<MountPlan, SpecError> {
    let field = format!("mounts: {}", mount.destination.display());
    let destination = absolute(&mount.destination)
        .ok_or_else(|| SpecError::invalid(&*field, "the destination is not an absolute path"))?;
    if destination == Path::new("/") {
        return Err(SpecError::invalid(
            field,
            "the root is not a mount of the spec",
        ));
    }
    let options = Options::parse(&field, &mount.options)?;
    let is_bind = options.bind || matches!(mount.kind.as_str(), "bind" | "rbind");
    let source = if is_bind {
        bind_source(&field, mount, &destination, &options, places)?
    } else {
        file_system(&field, mount, &options)?
    };
    Ok(MountPlan {
        destination,
        source,
        flags: options.flags.bits(),
        propagation: options
            .propagation
            .iter()
            .map(MountPropagationFlags::bits)
            .collect(),
    })
}

/// What stands for a file or directory of the host.
fn bind_source(
    field: &str,
    mount: &Mount,
    destination: &Path,
    options: &Options,
    places: &Places,
) -> Result<MountSource, SpecError> {
    if let Some(option) = options.data.first() {
        return Err(not_possible(field, option));
    }
    if let Some((_, kept)) = places.files.iter().find(|(at, _)| at == destination) {
        return Ok(MountSource::File(kept.clone()));
    }
    if destination == Path::new(SHARED_MEMORY) {
        return Ok(MountSource::Directory(places.shared_memory.clone()));
    }
    Err(SpecError::unsupported(
        field,
        format!("bind mounts from the host (here {}) are", mount.source),
    ))
}

fn file_system(field: &str, mount: &Mount, options: &Options) -> Result<MountSource, SpecError> {
    let (fs_type, data) = match mount.kind.as_str() {
        // The guest has cgroup v2 only, whatever the host has; v1's mount options mean nothing to it.
        "cgroup" | "cgroup2" => ("cgroup2", String::new()),
        kind if VIRTUAL.contains(&kind) => (kind, options.data.join(",")),
        kind => {
            return Err(SpecError::unsupported(
                field,
                format!("file systems of type {kind:?} are"),
            ));
        }
    };
    Ok(MountSource::FileSystem {
        fs_type: fs_type.to_owned(),
        data,
    })
}

/// A path from the root without `.` and `..`; `None` for a relative one.
pub fn absolute(path: &Path) -> Option<PathBuf> {
    let mut clean = PathBuf::from("/");
    for component in path.is_absolute().then(|| path.components())? {
        match component {
            Component::Normal(name) => clean.push(name),
            Component::ParentDir => {
                clean.pop();
            }
            _ => {}
        }
    }
    Some(clean)
}

/// `linux.rootfsPropagation`, or one of the propagation options of a mount.
pub fn propagation(name: &str) -> Option<MountPropagationFlags> {
    let (kind, flags) = match name.strip_prefix('r') {
        Some(kind) => (kind, MountPropagationFlags::REC),
        None => (name, MountPropagationFlags::empty()),
    };
    Some(
        flags
            | match kind {
                "private" => MountPropagationFlags::PRIVATE,
                "shared" => MountPropagationFlags::SHARED,
                "slave" => MountPropagationFlags::DOWNSTREAM,
                "unbindable" => MountPropagationFlags::UNBINDABLE,
                _ => return None,
            },
    )
}

struct Options {
    flags: MountFlags,
    propagation: Vec<MountPropagationFlags>,
    bind: bool,
    data: Vec<String>,
}

impl Options {
    fn parse(field: &str, names: &[String]) -> Result<Self, SpecError> {
        let mut options = Self {
            flags: MountFlags::empty(),
            propagation: Vec::new(),
            bind: false,
            data: Vec::new(),
        };
        for name in names {
            if let Some((flag, set)) = flag(name) {
                options.flags.set(flag, set);
            } else if let Some(flags) = propagation(name) {
                options.propagation.push(flags);
            } else {
                match name.as_str() {
                    "bind" | "rbind" => options.bind = true,
                    "defaults" => {}
                    "remount" | "idmap" | "ridmap" | "tmpcopyup" => {
                        return Err(not_possible(field, name));
                    }
                    name if is_recursive_attribute(name) => return Err(not_possible(field, name)),
                    data => options.data.push(data.to_owned()),
                }
            }
        }
        Ok(options)
    }
}

fn not_possible(field: &str, option: &str) -> SpecError {
    SpecError::unsupported(field, format!("option {option} is"))
}

/// `rro`, `rnosuid` and the like: mount_setattr(2) with `AT_RECURSIVE`.
fn is_recursive_attribute(name: &str) -> bool {
    name.strip_prefix('r')
        .is_some_and(|attribute| flag(attribute).is_some())
}

/// The flag of an option, and whether the option sets or clears it.
fn flag(name: &str) -> Option<(MountFlags, bool)> {
    /// `MS_NOSYMFOLLOW`, which rustix does not name.
    const NO_SYMFOLLOW: MountFlags = MountFlags::from_bits_retain(256);
    /// `MS_I_VERSION`.
    const I_VERSION: MountFlags = MountFlags::from_bits_retain(1 << 23);
    Some(match name {
        "async" => (MountFlags::SYNCHRONOUS, false),
        "atime" => (MountFlags::NOATIME, false),
        "dev" => (MountFlags::NODEV, false),
        "diratime" => (MountFlags::NODIRATIME, false),
        "dirsync" => (MountFlags::DIRSYNC, true),
        "exec" => (MountFlags::NOEXEC, false),
        "iversion" => (I_VERSION, true),
        "lazytime" => (MountFlags::LAZYTIME, true),
        "loud" => (MountFlags::SILENT, false),
        "mand" => (MountFlags::PERMIT_MANDATORY_FILE_LOCKING, true),
        "noatime" => (MountFlags::NOATIME, true),
        "nodev" => (MountFlags::NODEV, true),
        "nodiratime" => (MountFlags::NODIRATIME, true),
        "noexec" => (MountFlags::NOEXEC, true),
        "noiversion" => (I_VERSION, false),
        "nolazytime" => (MountFlags::LAZYTIME, false),
        "nomand" => (MountFlags::PERMIT_MANDATORY_FILE_LOCKING, false),
        "norelatime" => (MountFlags::RELATIME, false),
        "nostrictatime" => (MountFlags::STRICTATIME, false),
        "nosuid" => (MountFlags::NOSUID, true),
        "nosymfollow" => (NO_SYMFOLLOW, true),
        "relatime" => (MountFlags::RELATIME, true),
        "ro" => (MountFlags::RDONLY, true),
        "rw" => (MountFlags::RDONLY, false),
        "silent" => (MountFlags::SILENT, true),
        "strictatime" => (MountFlags::STRICTATIME, true),
        "suid" => (MountFlags::NOSUID, false),
        "symfollow" => (NO_SYMFOLLOW, false),
        "sync" => (MountFlags::SYNCHRONOUS, true),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(kind: &str, destination: &str, options: &[&str]) -> Mount {
        Mount {
            destination: destination.into(),
            kind: kind.into(),
            source: "src".into(),
            options: options.iter().map(|&o| o.to_owned()).collect(),
        }
    }

    fn mount(kind: &str, destination: &str, options: &[&str]) -> Result<MountPlan, SpecError> {
        plan(&asked(kind, destination, options), &Places::default())
    }

    fn data(plan: &MountPlan) -> (&str, &str) {
        match &plan.source {
            MountSource::FileSystem { fs_type, data } => (fs_type, data),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn flags_and_data_are_told_apart() {
        let plan = mount(
            "tmpfs",
            "/dev/../dev/shm/",
            &[
                "nosuid",
                "ro",
                "rw",
                "noexec",
                "mode=1777",
                "size=65536k",
                "rprivate",
            ],
        )
        .unwrap();
        assert_eq!(plan.destination, Path::new("/dev/shm"));
        assert_eq!(plan.flags, (MountFlags::NOSUID | MountFlags::NOEXEC).bits());
        assert_eq!(data(&plan), ("tmpfs", "mode=1777,size=65536k"));
        assert_eq!(plan.propagation.len(), 1);
    }

    #[test]
    fn cgroup_of_any_version_becomes_the_guests() {
        let plan = mount("cgroup", "/sys/fs/cgroup", &["ro", "memory"]).unwrap();
        assert_eq!(data(&plan), ("cgroup2", ""));
    }

    #[test]
    fn binds_become_copies_of_files_and_the_pods_shared_memory() {
        let places = Places {
            shared_memory: "/run/shm".into(),
            files: vec![
                ("/etc/hosts".into(), "/run/files/a/0".into()),
                ("/etc/resolv.conf".into(), "/run/files/a/1".into()),
            ],
            ..Default::default()
        };
        let asked = [
            asked("bind", "/etc/../etc/hosts", &["rbind", "ro", "nosuid"]),
            asked("bind", "/dev/shm", &["rbind", "rw"]),
        ];
        let plans = plans(&asked, &places).unwrap();
        let found: Vec<_> = plans
            .iter()
            .map(|plan| (plan.destination.to_str().unwrap(), plan.source.clone()))
            .collect();
        assert_eq!(
            found,
            [
                ("/etc/hosts", MountSource::File("/run/files/a/0".into())),
                ("/dev/shm", MountSource::Directory("/run/shm".into())),
                // The spec said nothing of it.
                (
                    "/etc/resolv.conf",
                    MountSource::File("/run/files/a/1".into())
                ),
            ]
        );
        let read_only = MountFlags::RDONLY | MountFlags::NOSUID;
        assert_eq!(plans[0].flags, read_only.bits());
        assert_eq!(plans[1].flags, 0);
    }

    #[test]
    fn a_bind_mount_has_no_options_of_a_file_system() {
        let error = mount("bind", "/dev/shm", &["size=1m"]).unwrap_err();
        assert!(error.to_string().contains("size=1m"), "{error}");
    }

    #[test]
    fn what_would_be_lost_is_an_error_that_names_the_destination() {
        for (kind, options) in [
            ("bind", &["ro"][..]),
            ("none", &["rbind"]),
            ("ext4", &[]),
            ("tmpfs", &["rro"]),
            ("tmpfs", &["tmpcopyup"]),
            ("tmpfs", &["idmap"]),
        ] {
            let error = mount(kind, "/etc/hosts", options).unwrap_err();
            assert!(matches!(error, SpecError::Unsupported { .. }), "{error}");
            assert!(error.to_string().contains("/etc/hosts"), "{error}");
        }
        for destination in ["relative", "/", "/a/.."] {
            let error = mount("tmpfs", destination, &[]).unwrap_err();
            assert!(matches!(error, SpecError::Invalid { .. }), "{error}");
        }
    }
}
