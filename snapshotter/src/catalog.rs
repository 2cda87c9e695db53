// SPDX-License-Identifier: Apache-2.0
//! The catalog: which snapshots exist, in one redb file, with the rules that containerd's own
//! snapshotters follow about keys, parents and kinds.
//!
//! It knows nothing of images but their numbers. `Snapshotter` reads it directly and changes it
//! through a [`Change`], which holds the one writer's lock from the first check to the commit:
//! nothing can come between a rule that was checked and the record that relies on it.
//!
//! A change ends in one of two ways:
//! * [`Durability::Durable`] is on disk when the call returns. Commit, Remove and Update use it.
//! * [`Durability::Quick`] is visible at once, but a crash forgets it. Prepare and View use it and
//!   describe themselves in their image instead, from where `reconcile` brings them back.
//!
//! Every durable change carries all quick ones before it to disk. So that no durable record ever
//! names a file that a power cut could take away, the *barrier* runs first: it makes the images of
//! those quick changes durable.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use redb::{Database, MultimapTableDefinition, ReadableDatabase, ReadableTable, TableDefinition};
use rustix::fs::FallocateFlags;

use crate::record::{ImageId, SnapshotState};
use crate::young;

/// Key -> `SnapshotState` as JSON.
const SNAPSHOTS: TableDefinition<&str, &[u8]> = TableDefinition::new("snapshots");
/// Parent's key -> keys of its children.
const CHILDREN: MultimapTableDefinition<&str, &str> = MultimapTableDefinition::new("children");
/// Named numbers: `FORMAT_KEY` and `NEXT_ID_KEY`.
const NUMBERS: TableDefinition<&str, u64> = TableDefinition::new("numbers");

const FORMAT_KEY: &str = "format";
const NEXT_ID_KEY: &str = "next-id";
/// Version of everything this file and `record` write. Another one is refused, never guessed at.
const FORMAT: u64 = 1;

/// redb's page cache. Ten thousand snapshots are about 4 MB; the default would be 1 GiB.
const CACHE_BYTES: usize = 4 << 20;
/// Disk space kept allocated beyond the end of the file, so that a full disk cannot stop a Remove,
/// which is what makes room. A change writes a few pages of 4 KiB.
const RESERVE_BYTES: u64 = 8 << 20;

/// How a change ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// Visible at once, forgotten by a crash: only for what `reconcile` can bring back.
    Quick,
    /// On disk when the call returns.
    Durable,
}

/// Makes durable whatever the quick changes so far refer to.
pub type Barrier = Box<dyn Fn() -> io::Result<()> + Send + Sync>;

mod change;
mod error;
mod table;

pub use change::Change;
pub use error::CatalogError;
pub(crate) use error::is_full;
pub(crate) use table::check_parent;

use error::{file_error, store};
use table::{decode, read};

type Result<T> = std::result::Result<T, CatalogError>;

/// The open catalog.
pub struct Catalog {
    db: Database,
    /// A second descriptor of redb's file, for [`Catalog::reserve`].
    file: File,
    path: PathBuf,
    barrier: Barrier,
    /// Quick changes were made since the last durable one. Written only under the writer's lock.
    quick_pending: AtomicBool,
    /// Length of the file when space was last reserved.
    reserved_at: AtomicU64,
}

impl Catalog {
    /// Whether there is a catalog in `dir`.
    #[must_use]
    pub fn exists(dir: &Path) -> bool {
        file_in(dir).exists()
    }

    /// Makes an empty catalog in `dir`: complete under its name, or not there at all.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn create(dir: &Path) -> Result<()> {
        let path = file_in(dir);
        let young = young::path_for(&path)
            .map_err(|source| file_error("clear the way for", &path, source))?;
        let db = Database::create(&young).map_err(store("make a file"))?;
        let txn = db.begin_write().map_err(store("begin a change"))?;
        {
            let doing = "make a table";
            let mut numbers = txn.open_table(NUMBERS).map_err(store(doing))?;
            numbers.insert(FORMAT_KEY, FORMAT).map_err(store(doing))?;
            numbers.insert(NEXT_ID_KEY, 1).map_err(store(doing))?;
            txn.open_table(SNAPSHOTS).map_err(store(doing))?;
            txn.open_multimap_table(CHILDREN).map_err(store(doing))?;
        }
        txn.commit().map_err(store("commit a change"))?;
        drop(db);
        fs::rename(&young, &path).map_err(|source| file_error("rename", &young, source))?;
        File::open(dir)
            .and_then(|dir| dir.sync_all())
            .map_err(|source| file_error("write to disk the directory of", &path, source))
    }

    /// Opens the catalog in `dir`, repairing what a crash left half written.
    ///
    /// # Errors
    /// When the file cannot be read, is in use, or has another format.
    pub fn open(dir: &Path, barrier: Barrier) -> Result<Self> {
        let path = file_in(dir);
        let db = Database::builder()
            .set_cache_size(CACHE_BYTES)
            .open(&path)
            .map_err(store("open the file"))?;
        let file = OpenOptions::new()
            .write(true)
            .open(&path)
            .map_err(|source| file_error("open", &path, source))?;
        let catalog = Self {
            db,
            file,
            path,
            barrier,
            quick_pending: AtomicBool::new(false),
            reserved_at: AtomicU64::new(0),
        };
        match catalog.number(FORMAT_KEY)? {
            Some(FORMAT) => {}
            found => {
                let path = catalog.path;
                return Err(CatalogError::Format { path, found });
            }
        }
        catalog.reserve()?;
        Ok(catalog)
    }

    /// The record of `key`.
    ///
    /// # Errors
    /// [`CatalogError::NotFound`], or a failure of the store.
    pub fn get(&self, key: &str) -> Result<SnapshotState> {
        self.find(key)?
            .ok_or_else(|| CatalogError::NotFound { key: key.into() })
    }

    /// The record of `key`, if there is one.
    ///
    /// # Errors
    /// A failure of the store.
    pub fn find(&self, key: &str) -> Result<Option<SnapshotState>> {
        let txn = self.db.begin_read().map_err(store("begin a look"))?;
        let table = txn.open_table(SNAPSHOTS).map_err(store("open a table"))?;
        read(&table, key)
    }

    /// Calls `visit` with every snapshot as of now, by ascending key, until it answers false.
    ///
    /// # Errors
    /// A failure of the store.
    pub fn walk(&self, mut visit: impl FnMut(&str, SnapshotState) -> bool) -> Result<()> {
        let txn = self.db.begin_read().map_err(store("begin a look"))?;
        let table = txn.open_table(SNAPSHOTS).map_err(store("open a table"))?;
        for entry in table.iter().map_err(store("list the snapshots"))? {
            let (key, bytes) = entry.map_err(store("list the snapshots"))?;
            let key = key.value();
            if !visit(key, decode(key, bytes.value())?) {
                break;
            }
        }
        Ok(())
    }

    /// The number that the next image will get. Every image of a durable record is below it, and
    /// so is every image whose record was removed.
    ///
    /// # Errors
    /// A failure of the store.
    pub fn next_id(&self) -> Result<ImageId> {
        let found = self.number(NEXT_ID_KEY)?;
        found.ok_or_else(|| CatalogError::Format {
            path: self.path.clone(),
            found: None,
        })
    }

    /// Begins a change; waits for the one under way.
    ///
    /// # Errors
    /// A failure of the store.
    pub fn change(&self) -> Result<Change<'_>> {
        let txn = self.db.begin_write().map_err(store("begin a change"))?;
        Ok(Change { catalog: self, txn })
    }

    /// Brings all quick changes to disk. Cheap when there are none.
    ///
    /// # Errors
    /// When the images or the catalog cannot be written.
    pub fn flush(&self) -> Result<()> {
        if self.quick_pending.load(Ordering::Acquire) {
            self.change()?.finish(Durability::Durable)?;
        }
        self.reserve()
    }

    /// Keeps [`RESERVE_BYTES`] allocated past the end. On a full disk that is not an error: the
    /// reserve of earlier days is what is lived on.
    fn reserve(&self) -> Result<()> {
        let fail = |source| file_error("reserve space for", &self.path, source);
        let length = self.file.metadata().map_err(fail)?.len();
        if self.reserved_at.swap(length, Ordering::AcqRel) == length {
            return Ok(());
        }
        let wanted = length.saturating_add(RESERVE_BYTES);
        match rustix::fs::fallocate(&self.file, FallocateFlags::KEEP_SIZE, 0, wanted) {
            Ok(()) => Ok(()),
            Err(rustix::io::Errno::NOSPC | rustix::io::Errno::OPNOTSUPP) => Ok(()),
            Err(errno) => Err(fail(errno.into())),
        }
    }

    fn number(&self, name: &str) -> Result<Option<u64>> {
        let txn = self.db.begin_read().map_err(store("begin a look"))?;
        let table = match txn.open_table(NUMBERS) {
            Err(redb::TableError::TableDoesNotExist(_)) => return Ok(None),
            table => table.map_err(store("open a table"))?,
        };
        let value = table.get(name).map_err(store("read a number"))?;
        Ok(value.map(|value| value.value()))
    }
}

fn file_in(dir: &Path) -> PathBuf {
    dir.join("catalog.redb")
}

#[cfg(test)]
mod tests;
