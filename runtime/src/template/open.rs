// SPDX-License-Identifier: Apache-2.0
//! Opening a template: the checks that every start can afford.
//!
//! A manifest of some hundred bytes is read and compared; of the other files only sizes and one time
//! stamp are looked at. The VMM checks the state file's checksum while it reads it. What is in the
//! memory file was checked when it was published, and its time stamp says that nobody wrote since.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cube_snapshot::manifest::{MAX_BYTES, Manifest, ManifestError, Mismatch};
use cube_vmm::config::DiskConfig;
use rustix::fs::{
    AtFlags, CWD, FlockOperation, Mode, OFlags, Timespec, Timestamps, UTIME_NOW, flock, fstat,
    futimens, openat, statat,
};
use rustix::io::Errno;
use thiserror::Error;

use super::wanted::Wanted;
use super::{MANIFEST, MEMORY, STATE, WORKING_SET};

/// What was found under the name of a template.
#[derive(Debug)]
pub(crate) enum Found {
    /// It can be restored from.
    Template(Template),
    /// There is none.
    Missing,
    /// There is one that must not be used.
    Unfit(Unfit),
}

/// An open template that is in use from now on.
#[derive(Debug)]
pub(crate) struct Template {
    pub(crate) files: TemplateFiles,
    pub(crate) lease: Lease,
}

/// Its files, readable.
#[derive(Debug)]
pub(crate) struct TemplateFiles {
    pub(crate) state: OwnedFd,
    pub(crate) memory: OwnedFd,
    pub(crate) working_set: Option<OwnedFd>,
    /// Disks that the guest goes on with; a template has none.
    pub(crate) disks: Vec<SavedDisk>,
}

/// A disk in the slot where its guest expects it.
#[derive(Debug)]
pub(crate) struct SavedDisk {
    pub(crate) config: DiskConfig,
    pub(crate) file: OwnedFd,
}

/// A template in use: while a clone of this lives, it is not collected. It also says which template it
/// is, because one that was made anew has the same name, and often the same inode number.
#[derive(Clone, Debug)]
pub(crate) struct Lease(Arc<Directory>);

impl Lease {
    /// The name of the template's directory.
    pub(crate) fn name(&self) -> String {
        let name = self.0.path.file_name().unwrap_or_default();
        name.display().to_string()
    }

    /// Its memory, which nobody writes to.
    pub(crate) fn memory_path(&self) -> PathBuf {
        self.0.path.join(MEMORY)
    }

    pub(super) fn directory(&self) -> &Directory {
        &self.0
    }
}

/// An open template directory, before anything in it was judged.
#[derive(Debug)]
pub(super) struct Directory {
    pub(super) path: PathBuf,
    file: File,
}

impl Directory {
    /// Opens the directory; `None` if there is none.
    pub(super) fn open(path: &Path) -> io::Result<Option<Self>> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match openat(CWD, path, flags, Mode::empty()) {
            Ok(file) => Ok(Some(Self {
                path: path.into(),
                file: file.into(),
            })),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Takes a lock on it without waiting; false if somebody is in the way.
    pub(super) fn lock(&self, operation: FlockOperation) -> io::Result<bool> {
        match flock(&self.file, operation) {
            Ok(()) => Ok(true),
            Err(Errno::WOULDBLOCK) => Ok(false),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Whether it still is what its name means.
    pub(super) fn is_current(&self) -> io::Result<bool> {
        let own = fstat(&self.file)?;
        match statat(CWD, &self.path, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(named) => Ok((own.st_dev, own.st_ino) == (named.st_dev, named.st_ino)),
            Err(Errno::NOENT) => Ok(false),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Opens a file of it for reading.
    pub(super) fn file(&self, name: &'static str) -> Result<File, Unfit> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        match openat(&self.file, name, flags, Mode::empty()) {
            Ok(file) => Ok(file.into()),
            Err(errno) => Err(Unfit::Open {
                name,
                source: errno.into(),
            }),
        }
    }

    /// Reads its manifest.
    pub(super) fn manifest(&self) -> Result<Manifest, Unfit> {
        let mut bytes = Vec::new();
        let limit = MAX_BYTES as u64 + 1;
        self.file(MANIFEST)?
            .take(limit)
            .read_to_end(&mut bytes)
            .map_err(|source| Unfit::Open {
                name: MANIFEST,
                source,
            })?;
        Manifest::parse(&bytes).map_err(Unfit::Manifest)
    }

    /// Opens its files and compares what a stat tells with the manifest.
    pub(super) fn files(&self, manifest: &Manifest) -> Result<TemplateFiles, Unfit> {
        let files = &manifest.files;
        let state = self.sized(STATE, files.state.bytes)?;
        let memory = self.sized(MEMORY, files.memory.bytes)?;
        if mtime_ns(&memory).ok() != Some(files.memory.mtime_ns) {
            return Err(Unfit::Written { name: MEMORY });
        }
        let working_set = match &files.working_set {
            Some(content) => Some(self.sized(WORKING_SET, content.bytes)?.into()),
            None => None,
        };
        Ok(TemplateFiles {
            state: state.into(),
            memory: memory.into(),
            working_set,
            disks: Vec::new(),
        })
    }

    fn sized(&self, name: &'static str, expected: u64) -> Result<File, Unfit> {
        let file = self.file(name)?;
        let meta = file
            .metadata()
            .map_err(|source| Unfit::Open { name, source })?;
        if !meta.is_file() || meta.len() != expected {
            return Err(Unfit::Size {
                name,
                found: meta.len(),
                expected,
            });
        }
        Ok(file)
    }

    /// Notes that it was used now. A read-only store keeps the time it has: nothing is collected there.
    fn touch(&self) {
        let now = Timespec {
            tv_sec: 0,
            tv_nsec: UTIME_NOW,
        };
        let both = Timestamps {
            last_access: now,
            last_modification: now,
        };
        if let Err(errno) = futimens(&self.file, &both) {
            tracing::debug!(path = %self.path.display(), %errno, "the use of a template was not noted");
        }
    }
}

/// Opens the template that is wanted, if it is there and fit.
pub(super) fn open(path: &Path, wanted: &Wanted) -> Found {
    match try_open(path, wanted) {
        Ok(Some(template)) => Found::Template(template),
        Ok(None) => Found::Missing,
        Err(unfit) => Found::Unfit(unfit),
    }
}

fn try_open(path: &Path, wanted: &Wanted) -> Result<Option<Template>, Unfit> {
    let broken = |source| Unfit::Open { name: ".", source };
    let Some(directory) = Directory::open(path).map_err(broken)? else {
        return Ok(None);
    };
    // Whoever has it locked for himself alone is about to take it away.
    let shared = FlockOperation::NonBlockingLockShared;
    if !directory.lock(shared).map_err(broken)? || !directory.is_current().map_err(broken)? {
        return Ok(None);
    }
    let manifest = directory.manifest()?;
    manifest
        .check_compatible(&wanted.expected)
        .map_err(Unfit::Mismatch)?;
    let files = directory.files(&manifest)?;
    directory.touch();
    Ok(Some(Template {
        files,
        lease: Lease(Arc::new(directory)),
    }))
}

/// When a file was last written to, as manifests say it.
pub(super) fn mtime_ns(file: &File) -> io::Result<i64> {
    let meta = file.metadata()?;
    meta.mtime()
        .checked_mul(1_000_000_000)
        .and_then(|ns| ns.checked_add(meta.mtime_nsec()))
        .ok_or_else(|| io::Error::other("its time stamp is beyond the year 2262"))
}

/// Why a template that is there cannot be used.
#[derive(Debug, Error)]
pub enum Unfit {
    /// A file of it is missing or unreadable.
    #[error("its {name} could not be read")]
    Open {
        /// The file.
        name: &'static str,
        /// Why.
        source: io::Error,
    },
    /// The manifest is none.
    #[error("its {MANIFEST} is no manifest")]
    Manifest(#[source] ManifestError),
    /// It is another template, or was made elsewhere.
    #[error(transparent)]
    Mismatch(Mismatch),
    /// A file was cut or grew.
    #[error("its {name} has {found} bytes, the manifest says {expected}")]
    Size {
        /// The file.
        name: &'static str,
        /// Its length.
        found: u64,
        /// What the manifest says.
        expected: u64,
    },
    /// A file was written to.
    #[error("its {name} was written to after it was published")]
    Written {
        /// The file.
        name: &'static str,
    },
    /// A file has other bytes.
    #[error("its {name} is damaged: its digest is {found}, the manifest says {expected}")]
    Damaged {
        /// The file.
        name: &'static str,
        /// Its digest.
        found: String,
        /// What the manifest says.
        expected: String,
    },
    /// The VMM would not restore it.
    #[error("the VMM refused it: {reason}")]
    Refused {
        /// The VMM's words.
        reason: String,
    },
}
