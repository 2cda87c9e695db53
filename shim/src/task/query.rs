// SPDX-License-Identifier: Apache-2.0
//! What containerd asks: State, Pids, Connect, Wait, Stats. All but Stats are answered from memory,
//! so also while the machine is paused, busy or gone.
//!
//! **Pids.** Every process of a task is reported with the machine's pid (`cube-vmm` on the host). Clients
//! act on the pid they are told: they look at `/proc/<pid>/ns/net`, and send it signals. The VMM is the
//! one host process for which that does what they mean: it lives in the sandbox's network namespace and
//! lives exactly as long as the sandbox. A guest's pid would be a number that a guest chose and that
//! on the host names a stranger.

use containerd_shim_protos::api::{
    ConnectResponse, PidsResponse, ProcessInfo, StateResponse, Status,
};
use containerd_shim_protos::shim::oci::ProcessDetails;
use protobuf::well_known_types::any::Any;
use protobuf::{Message, MessageFull};

use super::lifecycle::{Exited, Phase};
use super::{Shim, timestamp};
use crate::error::TaskError;
use crate::stats;

impl Shim {
    /// Where a process is.
    pub fn do_state(&self, id: &str, exec: &str) -> Result<StateResponse, TaskError> {
        let container = self.container(id)?;
        let snapshot = container.snapshot(exec)?;
        let exited = match snapshot.phase {
            Phase::Stopped(exited) => Some(exited),
            _ => None,
        };
        Ok(StateResponse {
            id: id.to_owned(),
            exec_id: exec.to_owned(),
            bundle: container.bundle.display().to_string(),
            pid: snapshot.pid,
            status: status(snapshot.phase).into(),
            stdin: snapshot.stdio.stdin,
            stdout: snapshot.stdio.stdout,
            stderr: snapshot.stdio.stderr,
            terminal: snapshot.stdio.terminal,
            exit_status: exited.map_or(0, |exited| exited.status),
            exited_at: exited.map(|exited| timestamp(exited.at)).into(),
            ..Default::default()
        })
    }

    /// The processes of a task. A task that ended has its first until it is deleted: containerd takes
    /// an empty list after a restart for a shim that leaked.
    pub fn do_pids(&self, id: &str) -> Result<PidsResponse, TaskError> {
        let container = self.container(id)?;
        let processes = container.look(|ledger| {
            let info = |exec_id: Option<&str>| ProcessInfo {
                pid: ledger.pid(),
                info: exec_id.map(details).into(),
                ..Default::default()
            };
            let execs = ledger.running_execs().map(|exec| info(Some(exec)));
            std::iter::once(info(None)).chain(execs).collect()
        });
        Ok(PidsResponse {
            processes,
            ..Default::default()
        })
    }

    /// Who answers here. An unknown task is no error: containerd asks before there is one.
    pub fn do_connect(&self, id: &str) -> ConnectResponse {
        let container = self.container(id).ok();
        ConnectResponse {
            shim_pid: std::process::id(),
            task_pid: container.map_or(0, |container| container.look(|ledger| ledger.pid())),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            ..Default::default()
        }
    }

    /// Waits for the end of a process.
    pub async fn do_wait(&self, id: &str, exec: &str) -> Result<Exited, TaskError> {
        self.container(id)?.wait(exec).await
    }

    /// A task's cgroup figures, as containerd's cgroup v2 message.
    pub async fn do_stats(&self, id: &str) -> Result<Any, TaskError> {
        let container = self.container(id)?;
        Ok(stats::encode(&container.machine.stats(id).await?))
    }
}

fn status(phase: Phase) -> Status {
    match phase {
        Phase::Created | Phase::Starting => Status::CREATED,
        Phase::Running => Status::RUNNING,
        Phase::Pausing => Status::PAUSING,
        Phase::Paused => Status::PAUSED,
        Phase::Stopped(_) => Status::STOPPED,
    }
}

fn details(exec_id: &str) -> Any {
    let details = ProcessDetails {
        exec_id: exec_id.to_owned(),
        ..Default::default()
    };
    Any {
        type_url: ProcessDetails::descriptor().full_name().to_owned(),
        value: details.write_to_bytes().expect("one string can be encoded"),
        ..Default::default()
    }
}
