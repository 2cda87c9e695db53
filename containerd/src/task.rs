// SPDX-License-Identifier: Apache-2.0
//! Which tasks there are, and how they are.

use super::Containerd;
use super::error::{ContainerdError, failed};
use super::wire::containerd::services::tasks::v1::tasks_client::TasksClient;
use super::wire::containerd::services::tasks::v1::{ListTasksRequest, Process, Status};

/// The task of a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskSummary {
    /// The container's name.
    pub id: String,
    /// What it does.
    pub status: TaskStatus,
}

/// What a task does, as its runtime says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TaskStatus {
    /// It was not started yet.
    Created,
    /// It runs.
    Running,
    /// It stands, or is about to.
    Paused,
    /// It has ended.
    Stopped,
    /// Its runtime did not say.
    Unknown,
}

impl Containerd {
    /// All tasks of the namespace.
    pub async fn tasks(&self) -> Result<Vec<TaskSummary>, ContainerdError> {
        let request = ListTasksRequest {};
        let answer = TasksClient::new(self.service()).list(request).await;
        let answer = answer.map_err(failed("list", "tasks"))?.into_inner();
        Ok(answer.tasks.into_iter().map(summary).collect())
    }
}

fn summary(process: Process) -> TaskSummary {
    let status = match process.status() {
        Status::Created => TaskStatus::Created,
        Status::Running => TaskStatus::Running,
        Status::Paused | Status::Pausing => TaskStatus::Paused,
        Status::Stopped => TaskStatus::Stopped,
        Status::Unknown => TaskStatus::Unknown,
    };
    TaskSummary {
        id: process.id,
        status,
    }
}
