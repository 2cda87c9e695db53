// SPDX-License-Identifier: Apache-2.0
//! The sandbox service: every call decoded, handed to its `do_*` core, and its outcome encoded.

use std::collections::HashMap;
use std::sync::Arc;

use async_trait::async_trait;
use containerd_shim_protos::sandbox_api::*;
use containerd_shim_protos::sandbox_async::{Sandbox, create_sandbox};
use containerd_shim_protos::types::platform::Platform;
use ttrpc::r#async::{Service, TtrpcContext};

use super::Pod;
use crate::error::TaskError;
use crate::task::{timestamp, to_the_end};

/// The states containerd knows.
const READY: &str = "SANDBOX_READY";
/// See above.
const NOT_READY: &str = "SANDBOX_NOTREADY";

pub fn services(pod: Arc<Pod>) -> HashMap<String, Service> {
    create_sandbox(Arc::new(SandboxService { pod }))
}

struct SandboxService {
    pod: Arc<Pod>,
}

#[async_trait]
impl Sandbox for SandboxService {
    async fn create_sandbox(
        &self,
        _: &TtrpcContext,
        request: CreateSandboxRequest,
    ) -> ttrpc::Result<CreateSandboxResponse> {
        let config = request.options.into_option().unwrap_or_default().value;
        self.pod
            .do_create(&request.sandbox_id, &request.netns_path, &config)?;
        Ok(CreateSandboxResponse::new())
    }

    async fn start_sandbox(
        &self,
        _: &TtrpcContext,
        request: StartSandboxRequest,
    ) -> ttrpc::Result<StartSandboxResponse> {
        let pod = self.pod.clone();
        let work = async move { pod.do_start(&request.sandbox_id).await };
        let (pid, since) = to_the_end(&self.pod.shim, "StartSandbox", work).await?;
        Ok(StartSandboxResponse {
            pid,
            created_at: Some(timestamp(since)).into(),
            ..Default::default()
        })
    }

    async fn platform(
        &self,
        _: &TtrpcContext,
        _: PlatformRequest,
    ) -> ttrpc::Result<PlatformResponse> {
        let platform = Platform {
            os: "linux".to_owned(),
            architecture: "amd64".to_owned(),
            ..Default::default()
        };
        Ok(PlatformResponse {
            platform: Some(platform).into(),
            ..Default::default()
        })
    }

    async fn stop_sandbox(
        &self,
        _: &TtrpcContext,
        request: StopSandboxRequest,
    ) -> ttrpc::Result<StopSandboxResponse> {
        let pod = self.pod.clone();
        let work = async move { pod.do_stop(&request.sandbox_id).await };
        to_the_end(&self.pod.shim, "StopSandbox", work).await?;
        Ok(StopSandboxResponse::new())
    }

    async fn wait_sandbox(
        &self,
        _: &TtrpcContext,
        request: WaitSandboxRequest,
    ) -> ttrpc::Result<WaitSandboxResponse> {
        let stopped = self.pod.do_wait(&request.sandbox_id).await?;
        Ok(WaitSandboxResponse {
            exit_status: stopped.status,
            exited_at: Some(timestamp(stopped.at)).into(),
            ..Default::default()
        })
    }

    async fn sandbox_status(
        &self,
        _: &TtrpcContext,
        request: SandboxStatusRequest,
    ) -> ttrpc::Result<SandboxStatusResponse> {
        let report = self.pod.do_status(&request.sandbox_id)?;
        Ok(SandboxStatusResponse {
            sandbox_id: request.sandbox_id,
            pid: report.pid,
            state: if report.ready { READY } else { NOT_READY }.to_owned(),
            created_at: report.since.map(timestamp).into(),
            exited_at: report.stopped.map(|stopped| timestamp(stopped.at)).into(),
            ..Default::default()
        })
    }

    async fn ping_sandbox(
        &self,
        _: &TtrpcContext,
        request: PingRequest,
    ) -> ttrpc::Result<PingResponse> {
        self.pod.check(&request.sandbox_id)?;
        Ok(PingResponse::new())
    }

    async fn shutdown_sandbox(
        &self,
        _: &TtrpcContext,
        request: ShutdownSandboxRequest,
    ) -> ttrpc::Result<ShutdownSandboxResponse> {
        let pod = self.pod.clone();
        let work = async move { pod.do_shutdown(&request.sandbox_id).await };
        to_the_end(&self.pod.shim, "ShutdownSandbox", work).await?;
        Ok(ShutdownSandboxResponse::new())
    }

    async fn sandbox_metrics(
        &self,
        _: &TtrpcContext,
        _: SandboxMetricsRequest,
    ) -> ttrpc::Result<SandboxMetricsResponse> {
        let what = "metrics of a whole sandbox";
        Err(TaskError::Unsupported { what }.into())
    }
}
