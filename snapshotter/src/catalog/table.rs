// SPDX-License-Identifier: Apache-2.0
//! Records in the table of snapshots, and the rules that look at one record.

use redb::{ReadableTable, Table};

use super::error::{record_error, store};
use super::{CatalogError, Result};
use crate::record::{Kind, SnapshotState};

/// The table of snapshots, open for reading or for writing.
pub(super) trait Records: ReadableTable<&'static str, &'static [u8]> {}

impl<T: ReadableTable<&'static str, &'static [u8]>> Records for T {}

pub(super) fn require(table: &impl Records, key: &str) -> Result<SnapshotState> {
    read(table, key)?.ok_or_else(|| CatalogError::NotFound { key: key.into() })
}

pub(super) fn require_free(table: &impl Records, key: &str) -> Result<()> {
    match read(table, key)? {
        None => Ok(()),
        Some(_) => Err(CatalogError::AlreadyExists { key: key.into() }),
    }
}

/// The rule of Commit.
pub(super) fn require_active(table: &impl Records, key: &str) -> Result<SnapshotState> {
    let state = require(table, key)?;
    match state.kind {
        Kind::Active => Ok(state),
        Kind::View | Kind::Committed => Err(CatalogError::NotActive { key: key.into() }),
    }
}

/// The rule about parents, shared by the early look of `Snapshotter` and the change itself.
pub(crate) fn check_parent(
    found: Option<SnapshotState>,
    parent: &str,
    key: &str,
) -> Result<SnapshotState> {
    let (parent, key) = (parent.into(), key.into());
    match found {
        None => Err(CatalogError::ParentNotFound { parent, key }),
        Some(state) if state.kind != Kind::Committed => {
            Err(CatalogError::ParentNotCommitted { parent, key })
        }
        Some(state) => Ok(state),
    }
}

pub(super) fn read(table: &impl Records, key: &str) -> Result<Option<SnapshotState>> {
    let found = table.get(key).map_err(store("read a record"))?;
    found.map(|bytes| decode(key, bytes.value())).transpose()
}

pub(super) fn write(
    table: &mut Table<'_, &'static str, &'static [u8]>,
    key: &str,
    state: &SnapshotState,
) -> Result<()> {
    let encode = serde_json::to_vec(state);
    let bytes = encode.map_err(|source| record_error(key, source))?;
    table
        .insert(key, bytes.as_slice())
        .map_err(store("write a record"))?;
    Ok(())
}

pub(super) fn decode(key: &str, bytes: &[u8]) -> Result<SnapshotState> {
    serde_json::from_slice(bytes).map_err(|source| record_error(key, source))
}
