// SPDX-License-Identifier: Apache-2.0
//! From a directory of fresh files to a template.
//!
//! Everything is on the disk before the name appears: files, their directory, then the rename, then the
//! directory that the name is in. A host that loses power has the template or does not.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use cube_snapshot::manifest::{Content, Files, Manifest, Memory};
use rustix::fs::{CWD, RenameFlags, renameat_with};

use super::store::StoreError;
use super::wanted::Wanted;
use super::{MANIFEST, MEMORY, STATE, WORKING_SET, digest, open};

/// What a template that nobody has claimed is called.
const BASE: &str = "base";

/// A directory that files are being made in. Dropped unpublished it goes, with them.
#[derive(Debug)]
pub(super) struct Scratch {
    path: PathBuf,
    published: bool,
}

impl Scratch {
    /// Makes it, in place of one that a killed builder left. Only for whoever has the build lock.
    pub(super) fn make(path: PathBuf) -> io::Result<Self> {
        match fs::remove_dir_all(&path) {
            Ok(()) => {
                tracing::warn!(path = %path.display(), "removed what a builder left that was killed");
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        DirBuilder::new().mode(0o700).create(&path)?;
        Ok(Self {
            path,
            published: false,
        })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Describes the files, makes all of it durable and gives it its name.
    pub(super) fn publish(mut self, store: &Path, wanted: &Wanted) -> Result<(), StoreError> {
        let write = |name: &'static str| {
            let path = self.path.join(name);
            move |source| StoreError::Write { path, source }
        };
        let manifest = self.describe(wanted)?;
        write_new(&self.path.join(MANIFEST), &manifest.to_bytes()).map_err(write(MANIFEST))?;
        sync(&self.path).map_err(write("."))?;
        let path = store.join(wanted.name());
        renameat_with(CWD, &self.path, CWD, &path, RenameFlags::NOREPLACE).map_err(|errno| {
            StoreError::Publish {
                path: path.clone(),
                source: errno.into(),
            }
        })?;
        self.published = true;
        sync(store).map_err(|source| StoreError::Write {
            path: store.into(),
            source,
        })
    }

    fn describe(&self, wanted: &Wanted) -> Result<Manifest, StoreError> {
        let at = |name: &'static str| {
            let path = self.path.join(name);
            move |source| StoreError::Write { path, source }
        };
        let working_set = match content(&self.path.join(WORKING_SET)) {
            Ok(content) => Some(content),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(at(WORKING_SET)(error)),
        };
        let since_epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        Ok(Manifest {
            key: wanted.expected.key.clone(),
            name: BASE.to_owned(),
            created_s: since_epoch.map_or(0, |age| age.as_secs()),
            parent: None,
            shape: wanted.expected.shape,
            fingerprints: wanted.expected.fingerprints.clone(),
            files: Files {
                state: content(&self.path.join(STATE)).map_err(at(STATE))?,
                memory: memory(&self.path.join(MEMORY)).map_err(at(MEMORY))?,
                working_set,
            },
        })
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if !self.published
            && let Err(error) = fs::remove_dir_all(&self.path)
        {
            tracing::warn!(path = %self.path.display(), %error, "a half-made template was not removed");
        }
    }
}

fn content(path: &Path) -> io::Result<Content> {
    let file = File::open(path)?;
    file.sync_all()?;
    Ok(Content {
        bytes: file.metadata()?.len(),
        sha256: digest::of_file(&file)?,
    })
}

fn memory(path: &Path) -> io::Result<Memory> {
    let file = File::open(path)?;
    // First: what is still on its way to the disk may change the time stamp.
    file.sync_all()?;
    Ok(Memory {
        bytes: file.metadata()?.len(),
        mtime_ns: open::mtime_ns(&file)?,
        sha256: digest::of_sparse(&file)?,
    })
}

fn write_new(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

fn sync(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}
