// SPDX-License-Identifier: Apache-2.0
//! The task service: every call decoded, handed to its `do_*` core, and its outcome encoded.
//!
//! ttrpc drops a call's future when the caller goes away or loses patience. Half a Create or half a
//! Delete is worse than one that nobody waits for, so whatever changes something runs in a task of
//! its own, to its end.

use std::collections::HashMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Instant;

use async_trait::async_trait;
use containerd_shim_protos::api::*;
use containerd_shim_protos::shim_async::{Task, create_task};
use ttrpc::r#async::{Service, TtrpcContext};

use super::{Shim, timestamp};
use crate::error::TaskError;

/// The name containerd 2.x calls it by if it was offered version 3.
const V3: &str = "containerd.task.v3.Task";
/// The name everybody else calls it by. The messages of both versions are the same on the wire.
const V2: &str = "containerd.task.v2.Task";

/// The task service under both of its names.
pub fn services(shim: &Arc<Shim>) -> HashMap<String, Service> {
    let task = Arc::new(TaskService { shim: shim.clone() });
    let mut services = create_task(task.clone());
    if let Some(twin) = create_task(task).remove(V3) {
        services.insert(V2.to_owned(), twin);
    }
    services
}

struct TaskService {
    shim: Arc<Shim>,
}

/// Runs a call to its end, whether or not somebody waits for it; says how long it took, if asked to.
pub async fn to_the_end<T: Send + 'static>(
    shim: &Shim,
    call: &'static str,
    work: impl Future<Output = Result<T, TaskError>> + Send + 'static,
) -> ttrpc::Result<T> {
    let since = Instant::now();
    let result = tokio::spawn(work).await.map_err(TaskError::from).flatten();
    if shim.config().trace {
        let ms = format!("{:.2}", since.elapsed().as_secs_f64() * 1e3);
        tracing::info!(target: "cube::stage", stage = call, ms);
    }
    result.map_err(|error| {
        let text = cube_runtime::error::chain(&error);
        match error.is_not_found() {
            // containerd deletes to be sure.
            true => tracing::debug!(call, error = text, "call failed"),
            false => tracing::warn!(call, error = text, "call failed"),
        }
        error.into()
    })
}

#[async_trait]
impl Task for TaskService {
    async fn state(&self, _: &TtrpcContext, request: StateRequest) -> ttrpc::Result<StateResponse> {
        Ok(self.shim.do_state(&request.id, &request.exec_id)?)
    }

    async fn create(
        &self,
        _: &TtrpcContext,
        request: CreateTaskRequest,
    ) -> ttrpc::Result<CreateTaskResponse> {
        let shim = self.shim.clone();
        let pid = to_the_end(&self.shim, "Create", async move {
            shim.do_create(request).await
        })
        .await?;
        Ok(CreateTaskResponse {
            pid,
            ..Default::default()
        })
    }

    async fn start(&self, _: &TtrpcContext, request: StartRequest) -> ttrpc::Result<StartResponse> {
        let shim = self.shim.clone();
        let work = async move { shim.do_start(&request.id, &request.exec_id).await };
        let pid = to_the_end(&self.shim, "Start", work).await?;
        Ok(StartResponse {
            pid,
            ..Default::default()
        })
    }

    async fn delete(
        &self,
        _: &TtrpcContext,
        request: DeleteRequest,
    ) -> ttrpc::Result<DeleteResponse> {
        let shim = self.shim.clone();
        let work = async move { shim.do_delete(&request.id, &request.exec_id).await };
        let deleted = to_the_end(&self.shim, "Delete", work).await?;
        Ok(DeleteResponse {
            pid: deleted.pid,
            exit_status: deleted.exited.status,
            exited_at: Some(timestamp(deleted.exited.at)).into(),
            ..Default::default()
        })
    }

    async fn pids(&self, _: &TtrpcContext, request: PidsRequest) -> ttrpc::Result<PidsResponse> {
        Ok(self.shim.do_pids(&request.id)?)
    }

    async fn pause(&self, _: &TtrpcContext, request: PauseRequest) -> ttrpc::Result<Empty> {
        let shim = self.shim.clone();
        to_the_end(&self.shim, "Pause", async move {
            shim.do_pause(&request.id).await
        })
        .await?;
        Ok(Empty::new())
    }

    async fn resume(&self, _: &TtrpcContext, request: ResumeRequest) -> ttrpc::Result<Empty> {
        let shim = self.shim.clone();
        to_the_end(&self.shim, "Resume", async move {
            shim.do_resume(&request.id).await
        })
        .await?;
        Ok(Empty::new())
    }

    async fn checkpoint(&self, _: &TtrpcContext, _: CheckpointTaskRequest) -> ttrpc::Result<Empty> {
        let what = "checkpointing a task (but saving it: see `cube snapshot create`)";
        Err(TaskError::Unsupported { what }.into())
    }

    async fn kill(&self, _: &TtrpcContext, request: KillRequest) -> ttrpc::Result<Empty> {
        let shim = self.shim.clone();
        to_the_end(
            &self.shim,
            "Kill",
            async move { shim.do_kill(request).await },
        )
        .await?;
        Ok(Empty::new())
    }

    async fn exec(&self, _: &TtrpcContext, request: ExecProcessRequest) -> ttrpc::Result<Empty> {
        let shim = self.shim.clone();
        to_the_end(
            &self.shim,
            "Exec",
            async move { shim.do_exec(request).await },
        )
        .await?;
        Ok(Empty::new())
    }

    async fn resize_pty(
        &self,
        _: &TtrpcContext,
        request: ResizePtyRequest,
    ) -> ttrpc::Result<Empty> {
        let shim = self.shim.clone();
        to_the_end(&self.shim, "ResizePty", async move {
            shim.do_resize(request).await
        })
        .await?;
        Ok(Empty::new())
    }

    async fn close_io(&self, _: &TtrpcContext, request: CloseIORequest) -> ttrpc::Result<Empty> {
        let CloseIORequest {
            id, exec_id, stdin, ..
        } = &request;
        self.shim.do_close_io(id, exec_id, *stdin).await?;
        Ok(Empty::new())
    }

    async fn update(&self, _: &TtrpcContext, request: UpdateTaskRequest) -> ttrpc::Result<Empty> {
        let shim = self.shim.clone();
        to_the_end(&self.shim, "Update", async move {
            shim.do_update(request).await
        })
        .await?;
        Ok(Empty::new())
    }

    async fn wait(&self, _: &TtrpcContext, request: WaitRequest) -> ttrpc::Result<WaitResponse> {
        let exited = self.shim.do_wait(&request.id, &request.exec_id).await?;
        Ok(WaitResponse {
            exit_status: exited.status,
            exited_at: Some(timestamp(exited.at)).into(),
            ..Default::default()
        })
    }

    async fn stats(&self, _: &TtrpcContext, request: StatsRequest) -> ttrpc::Result<StatsResponse> {
        let stats = self.shim.do_stats(&request.id).await?;
        Ok(StatsResponse {
            stats: Some(stats).into(),
            ..Default::default()
        })
    }

    async fn connect(
        &self,
        _: &TtrpcContext,
        request: ConnectRequest,
    ) -> ttrpc::Result<ConnectResponse> {
        Ok(self.shim.do_connect(&request.id))
    }

    async fn shutdown(&self, _: &TtrpcContext, _: ShutdownRequest) -> ttrpc::Result<Empty> {
        let shim = self.shim.clone();
        to_the_end(
            &self.shim,
            "Shutdown",
            async move { shim.do_shutdown().await },
        )
        .await?;
        Ok(Empty::new())
    }
}
