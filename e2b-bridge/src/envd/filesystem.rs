// SPDX-License-Identifier: Apache-2.0
//! `filesystem.Filesystem`: what is where, and changes of that.

use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::http::{HeaderMap, Request, header};
use axum::response::{IntoResponse as _, Response};
use cube_runtime::PlaneError;
use cube_runtime::plane::Entry;
use serde::Deserialize;
use serde_json::{Value, json};

use super::request::Asked;
use super::{Code, EnvdError, connect, entry, stream, watch};
use crate::sandbox::Sandbox;

/// What any of the calls asks for.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct FilesystemRequest {
    /// The path.
    pub path: String,
    /// Of a listing.
    pub depth: Option<u32>,
    /// Of a move.
    pub source: String,
    /// Of a move.
    pub destination: String,
    /// Of a watch.
    pub recursive: bool,
    /// Of a watch.
    pub include_entry: bool,
    /// Of a watcher that is polled.
    pub watcher_id: String,
}

/// Answers a call.
pub async fn call(
    sandbox: &Arc<Sandbox>,
    asked: &Asked,
    method: &str,
    request: Request<Body>,
) -> Response {
    let headers = request.headers().clone();
    if method == "WatchDir" {
        let watched = watch::open(sandbox, asked, request).await;
        return watched.unwrap_or_else(|error| stream::failure(&error));
    }
    match single(sandbox, asked, method, &headers, request).await {
        Ok(answer) => Json(answer).into_response(),
        Err(error) => error.into_unary(),
    }
}

async fn single(
    sandbox: &Arc<Sandbox>,
    asked: &Asked,
    method: &str,
    headers: &HeaderMap,
    request: Request<Body>,
) -> Result<Value, EnvdError> {
    let wanted: FilesystemRequest = connect::message(request).await?;
    let failed = |error: PlaneError, path: &str| EnvdError::of_plane(error, &asked.user, path);
    let show = |entry: &Entry| match is_old(headers) {
        true => entry::trimmed(entry),
        false => entry::to_json(entry),
    };
    let plane = sandbox.plane().await.map_err(|error| failed(error, ""))?;
    let place = asked.place(&wanted.path);
    let path = wanted.path.as_str();
    match method {
        "Stat" => {
            let found = plane
                .stat(&place)
                .await
                .map_err(|error| failed(error, path))?;
            Ok(json!({"entry": show(&found)}))
        }
        "ListDir" => {
            let depth = wanted.depth.filter(|depth| *depth > 0).unwrap_or(1);
            let list = async { plane.list(&place, depth).await?.all().await };
            let found = list.await.map_err(|error| failed(error, path))?;
            Ok(json!({"entries": found.iter().map(show).collect::<Vec<_>>()}))
        }
        "MakeDir" => {
            let made = plane.make_directory(&place).await;
            let made = made.map_err(|error| failed(error, path))?;
            Ok(json!({"entry": show(&made)}))
        }
        "Move" => {
            let (from, to) = (
                asked.place(&wanted.source),
                asked.place(&wanted.destination),
            );
            let moved = plane.rename(&from, &to).await;
            let moved = moved.map_err(|error| failed(error, &wanted.source))?;
            Ok(json!({"entry": show(&moved)}))
        }
        "Remove" => {
            let removed = plane.remove(&place).await;
            removed.map_err(|error| failed(error, path))?;
            Ok(json!({}))
        }
        "CreateWatcher" => {
            let watch = watch::begin(sandbox, asked, &wanted).await?;
            let id = sandbox.watchers().add(watch)?;
            Ok(json!({"watcherId": id}))
        }
        "GetWatcherEvents" => Ok(json!({"events": sandbox.watchers().events(&wanted.watcher_id)?})),
        "RemoveWatcher" => {
            sandbox.watchers().remove(&wanted.watcher_id)?;
            Ok(json!({}))
        }
        _ => {
            let words = format!("filesystem.Filesystem has no {method}");
            Err(EnvdError::new(Code::Unimplemented, words))
        }
    }
}

/// SDKs before 2.35 refuse fields that they do not know.
fn is_old(headers: &HeaderMap) -> bool {
    let agent = headers.get(header::USER_AGENT);
    agent.is_some_and(|agent| agent.as_bytes().starts_with(b"connect-python"))
}
