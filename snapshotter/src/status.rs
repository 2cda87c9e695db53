// SPDX-License-Identifier: Apache-2.0
//! Errors as gRPC status: the one place that decides what containerd is told. containerd turns the
//! codes back into its own error classes and acts on them (already exists, not found, failed
//! precondition); the text is what a person sees, so it has the whole chain of causes.

use tonic::{Code, Status};

use crate::catalog::CatalogError;
use crate::error::{SnapshotError, chain};
use crate::images::ImageError;
use crate::reconcile::ReconcileError;
use crate::storage::StorageError;

impl From<SnapshotError> for Status {
    fn from(error: SnapshotError) -> Self {
        Self::new(code(&error), chain(&error))
    }
}

fn code(error: &SnapshotError) -> Code {
    match error {
        SnapshotError::BadKey { .. }
        | SnapshotError::BadLabels { .. }
        | SnapshotError::Immutable { .. }
        | SnapshotError::Filter(_) => Code::InvalidArgument,
        SnapshotError::NotMountable { .. } | SnapshotError::Unclean { .. } => {
            Code::FailedPrecondition
        }
        SnapshotError::Lost { .. } => Code::DataLoss,
        SnapshotError::Catalog(error) => catalog(error),
        SnapshotError::Image(error) => image(error),
        SnapshotError::Storage(error) => storage(error),
        SnapshotError::Reconcile(ReconcileError::Catalog(error)) => catalog(error),
        SnapshotError::Reconcile(ReconcileError::Image(error)) => image(error),
    }
}

fn catalog(error: &CatalogError) -> Code {
    match error {
        CatalogError::NotFound { .. } | CatalogError::ParentNotFound { .. } => Code::NotFound,
        CatalogError::AlreadyExists { .. } => Code::AlreadyExists,
        CatalogError::ParentNotCommitted { .. } => Code::InvalidArgument,
        CatalogError::NotActive { .. } | CatalogError::HasChildren { .. } => {
            Code::FailedPrecondition
        }
        CatalogError::Record { .. } | CatalogError::Format { .. } => Code::DataLoss,
        CatalogError::File { .. } | CatalogError::Barrier { .. } | CatalogError::Store { .. } => {
            full_or_internal(error.is_full())
        }
    }
}

fn image(error: &ImageError) -> Code {
    full_or_internal(error.is_full())
}

const fn full_or_internal(is_full: bool) -> Code {
    match is_full {
        true => Code::ResourceExhausted,
        false => Code::Internal,
    }
}

fn storage(error: &StorageError) -> Code {
    match error {
        StorageError::NoSpace { .. } => Code::ResourceExhausted,
        StorageError::File { .. } | StorageError::Hidden { .. } | StorageError::Pool(_) => {
            Code::Internal
        }
    }
}
