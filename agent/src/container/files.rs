// SPDX-License-Identifier: Apache-2.0
//! Copies of small files of the host: /etc/hosts, /etc/resolv.conf and the like.
//!
//! They are on a file system in memory of their own, in which each has a number for a name, and are bound into
//! the container's tree by its stage. The host may write new contents; the file stays the same one, so that
//! a container sees them. What a container writes stays in this machine.

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

use thiserror::Error;

use super::tmpfs::Tmpfs;
use crate::cause::Cause;

/// Most files of a container. A message of the host's can hold no more of any size worth having.
const MAX_FILES: usize = 64;

/// Longest file: that of the host's side.
const MAX_LEN: usize = 1 << 20;

/// Of all files together, with what the container adds to them.
const FILE_SYSTEM: &std::ffi::CStr = c"size=16m,nr_inodes=128,mode=755";

/// One file, as the host has it.
#[derive(Clone, Debug)]
pub struct HostFile {
    /// Absolute, without dots, in the container.
    pub destination: PathBuf,
    /// All of it.
    pub content: Vec<u8>,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

/// The files of one container. They go when it is dropped.
#[derive(Debug)]
pub struct Files {
    destinations: Vec<PathBuf>,
    /// None where there are no files.
    kept: Option<Tmpfs>,
}

impl Files {
    /// Writes them below a directory, which is made.
    pub fn keep(directory: PathBuf, files: &[HostFile]) -> Result<Self, FileError> {
        check(files)?;
        if files.is_empty() {
            return Ok(Self {
                destinations: Vec::new(),
                kept: None,
            });
        }
        let kept = Tmpfs::mount(directory, FILE_SYSTEM).map_err(|error| FileError::Keep {
            source: error.into(),
        })?;
        for (number, file) in files.iter().enumerate() {
            write_new(&place(kept.path(), number), file).map_err(failed(&file.destination))?;
        }
        Ok(Self {
            destinations: files.iter().map(|file| file.destination.clone()).collect(),
            kept: Some(kept),
        })
    }

    /// Gives a file new contents. Readers may see some of the old ones before the last byte is written, and
    /// never an empty file in between.
    pub fn update(&self, destination: &Path, content: &[u8]) -> Result<(), FileError> {
        let known = self.destinations.iter().position(|one| one == destination);
        let (Some(number), Some(kept)) = (known, &self.kept) else {
            return Err(FileError::Unknown {
                destination: destination.to_path_buf(),
            });
        };
        check_len(destination, content)?;
        rewrite(&place(kept.path(), number), content).map_err(failed(destination))
    }
}

/// Where a file is kept: the stage looks there as well.
pub fn place(directory: &Path, number: usize) -> PathBuf {
    directory.join(number.to_string())
}

fn check(files: &[HostFile]) -> Result<(), FileError> {
    if files.len() > MAX_FILES {
        return Err(FileError::TooMany { count: files.len() });
    }
    let mut seen = BTreeSet::new();
    for file in files {
        check_len(&file.destination, &file.content)?;
        if !seen.insert(&file.destination) {
            return Err(FileError::Twice {
                destination: file.destination.clone(),
            });
        }
    }
    Ok(())
}

fn check_len(destination: &Path, content: &[u8]) -> Result<(), FileError> {
    if content.len() <= MAX_LEN {
        return Ok(());
    }
    Err(FileError::TooLong {
        destination: destination.to_path_buf(),
        bytes: content.len(),
    })
}

fn write_new(path: &Path, file: &HostFile) -> io::Result<()> {
    let mut out = OpenOptions::new().write(true).create_new(true).open(path)?;
    out.write_all(&file.content)?;
    fchown(&out, Some(file.uid), Some(file.gid))?;
    // After the owner: a change of that clears set-user-ID bits.
    out.set_permissions(PermissionsExt::from_mode(file.mode & 0o7777))
}

fn rewrite(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut out: File = OpenOptions::new()
        .write(true)
        .custom_flags(libc::O_NOFOLLOW)
        .open(path)?;
    out.write_all(content)?;
    out.set_len(u64::try_from(content.len()).unwrap_or(u64::MAX))
}

fn failed(destination: &Path) -> impl FnOnce(io::Error) -> FileError {
    move |error| FileError::Write {
        destination: destination.to_path_buf(),
        source: error.into(),
    }
}

/// A file of the host that the container cannot have.
#[derive(Debug, Error)]
pub enum FileError {
    /// More than anybody needs.
    #[error("{count} files of the host are more than the {MAX_FILES} that a container can have")]
    TooMany {
        /// How many.
        count: usize,
    },
    /// Too long for a copy.
    #[error("the file at {} has {bytes} bytes, more than {MAX_LEN}", destination.display())]
    TooLong {
        /// Where in the container.
        destination: PathBuf,
        /// Its length.
        bytes: usize,
    },
    /// Which of them is meant?
    #[error("two files of the host are to be at {}", destination.display())]
    Twice {
        /// Where in the container.
        destination: PathBuf,
    },
    /// Not one of the container's.
    #[error("the container has no file of the host at {}", destination.display())]
    Unknown {
        /// Where in the container.
        destination: PathBuf,
    },
    /// No place for them.
    #[error("cannot make a file system for the files of the host")]
    Keep {
        /// The kernel's answer.
        #[source]
        source: Cause,
    },
    /// The copy failed.
    #[error("cannot write the file at {}", destination.display())]
    Write {
        /// Where in the container.
        destination: PathBuf,
        /// The kernel's answer.
        #[source]
        source: Cause,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(destination: &str, length: usize) -> HostFile {
        HostFile {
            destination: destination.into(),
            content: vec![b'x'; length],
            mode: 0o644,
            uid: 0,
            gid: 0,
        }
    }

    #[test]
    fn bounds_are_checked_before_anything_is_made() {
        let many: Vec<_> = (0..=MAX_FILES)
            .map(|number| file(&format!("/{number}"), 1))
            .collect();
        for (files, words) in [
            (many, "more than the 64"),
            (vec![file("/a", MAX_LEN + 1)], "more than 1048576"),
            (vec![file("/a", 1), file("/a", 2)], "two files"),
        ] {
            let error = Files::keep("/no/such/place".into(), &files).unwrap_err();
            assert!(error.to_string().contains(words), "{error}");
        }
        assert!(check(&[file("/a", MAX_LEN), file("/b", 0)]).is_ok());
    }

    #[test]
    fn without_files_nothing_is_mounted_and_nothing_can_be_updated() {
        let files = Files::keep("/no/such/place".into(), &[]).unwrap();
        let error = files.update(Path::new("/etc/hosts"), b"").unwrap_err();
        assert!(matches!(error, FileError::Unknown { .. }), "{error}");
    }

    #[test]
    fn a_rewritten_file_is_the_same_one_and_has_no_rest_of_the_old() {
        use std::os::unix::fs::MetadataExt;
        let dir = tempfile::tempdir().unwrap();
        let path = place(dir.path(), 0);
        let mut long = file("/etc/hosts", 100);
        (long.mode, long.uid) = (0o640, rustix::process::getuid().as_raw());
        long.gid = rustix::process::getgid().as_raw();
        write_new(&path, &long).unwrap();
        let before = std::fs::metadata(&path).unwrap();
        assert_eq!(before.mode() & 0o7777, 0o640);
        rewrite(&path, b"short").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"short");
        assert_eq!(std::fs::metadata(&path).unwrap().ino(), before.ino());
    }
}
