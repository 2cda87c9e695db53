// SPDX-License-Identifier: Apache-2.0
//! What can be done with a sandbox that is there.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, RawQuery, State};
use axum::http::{HeaderMap, StatusCode, Uri};
use serde::Deserialize;

use super::create::{check_timeout, domain};
use super::model::{CreatedSandbox, SandboxDetail, SandboxMetric};
use super::{Api, query};
use crate::error::ApiError;
use crate::keys::Caller;
use crate::moment::Moment;
use crate::sandbox::Sandbox;

const CONNECT_TIMEOUT: u64 = 300;
/// Sandboxes whose figures are asked for at once.
const MAX_METRICS: usize = 100;

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct TimeBody {
    timeout: Option<u64>,
    duration: Option<u64>,
}

/// `GET /sandboxes/{id}`
pub async fn detail(
    caller: Caller,
    State(api): State<Api>,
    Path(id): Path<String>,
    headers: HeaderMap,
    uri: Uri,
) -> Result<Json<SandboxDetail>, ApiError> {
    let sandbox = api.sandboxes.get(&caller.team, &id)?;
    let domain = domain(&api, &headers, &uri);
    Ok(Json(SandboxDetail::of(&sandbox, domain)))
}

/// `DELETE /sandboxes/{id}`
pub async fn kill(
    caller: Caller,
    State(api): State<Api>,
    Path(id): Path<String>,
) -> Result<StatusCode, ApiError> {
    let sandbox = api.sandboxes.get(&caller.team, &id)?;
    api.sandboxes.kill(&sandbox).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// `POST /sandboxes/{id}/connect`: a sandbox that runs lives on at least as long as asked for.
pub async fn connect(
    caller: Caller,
    State(api): State<Api>,
    Path(id): Path<String>,
    headers: HeaderMap,
    uri: Uri,
    body: Bytes,
) -> Result<Json<CreatedSandbox>, ApiError> {
    let body: TimeBody = query::body(&body)?;
    let timeout = time(&api, body.timeout.unwrap_or(CONNECT_TIMEOUT))?;
    let sandbox = api.sandboxes.get(&caller.team, &id)?;
    api.sandboxes.extend(&sandbox, timeout).await?;
    let domain = domain(&api, &headers, &uri);
    Ok(Json(CreatedSandbox::of(&sandbox, domain)))
}

/// `POST /sandboxes/{id}/resume`: of the oldest SDKs, for sandboxes that stand.
pub async fn resume(
    caller: Caller,
    State(api): State<Api>,
    Path(id): Path<String>,
) -> Result<StatusCode, ApiError> {
    api.sandboxes.get(&caller.team, &id)?;
    Err(ApiError::Running { id })
}

/// `POST /sandboxes/{id}/timeout`: from now on, also shorter.
pub async fn timeout(
    caller: Caller,
    State(api): State<Api>,
    Path(id): Path<String>,
    body: Bytes,
) -> Result<StatusCode, ApiError> {
    let body: TimeBody = query::body(&body)?;
    let seconds = body.timeout.ok_or_else(|| missing("timeout"))?;
    let timeout = time(&api, seconds)?;
    let sandbox = api.sandboxes.get(&caller.team, &id)?;
    api.sandboxes.set_timeout(&sandbox, timeout).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// `POST /sandboxes/{id}/refreshes`: of old SDKs.
pub async fn refresh(
    caller: Caller,
    State(api): State<Api>,
    Path(id): Path<String>,
    body: Bytes,
) -> Result<StatusCode, ApiError> {
    let body: TimeBody = query::body(&body)?;
    let seconds = body.duration.ok_or_else(|| missing("duration"))?;
    let timeout = time(&api, seconds)?;
    let sandbox = api.sandboxes.get(&caller.team, &id)?;
    api.sandboxes.extend(&sandbox, timeout).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// `GET /sandboxes/{id}/metrics`: the figures of now, if now is asked for. No history is kept: asking a guest
/// every few seconds would keep it awake.
pub async fn metrics(
    caller: Caller,
    State(api): State<Api>,
    Path(id): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<Json<Vec<SandboxMetric>>, ApiError> {
    let pairs = query::pairs(query.as_deref().unwrap_or_default());
    let sandbox = api.sandboxes.get(&caller.team, &id)?;
    let now = Moment::now();
    let start = query::number(&pairs, "start")?.unwrap_or(0);
    let end = query::number(&pairs, "end")?.unwrap_or(u64::MAX);
    if !(start..=end).contains(&now.seconds()) {
        return Ok(Json(Vec::new()));
    }
    Ok(Json(vec![figures(&sandbox, now).await?]))
}

/// `GET /sandboxes/metrics?sandbox_ids=a,b`
pub async fn metrics_of_many(
    caller: Caller,
    State(api): State<Api>,
    RawQuery(query): RawQuery,
) -> Result<Json<BTreeMap<&'static str, BTreeMap<String, SandboxMetric>>>, ApiError> {
    let pairs = query::pairs(query.as_deref().unwrap_or_default());
    let ids = query::value(&pairs, "sandbox_ids").unwrap_or_default();
    let ids: Vec<_> = ids.split(',').filter(|id| !id.is_empty()).collect();
    if ids.len() > MAX_METRICS {
        let why = format!("{} are more than {MAX_METRICS}", ids.len());
        return Err(ApiError::invalid("sandbox_ids", why));
    }
    let mut found = BTreeMap::new();
    for id in ids {
        let sandbox = api.sandboxes.get(&caller.team, id)?;
        found.insert(id.to_owned(), figures(&sandbox, Moment::now()).await?);
    }
    Ok(Json([("sandboxes", found)].into()))
}

async fn figures(sandbox: &Sandbox, now: Moment) -> Result<SandboxMetric, ApiError> {
    let ask = async { sandbox.plane().await?.metrics().await };
    let metrics = ask.await.map_err(|source| ApiError::Unanswered {
        id: sandbox.id().to_string(),
        source: Box::new(source),
    })?;
    Ok(SandboxMetric::of(now, metrics))
}

fn time(api: &Api, seconds: u64) -> Result<Duration, ApiError> {
    check_timeout(seconds, api.sandboxes.settings().max_timeout_s)?;
    Ok(Duration::from_secs(seconds))
}

fn missing(field: &'static str) -> ApiError {
    ApiError::invalid(field, "it is missing")
}
