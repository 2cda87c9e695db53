// SPDX-License-Identifier: Apache-2.0
//! The control plane: E2B's REST interface, its first and second version from the same functions.
//!
//! Handlers read a request, call [`crate::sandbox::Sandboxes`] and write the answer. Success codes are those
//! that SDKs check for, exactly.

mod auth;
mod create;
mod list;
mod logs;
mod missing;
mod model;
pub mod query;
mod sandboxes;
mod templates;

use std::sync::Arc;

use axum::Router;
use axum::http::{Method, Uri};
use axum::routing::{any, get, post};

use crate::error::{ApiError, Missing};
use crate::keys::Keys;
use crate::sandbox::Sandboxes;

/// What handlers work with.
#[derive(Clone, Debug)]
pub struct Api {
    /// All sandboxes.
    pub sandboxes: Arc<Sandboxes>,
    /// Who may ask.
    pub keys: Arc<Keys>,
}

/// All paths of the control plane.
pub fn router(api: Api) -> Router {
    Router::new()
        .route("/health", get(async || ""))
        .merge(sandbox_routes())
        .merge(template_routes())
        .merge(missing_routes())
        .fallback(no_route)
        .method_not_allowed_fallback(no_route)
        .with_state(api)
}

fn sandbox_routes() -> Router<Api> {
    Router::new()
        .route("/v2/sandboxes", get(list::v2).post(create::v2))
        .route("/sandboxes", get(list::v1).post(create::v1))
        .route("/sandboxes/metrics", get(sandboxes::metrics_of_many))
        .route(
            "/sandboxes/{id}",
            get(sandboxes::detail).delete(sandboxes::kill),
        )
        .route("/v2/sandboxes/{id}/connect", post(sandboxes::connect))
        .route("/sandboxes/{id}/connect", post(sandboxes::connect))
        .route("/sandboxes/{id}/resume", post(sandboxes::resume))
        .route("/sandboxes/{id}/timeout", post(sandboxes::timeout))
        .route("/sandboxes/{id}/refreshes", post(sandboxes::refresh))
        .route("/sandboxes/{id}/metrics", get(sandboxes::metrics))
        .route("/sandboxes/{id}/logs", get(logs::v1))
        .route("/v2/sandboxes/{id}/logs", get(logs::v2))
}

fn template_routes() -> Router<Api> {
    Router::new()
        .route("/templates", get(templates::list).post(missing::builds))
        .route("/v2/templates", get(templates::list).post(missing::builds))
        .route("/templates/aliases/{alias}", get(templates::alias))
        .route(
            "/templates/{id}",
            get(templates::detail)
                .delete(templates::delete)
                .post(missing::builds)
                .patch(missing::builds),
        )
}

/// What E2B has and this server has not: this is the only list of it.
fn missing_routes() -> Router<Api> {
    let not = |what: Missing| any(move |caller| missing::refuse(caller, what));
    Router::new()
        .route("/sandboxes/{id}/pause", not(Missing::Pause))
        .route("/sandboxes/{id}/snapshots", not(Missing::Snapshots))
        .route("/snapshots", not(Missing::Snapshots))
        .route("/sandboxes/{id}/fork", not(Missing::Fork))
        .route("/sandboxes/{id}/network", not(Missing::Egress))
        .route("/v3/templates", not(Missing::Builds))
        .route("/v2/templates/{*rest}", not(Missing::Builds))
        .route("/templates/tags", not(Missing::Builds))
        .route("/templates/{id}/{*rest}", not(Missing::Builds))
        .route("/volumes", not(Missing::Volumes))
        .route("/volumes/{*rest}", not(Missing::Volumes))
        .route("/volumecontent/{*rest}", not(Missing::Volumes))
        .route("/secrets", not(Missing::Secrets))
        .route("/secrets/{*rest}", not(Missing::Secrets))
}

async fn no_route(method: Method, uri: Uri) -> ApiError {
    ApiError::NoRoute {
        method: method.to_string(),
        path: uri.path().to_owned(),
    }
}

#[cfg(test)]
mod tests;
