// SPDX-License-Identifier: Apache-2.0
//! Requests to ports of sandboxes.

mod error;

use axum::body::Body;
use axum::http::Request;
use axum::response::{IntoResponse as _, Response};

use crate::sandbox::{SandboxId, Sandboxes};

pub use error::ProxyError;

/// Answers a request to a port of a sandbox.
pub async fn answer(
    sandboxes: &Sandboxes,
    id: &SandboxId,
    port: u16,
    _request: Request<Body>,
) -> Response {
    let Some(_sandbox) = sandboxes.find(id) else {
        return ProxyError::NoSandbox { id: id.clone() }.into_response();
    };
    let id = id.clone();
    ProxyError::Closed { id, port }.into_response()
}
