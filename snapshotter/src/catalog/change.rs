// SPDX-License-Identifier: Apache-2.0
//! One change of the catalog: rules checked and records written under the writer's lock.

use std::sync::atomic::Ordering;

use redb::{ReadableMultimapTable, ReadableTable, Table, WriteTransaction};

use super::error::store;
use super::table::{read, require, require_active, require_free, write};
use super::{
    CHILDREN, Catalog, CatalogError, Durability, NEXT_ID_KEY, NUMBERS, Result, SNAPSHOTS,
    check_parent,
};
use crate::record::{DraftState, ImageId, Kind, Labels, SnapshotState, UnixNanos};

/// A change under way. Dropping it undoes everything.
pub struct Change<'a> {
    pub(super) catalog: &'a Catalog,
    pub(super) txn: WriteTransaction,
}

impl Change<'_> {
    /// Adds an active snapshot or a view and gives its image a number.
    ///
    /// # Errors
    /// When the parent is missing or not committed, or the key is taken.
    pub fn create(&mut self, draft: &DraftState) -> Result<SnapshotState> {
        let doing = "number an image";
        let id = {
            let mut numbers = self.txn.open_table(NUMBERS).map_err(store(doing))?;
            let next = numbers.get(NEXT_ID_KEY).map_err(store(doing))?;
            let id = next.map_or(1, |next| next.value());
            numbers
                .insert(NEXT_ID_KEY, id.saturating_add(1))
                .map_err(store(doing))?;
            id
        };
        self.insert_new(draft, id)
    }

    /// Adds a snapshot whose image already has its number: one that a crash made the catalog forget.
    ///
    /// # Errors
    /// As [`Change::create`].
    pub fn adopt(&mut self, draft: &DraftState, id: ImageId) -> Result<()> {
        self.insert_new(draft, id)?;
        let doing = "number an image";
        let mut numbers = self.txn.open_table(NUMBERS).map_err(store(doing))?;
        numbers
            .insert(NEXT_ID_KEY, id.saturating_add(1))
            .map_err(store(doing))?;
        Ok(())
    }

    fn insert_new(&mut self, draft: &DraftState, id: ImageId) -> Result<SnapshotState> {
        let mut table = self.snapshots()?;
        let key = draft.key.as_str();
        if !draft.parent.is_empty() {
            check_parent(read(&table, &draft.parent)?, &draft.parent, key)?;
        }
        require_free(&table, key)?;
        let state = draft.with_id(id);
        write(&mut table, key, &state)?;
        drop(table);
        self.link(&state.parent, key)?;
        Ok(state)
    }

    /// Turns the active snapshot `key` into the committed snapshot `name`. Labels are replaced, the
    /// parent is kept.
    ///
    /// # Errors
    /// When the name is taken, or the key missing or not active.
    pub fn commit(&mut self, key: &str, name: &str, labels: Labels) -> Result<SnapshotState> {
        let mut table = self.snapshots()?;
        require_free(&table, name)?;
        let mut state = require_active(&table, key)?;
        let now = UnixNanos::now();
        state.kind = Kind::Committed;
        state.labels = labels;
        (state.created, state.updated) = (now, now);
        table.remove(key).map_err(store("drop a record"))?;
        write(&mut table, name, &state)?;
        drop(table);
        self.unlink(&state.parent, key)?;
        self.link(&state.parent, name)?;
        Ok(state)
    }

    /// Drops the record of `key`; its image may go once the change is durable.
    ///
    /// # Errors
    /// When the key is missing or has children.
    pub fn remove(&mut self, key: &str) -> Result<SnapshotState> {
        let mut table = self.snapshots()?;
        let state = require(&table, key)?;
        if let Some(child) = self.child_of(key)? {
            return Err(CatalogError::HasChildren {
                key: key.into(),
                child,
            });
        }
        table.remove(key).map_err(store("drop a record"))?;
        drop(table);
        self.unlink(&state.parent, key)?;
        Ok(state)
    }

    /// Lets `edit` change the labels of `key`.
    ///
    /// # Errors
    /// When the key is missing.
    pub fn edit_labels(
        &mut self,
        key: &str,
        edit: impl FnOnce(&mut Labels),
    ) -> Result<SnapshotState> {
        let mut table = self.snapshots()?;
        let mut state = require(&table, key)?;
        edit(&mut state.labels);
        state.updated = UnixNanos::now();
        write(&mut table, key, &state)?;
        Ok(state)
    }

    /// Ends the change and releases the writer's lock.
    ///
    /// # Errors
    /// When the images or the catalog cannot be written; nothing was changed then.
    pub fn finish(mut self, durability: Durability) -> Result<()> {
        let catalog = self.catalog;
        match durability {
            Durability::Quick => {
                self.txn
                    .set_durability(redb::Durability::None)
                    .map_err(store("begin a quick change"))?;
                // Before the commit releases the lock, or a durable change that comes right after
                // would carry this one to disk without the barrier.
                catalog.quick_pending.store(true, Ordering::Release);
                self.txn.commit().map_err(store("commit a quick change"))?;
            }
            Durability::Durable => {
                if catalog.quick_pending.load(Ordering::Acquire) {
                    (catalog.barrier)().map_err(|source| CatalogError::Barrier { source })?;
                }
                // Before the commit, for the same reason. Should the commit fail, redb refuses
                // every later change, so nothing is lost by having cleared the flag.
                catalog.quick_pending.store(false, Ordering::Release);
                self.txn.commit().map_err(store("commit a change"))?;
            }
        }
        Ok(())
    }

    fn snapshots(&self) -> Result<Table<'_, &'static str, &'static [u8]>> {
        self.txn
            .open_table(SNAPSHOTS)
            .map_err(store("open a table"))
    }

    fn child_of(&self, key: &str) -> Result<Option<String>> {
        let doing = "look up children";
        let table = self
            .txn
            .open_multimap_table(CHILDREN)
            .map_err(store(doing))?;
        let mut children = table.get(key).map_err(store(doing))?;
        let first = children.next().transpose().map_err(store(doing))?;
        Ok(first.map(|child| child.value().to_owned()))
    }

    fn link(&self, parent: &str, child: &str) -> Result<()> {
        let doing = "note a child";
        if !parent.is_empty() {
            let mut table = self
                .txn
                .open_multimap_table(CHILDREN)
                .map_err(store(doing))?;
            table.insert(parent, child).map_err(store(doing))?;
        }
        Ok(())
    }

    fn unlink(&self, parent: &str, child: &str) -> Result<()> {
        let doing = "forget a child";
        if !parent.is_empty() {
            let mut table = self
                .txn
                .open_multimap_table(CHILDREN)
                .map_err(store(doing))?;
            table.remove(parent, child).map_err(store(doing))?;
        }
        Ok(())
    }
}
