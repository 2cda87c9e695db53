// SPDX-License-Identifier: Apache-2.0
//! `/metrics` and `/envs`.

use axum::Json;
use axum::response::{IntoResponse as _, Response};
use serde_json::json;

use super::EnvdError;
use crate::moment::Moment;
use crate::sandbox::{Sandbox, own_environment};

const MIB: u64 = 1 << 20;

/// The figures of now.
pub async fn metrics(sandbox: &Sandbox) -> Result<Response, EnvdError> {
    let ask = async { sandbox.plane().await?.metrics().await };
    let found = ask.await;
    let found = found.map_err(|error| EnvdError::of_plane(error, "", ""))?;
    let body = json!({
        "ts": Moment::now().seconds(),
        "cpu_count": found.cpu_count,
        "cpu_used_pct": found.cpu_used_percent,
        "mem_total": found.memory_total,
        "mem_used": found.memory_used,
        "mem_cache": found.memory_cache,
        "mem_total_mib": found.memory_total / MIB,
        "mem_used_mib": found.memory_used / MIB,
        "disk_used": found.disk_used,
        "disk_total": found.disk_total,
    });
    Ok(Json(body).into_response())
}

/// What every process of the sandbox finds in its environment, besides what the image says.
pub fn environment(sandbox: &Sandbox) -> Response {
    let record = sandbox.record();
    let mut all = own_environment(sandbox.id(), &record);
    all.extend(record.env);
    Json(all).into_response()
}
