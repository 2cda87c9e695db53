// SPDX-License-Identifier: Apache-2.0
//! Watching directories, as a stream.

use std::sync::Arc;

use axum::body::Body;
use axum::http::Request;
use axum::response::Response;
use cube_runtime::plane::{Watch, WatchEvent, WatchKind};
use serde_json::{Value, json};

use super::filesystem::FilesystemRequest;
use super::request::Asked;
use super::stream::{Sender, Turn};
use super::{EnvdError, connect, entry, stream};
use crate::sandbox::Sandbox;

/// Answers `WatchDir`.
pub async fn open(
    sandbox: &Arc<Sandbox>,
    asked: &Asked,
    request: Request<Body>,
) -> Result<Response, EnvdError> {
    let headers = request.headers().clone();
    let wanted: FilesystemRequest = connect::message(request).await?;
    let watch = begin(sandbox, asked, &wanted).await?;
    let sign = stream::keepalive_event(None);
    Ok(stream::respond(&headers, sign, |sender| {
        relay(watch, sender)
    }))
}

/// Begins to watch a directory.
pub async fn begin(
    sandbox: &Sandbox,
    asked: &Asked,
    wanted: &FilesystemRequest,
) -> Result<Watch, EnvdError> {
    let place = asked.place(&wanted.path);
    let begin = async {
        let plane = sandbox.plane().await?;
        plane
            .watch(&place, wanted.recursive, wanted.include_entry)
            .await
    };
    let begun = begin.await;
    begun.map_err(|error| EnvdError::of_plane(error, &asked.user, &wanted.path))
}

async fn relay(mut watch: Watch, sender: Sender) -> Result<(), EnvdError> {
    if sender.send(&json!({"start": {}})).await.is_err() {
        return Ok(());
    }
    loop {
        let event = match sender.next(watch.next()).await {
            Turn::Next(event) => event.map_err(|error| EnvdError::of_plane(error, "", ""))?,
            Turn::Left => return Ok(()),
        };
        let Some(event) = event else {
            return Ok(());
        };
        let Some(event) = to_json(&event) else {
            continue;
        };
        if sender.send(&json!({"filesystem": event})).await.is_err() {
            return Ok(());
        }
    }
}

/// As SDKs read it; that events were lost is nothing that they know.
pub fn to_json(event: &WatchEvent) -> Option<Value> {
    let kind = match event.kind {
        WatchKind::Overflow => {
            tracing::warn!("events of a watched directory were lost");
            return None;
        }
        WatchKind::Create => "EVENT_TYPE_CREATE",
        WatchKind::Write => "EVENT_TYPE_WRITE",
        WatchKind::Remove => "EVENT_TYPE_REMOVE",
        WatchKind::Rename => "EVENT_TYPE_RENAME",
        WatchKind::Chmod => "EVENT_TYPE_CHMOD",
    };
    let mut json = json!({"name": event.name, "type": kind});
    if let Some(found) = &event.entry {
        json["entry"] = entry::to_json(found);
    }
    Some(json)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_have_the_names_of_the_protocol() {
        let event = |kind| WatchEvent {
            kind,
            name: "a/b".into(),
            entry: None,
        };
        assert_eq!(
            to_json(&event(WatchKind::Create)),
            Some(json!({"name": "a/b", "type": "EVENT_TYPE_CREATE"}))
        );
        assert_eq!(to_json(&event(WatchKind::Overflow)), None);
    }
}
