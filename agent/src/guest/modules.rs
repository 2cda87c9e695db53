// SPDX-License-Identifier: Apache-2.0
//! Kernel modules, out of the initramfs.
//!
//! `/lib/modules/boot` lists the files that every machine needs, in an order in which each finds what it
//! needs. `/lib/modules/on-demand` lists, per line, an alias by which the kernel asks for a module and the
//! files to load for it. The kernel asks by running `/sbin/modprobe -q -- ALIAS`, which in the guest image is
//! this program: so a mount of xfs, by the agent or inside of a container, finds its file system.

use std::ffi::CStr;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use rustix::system::finit_module;
use thiserror::Error;

use crate::cause::Cause;

const DIRECTORY: &str = "/lib/modules";

/// `MODULE_INIT_COMPRESSED_FILE` of linux/module.h.
const COMPRESSED: i32 = 4;

/// A module that is not loaded.
#[derive(Debug, Error)]
pub enum ModuleError {
    /// One of the lists.
    #[error("cannot read {}", path.display())]
    List {
        /// Which.
        path: PathBuf,
        /// The kernel's answer.
        #[source]
        source: Cause,
    },
    /// The module itself.
    #[error("cannot load kernel module {}", path.display())]
    Load {
        /// Which.
        path: PathBuf,
        /// The kernel's answer.
        #[source]
        source: Cause,
    },
}

/// Loads what every machine needs.
pub fn load_boot_modules() -> Result<(), ModuleError> {
    let list = read(&Path::new(DIRECTORY).join("boot"))?;
    list.lines().try_for_each(load)
}

/// Answers the kernel's wish for a module. One that the image does not have is no error of ours: the caller
/// in the kernel goes on without it, and tells its user.
pub fn modprobe(alias: &str) -> Result<(), ModuleError> {
    let list = read(&Path::new(DIRECTORY).join("on-demand"))?;
    files_of(&list, alias).try_for_each(load)
}

fn files_of<'l>(list: &'l str, alias: &str) -> impl Iterator<Item = &'l str> {
    list.lines()
        .filter_map(|line| line.split_once(' '))
        .find(|(name, _)| *name == alias)
        .map_or("", |(_, files)| files)
        .split_whitespace()
}

fn load(file: &str) -> Result<(), ModuleError> {
    const NO_PARAMETERS: &CStr = c"";
    let path = Path::new(DIRECTORY).join(file);
    let flags = if file.ends_with(".ko") { 0 } else { COMPRESSED };
    let result = File::open(&path).map_err(Cause::from).and_then(|module| {
        match finit_module(module, NO_PARAMETERS, flags) {
            // Loaded already, on another alias.
            Ok(()) | Err(Errno::EXIST) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    });
    result.map_err(|source| ModuleError::Load { path, source })
}

fn read(path: &Path) -> Result<String, ModuleError> {
    fs::read_to_string(path).map_err(|source| ModuleError::List {
        path: path.to_path_buf(),
        source: source.into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_alias_names_its_files_in_order() {
        let list = "fs-xfs libcrc32c.ko xfs.ko.xz\nfs-overlay overlay.ko.xz\n";
        let files = |alias| files_of(list, alias).collect::<Vec<_>>();
        assert_eq!(files("fs-xfs"), ["libcrc32c.ko", "xfs.ko.xz"]);
        assert_eq!(files("fs-overlay"), ["overlay.ko.xz"]);
        assert!(files("fs-x").is_empty());
    }
}
