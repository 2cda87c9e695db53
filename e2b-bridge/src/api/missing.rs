// SPDX-License-Identifier: Apache-2.0
//! Answers for what this server has not.

use crate::error::{ApiError, Missing};
use crate::keys::Caller;

/// To callers with a key; others learn nothing.
pub async fn refuse(_: Caller, what: Missing) -> ApiError {
    ApiError::Missing(what)
}

/// Templates are built elsewhere.
pub async fn builds(caller: Caller) -> ApiError {
    refuse(caller, Missing::Builds).await
}
