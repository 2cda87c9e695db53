// SPDX-License-Identifier: Apache-2.0
//! /dev of a container: the devices and links that every container has (config-linux.md, "Default
//! Devices"), and those of its spec. Nodes and links that the image brought along stay.

use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use rustix::fs::{
    AtFlags, FileType, Gid, Mode, Uid, chmodat, chownat, makedev, mknodat, symlinkat, unlinkat,
};
use rustix::io::Errno;

use super::DevicePlan;
use super::error::StageError;
use super::root::Root;

const DEV: &str = "/dev";

/// Name in /dev, major, minor.
const DEFAULT: [(&str, u32, u32); 6] = [
    ("null", 1, 3),
    ("zero", 1, 5),
    ("full", 1, 7),
    ("random", 1, 8),
    ("urandom", 1, 9),
    ("tty", 5, 0),
];

/// Name in /dev, target.
const LINKS: [(&str, &str); 5] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("core", "/proc/kcore"),
];

/// Must lead to the container's own instance of devpts, whatever the image brought.
const PTMX: (&str, &str) = ("ptmx", "pts/ptmx");

/// Makes all of them.
pub fn make(root: &Root, devices: &[DevicePlan]) -> Result<(), StageError> {
    let failed = |path: &Path, source: io::Error| StageError::Path {
        action: "make",
        path: path.to_path_buf(),
        source: source.into(),
    };
    for device in devices {
        root.make_parent(&device.path)
            .and_then(|(parent, name)| node(&parent, name, device))
            .map_err(|source| failed(&device.path, source))?;
    }
    let dev = Path::new(DEV);
    let parent = root.make_dir(dev).map_err(|source| failed(dev, source))?;
    for (name, major, minor) in DEFAULT {
        let path = dev.join(name);
        let device = DevicePlan {
            path: path.clone(),
            is_fifo: false,
            major,
            minor,
            mode: 0o666,
            uid: 0,
            gid: 0,
        };
        node(&parent, Path::new(name), &device).map_err(|source| failed(&path, source))?;
    }
    for (name, target) in LINKS {
        link(&parent, name, target).map_err(|source| failed(&dev.join(name), source))?;
    }
    let (name, target) = PTMX;
    remove(&parent, name)
        .and_then(|()| link(&parent, name, target))
        .map_err(|source| failed(&dev.join(name), source))
}

fn node(parent: impl AsFd, name: &Path, device: &DevicePlan) -> io::Result<()> {
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

fn remove(parent: impl AsFd, name: &str) -> io::Result<()> {
    match unlinkat(parent, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

fn link(parent: impl AsFd, name: &str, target: &str) -> io::Result<()> {
    match symlinkat(target, parent, name) {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}
