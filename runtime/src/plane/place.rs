// SPDX-License-Identifier: Apache-2.0
//! Paths of a container, and what is found at them.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use cube_protocol::v1::plane as wire;

/// What a path means, to whom. Resolved in the guest: an empty one is `default_path`; `~` and what is
/// relative start at the user's home.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// The path as a client gave it.
    pub path: String,
    /// A name or number of the container's /etc/passwd, who owns what is made; empty: root.
    pub user: String,
    /// In place of an empty path; empty: the user's home.
    pub default_path: String,
}

/// What is at a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The path's last part.
    pub name: String,
    /// Of what a link leads to.
    pub kind: EntryKind,
    /// Absolute.
    pub path: String,
    /// Bytes, as the file system says: files of /proc say 0.
    pub size: u64,
    /// Permission bits, with set-user-ID, set-group-ID and sticky bit.
    pub mode: u32,
    /// As Go writes them: `-rw-r--r--`, `drwxr-xr-x`, `Lrwxrwxrwx`.
    pub permissions: String,
    /// A name; a number where there is none.
    pub owner: String,
    /// A name; a number where there is none.
    pub group: String,
    /// When its content changed.
    pub modified: SystemTime,
    /// Where a link leads to: absolute.
    pub symlink_target: Option<String>,
    /// Its extended attributes `user.e2b.<key>`.
    pub metadata: BTreeMap<String, String>,
}

/// What an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntryKind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A device, socket or FIFO, or a link that leads nowhere.
    Other,
}

impl Place {
    /// A path of root's.
    pub fn new(path: impl Into<String>) -> Self {
        Self {
            path: path.into(),
            ..Self::default()
        }
    }

    /// A path of a user's.
    pub fn of_user(path: impl Into<String>, user: impl Into<String>) -> Self {
        Self {
            path: path.into(),
            user: user.into(),
            ..Self::default()
        }
    }

    pub(super) fn to_wire(&self) -> wire::Place {
        wire::Place {
            path: self.path.clone(),
            user: self.user.clone(),
            default_path: self.default_path.clone(),
            ..Default::default()
        }
    }
}

impl From<wire::Entry> for Entry {
    fn from(entry: wire::Entry) -> Self {
        let modified = UNIX_EPOCH.checked_add(Duration::from_nanos(entry.modified_ns));
        Self {
            kind: match entry.type_.enum_value_or_default() {
                wire::EntryType::UNKNOWN => EntryKind::Other,
                wire::EntryType::FILE => EntryKind::File,
                wire::EntryType::DIRECTORY => EntryKind::Directory,
            },
            name: entry.name,
            path: entry.path,
            size: entry.size,
            mode: entry.mode,
            permissions: entry.permissions,
            owner: entry.owner,
            group: entry.group,
            modified: modified.unwrap_or(UNIX_EPOCH),
            symlink_target: Some(entry.symlink_target).filter(|target| !target.is_empty()),
            metadata: entry.metadata.into_iter().collect(),
        }
    }
}
