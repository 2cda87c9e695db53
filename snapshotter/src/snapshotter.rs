// SPDX-License-Identifier: Apache-2.0
//! The snapshotter's verbs, free of gRPC: what containerd asks, done over catalog and images.
//!
//! All calls block and may run at once on many threads. No lock is held while an image is cloned or
//! written to disk; the catalog's writer lock covers checking the rules, naming the image and writing
//! the record, which is some tens of microseconds for Prepare.
//!
//! Order within each verb, so that a process killed between any two steps has lost nothing that was
//! answered and left nothing that the next start does not find (`reconcile`):
//! * Prepare, View: clone without a name -> draft onto it -> (name -> quick record) -> answer;
//! * Commit: data to disk -> durable record -> answer;
//! * Remove: durable record -> delete the image -> answer.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::catalog::{Catalog, CatalogError, Durability, check_parent};
use crate::error::SnapshotError;
use crate::filter::Filters;
use crate::flush::Flusher;
use crate::images::{ImageError, Images, Usage};
use crate::reconcile;
use crate::record::{DraftState, ImageId, Kind, Labels, SnapshotState, UnixNanos};
use crate::size::ByteSize;
use crate::storage::Storage;

/// Longest key. containerd's are `namespace/number/name`; redb would take far more.
const KEY_MAX_BYTES: usize = 4 << 10;
/// Most bytes of all labels of a snapshot. containerd allows 4 KiB for one.
const LABELS_MAX_BYTES: usize = 1 << 20;
/// How long Commit waits for an image that somebody still has mounted. containerd unmounts before it
/// commits; a mount namespace copied meanwhile by a starting container lets go some milliseconds later.
const UNMOUNT_WAIT: Duration = Duration::from_secs(2);
const UNMOUNT_POLL: Duration = Duration::from_millis(10);

type Result<T> = std::result::Result<T, SnapshotError>;

/// A file system to mount, as containerd's `Mount` describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// File system type.
    pub kind: &'static str,
    /// The image file.
    pub source: String,
    /// As for mount(8).
    pub options: [&'static str; 2],
}

/// A snapshot as callers see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Info {
    /// Its key.
    pub key: String,
    /// Everything else.
    pub state: SnapshotState,
}

/// The open store. Fields are dropped in this order: the thread that uses the catalog, the files, and
/// what they are mounted on.
pub struct Snapshotter {
    flusher: Flusher,
    catalog: Arc<Catalog>,
    images: Arc<Images>,
    storage: Storage,
}

impl Snapshotter {
    /// Opens the store and brings it in order. `size` is for root images that have yet to be made.
    ///
    /// # Errors
    /// When the store is in use, damaged, or cannot be written.
    pub fn open(storage: Storage, size: ByteSize) -> std::result::Result<Self, OpenError> {
        let store = storage.path();
        let images = Arc::new(Images::open(store, size)?);
        if !Catalog::exists(store) {
            if !images.ids()?.is_empty() {
                let store = store.into();
                return Err(OpenError::CatalogGone { store });
            }
            Catalog::create(store)?;
        }
        let barrier = Arc::clone(&images);
        let catalog = Catalog::open(store, Box::new(move || barrier.sync_new()))?;
        let report = reconcile::run(&catalog, &images)?;
        for key in &report.missing {
            tracing::error!(key, "the image of this snapshot is lost");
        }
        tracing::info!(
            restored = report.adopted,
            removed = report.removed,
            lost = report.missing.len(),
            "the store is in order"
        );
        let catalog = Arc::new(catalog);
        let flusher = Flusher::start(Arc::clone(&catalog)).map_err(OpenError::Thread)?;
        Ok(Self {
            flusher,
            catalog,
            images,
            storage,
        })
    }

    /// Makes a writable snapshot `key` of the committed `parent`, or of an empty file system.
    ///
    /// # Errors
    /// When a rule forbids it or the disk is full.
    pub fn prepare(&self, key: &str, parent: &str, labels: Labels) -> Result<Mount> {
        self.create(Kind::Active, key, parent, labels)
    }

    /// Makes a read-only snapshot `key` of the committed `parent`, or of an empty file system.
    ///
    /// It is a clone as well, not the parent's own file: whatever its user does with it, the parent
    /// stays as it was committed.
    ///
    /// # Errors
    /// As [`Snapshotter::prepare`].
    pub fn view(&self, key: &str, parent: &str, labels: Labels) -> Result<Mount> {
        self.create(Kind::View, key, parent, labels)
    }

    /// What to mount for an active snapshot or a view.
    ///
    /// # Errors
    /// When there is none, or it is committed.
    pub fn mounts(&self, key: &str) -> Result<Mount> {
        let state = self.catalog.get(key)?;
        if state.kind == Kind::Committed {
            return Err(SnapshotError::NotMountable { key: key.into() });
        }
        let image = self.images.open_image(state.id);
        image.map_err(|error| lost_if_missing(key, error))?;
        Ok(self.mount(&state))
    }

    /// Turns the active snapshot `key` into the committed snapshot `name`.
    ///
    /// # Errors
    /// When a rule forbids it, or the image is mounted or was not unmounted cleanly.
    pub fn commit(&self, name: &str, key: &str, mut labels: Labels) -> Result<()> {
        check_key("name", name)?;
        check_labels(name, &labels)?;
        drop_empty(&mut labels);
        if self.catalog.find(name)?.is_some() {
            return Err(CatalogError::AlreadyExists { key: name.into() }.into());
        }
        let state = self.catalog.get(key)?;
        if state.kind != Kind::Active {
            return Err(CatalogError::NotActive { key: key.into() }.into());
        }
        self.wait_until_clean(key, state.id)?;
        self.storage.check_headroom()?;
        self.images.sync(state.id)?;
        let mut change = self.catalog.change()?;
        if change.commit(key, name, labels)?.id != state.id {
            // Removed and made anew meanwhile: that one was neither looked at nor written to disk.
            return Err(CatalogError::NotFound { key: key.into() }.into());
        }
        change.finish(Durability::Durable)?;
        Ok(())
    }

    /// Removes a snapshot that has no children.
    ///
    /// # Errors
    /// When there is none, or it has children.
    pub fn remove(&self, key: &str) -> Result<()> {
        let mut change = self.catalog.change()?;
        let state = change.remove(key)?;
        change.finish(Durability::Durable)?;
        if let Err(error) = self.images.remove(state.id) {
            // The snapshot is gone all the same; Cleanup or the next start tries again.
            tracing::warn!(key, error = crate::chain(&error), "an image stays behind");
        }
        Ok(())
    }

    /// The snapshot `key`.
    ///
    /// # Errors
    /// When there is none.
    pub fn stat(&self, key: &str) -> Result<Info> {
        let state = self.catalog.get(key)?;
        let key = key.into();
        Ok(Info { key, state })
    }

    /// Changes labels: all of them if `paths` is empty or has `labels`, else those that it names
    /// as `labels.<name>`. A label whose new value is empty or absent goes away.
    ///
    /// # Errors
    /// When there is none, or a path names something else.
    pub fn update(&self, key: &str, labels: &Labels, paths: &[String]) -> Result<Info> {
        check_labels(key, labels)?;
        let all = [String::from("labels")];
        let paths = if paths.is_empty() { &all } else { paths };
        for path in paths {
            if path != "labels" && !path.starts_with("labels.") {
                let (key, path) = (key.into(), path.into());
                return Err(SnapshotError::Immutable { key, path });
            }
        }
        let mut change = self.catalog.change()?;
        let state = change.edit_labels(key, |own| {
            for path in paths {
                match path.strip_prefix("labels.") {
                    Some(name) => {
                        let value = labels.get(name).cloned().unwrap_or_default();
                        own.insert(name.into(), value);
                    }
                    None => own.clone_from(labels),
                }
            }
            drop_empty(own);
        })?;
        check_labels(key, &state.labels)?;
        change.finish(Durability::Durable)?;
        let key = key.into();
        Ok(Info { key, state })
    }

    /// Calls `visit` with each snapshot that passes, by ascending key, until it answers false.
    ///
    /// # Errors
    /// When the catalog fails.
    pub fn walk(&self, filters: &Filters, mut visit: impl FnMut(Info) -> bool) -> Result<()> {
        self.catalog.walk(|key, state| {
            if !filters.pass(key, &state) {
                return true;
            }
            let key = key.into();
            visit(Info { key, state })
        })?;
        Ok(())
    }

    /// What the snapshot takes, its parents not counted: see `Images::usage` for how exactly.
    ///
    /// # Errors
    /// When there is none, or its image is lost.
    pub fn usage(&self, key: &str) -> Result<Usage> {
        let state = self.catalog.get(key)?;
        let parent = self.parent_image(key, &state.parent)?;
        self.images
            .usage(state.id, parent)
            .map_err(|error| lost_if_missing(key, error))
    }

    /// Removes images that earlier removals could not delete. containerd calls it after collecting
    /// garbage.
    ///
    /// # Errors
    /// When the images cannot be listed or deleted.
    pub fn cleanup(&self) -> Result<()> {
        let removed = reconcile::sweep(&self.catalog, &self.images)?;
        if removed > 0 {
            tracing::info!(removed, "removed images that belonged to nothing");
        }
        Ok(())
    }

    /// Brings everything to disk. What a client asks afterwards is answered as before.
    ///
    /// # Errors
    /// When the images or the catalog cannot be written.
    pub fn flush(&self) -> Result<()> {
        Ok(self.catalog.flush()?)
    }

    fn create(&self, kind: Kind, key: &str, parent: &str, mut labels: Labels) -> Result<Mount> {
        check_key("key", key)?;
        check_labels(key, &labels)?;
        drop_empty(&mut labels);
        let draft = DraftState {
            key: key.into(),
            kind,
            parent: parent.into(),
            labels,
            created: UnixNanos::now(),
        };
        loop {
            let origin = self.parent_image(key, parent)?;
            if self.catalog.find(key)?.is_some() {
                return Err(CatalogError::AlreadyExists { key: key.into() }.into());
            }
            self.storage.check_headroom()?;
            if let Some(state) = self.try_create(&draft, origin)? {
                return Ok(self.mount(&state));
            }
        }
    }

    /// Clones `origin` and enters the record. None if the parent was replaced meanwhile by another
    /// of the same name: then the clone is of the wrong one.
    fn try_create(
        &self,
        draft: &DraftState,
        origin: Option<ImageId>,
    ) -> Result<Option<SnapshotState>> {
        let image = match self.images.clone_of(origin) {
            Err(error) if error.is_missing() => {
                return match self.parent_image(&draft.key, &draft.parent)? == origin {
                    true => Err(lost_if_missing(&draft.parent, error)),
                    false => Ok(None),
                };
            }
            image => image?,
        };
        let record = serde_json::to_vec(draft).map_err(|source| CatalogError::Record {
            key: draft.key.clone(),
            source,
        })?;
        // A draft that the image cannot carry costs a write to disk.
        let durability = match image.describe(&record)? {
            true => Durability::Quick,
            false => Durability::Durable,
        };
        let mut change = self.catalog.change()?;
        if self.parent_image(&draft.key, &draft.parent)? != origin {
            return Ok(None);
        }
        let state = change.create(draft)?;
        let published = image.publish(state.id)?;
        if durability == Durability::Durable {
            self.images
                .sync_new()
                .map_err(|source| CatalogError::Barrier { source })?;
        }
        change.finish(durability)?;
        published.keep();
        self.flusher.wake();
        Ok(Some(state))
    }

    /// The image of a committed parent; none for no parent.
    fn parent_image(&self, key: &str, parent: &str) -> Result<Option<ImageId>> {
        if parent.is_empty() {
            return Ok(None);
        }
        check_key("parent", parent)?;
        let state = check_parent(self.catalog.find(parent)?, parent, key)?;
        Ok(Some(state.id))
    }

    fn mount(&self, state: &SnapshotState) -> Mount {
        let access = match state.kind {
            Kind::Active => "rw",
            Kind::View | Kind::Committed => "ro",
        };
        Mount {
            kind: "ext4",
            source: self.images.path_of(state.id).to_string_lossy().into_owned(),
            options: [access, "loop"],
        }
    }

    fn wait_until_clean(&self, key: &str, id: ImageId) -> Result<()> {
        let deadline = Instant::now() + UNMOUNT_WAIT;
        loop {
            let superblock = self.images.superblock(id);
            if superblock
                .map_err(|error| lost_if_missing(key, error))?
                .is_clean()
            {
                return Ok(());
            }
            if Instant::now() >= deadline {
                return Err(SnapshotError::Unclean {
                    key: key.into(),
                    image: self.images.path_of(id),
                });
            }
            std::thread::sleep(UNMOUNT_POLL);
        }
    }
}

/// Why the store could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The directory of images or the empty base failed.
    #[error(transparent)]
    Images(#[from] crate::images::OpenError),
    /// An image failed.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// The catalog failed.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    /// Catalog and images could not be compared.
    #[error(transparent)]
    Reconcile(#[from] reconcile::ReconcileError),
    /// There are images and nothing that says what they are.
    #[error(
        "the catalog of {} is gone and its images are not; put catalog.redb back, or empty the store",
        store.display()
    )]
    CatalogGone {
        /// The store directory.
        store: std::path::PathBuf,
    },
    /// The thread that writes to disk could not be started.
    #[error("could not start a thread")]
    Thread(#[source] std::io::Error),
}

fn lost_if_missing(key: &str, source: ImageError) -> SnapshotError {
    match source.is_missing() {
        true => SnapshotError::Lost {
            key: key.into(),
            source,
        },
        false => source.into(),
    }
}

fn check_key(what: &'static str, key: &str) -> Result<()> {
    match key.len() {
        1..=KEY_MAX_BYTES => Ok(()),
        length => Err(SnapshotError::BadKey {
            what,
            most: KEY_MAX_BYTES,
            length,
        }),
    }
}

fn check_labels(key: &str, labels: &Labels) -> Result<()> {
    match labels
        .iter()
        .map(|(name, value)| name.len() + value.len())
        .sum()
    {
        0..=LABELS_MAX_BYTES => Ok(()),
        length => Err(SnapshotError::BadLabels {
            key: key.into(),
            most: LABELS_MAX_BYTES,
            length,
        }),
    }
}

/// containerd's stores keep no label without a value.
fn drop_empty(labels: &mut Labels) {
    labels.retain(|_, value| !value.is_empty());
}
