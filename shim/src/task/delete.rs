// SPDX-License-Identifier: Apache-2.0
//! Delete forgets a process, and with the first one its container; Shutdown ends an empty shim.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use cube_runtime::ContainerError;

use super::lifecycle::Exited;
use super::{Container, Shim, Slot};
use crate::error::TaskError;
use crate::events::Event;

/// Longest wait for the end of a process that was killed before it ran.
const KILL_LIMIT: Duration = Duration::from_secs(5);
const SIGKILL: u32 = 9;

/// What Delete answers.
#[derive(Debug, PartialEq, Eq)]
pub struct Deleted {
    /// The process's pid; 0 if it never had one.
    pub pid: u32,
    /// How it ended.
    pub exited: Exited,
}

impl Shim {
    /// Forgets a process that ended or never ran; of a task's first process, the whole task.
    /// Its output has arrived when this returns.
    pub async fn do_delete(self: &Arc<Self>, id: &str, exec: &str) -> Result<Deleted, TaskError> {
        let container = self.container(id)?;
        let gate = container.gate(exec)?;
        let _alone = gate.lock().await;
        let exited = match container.look(|ledger| ledger.may_delete(exec))? {
            Some(exited) => exited,
            None => never_ran(&container, exec).await?,
        };
        let pid = container.snapshot(exec)?.pid;
        if let Some(live) = container.live(exec)? {
            live.io.drain().await;
            if let Err(error) = live.process.delete().await {
                // It is dead; what the guest still keeps of it goes with the container.
                let error = cube_runtime::error::chain(&error);
                tracing::warn!(id, exec, error, "the guest did not forget a process");
            }
        }
        match exec {
            "" => self.remove(&container, exited).await?,
            exec => container.forget_exec(exec),
        }
        Ok(Deleted { pid, exited })
    }

    /// Removes a container from the machine, and with the last one the machine.
    async fn remove(
        self: &Arc<Self>,
        container: &Arc<Container>,
        exited: Exited,
    ) -> Result<(), TaskError> {
        let id = &container.id;
        let others = self.tasks().len() > 1;
        match container.machine.delete_container(id).await {
            Ok(()) | Err(ContainerError::Unknown { .. }) => {}
            // A machine that goes takes everything with it; one that stays must be rid of it.
            Err(error) if others || self.is_held() => return Err(error.into()),
            Err(error) => {
                let error = cube_runtime::error::chain(&error);
                tracing::warn!(id, error, "the container is removed with its machine");
            }
        }
        container.retire();
        let removed = self.tasks().remove(id);
        if let Some(Slot::Filled(container)) = removed {
            self.publisher.publish(Event::Deleted {
                task: id.clone(),
                pid: container.machine.pid(),
                exited,
            });
        }
        if self.tasks().is_empty() && !self.is_held() {
            // Not waited for: the answer is ready, and Shutdown comes next and waits.
            let shim = self.clone();
            tokio::spawn(async move { shim.end_machine_or_say().await });
        }
        Ok(())
    }

    /// Ends the shim, unless somebody still needs it; at once, or when a Create that is under way is over.
    pub async fn do_shutdown(&self) -> Result<(), TaskError> {
        if self.defers_shutdown() {
            return Ok(());
        }
        let ended = self.end_machine().await;
        self.stop();
        ended
    }
}

/// A further process was never in the machine. A first one is, and is made to leave.
async fn never_ran(container: &Arc<Container>, exec: &str) -> Result<Exited, TaskError> {
    if !exec.is_empty() {
        return Ok(Exited {
            status: 0,
            at: SystemTime::now(),
            oom_killed: false,
        });
    }
    if let Some(live) = container.live("")? {
        live.process.signal(SIGKILL, true).await?;
    }
    match tokio::time::timeout(KILL_LIMIT, container.wait("")).await {
        Ok(exited) => exited,
        // The machine does what it likes; delete_container or its end will do.
        Err(_) => Ok(Exited {
            status: 128 + SIGKILL,
            at: SystemTime::now(),
            oom_killed: false,
        }),
    }
}
