// SPDX-License-Identifier: Apache-2.0
//! Why the catalog refuses or fails.

use std::io;
use std::path::{Path, PathBuf};

use super::FORMAT;

/// Why the catalog refused or failed.
#[derive(Debug, thiserror::Error)]
pub enum CatalogError {
    /// No snapshot has this key.
    #[error("snapshot {key:?} does not exist")]
    NotFound {
        /// The key asked for.
        key: String,
    },
    /// The key or name is taken, whatever the kind of its owner.
    #[error("snapshot {key:?} already exists")]
    AlreadyExists {
        /// The key or name asked for.
        key: String,
    },
    /// The parent named by a new snapshot does not exist.
    #[error("parent {parent:?} of snapshot {key:?} does not exist")]
    ParentNotFound {
        /// The parent asked for.
        parent: String,
        /// The new snapshot.
        key: String,
    },
    /// The parent named by a new snapshot is active or a view.
    #[error("parent {parent:?} of snapshot {key:?} is not committed")]
    ParentNotCommitted {
        /// The parent asked for.
        parent: String,
        /// The new snapshot.
        key: String,
    },
    /// Only an active snapshot can be committed.
    #[error("snapshot {key:?} is not active")]
    NotActive {
        /// The key asked for.
        key: String,
    },
    /// A parent cannot be removed before its children.
    #[error("cannot remove snapshot {key:?}: snapshot {child:?} was made from it")]
    HasChildren {
        /// The key asked for.
        key: String,
        /// One of its children.
        child: String,
    },
    /// A file of the catalog could not be made, renamed or given space.
    #[error("could not {doing} {}", path.display())]
    File {
        /// What was attempted.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// The images that this change relies on could not be made durable.
    #[error("could not write the directory of images to disk")]
    Barrier {
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// The embedded store failed. After an I/O error it refuses everything until it is reopened.
    #[error("could not {doing} in the catalog; restart cube-snapshotter once the cause is mended")]
    Store {
        /// What was attempted.
        doing: &'static str,
        /// Why it failed.
        #[source]
        source: Box<redb::Error>,
    },
    /// A record cannot be read: the file was changed by something else, or the disk lies.
    #[error("the record of snapshot {key:?} is damaged")]
    Record {
        /// Whose record.
        key: String,
        /// Why it failed.
        #[source]
        source: serde_json::Error,
    },
    /// The catalog was written by another version.
    #[error("the catalog {} has format {found:?}, this program reads {FORMAT}", path.display())]
    Format {
        /// The catalog file.
        path: PathBuf,
        /// Its format number, none if it has no such entry.
        found: Option<u64>,
    },
}

impl CatalogError {
    /// Whether the disk, or a quota, is full.
    #[must_use]
    pub fn is_full(&self) -> bool {
        let cause = match self {
            Self::File { source, .. } | Self::Barrier { source } => Some(source),
            Self::Store { source, .. } => match &**source {
                redb::Error::Io(source) => Some(source),
                _ => None,
            },
            _ => None,
        };
        cause.is_some_and(is_full)
    }
}

/// Whether an I/O error means that there is no space left.
pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}

pub(super) fn file_error(doing: &'static str, path: &Path, source: io::Error) -> CatalogError {
    let path = path.into();
    CatalogError::File {
        doing,
        path,
        source,
    }
}

pub(super) fn record_error(key: &str, source: serde_json::Error) -> CatalogError {
    let key = key.into();
    CatalogError::Record { key, source }
}

pub(super) fn store<E: Into<redb::Error>>(doing: &'static str) -> impl FnOnce(E) -> CatalogError {
    move |error| CatalogError::Store {
        doing,
        source: Box::new(error.into()),
    }
}
