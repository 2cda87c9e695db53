// SPDX-License-Identifier: Apache-2.0
//! The sandbox API (containerd 2.x, `sandboxer = "shim"`): a pod's machine without a pause container.
//!
//! ```text
//! Absent --Create--> Created --Start--> Ready --Stop, or the machine ends--> Stopped
//! ```
//!
//! Between Start and Stop the pod keeps the machine, with or without tasks in it. The tasks
//! themselves are the task API's, as always.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use cube_runtime::{Config, SandboxKey, SandboxSpec, SpecError};
use tokio::sync::watch;
use ttrpc::r#async::Service;

use crate::error::TaskError;
use crate::guest::Machine;
use crate::task::Shim;

mod config;
pub mod namespaces;
mod service;
#[cfg(test)]
mod tests;

use config::PodConfig;

/// The end of a machine that was not asked to end.
const KILLED: u32 = 128 + 9;

/// The sandbox service.
pub fn services(shim: &Arc<Shim>) -> HashMap<String, Service> {
    service::services(Arc::new(Pod {
        shim: shim.clone(),
        phase: watch::Sender::new(Phase::Absent),
    }))
}

/// One pod; the shim's sandbox.
pub struct Pod {
    shim: Arc<Shim>,
    phase: watch::Sender<Phase>,
}

#[derive(Clone)]
enum Phase {
    Absent,
    Created(Box<SandboxSpec>),
    Ready { pid: u32, since: SystemTime },
    Stopped(Stopped),
}

/// A pod that is over.
#[derive(Clone, Copy, Debug)]
pub struct Stopped {
    /// 0 if it was stopped, 137 if its machine ended by itself.
    pub status: u32,
    /// When.
    pub at: SystemTime,
}

/// What SandboxStatus tells.
pub struct Report {
    /// The machine's pid, while it runs.
    pub pid: u32,
    /// Whether it runs.
    pub ready: bool,
    /// When it was started.
    pub since: Option<SystemTime>,
    /// When it ended.
    pub stopped: Option<Stopped>,
}

impl Pod {
    /// Keeps what the pod is to be.
    pub fn do_create(&self, id: &str, netns: &str, config: &[u8]) -> Result<(), TaskError> {
        let key = self.shim.key();
        if id != key.id {
            return Err(TaskError::UnknownSandbox { id: id.to_owned() });
        }
        let wishes = PodConfig::parse(config)?;
        if wishes.host_network {
            return Err(TaskError::HostNetwork);
        }
        let spec = spec(key, netns, wishes, self.shim.config())?;
        self.turn(id, "absent", |phase| match phase {
            Phase::Absent => Some(Phase::Created(Box::new(spec))),
            _ => None,
        })?;
        self.shim.hold(true);
        Ok(())
    }

    /// Makes the machine. Returns its pid and since when it runs.
    pub async fn do_start(self: &Arc<Self>, id: &str) -> Result<(u32, SystemTime), TaskError> {
        self.check(id)?;
        let spec = match &*self.phase.borrow() {
            Phase::Created(spec) => spec.clone(),
            phase => return Err(wrong(id, phase, "created")),
        };
        let (machine, _) = self.shim.machine(|| Ok(*spec)).await?;
        let (pid, since) = (machine.pid(), SystemTime::now());
        self.phase.send_replace(Phase::Ready { pid, since });
        tokio::spawn(watch_over(self.clone(), machine));
        Ok((pid, since))
    }

    /// Ends the machine and every task in it. A pod that is over stays over.
    pub async fn do_stop(&self, id: &str) -> Result<(), TaskError> {
        self.check(id)?;
        self.over(0);
        self.shim.end_machine().await
    }

    /// Waits until the pod is over.
    pub async fn do_wait(&self, id: &str) -> Result<Stopped, TaskError> {
        self.check(id)?;
        let mut phase = self.phase.subscribe();
        let over = phase.wait_for(|phase| matches!(phase, Phase::Stopped(_)));
        // The sender is in self: it cannot be gone.
        over.await.ok();
        match &*phase.borrow() {
            Phase::Stopped(stopped) => Ok(*stopped),
            phase => Err(wrong(id, phase, "stopped")),
        }
    }

    /// Where the pod is.
    pub fn do_status(&self, id: &str) -> Result<Report, TaskError> {
        self.check(id)?;
        let (pid, ready, since, stopped) = match &*self.phase.borrow() {
            Phase::Absent | Phase::Created(_) => (0, false, None, None),
            Phase::Ready { pid, since } => (*pid, true, Some(*since), None),
            Phase::Stopped(stopped) => (0, false, None, Some(*stopped)),
        };
        Ok(Report {
            pid,
            ready,
            since,
            stopped,
        })
    }

    /// Ends the pod and the shim with it.
    pub async fn do_shutdown(&self, id: &str) -> Result<(), TaskError> {
        // Also for a pod whose Create or Start failed.
        if id != self.shim.key().id {
            return Err(TaskError::UnknownSandbox { id: id.to_owned() });
        }
        self.over(0);
        self.shim.hold(false);
        let ended = self.shim.end_machine().await;
        self.shim.stop();
        ended
    }

    /// Whether this is the pod, and was created.
    pub fn check(&self, id: &str) -> Result<(), TaskError> {
        let known = id == self.shim.key().id && !matches!(*self.phase.borrow(), Phase::Absent);
        match known {
            true => Ok(()),
            false => Err(TaskError::UnknownSandbox { id: id.to_owned() }),
        }
    }

    fn over(&self, status: u32) {
        self.phase.send_if_modified(|phase| {
            let first = !matches!(phase, Phase::Stopped(_));
            if first {
                let at = SystemTime::now();
                *phase = Phase::Stopped(Stopped { status, at });
            }
            first
        });
    }

    fn turn(
        &self,
        id: &str,
        wanted: &'static str,
        step: impl FnOnce(&Phase) -> Option<Phase>,
    ) -> Result<(), TaskError> {
        let mut result = Ok(());
        self.phase.send_if_modified(|phase| match step(phase) {
            Some(next) => {
                *phase = next;
                true
            }
            None => {
                result = Err(wrong(id, phase, wanted));
                false
            }
        });
        result
    }
}

fn spec(
    key: SandboxKey,
    netns: &str,
    wishes: PodConfig,
    config: &Config,
) -> Result<SandboxSpec, SpecError> {
    Ok(SandboxSpec {
        from: None,
        egress: cube_runtime::spec::egress(&wishes.annotations)?
            .or_else(|| config.egress.policy.clone()),
        hostname: match wishes.hostname.is_empty() {
            true => key.id.chars().take(64).collect(),
            false => wishes.hostname,
        },
        key,
        netns: (!netns.is_empty()).then(|| PathBuf::from(netns)),
        vcpus: config.vcpus,
        memory_mib: config.memory_mib,
        cgroup: (!wishes.cgroup_parent.is_empty()).then_some(wishes.cgroup_parent),
    })
}

fn wrong(id: &str, phase: &Phase, wanted: &'static str) -> TaskError {
    TaskError::SandboxState {
        id: id.to_owned(),
        is: match phase {
            Phase::Absent => "absent",
            Phase::Created(_) => "created",
            Phase::Ready { .. } => "ready",
            Phase::Stopped(_) => "stopped",
        },
        wanted,
    }
}

async fn watch_over(pod: Arc<Pod>, machine: Arc<dyn Machine>) {
    machine.exited().await;
    pod.over(KILLED);
}
