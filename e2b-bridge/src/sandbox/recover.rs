// SPDX-License-Identifier: Apache-2.0
//! What an earlier process left: sandboxes that run are taken over, others are removed.

use std::collections::BTreeSet;
use std::sync::Arc;

use cube_containerd::{ContainerdError, StoredContainer, TaskStatus};

use super::{EXTENSION, Phase, Sandbox, SandboxId, SandboxRecord, Sandboxes, keeper};

impl Sandboxes {
    /// Takes over what is in containerd. Containers that this program did not make are left alone.
    pub async fn recover(self: &Arc<Self>) -> Result<(), ContainerdError> {
        let tasks = self.containerd().tasks().await?;
        let is_alive = |status| matches!(status, TaskStatus::Running | TaskStatus::Paused);
        let alive: BTreeSet<String> = tasks
            .into_iter()
            .filter(|task| is_alive(task.status))
            .map(|task| task.id)
            .collect();
        for container in self.containerd().containers().await? {
            let Some((id, record)) = ours(&container) else {
                continue;
            };
            let runs = record.started.is_some() && alive.contains(&container.id);
            tracing::info!(sandbox = %id, runs, "a sandbox of an earlier process");
            let dir = self.directory(&id);
            let phase = if runs { Phase::Running } else { Phase::Ending };
            let sandbox = Sandbox::new(id, dir, record, phase);
            self.insert(sandbox.clone());
            tokio::spawn(keeper::keep(self.clone(), sandbox));
        }
        Ok(())
    }
}

fn ours(container: &StoredContainer) -> Option<(SandboxId, SandboxRecord)> {
    let json = container.extensions.get(EXTENSION)?;
    let id = SandboxId::parse(&container.id)?;
    match SandboxRecord::from_json(json) {
        Ok(record) => Some((id, record)),
        Err(error) => {
            tracing::warn!(container = container.id, %error, "this sandbox's record is of no use; it is left alone");
            None
        }
    }
}
