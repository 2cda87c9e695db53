// SPDX-License-Identifier: Apache-2.0
//! A user for an image that lacks it, written into the container's own files as useradd(8) would.

use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::path::Path;

use cube_protocol::v1::plane as wire;
use rustix::fs::{AtFlags, Gid, Mode, OFlags, Uid, chownat, openat};
use rustix::io::Errno;

use super::accounts::{self, Account, Accounts};
use super::fault::PlaneFault;
use super::view::View;
use crate::stage::Root;

/// The number that is given if it is free, as the first user of most systems has it.
const FIRST_ID: u32 = 1000;

/// Longest name (useradd(8)).
const MAX_NAME: usize = 32;

/// The user of this name, made if need be.
pub fn ensure(view: &View, name: &str) -> Result<wire::User, PlaneFault> {
    check_name(name)?;
    let account = match view.accounts.find(name) {
        Ok(account) => account,
        Err(PlaneFault::NoUser { .. }) => make(view, name)?,
        Err(fault) => return Err(fault),
    };
    let mut user = wire::User::new();
    user.uid = account.uid;
    user.gid = account.gid;
    user.home = account.home.to_string_lossy().into_owned();
    user.shell = account.shell;
    Ok(user)
}

fn make(view: &View, name: &str) -> Result<Account, PlaneFault> {
    let root = &view.root;
    let id = view.accounts.free_id(FIRST_ID);
    let account = Account {
        name: name.to_owned(),
        uid: id,
        gid: id,
        home: Path::new("/home").join(name),
        shell: shell(root).to_owned(),
    };
    let home = account.home.display();
    let shell = &account.shell;
    // The group first: a user without one is worse than a group without users.
    append(root, "/etc/group", &format!("{name}:x:{id}:\n"), 0o644)?;
    if root.find(Path::new("/etc/shadow"), OFlags::PATH).is_ok() {
        // No password, and none that fits.
        append(
            root,
            "/etc/shadow",
            &format!("{name}:*::0:99999:7:::\n"),
            0o640,
        )?;
    }
    make_home(root, &account)?;
    allow_sudo(root, name)?;
    // Last: whoever finds the user finds all of it.
    let line = format!("{name}:x:{id}:{id}::{home}:{shell}\n");
    append(root, "/etc/passwd", &line, 0o644)?;
    // Somebody may have been faster; the first line counts.
    let now = Accounts::read(root).map_err(PlaneFault::file("read", Path::new("/etc/passwd")))?;
    now.find(name)
}

fn shell(root: &Root) -> &'static str {
    let bash = root.find(Path::new("/bin/bash"), OFlags::PATH);
    if bash.is_ok() { "/bin/bash" } else { "/bin/sh" }
}

fn make_home(root: &Root, account: &Account) -> Result<(), PlaneFault> {
    let make = || -> io::Result<()> {
        let parent = root.make_dir(Path::new("/home"))?;
        match rustix::fs::mkdirat(&parent, &account.name, Mode::from_raw_mode(0o755)) {
            // What an image prepared for the user is the user's.
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(errno.into()),
        }
        let (uid, gid) = (Uid::from_raw(account.uid), Gid::from_raw(account.gid));
        let flags = AtFlags::SYMLINK_NOFOLLOW;
        Ok(chownat(parent, &account.name, Some(uid), Some(gid), flags)?)
    };
    make().map_err(PlaneFault::file("make", &account.home))
}

/// Where the image has sudo: it reads every file there whose name has no dot (sudoers(5)).
fn allow_sudo(root: &Root, name: &str) -> Result<(), PlaneFault> {
    let directory = Path::new("/etc/sudoers.d");
    let Ok(fd) = root.find(directory, OFlags::PATH | OFlags::DIRECTORY) else {
        return Ok(());
    };
    let path = directory.join(name);
    let write = || -> io::Result<()> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        match openat(&fd, name, flags, Mode::from_raw_mode(0o440)) {
            Ok(file) => {
                let line = format!("{name} ALL=(ALL:ALL) NOPASSWD:ALL\n");
                std::fs::File::from(file).write_all(line.as_bytes())
            }
            // The image has its own rules for this name.
            Err(Errno::EXIST) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    };
    write().map_err(PlaneFault::file("write", &path))
}

/// Adds a line to a file of accounts, which is made if it is missing, in one write.
fn append(root: &Root, path: &str, line: &str, mode: u32) -> Result<(), PlaneFault> {
    let path = Path::new(path);
    let append = || -> io::Result<()> {
        let text = accounts::read(root, path)?;
        let line = match text.is_empty() || text.ends_with('\n') {
            true => line.to_owned(),
            false => format!("\n{line}"),
        };
        root.make_file_as(path, Mode::from_raw_mode(mode), &|_: &OwnedFd| Ok(()))?;
        let fd = root.find(path, OFlags::WRONLY | OFlags::APPEND | OFlags::NONBLOCK)?;
        std::fs::File::from(fd).write_all(line.as_bytes())
    };
    append().map_err(PlaneFault::file("write", path))
}

/// As useradd(8) takes it: these names stand in files whose fields colons and lines end.
fn check_name(name: &str) -> Result<(), PlaneFault> {
    let is_word = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "_-".contains(c);
    let begins_well = name.starts_with(|c: char| c.is_ascii_lowercase() || c == '_');
    if begins_well && name.chars().all(is_word) && name.len() <= MAX_NAME {
        return Ok(());
    }
    Err(PlaneFault::Request {
        field: "name",
        reason: format!("{name:?} cannot be a user's name"),
    })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// Only root may give files away.
    fn is_root() -> bool {
        rustix::process::getuid().is_root()
    }

    fn tree(passwd: &str) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("etc/sudoers.d")).unwrap();
        fs::write(dir.path().join("etc/passwd"), passwd).unwrap();
        fs::write(dir.path().join("etc/shadow"), "root:*:1:0:99999:7:::\n").unwrap();
        dir
    }

    fn ensure_in(dir: &Path, name: &str) -> Result<wire::User, PlaneFault> {
        ensure(&View::of(Root::open(dir).unwrap()).unwrap(), name)
    }

    #[test]
    fn a_missing_user_is_made_once() {
        if !is_root() {
            return;
        }
        // The last line of the image has no end.
        let dir = tree("root:x:0:0:root:/root:/bin/sh");
        let user = ensure_in(dir.path(), "user").unwrap();
        assert_eq!((user.uid, user.home.as_str()), (1000, "/home/user"));
        assert_eq!(user.shell, "/bin/sh");
        let again = ensure_in(dir.path(), "user").unwrap();
        assert_eq!(again, user);
        let read = |file: &str| fs::read_to_string(dir.path().join(file)).unwrap();
        assert_eq!(
            read("etc/passwd"),
            "root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000::/home/user:/bin/sh\n"
        );
        assert_eq!(read("etc/group"), "user:x:1000:\n");
        assert!(read("etc/shadow").ends_with("user:*::0:99999:7:::\n"));
        assert_eq!(
            read("etc/sudoers.d/user"),
            "user ALL=(ALL:ALL) NOPASSWD:ALL\n"
        );
        use std::os::unix::fs::MetadataExt;
        let home = fs::metadata(dir.path().join("home/user")).unwrap();
        assert_eq!((home.uid(), home.gid()), (1000, 1000));
    }

    #[test]
    fn a_number_that_is_taken_is_not_given_again() {
        if !is_root() {
            return;
        }
        let dir = tree("node:x:1000:1000::/home/node:/bin/sh\n");
        assert_eq!(ensure_in(dir.path(), "user").unwrap().uid, 1001);
        assert_eq!(ensure_in(dir.path(), "node").unwrap().uid, 1000);
    }

    #[test]
    fn names_that_would_break_a_file_are_refused() {
        let dir = tree("");
        for name in ["", "a:b", "a\nb", "../x", "A", "0a", &"x".repeat(33)] {
            assert!(ensure_in(dir.path(), name).is_err(), "{name:?}");
        }
    }
}
