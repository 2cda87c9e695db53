// SPDX-License-Identifier: Apache-2.0
//! Why a request was refused or failed: the border of [`Snapshotter`](crate::Snapshotter).

use std::path::PathBuf;

use crate::catalog::CatalogError;
use crate::filter::FilterError;
use crate::images::ImageError;
use crate::reconcile::ReconcileError;
use crate::storage::StorageError;

/// What a caller can be told. The doors map it to their own codes (`status`).
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// A key or name that cannot be one.
    #[error("a snapshot's {what} must have 1 to {most} bytes, not {length}")]
    BadKey {
        /// `key`, `name` or `parent`.
        what: &'static str,
        /// The limit.
        most: usize,
        /// Its length.
        length: usize,
    },
    /// More labels than a record may hold.
    #[error("the labels of snapshot {key:?} have {length} bytes, {most} are the most")]
    BadLabels {
        /// Whose labels.
        key: String,
        /// The limit.
        most: usize,
        /// Their length.
        length: usize,
    },
    /// An update of something other than labels.
    #[error("cannot update {path:?} of snapshot {key:?}: only labels can change")]
    Immutable {
        /// Whose.
        key: String,
        /// The field path asked for.
        path: String,
    },
    /// A committed snapshot has no mounts.
    #[error("snapshot {key:?} is committed: only active snapshots and views can be mounted")]
    NotMountable {
        /// The key asked for.
        key: String,
    },
    /// The image cannot become a layer as it is.
    #[error(
        "cannot commit snapshot {key:?}: its image {} is still mounted, or was not unmounted \
         cleanly; unmount it, or repair it with e2fsck -f -p",
        image.display()
    )]
    Unclean {
        /// The key asked for.
        key: String,
        /// Its image.
        image: PathBuf,
    },
    /// The catalog knows the snapshot and the image is gone.
    #[error("the image of snapshot {key:?} is lost; remove the snapshot and make it anew")]
    Lost {
        /// Whose image.
        key: String,
        /// What was looked for.
        #[source]
        source: ImageError,
    },
    /// A rule of the catalog, or its failure.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    /// An image could not be made, read or removed.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// The store refuses, for lack of space as a rule.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// A filter of a List is wrong.
    #[error(transparent)]
    Filter(#[from] FilterError),
    /// Litter could not be removed.
    #[error(transparent)]
    Reconcile(#[from] ReconcileError),
}

/// An error with its causes on one line, for a log or a caller that sees only text.
#[must_use]
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
