// SPDX-License-Identifier: Apache-2.0
//! A container's tree as the container sees it, with its mounts and its users, and what a path means there.
//!
//! The tree is that of the first process (`/proc/<pid>/root`), entered through a descriptor: lookups cross the
//! mounts of the container's own namespace, and the kernel keeps them inside of the root
//! ([`crate::stage::Root`]). Holding a view keeps the container's disk from being unmounted.

use std::io;
use std::path::{Path, PathBuf};

use cube_protocol::v1::plane as wire;
use rustix::fs::OFlags;

use super::accounts::{Account, Accounts};
use super::fault::PlaneFault;
use crate::oci;
use crate::stage::Root;

/// Longest path, as the kernel has it (`PATH_MAX`).
const MAX_PATH: usize = 4096;

/// The tree and its users.
#[derive(Debug)]
pub struct View {
    /// Where every lookup begins.
    pub root: Root,
    /// As they were when the view was taken.
    pub accounts: Accounts,
}

/// What a path means, and to whom.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Located {
    /// Absolute, without dots.
    pub path: PathBuf,
    /// Who owns what is made.
    pub owner: Account,
}

impl View {
    /// Of a container's root directory.
    pub fn of(root: Root) -> io::Result<Self> {
        let accounts = Accounts::read(&root)?;
        Ok(Self { root, accounts })
    }

    /// Understands a place.
    pub fn locate(&self, place: &wire::Place) -> Result<Located, PlaneFault> {
        let owner = self.accounts.find(&place.user)?;
        let path = match place.path.as_str() {
            "" => expand(&place.default_path, &owner.home)?,
            path => expand(path, &owner.home)?,
        };
        Ok(Located { path, owner })
    }

    /// Where the container's root is among this process's own mounts; only for texts.
    pub fn own_path(&self) -> io::Result<PathBuf> {
        let fd = self.root.find(Path::new("/"), OFlags::PATH)?;
        std::fs::read_link(crate::stage::proc_path(&fd))
    }
}

/// `~` and what is relative start at home, as does what is empty.
pub fn expand(path: &str, home: &Path) -> Result<PathBuf, PlaneFault> {
    let invalid = |reason: &str| PlaneFault::Request {
        field: "path",
        reason: format!("{path:?} {reason}"),
    };
    if path.len() > MAX_PATH {
        return Err(PlaneFault::Request {
            field: "path",
            reason: format!("{} bytes are more than {MAX_PATH}", path.len()),
        });
    }
    if path.contains('\0') {
        return Err(invalid("contains a NUL byte"));
    }
    let joined = match path.strip_prefix('~') {
        Some("") => home.to_path_buf(),
        Some(rest) => match rest.strip_prefix('/') {
            Some(below) => home.join(below.trim_start_matches('/')),
            None => return Err(invalid("names another user's home, which is not supported")),
        },
        None => home.join(path),
    };
    oci::absolute(&joined).ok_or_else(|| invalid("has no root"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_start_at_home_unless_they_are_absolute() {
        let home = Path::new("/home/u");
        for (path, expected) in [
            ("", "/home/u"),
            ("~", "/home/u"),
            ("~/a", "/home/u/a"),
            ("~//etc", "/home/u/etc"),
            ("a/b", "/home/u/a/b"),
            ("./a/../b", "/home/u/b"),
            ("../../../../etc", "/etc"),
            ("/etc//x/", "/etc/x"),
            ("/..", "/"),
        ] {
            assert_eq!(expand(path, home).unwrap(), Path::new(expected), "{path:?}");
        }
        for path in ["~root", "a\0b", &"x".repeat(MAX_PATH + 1)] {
            assert!(expand(path, home).is_err(), "{path:?}");
        }
    }

    #[test]
    fn an_empty_path_is_the_default() {
        let dir = tempfile::tempdir().unwrap();
        let view = View::of(Root::open(dir.path()).unwrap()).unwrap();
        let mut place = wire::Place::new();
        assert_eq!(view.locate(&place).unwrap().path, Path::new("/root"));
        place.default_path = "/work".to_owned();
        assert_eq!(view.locate(&place).unwrap().path, Path::new("/work"));
        place.user = "nobody".to_owned();
        assert!(view.locate(&place).is_err());
    }
}
