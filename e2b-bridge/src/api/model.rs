// SPDX-License-Identifier: Apache-2.0
//! What the control plane answers about sandboxes.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;

use crate::moment::Moment;
use crate::sandbox::{Sandbox, SandboxRecord};

/// The version of E2B's daemon whose features the data plane has; SDKs switch theirs on by it.
pub const ENVD_VERSION: &str = "0.6.4";
/// Who runs sandboxes: old SDKs make it a part of names.
const CLIENT_ID: &str = "cube";

/// The answer to create and connect.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CreatedSandbox {
    #[serde(rename = "templateID")]
    template_id: String,
    #[serde(rename = "sandboxID")]
    sandbox_id: String,
    #[serde(rename = "clientID")]
    client_id: &'static str,
    envd_version: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    alias: Option<String>,
    envd_access_token: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    traffic_access_token: Option<String>,
    domain: String,
}

impl CreatedSandbox {
    /// As its maker sees it.
    pub fn of(sandbox: &Sandbox, domain: String) -> Self {
        let record = sandbox.record();
        Self {
            template_id: record.template,
            sandbox_id: sandbox.id().to_string(),
            client_id: CLIENT_ID,
            envd_version: ENVD_VERSION,
            alias: record.alias,
            envd_access_token: record.access_token,
            traffic_access_token: record.traffic_token,
            domain,
        }
    }
}

/// One of a list.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ListedSandbox {
    #[serde(rename = "templateID")]
    template_id: String,
    #[serde(rename = "sandboxID")]
    sandbox_id: String,
    #[serde(rename = "clientID")]
    client_id: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    alias: Option<String>,
    started_at: String,
    end_at: String,
    cpu_count: u32,
    #[serde(rename = "memoryMB")]
    memory_mb: u64,
    #[serde(rename = "diskSizeMB")]
    disk_size_mb: u64,
    state: &'static str,
    envd_version: &'static str,
    metadata: BTreeMap<String, String>,
}

impl ListedSandbox {
    /// As its team sees it.
    pub fn of(sandbox: &Sandbox) -> Self {
        Self::from_record(sandbox.id().to_string(), sandbox.record())
    }

    fn from_record(sandbox_id: String, record: SandboxRecord) -> Self {
        Self {
            template_id: record.template,
            sandbox_id,
            client_id: CLIENT_ID,
            alias: record.alias,
            started_at: record.started.unwrap_or(record.created).rfc3339(),
            end_at: record.end.rfc3339(),
            cpu_count: record.size.cpu_count,
            memory_mb: record.size.memory_mib,
            disk_size_mb: record.size.disk_mib,
            state: "running",
            envd_version: ENVD_VERSION,
            metadata: record.metadata,
        }
    }
}

/// All about one.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SandboxDetail {
    #[serde(flatten)]
    listed: ListedSandbox,
    envd_access_token: String,
    domain: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    allow_internet_access: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    network: Option<Value>,
    lifecycle: Lifecycle,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Lifecycle {
    on_timeout: &'static str,
    auto_resume: bool,
}

impl SandboxDetail {
    /// As its team sees it.
    pub fn of(sandbox: &Sandbox, domain: String) -> Self {
        let record = sandbox.record();
        Self {
            envd_access_token: record.access_token.clone(),
            domain,
            allow_internet_access: record.allow_internet_access,
            network: record.network.clone(),
            lifecycle: Lifecycle {
                on_timeout: "kill",
                auto_resume: false,
            },
            listed: ListedSandbox::from_record(sandbox.id().to_string(), record),
        }
    }
}

/// What a sandbox uses, at one moment.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SandboxMetric {
    timestamp: String,
    timestamp_unix: u64,
    cpu_count: u32,
    cpu_used_pct: f64,
    mem_used: u64,
    mem_total: u64,
    mem_cache: u64,
    disk_used: u64,
    disk_total: u64,
}

impl SandboxMetric {
    /// From an agent's figures.
    pub fn of(now: Moment, metrics: cube_runtime::plane::Metrics) -> Self {
        Self {
            timestamp: now.rfc3339(),
            timestamp_unix: now.seconds(),
            cpu_count: metrics.cpu_count,
            cpu_used_pct: metrics.cpu_used_percent,
            mem_used: metrics.memory_used,
            mem_total: metrics.memory_total,
            mem_cache: metrics.memory_cache,
            disk_used: metrics.disk_used,
            disk_total: metrics.disk_total,
        }
    }
}
