// SPDX-License-Identifier: Apache-2.0
//! Users and groups of a container, from its own /etc/passwd and /etc/group (passwd(5), group(5)). The files
//! belong to the container: they are read within a bound, and a line that makes no sense is not there.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, OFlags, fstat};

use super::fault::PlaneFault;
use crate::stage::Root;

/// Read of each file. The largest seen in images are a few kilobytes.
const MAX_FILE: u64 = 1 << 20;

/// The two files.
#[derive(Debug, Default)]
pub struct Accounts {
    users: Vec<Account>,
    groups: Vec<Group>,
}

/// A line of /etc/passwd.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Account {
    /// Unique, as far as anybody checks.
    pub name: String,
    /// Number.
    pub uid: u32,
    /// Number of its group.
    pub gid: u32,
    /// Absolute.
    pub home: PathBuf,
    /// The program that a login starts.
    pub shell: String,
}

#[derive(Debug)]
struct Group {
    name: String,
    gid: u32,
    members: Vec<String>,
}

impl Accounts {
    /// As they are now. A container without the files has no accounts.
    pub fn read(root: &Root) -> io::Result<Self> {
        let users = read(root, Path::new("/etc/passwd"))?;
        let groups = read(root, Path::new("/etc/group"))?;
        Ok(Self::parse(&users, &groups))
    }

    fn parse(users: &str, groups: &str) -> Self {
        Self {
            users: users.lines().filter_map(account).collect(),
            groups: groups.lines().filter_map(group).collect(),
        }
    }

    /// By name or number; empty: root, whom every container has.
    pub fn find(&self, user: &str) -> Result<Account, PlaneFault> {
        let number: Option<u32> = user.parse().ok();
        let named = |name: &str| self.users.iter().find(|account| account.name == name);
        match user {
            "" | "root" | "0" => {
                let is_root = |account: &&Account| account.uid == 0;
                let account = named("root").or_else(|| self.users.iter().find(is_root));
                Some(account.cloned().unwrap_or_else(root))
            }
            name => named(name)
                .or_else(|| self.users.iter().find(|one| Some(one.uid) == number))
                .cloned(),
        }
        .ok_or_else(|| PlaneFault::NoUser {
            user: user.to_owned(),
        })
    }

    /// Its own group first, then those that it is a member of.
    pub fn groups_of(&self, account: &Account) -> Vec<u32> {
        let is_member = |group: &&Group| group.members.contains(&account.name);
        let mut groups = vec![account.gid];
        groups.extend(self.groups.iter().filter(is_member).map(|group| group.gid));
        groups.dedup();
        groups
    }

    /// A user's name; the number where there is none.
    pub fn user_name(&self, uid: u32) -> String {
        let account = self.users.iter().find(|account| account.uid == uid);
        account.map_or_else(|| uid.to_string(), |account| account.name.clone())
    }

    /// A group's name; the number where there is none.
    pub fn group_name(&self, gid: u32) -> String {
        let group = self.groups.iter().find(|group| group.gid == gid);
        group.map_or_else(|| gid.to_string(), |group| group.name.clone())
    }

    /// The first number from one on that neither a user nor a group has.
    pub fn free_id(&self, from: u32) -> u32 {
        let is_taken = |id| {
            self.users.iter().any(|account| account.uid == id)
                || self.groups.iter().any(|group| group.gid == id)
        };
        (from..u32::MAX).find(|id| !is_taken(*id)).unwrap_or(from)
    }
}

fn root() -> Account {
    Account {
        name: "root".to_owned(),
        uid: 0,
        gid: 0,
        home: PathBuf::from("/root"),
        shell: "/bin/sh".to_owned(),
    }
}

/// `name:password:uid:gid:comment:home:shell`.
fn account(line: &str) -> Option<Account> {
    let fields: Vec<&str> = line.split(':').collect();
    let [name, _, uid, gid, _, home, shell] = fields.as_slice() else {
        return None;
    };
    let home = crate::oci::absolute(Path::new(home)).unwrap_or_else(|| PathBuf::from("/"));
    Some(Account {
        name: (*name).to_owned(),
        uid: uid.parse().ok()?,
        gid: gid.parse().ok()?,
        home,
        shell: (*shell).to_owned(),
    })
    .filter(|account| !account.name.is_empty())
}

/// `name:password:gid:members`.
fn group(line: &str) -> Option<Group> {
    let fields: Vec<&str> = line.split(':').collect();
    let [name, _, gid, members] = fields.as_slice() else {
        return None;
    };
    Some(Group {
        name: (*name).to_owned(),
        gid: gid.parse().ok()?,
        members: members.split(',').map(str::to_owned).collect(),
    })
}

/// A text file of a container; empty if it is missing, or something else.
pub fn read(root: &Root, path: &Path) -> io::Result<String> {
    // Without O_NONBLOCK a FIFO of that name would hold this thread for ever.
    let fd = match root.find(path, OFlags::RDONLY | OFlags::NONBLOCK) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(String::new()),
        other => other?,
    };
    if FileType::from_raw_mode(fstat(&fd)?.st_mode) != FileType::RegularFile {
        return Ok(String::new());
    }
    let mut bytes = Vec::new();
    File::from(fd).take(MAX_FILE).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/bash\nbroken\nu:x:1000:1000::/home/u:/bin/sh\nbad:x:a:0::/:\nrel:x:7:8::here:\n";
    const GROUP: &str = "root:x:0:\nu:x:1000:\nsudo:x:27:x,u\nwheel:x:28:uu\n";

    #[test]
    fn users_are_found_by_name_and_number_and_nobody_else_is() {
        let accounts = Accounts::parse(PASSWD, GROUP);
        for (user, uid) in [("u", 1000), ("1000", 1000), ("root", 0), ("", 0), ("0", 0)] {
            assert_eq!(accounts.find(user).unwrap().uid, uid, "{user:?}");
        }
        for user in ["nobody", "1001", "bad", "broken", "u:x", " u"] {
            let error = accounts.find(user).unwrap_err();
            assert!(matches!(error, PlaneFault::NoUser { .. }), "{user:?}");
        }
        assert_eq!(accounts.find("rel").unwrap().home, Path::new("/"));
    }

    #[test]
    fn root_is_there_without_any_file() {
        let root = Accounts::default().find("").unwrap();
        assert_eq!((root.uid, root.home), (0, PathBuf::from("/root")));
    }

    #[test]
    fn groups_are_those_that_name_the_user() {
        let accounts = Accounts::parse(PASSWD, GROUP);
        let user = accounts.find("u").unwrap();
        assert_eq!(accounts.groups_of(&user), [1000, 27]);
        assert_eq!(accounts.group_name(27), "sudo");
        assert_eq!(accounts.user_name(31337), "31337");
        assert_eq!(accounts.free_id(1000), 1001);
    }
}
