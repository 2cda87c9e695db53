// SPDX-License-Identifier: Apache-2.0
//! Makes catalog and images agree again, at start: whatever instant the last process died at.
//!
//! What can be found, and what it means:
//!
//! | image | record | number | meaning | done |
//! |---|---|---|---|---|
//! | yes | yes | | whole | nothing |
//! | yes, with draft | no | fresh | prepared, its quick change forgotten | record written again |
//! | yes, without draft | no | fresh | a crash during a Prepare that was not answered | image removed |
//! | yes | no | used before | removed, or given up, and not yet deleted | image removed |
//! | no | yes | | lost by the disk or by hand | reported; Remove still works |
//!
//! A number is *fresh* if the catalog on disk has not handed it out: every durable change carries the
//! next number along, so exactly what came after the last durable change is fresh. Since removing,
//! committing and labelling are durable, nothing but Prepare and View can have happened since, and
//! taking their images up in order of number repeats them in the order they happened.

use crate::catalog::{Catalog, CatalogError, Durability};
use crate::images::{ImageError, Images};
use crate::record::ImageId;

/// What was found and done.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Snapshots whose records were written again.
    pub adopted: usize,
    /// Images that belonged to nothing.
    pub removed: usize,
    /// Keys of snapshots whose images are gone.
    pub missing: Vec<String>,
}

/// Why catalog and images could not be compared.
#[derive(Debug, thiserror::Error)]
pub enum ReconcileError {
    /// The catalog failed.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    /// The images failed.
    #[error(transparent)]
    Image(#[from] ImageError),
}

/// Brings the catalog up to date with the images and removes what belongs to nothing. To be called
/// before the first request.
pub(crate) fn run(catalog: &Catalog, images: &Images) -> Result<Report, ReconcileError> {
    let mut report = Report {
        adopted: adopt(catalog, images)?,
        ..Report::default()
    };
    report.removed = sweep(catalog, images)?;
    let mut present = images.ids()?;
    present.sort_unstable();
    catalog.walk(|key, state| {
        if present.binary_search(&state.id).is_err() {
            report.missing.push(key.to_owned());
        }
        true
    })?;
    Ok(report)
}

/// Repeats the quick changes that the catalog forgot.
fn adopt(catalog: &Catalog, images: &Images) -> Result<usize, ReconcileError> {
    let next = catalog.next_id()?;
    let mut fresh = images.ids()?;
    fresh.retain(|id| *id >= next);
    fresh.sort_unstable();
    let mut adopted = 0;
    for id in fresh {
        let Some(draft) = images.draft(id)? else {
            images.remove(id)?;
            continue;
        };
        let mut change = catalog.change()?;
        match change.adopt(&draft, id) {
            Ok(()) => {
                // Quick again: the images come to disk once, with the flush at the end.
                change.finish(Durability::Quick)?;
                adopted += 1;
            }
            Err(error @ (CatalogError::Store { .. } | CatalogError::Record { .. })) => {
                return Err(error.into());
            }
            Err(error) => {
                tracing::warn!(
                    key = draft.key,
                    error = crate::chain(&error),
                    "dropped an unfinished snapshot"
                );
                images.remove(id)?;
            }
        }
    }
    catalog.flush()?;
    Ok(adopted)
}

/// Removes images that have no record. Safe beside requests: it holds the writer's lock to its end,
/// so no image is between its name and its record.
pub(crate) fn sweep(catalog: &Catalog, images: &Images) -> Result<usize, ReconcileError> {
    let lock = catalog.change()?;
    let mut litter = images.ids()?;
    let mut recorded: Vec<ImageId> = Vec::new();
    catalog.walk(|_, state| {
        recorded.push(state.id);
        true
    })?;
    recorded.sort_unstable();
    litter.retain(|id| recorded.binary_search(id).is_err());
    for id in &litter {
        images.remove(*id)?;
    }
    drop(lock);
    Ok(litter.len())
}
