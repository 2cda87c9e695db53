// SPDX-License-Identifier: Apache-2.0
//! What an operator sees of the store, as types that `cube template` prints.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use cube_snapshot::manifest::Manifest;
use rustix::fs::FlockOperation;
use serde::Serialize;

use super::open::{Directory, Lease, Unfit};
use super::store::{Store, StoreError};
use super::{MEMORY, STATE, WORKING_SET, digest};
use crate::error::chain;

/// Unit of `st_blocks`, whatever the file system's own is (stat(2)).
const STAT_BLOCK: u64 = 512;

/// One template of the list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Listed {
    /// The name of its directory.
    pub name: String,
    /// Whether its files are as they were published.
    pub state: TemplateState,
    /// Why it is unfit.
    pub reason: Option<String>,
    /// What it says it is.
    pub what: Option<String>,
    /// Virtual processors.
    pub vcpus: Option<u8>,
    /// Guest memory in MiB.
    pub memory_mib: Option<u32>,
    /// `uname -r` of the guest.
    pub guest_kernel: Option<String>,
    /// When it was published, seconds since the epoch.
    pub created_s: Option<u64>,
    /// When a sandbox was last restored from it, seconds since the epoch.
    pub used_s: u64,
    /// What it takes on the disk.
    pub disk_bytes: u64,
    /// Whether a sandbox that was restored from it runs.
    pub in_use: bool,
}

/// Whether a template can be used. One that was made elsewhere or for another version counts as good
/// here: only a start knows what it needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum TemplateState {
    /// Its files are there and have the sizes that the manifest says.
    Good,
    /// The next start that wants it makes it anew.
    Unfit,
}

/// Everything about one template.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Inspected {
    /// Its line in the list.
    #[serde(flatten)]
    pub listed: Listed,
    /// What it says of itself, if that can be read.
    pub manifest: Option<Manifest>,
    /// Its files, read and compared with the manifest, if that was asked for.
    pub verified: Option<Vec<Verified>>,
}

/// One file that was read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Verified {
    /// Its name.
    pub file: &'static str,
    /// Whether it is what was published.
    pub good: bool,
    /// What is wrong with it otherwise.
    pub reason: Option<String>,
}

impl Store {
    /// All templates, in the order of their names. No directory is the same as an empty one.
    pub fn list(&self) -> Result<Vec<Listed>, StoreError> {
        let names = self.names(|name| !name.starts_with('.'))?;
        let listed = names.into_iter().filter_map(|name| self.look_at(name));
        Ok(listed.map(|(listed, _, _)| listed).collect())
    }

    /// Everything about one template; with `verify` its files are read too, which takes a while.
    pub fn inspect(&self, name: &str, verify: bool) -> Result<Inspected, StoreError> {
        let unknown = || StoreError::Unknown { name: name.into() };
        // What an operator types must not lead out of the store, nor to what is no template in it.
        if name.is_empty() || name.starts_with('.') || name.contains('/') {
            return Err(unknown());
        }
        let (listed, directory, manifest) = self.look_at(name.into()).ok_or_else(unknown)?;
        let verified = match (&manifest, verify) {
            (Some(manifest), true) => Some(read_all(&directory, manifest)),
            _ => None,
        };
        Ok(Inspected {
            listed,
            manifest,
            verified,
        })
    }

    /// Reads all files of a template and says the first thing that is wrong with them.
    pub(crate) fn verify(&self, lease: &Lease) -> Result<(), Unfit> {
        let directory = lease.directory();
        let manifest = directory.manifest()?;
        directory.files(&manifest)?;
        checks(&manifest)
            .into_iter()
            .try_for_each(|check| read(directory, check))
    }

    /// The names in the store that `wanted` says yes to, sorted.
    pub(super) fn names(&self, wanted: impl Fn(&str) -> bool) -> Result<Vec<String>, StoreError> {
        let failed = |source| StoreError::List {
            path: self.dir().into(),
            source,
        };
        let entries = match fs::read_dir(self.dir()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other.map_err(failed)?,
        };
        let mut names = Vec::new();
        for entry in entries {
            let name = entry.map_err(failed)?.file_name();
            // Names that are no text are not ours.
            if let Some(name) = name.to_str().filter(|name| wanted(name)) {
                names.push(name.to_owned());
            }
        }
        names.sort();
        Ok(names)
    }

    /// `None` for one that went away meanwhile, and for what is no directory.
    fn look_at(&self, name: String) -> Option<(Listed, Directory, Option<Manifest>)> {
        let path = self.dir().join(&name);
        let directory = Directory::open(&path).ok().flatten()?;
        let meta = fs::symlink_metadata(&path).ok()?;
        let manifest = directory.manifest();
        let fit = match &manifest {
            Ok(manifest) => directory.files(manifest).map(|_| ()).map_err(|e| chain(&e)),
            Err(unfit) => Err(chain(unfit)),
        };
        let manifest = manifest.ok();
        let known = manifest.as_ref();
        let listed = Listed {
            state: match fit {
                Ok(()) => TemplateState::Good,
                Err(_) => TemplateState::Unfit,
            },
            reason: fit.err(),
            what: known.map(|manifest| manifest.name.clone()),
            vcpus: known.map(|manifest| manifest.shape.vcpus),
            memory_mib: known.map(|manifest| manifest.shape.memory_mib),
            guest_kernel: known.map(|manifest| manifest.fingerprints.guest_kernel.clone()),
            created_s: known.map(|manifest| manifest.created_s),
            used_s: u64::try_from(meta.mtime()).unwrap_or(0),
            disk_bytes: disk_bytes(&path),
            in_use: is_in_use(&directory),
            name,
        };
        Some((listed, directory, manifest))
    }
}

/// Whether somebody holds the template's directory. The lock that finds it out is let go at once.
fn is_in_use(directory: &Directory) -> bool {
    let alone = directory.lock(FlockOperation::NonBlockingLockExclusive);
    let free = alone.is_ok_and(|free| free);
    if free && let Err(error) = directory.lock(FlockOperation::NonBlockingUnlock) {
        tracing::debug!(%error, "a template stays locked until its listing ends");
    }
    !free
}

fn disk_bytes(path: &Path) -> u64 {
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    let blocks = entries.filter_map(|entry| Some(entry.metadata().ok()?.blocks()));
    blocks.sum::<u64>().saturating_mul(STAT_BLOCK)
}

/// One file to be read: its name, what it should be, and how that is found out.
type Check<'a> = (
    &'static str,
    &'a str,
    fn(&std::fs::File) -> io::Result<String>,
);

fn checks(manifest: &Manifest) -> Vec<Check<'_>> {
    let files = &manifest.files;
    let mut checks: Vec<Check<'_>> = vec![
        (STATE, &files.state.sha256, digest::of_file),
        (MEMORY, &files.memory.sha256, digest::of_sparse),
    ];
    if let Some(content) = &files.working_set {
        checks.push((WORKING_SET, &content.sha256, digest::of_file));
    }
    checks
}

fn read_all(directory: &Directory, manifest: &Manifest) -> Vec<Verified> {
    let verified = checks(manifest).into_iter().map(|check| {
        let outcome = read(directory, check);
        Verified {
            file: check.0,
            good: outcome.is_ok(),
            reason: outcome.err().map(|unfit| chain(&unfit)),
        }
    });
    verified.collect()
}

fn read(directory: &Directory, (name, expected, digest): Check<'_>) -> Result<(), Unfit> {
    let file = directory.file(name)?;
    let found = digest(&file).map_err(|source| Unfit::Open { name, source })?;
    if found == expected {
        return Ok(());
    }
    Err(Unfit::Damaged {
        name,
        found,
        expected: expected.to_owned(),
    })
}
