// SPDX-License-Identifier: Apache-2.0
//! What is done to a task while it lives: Kill, Pause, Resume, Update, ResizePty, CloseIO.

use containerd_shim_protos::api::{KillRequest, ResizePtyRequest, UpdateTaskRequest};
use cube_runtime::{GuestError, Kind};

use super::start::check_json;
use super::{Container, Shim};
use crate::error::TaskError;

const SIGKILL: u32 = 9;

impl Shim {
    /// Sends a signal.
    pub async fn do_kill(&self, request: KillRequest) -> Result<(), TaskError> {
        let container = self.container(&request.id)?;
        let exec = &request.exec_id;
        container.look(|ledger| ledger.may_signal(exec))?;
        let Some(live) = container.live(exec)? else {
            // It is being set up at this moment; the client may try again.
            return Err(container.look(|ledger| ledger.refuse_signal(exec)).into());
        };
        match live.process.signal(request.signal, request.all).await {
            Ok(()) => Ok(()),
            Err(error) if request.signal == SIGKILL && exec.is_empty() => {
                self.kill_the_hard_way(&container, error).await
            }
            Err(error) => Err(error.into()),
        }
    }

    /// SIGKILL cannot be refused, not even by a guest that hangs: its machine goes, if it holds
    /// nothing but this task. The processes' ends follow by themselves.
    async fn kill_the_hard_way(
        &self,
        container: &Container,
        error: GuestError,
    ) -> Result<(), TaskError> {
        let alone = self.tasks().len() == 1 && !self.is_held();
        if !alone || error.kind() != Kind::DeadlineExceeded {
            return Err(error.into());
        }
        let id = &container.id;
        let error = cube_runtime::error::chain(&error);
        tracing::error!(
            id,
            error,
            "the guest does not answer: its machine is killed"
        );
        self.end_machine().await
    }

    /// Freezes every process of a task.
    pub async fn do_pause(&self, id: &str) -> Result<(), TaskError> {
        let container = self.container(id)?;
        container.advance(|ledger| ledger.begin_pause())?;
        let result = container.machine.pause(id).await;
        container.advance(|ledger| ledger.paused(result.is_ok()))?;
        Ok(result?)
    }

    /// Lets them go on.
    pub async fn do_resume(&self, id: &str) -> Result<(), TaskError> {
        let container = self.container(id)?;
        container.look(|ledger| ledger.may_resume())?;
        container.machine.resume(id).await?;
        Ok(container.advance(|ledger| ledger.resumed())?)
    }

    /// Changes a task's limits. Annotations, of which clients of containerd have no other use here, change
    /// what its sandbox may send to, and have it saved.
    pub async fn do_update(&self, request: UpdateTaskRequest) -> Result<(), TaskError> {
        let container = self.container(&request.id)?;
        let egress = cube_runtime::spec::egress(&request.annotations)?;
        let snapshot = cube_runtime::spec::snapshot(&request.annotations)?;
        let resources = request.resources.into_option().unwrap_or_default().value;
        let is_all = resources.is_empty() && (egress.is_some() || snapshot.is_some());
        if let Some(policy) = egress {
            container.machine.set_egress(policy).await?;
        }
        if let Some(name) = snapshot {
            let stood = container.machine.snapshot(self.config(), &name).await?;
            let (id, stood_ms) = (&container.id, stood.as_millis());
            tracing::info!(id, snapshot = %name, stood_ms, "saved");
        }
        if is_all {
            return Ok(());
        }
        check_json("resources", &resources)?;
        Ok(container.machine.update(&request.id, resources).await?)
    }

    /// Tells a terminal its size; one that is not there yet will have it from the beginning.
    pub async fn do_resize(&self, request: ResizePtyRequest) -> Result<(), TaskError> {
        let container = self.container(&request.id)?;
        let exec = &request.exec_id;
        if !container.has_terminal(exec)? {
            return Err(TaskError::NoTerminal {
                id: request.id,
                exec: request.exec_id,
            });
        }
        let size = u16::try_from(request.width)
            .ok()
            .zip(u16::try_from(request.height).ok());
        let (columns, rows) = size.ok_or(TaskError::TerminalSize {
            columns: request.width,
            rows: request.height,
        })?;
        if let Some(live) = container.keep_size(exec, (columns, rows))? {
            live.process.resize(columns, rows).await?;
        }
        Ok(())
    }

    /// Lets a process read the end of its input once its clients are done.
    pub async fn do_close_io(&self, id: &str, exec: &str, stdin: bool) -> Result<(), TaskError> {
        let container = self.container(id)?;
        if stdin {
            container.close_stdin(exec)?;
        }
        Ok(())
    }
}
