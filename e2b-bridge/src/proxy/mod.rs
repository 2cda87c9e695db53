// SPDX-License-Identifier: Apache-2.0
//! Requests to ports of sandboxes: one is answered here, the others by whoever listens in the sandbox.

mod error;
mod forward;

use axum::body::Body;
use axum::http::{HeaderMap, Request};
use axum::response::{IntoResponse as _, Response};

use crate::envd;
use crate::sandbox::{Sandbox, SandboxId, Sandboxes};
use crate::secret::same;

pub use error::ProxyError;

const TRAFFIC_TOKEN: &str = "e2b-traffic-access-token";

/// Answers a request to a port of a sandbox.
pub async fn answer(
    sandboxes: &Sandboxes,
    id: &SandboxId,
    port: u16,
    request: Request<Body>,
) -> Response {
    let Some(sandbox) = sandboxes.find(id) else {
        return ProxyError::NoSandbox { id: id.clone() }.into_response();
    };
    if port == envd::PORT {
        return envd::answer(sandbox, request).await;
    }
    if !is_let_in(&sandbox, request.headers()) {
        return ProxyError::NoToken { id: id.clone() }.into_response();
    }
    match forward::forward(&sandbox, port, request).await {
        Ok(response) => response,
        Err(error) => error.into_response(),
    }
}

fn is_let_in(sandbox: &Sandbox, headers: &HeaderMap) -> bool {
    let Some(token) = sandbox.record().traffic_token else {
        return true;
    };
    let given = headers
        .get(TRAFFIC_TOKEN)
        .and_then(|given| given.to_str().ok());
    given.is_some_and(|given| same(given, &token))
}
