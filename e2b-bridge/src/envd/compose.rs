// SPDX-License-Identifier: Apache-2.0
//! `POST /files/compose`: several files become one.

use axum::Json;
use axum::body::Body;
use axum::http::Request;
use axum::response::{IntoResponse as _, Response};
use cube_runtime::plane::Place;
use serde::Deserialize;
use serde_json::json;

use super::{EnvdError, connect};
use crate::sandbox::Sandbox;

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct ComposeBody {
    source_paths: Vec<String>,
    destination: String,
    username: Option<String>,
}

/// Answers it.
pub async fn post(sandbox: &Sandbox, request: Request<Body>) -> Result<Response, EnvdError> {
    let wanted: ComposeBody = connect::message(request).await?;
    if wanted.source_paths.is_empty() || wanted.destination.is_empty() {
        return Err(EnvdError::invalid("source_paths or destination is missing"));
    }
    let user = wanted.username.unwrap_or_else(|| "user".to_owned());
    let place = Place::of_user(wanted.destination.as_str(), user.as_str());
    let compose = async {
        let plane = sandbox.plane().await?;
        plane.compose(&wanted.source_paths, &place).await
    };
    let made = compose.await;
    let made = made.map_err(|error| EnvdError::of_plane(error, &user, &wanted.destination))?;
    let body = json!({"path": made.path, "name": made.name, "type": "file"});
    Ok(Json(body).into_response())
}
