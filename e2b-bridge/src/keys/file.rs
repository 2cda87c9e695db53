// SPDX-License-Identifier: Apache-2.0
//! The file of the keys: read whole, replaced whole.

use std::fmt::Write as _;
use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use thiserror::Error;

use crate::moment::Moment;
use crate::random;

/// The form that old SDKs insist on: `e2b_` and lower-case hexadecimal digits.
const PREFIX: &str = "e2b_";
const SECRET_DIGITS: usize = 40;
const ID_DIGITS: usize = 8;

/// All keys.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyFile {
    /// In the order in which they were made.
    pub keys: Vec<KeyEntry>,
}

/// What is kept of a key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyEntry {
    /// What it is called by to remove it.
    pub id: String,
    /// What its maker calls it.
    pub name: String,
    /// Whose sandboxes it is for.
    pub team: String,
    /// SHA-256 of the key in hexadecimal.
    pub hash: String,
    /// When it was made.
    pub created_ms: Moment,
    /// Sandboxes that its team may have at a time.
    pub max_sandboxes: usize,
    /// Requests that may be made with it in a second, on average.
    pub requests_per_second: u32,
}

/// Which state of the file was read. A file that was replaced is another inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Version {
    inode: u64,
    modified: (i64, i64),
    size: u64,
}

/// The state of the file now.
pub fn version(path: &Path) -> Result<Version, KeysError> {
    match fs::metadata(path) {
        Ok(file) => Ok(Version {
            inode: file.ino(),
            modified: (file.mtime(), file.mtime_nsec()),
            size: file.size(),
        }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Version {
            inode: 0,
            modified: (0, 0),
            size: 0,
        }),
        Err(source) => Err(KeysError::read(path, source)),
    }
}

/// What is kept of a key.
pub fn hash(key: &str) -> String {
    let digest = Sha256::digest(key.as_bytes());
    digest.iter().fold(String::new(), |mut hex, byte| {
        write!(hex, "{byte:02x}").expect("a string takes everything");
        hex
    })
}

impl KeyFile {
    /// Reads the file; one that is not there has no keys.
    pub fn read(path: &Path) -> Result<Self, KeysError> {
        match fs::read(path) {
            Ok(json) => serde_json::from_slice(&json).map_err(|source| KeysError::Parse {
                path: path.into(),
                source,
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self::default()),
            Err(source) => Err(KeysError::read(path, source)),
        }
    }

    /// Replaces the file; whoever reads it meanwhile sees the old one or the new one.
    pub fn write(&self, path: &Path) -> Result<(), KeysError> {
        let replace = || {
            let mut json = serde_json::to_vec_pretty(self)?;
            json.push(b'\n');
            let directory = path.parent().unwrap_or(Path::new("/"));
            DirBuilder::new()
                .mode(0o700)
                .recursive(true)
                .create(directory)?;
            let partial = path.with_extension(format!("partial.{}", std::process::id()));
            let mut options = OpenOptions::new();
            options.write(true).create(true).truncate(true).mode(0o600);
            let mut file = options.open(&partial)?;
            file.write_all(&json)?;
            file.sync_all()?;
            fs::rename(&partial, path)
        };
        replace().map_err(|source| KeysError::Write {
            path: path.into(),
            source,
        })
    }

    /// Makes a key. Answers its id, and the key, which is not kept.
    pub fn add(
        &mut self,
        name: &str,
        team: &str,
        max_sandboxes: usize,
        requests_per_second: u32,
    ) -> io::Result<(String, String)> {
        let id = random::hex(ID_DIGITS)?;
        let key = format!("{PREFIX}{}", random::hex(SECRET_DIGITS)?);
        self.keys.push(KeyEntry {
            id: id.clone(),
            name: name.into(),
            team: team.into(),
            hash: hash(&key),
            created_ms: Moment::now(),
            max_sandboxes,
            requests_per_second,
        });
        Ok((id, key))
    }

    /// Removes a key; false if there is none of this id.
    pub fn remove(&mut self, id: &str) -> bool {
        let before = self.keys.len();
        self.keys.retain(|entry| entry.id != id);
        self.keys.len() < before
    }
}

/// What can be wrong with the file.
#[derive(Debug, Error)]
pub enum KeysError {
    /// It could not be read.
    #[error("the keys {} could not be read", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is not what this program writes.
    #[error("{} has no keys in it", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// Why.
        source: serde_json::Error,
    },
    /// It could not be replaced.
    #[error("the keys {} could not be written", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl KeysError {
    fn read(path: &Path, source: io::Error) -> Self {
        let path = path.into();
        Self::Read { path, source }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_says_the_same_after_a_round_and_no_key_is_in_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deep/keys.json");
        let mut keys = KeyFile::read(&path).unwrap();
        assert_eq!(keys, KeyFile::default());
        let (_, key) = keys.add("laptop", "blue", 3, 10).unwrap();
        keys.write(&path).unwrap();
        assert_eq!(KeyFile::read(&path).unwrap(), keys);
        let text = fs::read_to_string(&path).unwrap();
        assert!(!text.contains(key.trim_start_matches(PREFIX)), "{text}");
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
    }

    #[test]
    fn keys_have_the_form_that_old_clients_want() {
        let (_, key) = KeyFile::default().add("a", "b", 1, 1).unwrap();
        let digits = key.strip_prefix("e2b_").unwrap();
        assert!(digits.bytes().all(|digit| digit.is_ascii_hexdigit()));
        assert_eq!(digits, digits.to_lowercase());
    }

    #[test]
    fn garbage_is_an_error_and_not_an_empty_list() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("keys.json");
        fs::write(&path, "[]").unwrap();
        assert!(matches!(KeyFile::read(&path), Err(KeysError::Parse { .. })));
    }
}
