// SPDX-License-Identifier: Apache-2.0
//! Exec makes a further process known; Start lets one run, the first or a further.

use std::sync::Arc;
use std::time::SystemTime;

use containerd_shim_protos::api::ExecProcessRequest;
use cube_runtime::{Command, Kind};

use super::container::Live;
use super::lifecycle::Exited;
use super::{Container, Shim};
use crate::error::TaskError;
use crate::io::Stdio;

/// What a shell answers for a command that is not there.
const NOT_FOUND: u32 = 127;
/// What a shell answers for a command that cannot be run.
const NOT_RUNNABLE: u32 = 126;
const SIGKILL: u32 = 9;

impl Shim {
    /// Keeps what a further process is to be; nothing of it is in the machine before its Start.
    pub async fn do_exec(&self, request: ExecProcessRequest) -> Result<(), TaskError> {
        let container = self.container(&request.id)?;
        let spec = request.spec.into_option().unwrap_or_default().value;
        check_json("process spec", &spec)?;
        let stdio = Stdio {
            stdin: request.stdin,
            stdout: request.stdout,
            stderr: request.stderr,
            terminal: request.terminal,
        };
        Ok(container.add_exec(&request.exec_id, stdio, spec)?)
    }

    /// Lets a process run; the empty name is the first. Returns the pid.
    pub async fn do_start(&self, id: &str, exec: &str) -> Result<u32, TaskError> {
        let container = self.container(id)?;
        let gate = container.gate(exec)?;
        let _alone = gate.lock().await;
        container.advance(|ledger| ledger.begin_start(exec))?;
        match self.run(&container, exec).await {
            Ok(()) => {
                container.advance(|ledger| ledger.started(exec))?;
                Ok(container.machine.pid())
            }
            Err(error) => {
                let exited = Exited {
                    status: status_of(&error),
                    at: SystemTime::now(),
                    oom_killed: false,
                };
                container.advance(|ledger| ledger.start_failed(exec, exited))?;
                Err(error)
            }
        }
    }

    async fn run(&self, container: &Arc<Container>, exec: &str) -> Result<(), TaskError> {
        let live = match container.live(exec)? {
            Some(live) => live,
            None => self.set_up(container, exec).await?,
        };
        let started = match live.io.start_input() {
            Ok(()) => live.process.start().await.map_err(TaskError::Start),
            Err(error) => Err(error.into()),
        };
        if started.is_err() {
            // After a time-out it may run all the same; if it cannot be told so, it does not.
            live.process.signal(SIGKILL, false).await.ok();
            live.io.process_ended();
        }
        started
    }

    /// Brings a further process into the machine.
    async fn set_up(&self, container: &Arc<Container>, exec: &str) -> Result<Arc<Live>, TaskError> {
        let blueprint = container.blueprint(exec)?;
        let stdio = blueprint.stdio;
        let opened = stdio.open(self.owner(&container.id)).await?;
        let (stdin, stdout, stderr) = opened.wanted();
        let command = Command {
            exec_id: exec.to_owned(),
            process_json: blueprint.spec,
            terminal: stdio.terminal,
            stdin,
            stdout,
            stderr,
        };
        let spawned = container
            .machine
            .create_process(&container.id, command)
            .await?;
        let live = container.attach(exec, spawned, opened);
        if let Some((columns, rows)) = container.kept_size(exec)
            && let Err(error) = live.process.resize(columns, rows).await
        {
            let error = cube_runtime::error::chain(&error);
            tracing::warn!(exec, error, "a new terminal keeps its size");
        }
        Ok(live)
    }
}

fn status_of(error: &TaskError) -> u32 {
    let kind = match error {
        TaskError::Start(error) => error.kind(),
        TaskError::Spawn(error) => error.kind(),
        _ => return NOT_RUNNABLE,
    };
    match kind {
        Kind::NotFound => NOT_FOUND,
        _ => NOT_RUNNABLE,
    }
}

/// Whether a message's part is JSON at all; what it means is the agent's business.
pub(super) fn check_json(what: &'static str, text: &[u8]) -> Result<(), TaskError> {
    match serde_json::from_slice::<serde::de::IgnoredAny>(text) {
        Ok(_) => Ok(()),
        Err(source) => Err(TaskError::Payload { what, source }),
    }
}
