// SPDX-License-Identifier: Apache-2.0
//! /dev of a container: the devices and links that every container has (config-linux.md, "Default
//! Devices"), and those of its spec. Nodes and links that the image brought along stay.

use std::io;
use std::path::Path;

use rustix::fs::{
    AtFlags, FileType, Gid, Mode, Uid, chmodat, chownat, makedev, mknodat, symlinkat, unlinkat,
};
use rustix::io::Errno;

use super::DevicePlan;
use super::error::StageError;
use super::root::Root;

/// Path, major, minor.
const DEFAULT: [(&str, u32, u32); 6] = [
    ("/dev/null", 1, 3),
    ("/dev/zero", 1, 5),
    ("/dev/full", 1, 7),
    ("/dev/random", 1, 8),
    ("/dev/urandom", 1, 9),
    ("/dev/tty", 5, 0),
];

/// Path, target.
const LINKS: [(&str, &str); 5] = [
    ("/dev/fd", "/proc/self/fd"),
    ("/dev/stdin", "/proc/self/fd/0"),
    ("/dev/stdout", "/proc/self/fd/1"),
    ("/dev/stderr", "/proc/self/fd/2"),
    ("/dev/core", "/proc/kcore"),
];

/// Makes all of them.
pub fn make(root: &Root, devices: &[DevicePlan]) -> Result<(), StageError> {
    let failed = |path: &Path, source: io::Error| StageError::Path {
        action: "make",
        path: path.to_path_buf(),
        source: source.into(),
    };
    for device in devices {
        node(root, device).map_err(|source| failed(&device.path, source))?;
    }
    for (path, major, minor) in DEFAULT {
        let device = DevicePlan {
            path: path.into(),
            is_fifo: false,
            major,
            minor,
            mode: 0o666,
            uid: 0,
            gid: 0,
        };
        node(root, &device).map_err(|source| failed(&device.path, source))?;
    }
    for (path, target) in LINKS {
        link(root, Path::new(path), target, false).map_err(|e| failed(Path::new(path), e))?;
    }
    // Must be the container's own instance of devpts, whatever the image brought.
    let ptmx = Path::new("/dev/ptmx");
    link(root, ptmx, "pts/ptmx", true).map_err(|source| failed(ptmx, source))
}

fn node(root: &Root, device: &DevicePlan) -> io::Result<()> {
    let (parent, name) = root.make_parent(&device.path)?;
    let kind = if device.is_fifo {
        FileType::Fifo
    } else {
        FileType::CharacterDevice
    };
    let mode = Mode::from_raw_mode(device.mode);
    let number = makedev(device.major, device.minor);
    match mknodat(&parent, name, kind, mode, number) {
        Err(Errno::EXIST) => return Ok(()),
        other => other?,
    }
    chownat(
        &parent,
        name,
        Some(Uid::from_raw(device.uid)),
        Some(Gid::from_raw(device.gid)),
        AtFlags::SYMLINK_NOFOLLOW,
    )?;
    Ok(chmodat(&parent, name, mode, AtFlags::empty())?)
}

fn link(root: &Root, path: &Path, target: &str, replace: bool) -> io::Result<()> {
    let (parent, name) = root.make_parent(path)?;
    if replace {
        match unlinkat(&parent, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    match symlinkat(target, &parent, name) {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}
