// SPDX-License-Identifier: Apache-2.0
//! What is kept about a snapshot, in the catalog and beside a young image.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// Labels in a fixed order, so that equal snapshots have equal records.
pub type Labels = BTreeMap<String, String>;

/// The number of a snapshot's image file. Never used twice, so a file with an old number is litter.
pub type ImageId = u64;

/// What a snapshot may be used for. `Prepare` makes active ones, `View` views; only an active one
/// can become committed, and a committed one never changes again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Mountable, read-only, can never be committed.
    View,
    /// Mountable and writable.
    Active,
    /// A finished layer: not mountable, may be a parent.
    Committed,
}

impl Kind {
    /// The name that filters know it by.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::View => "view",
            Self::Active => "active",
            Self::Committed => "committed",
        }
    }
}

/// A point in time as nanoseconds since 1970, which is what the wire carries too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct UnixNanos(u64);

impl UnixNanos {
    /// The current time. A clock before 1970 counts as 1970.
    #[must_use]
    pub fn now() -> Self {
        let since = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or(Duration::ZERO);
        Self(u64::try_from(since.as_nanos()).unwrap_or(u64::MAX))
    }

    /// Time since 1970.
    #[must_use]
    pub const fn since_epoch(self) -> Duration {
        Duration::from_nanos(self.0)
    }
}

/// The saved record of one snapshot; its key is the catalog's key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SnapshotState {
    /// Which image file holds the data.
    pub id: ImageId,
    /// What it may be used for.
    pub kind: Kind,
    /// Key of the committed parent, empty for none.
    pub parent: String,
    /// Client's labels; containerd passes only those that begin with `containerd.io/snapshot`.
    pub labels: Labels,
    /// When it was prepared, or committed.
    pub created: UnixNanos,
    /// When labels last changed.
    pub updated: UnixNanos,
}

/// A record that has no image number yet: what `Prepare` and `View` ask for.
///
/// It is also written to the young image itself, so that the catalog can be caught up from the
/// images after a crash (see `reconcile`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DraftState {
    /// The new snapshot's key.
    pub key: String,
    /// Active or view.
    pub kind: Kind,
    /// Key of the committed parent, empty for none.
    pub parent: String,
    /// Client's labels.
    pub labels: Labels,
    /// When it was asked for.
    pub created: UnixNanos,
}

impl DraftState {
    /// The record, once the image has its number.
    #[must_use]
    pub fn with_id(&self, id: ImageId) -> SnapshotState {
        SnapshotState {
            id,
            kind: self.kind,
            parent: self.parent.clone(),
            labels: self.labels.clone(),
            created: self.created,
            updated: self.created,
        }
    }
}
