// SPDX-License-Identifier: Apache-2.0
//! The calls of a container's life, one method each, in their order: its disk, its task and processes.

use serde_json::Value;

use super::Containerd;
use super::error::{ContainerdError, failed};
use super::wire::containerd::services::snapshots::v1::snapshots_client::SnapshotsClient;
use super::wire::containerd::services::snapshots::v1::{
    PrepareSnapshotRequest, RemoveSnapshotRequest,
};
use super::wire::containerd::services::tasks::v1::tasks_client::TasksClient;
use super::wire::containerd::services::tasks::v1::{
    CreateTaskRequest, DeleteProcessRequest, DeleteTaskRequest, ExecProcessRequest, KillRequest,
    StartRequest, UpdateTaskRequest, WaitRequest,
};
use super::wire::containerd::types::{Any, Mount};

/// The name under which containerd's clients put an OCI process into messages.
const PROCESS: &str = "types.containerd.io/opencontainers/runtime-spec/1/Process";

const SIGKILL: u32 = 9;

impl Containerd {
    /// A disk of a container's own, on top of a committed one.
    pub async fn prepare(
        &self,
        snapshotter: &str,
        key: &str,
        parent: &str,
    ) -> Result<Vec<Mount>, ContainerdError> {
        let request = PrepareSnapshotRequest {
            snapshotter: snapshotter.into(),
            key: key.into(),
            parent: parent.into(),
        };
        let answer = SnapshotsClient::new(self.service()).prepare(request).await;
        let answer = answer.map_err(failed("prepare the snapshot", key))?;
        Ok(answer.into_inner().mounts)
    }

    /// Has the runtime set the container up, without standard streams. Answers the task's process id.
    pub async fn create_task(&self, id: &str, rootfs: Vec<Mount>) -> Result<u32, ContainerdError> {
        let request = CreateTaskRequest {
            container_id: id.into(),
            rootfs,
        };
        let answer = TasksClient::new(self.service()).create(request).await;
        let answer = answer.map_err(failed("create the task", id))?;
        Ok(answer.into_inner().pid)
    }

    /// Sets a further process of a running container up.
    pub async fn exec(
        &self,
        id: &str,
        exec_id: &str,
        process: &Value,
    ) -> Result<(), ContainerdError> {
        let request = ExecProcessRequest {
            container_id: id.into(),
            spec: Some(any(PROCESS, process)),
            exec_id: exec_id.into(),
        };
        let answer = TasksClient::new(self.service()).exec(request).await;
        answer.map_err(failed("set up the process", exec_id))?;
        Ok(())
    }

    /// Lets a process run: a container's first, where `exec_id` is empty.
    pub async fn start(&self, id: &str, exec_id: &str) -> Result<(), ContainerdError> {
        let request = StartRequest {
            container_id: id.into(),
            exec_id: exec_id.into(),
        };
        let answer = TasksClient::new(self.service()).start(request).await;
        answer.map_err(failed("start", &process_name(id, exec_id)))?;
        Ok(())
    }

    /// Tells the runtime of a running container what has changed, in an annotation that it knows.
    pub async fn annotate(&self, id: &str, key: &str, value: &str) -> Result<(), ContainerdError> {
        let request = UpdateTaskRequest {
            container_id: id.into(),
            annotations: [(key.to_owned(), value.to_owned())].into(),
        };
        let answer = TasksClient::new(self.service()).update(request).await;
        answer.map_err(failed("update", id))?;
        Ok(())
    }

    /// Waits for the end of a process and answers its exit code.
    pub async fn wait(&self, id: &str, exec_id: &str) -> Result<u32, ContainerdError> {
        let request = WaitRequest {
            container_id: id.into(),
            exec_id: exec_id.into(),
        };
        let answer = TasksClient::new(self.service()).wait(request).await;
        let answer = answer.map_err(failed("wait for", &process_name(id, exec_id)))?;
        Ok(answer.into_inner().exit_status)
    }

    /// Kills every process of a container.
    pub async fn kill(&self, id: &str) -> Result<(), ContainerdError> {
        let request = KillRequest {
            container_id: id.into(),
            exec_id: String::new(),
            signal: SIGKILL,
            all: true,
        };
        let answer = TasksClient::new(self.service()).kill(request).await;
        answer.map_err(failed("kill", id))?;
        Ok(())
    }

    /// Removes an ended process of a container that goes on.
    pub async fn delete_process(&self, id: &str, exec_id: &str) -> Result<(), ContainerdError> {
        let request = DeleteProcessRequest {
            container_id: id.into(),
            exec_id: exec_id.into(),
        };
        let answer = TasksClient::new(self.service())
            .delete_process(request)
            .await;
        answer.map_err(failed("delete", &process_name(id, exec_id)))?;
        Ok(())
    }

    /// Removes an ended task, and the shim with it.
    pub async fn delete_task(&self, id: &str) -> Result<(), ContainerdError> {
        let request = DeleteTaskRequest {
            container_id: id.into(),
        };
        let answer = TasksClient::new(self.service()).delete(request).await;
        answer.map_err(failed("delete the task", id))?;
        Ok(())
    }

    /// Removes a container's disk.
    pub async fn remove_snapshot(
        &self,
        snapshotter: &str,
        key: &str,
    ) -> Result<(), ContainerdError> {
        let request = RemoveSnapshotRequest {
            snapshotter: snapshotter.into(),
            key: key.into(),
        };
        let answer = SnapshotsClient::new(self.service()).remove(request).await;
        answer.map_err(failed("remove the snapshot", key))?;
        Ok(())
    }
}

pub(super) fn any(type_url: &str, value: &Value) -> Any {
    Any {
        type_url: type_url.into(),
        value: value.to_string().into_bytes(),
    }
}

fn process_name(id: &str, exec_id: &str) -> String {
    if exec_id.is_empty() {
        id.to_owned()
    } else {
        format!("{exec_id} in {id}")
    }
}
