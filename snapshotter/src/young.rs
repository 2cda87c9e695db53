// SPDX-License-Identifier: Apache-2.0
//! Names for files that are not finished: made as `<name>.<process>.new`, renamed when they are whole.
//!
//! The process id is in the name because a killed process can leave a mkfs behind that still writes:
//! it must not meet the file of the next process.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// The unfinished name for `path`; removes what earlier processes left unfinished for it.
pub(crate) fn path_for(path: &Path) -> io::Result<PathBuf> {
    let (Some(dir), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let mut prefix = OsString::from(name);
    prefix.push(".");
    for entry in fs::read_dir(dir)? {
        let found = entry?.file_name();
        let bytes = found.as_encoded_bytes();
        if bytes.starts_with(prefix.as_encoded_bytes()) && bytes.ends_with(b".new") {
            fs::remove_file(dir.join(found))?;
        }
    }
    prefix.push(format!("{}.new", std::process::id()));
    Ok(dir.join(prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leftovers_of_this_file_go_and_others_stay() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["a.12.new", "a.7.new", "ab.7.new", "a", "a.new.b"] {
            fs::write(dir.path().join(name), "").unwrap();
        }
        let young = path_for(&dir.path().join("a")).unwrap();
        assert_eq!(
            young,
            dir.path().join(format!("a.{}.new", std::process::id()))
        );
        let mut left: Vec<_> = fs::read_dir(dir.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        left.sort();
        assert_eq!(left, ["a", "a.new.b", "ab.7.new"]);
    }
}
