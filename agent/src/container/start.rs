// SPDX-License-Identifier: Apache-2.0
//! Putting a process of a container together: from its parts and what the client asked for to a plan, and
//! the surroundings in which the plan is carried out.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::{Container, Layout};
use crate::cgroup;
use crate::error::AgentError;
use crate::oci;
use crate::process::{Process, Reaper, Surroundings, Wanted};
use crate::stage::{Plan, ProcessPlan, SharedNamespaces};
use crate::sys::NewNamespaces;

/// What a new process is to be.
pub struct Command<'a> {
    /// Empty for the first.
    pub exec_id: &'a str,
    /// OCI process object; for the first the container's own.
    pub json: &'a [u8],
    /// Give it a terminal.
    pub terminal: bool,
    /// Streams that the host will connect to.
    pub wanted: Wanted,
}

impl Container {
    /// Sets a process up. `pod` is the first process of the pod's first container, if a namespace is shared
    /// with it.
    pub async fn create_process(
        &self,
        reaper: &Reaper,
        layout: &Layout,
        pod: Option<Arc<OwnedFd>>,
        command: Command<'_>,
    ) -> Result<u32, AgentError> {
        if self.is_paused.load(Ordering::Relaxed) {
            return Err(self.bad_state("is paused"));
        }
        let reservation = self.processes.reserve(command.exec_id)?;
        let process = if command.exec_id.is_empty() {
            self.first_process(reaper, pod, &command).await?
        } else {
            self.further_process(reaper, layout, &command).await?
        };
        let pid = process.pid();
        reservation.fill(process);
        Ok(pid)
    }

    async fn first_process(
        &self,
        reaper: &Reaper,
        pod: Option<Arc<OwnedFd>>,
        command: &Command<'_>,
    ) -> Result<Process, AgentError> {
        let namespaces = self.parts.namespaces;
        let plan = self.parts.first_plan(&self.id, command.terminal)?;
        let shared = match (namespaces.shares_any(), pod) {
            (false, _) => None,
            (true, Some(pod)) => Some(pod),
            (true, None) => return Err(AgentError::NoPod),
        };
        let cgroup = self.cgroup.open()?;
        let join = shared.as_deref().map(AsFd::as_fd);
        let surroundings = Surroundings {
            new: namespaces.made(),
            pid_namespace: join.filter(|_| namespaces.shares_pid()),
            join: join.filter(|_| plan.join.any()),
            cgroup: cgroup.as_fd(),
        };
        let process =
            Process::create(reaper, &plan, surroundings, &self.cgroup, command.wanted).await?;
        *self.first() = Some(Arc::new(pidfd(&process)?));
        Ok(process)
    }

    async fn further_process(
        &self,
        reaper: &Reaper,
        layout: &Layout,
        command: &Command<'_>,
    ) -> Result<Process, AgentError> {
        let asked: oci::Process = oci::parse("process object", command.json)?;
        let process = oci::process_plan(&asked, self.parts.process.as_ref())?;
        self.joined_process(reaper, layout, process, command.terminal, command.wanted)
            .await
    }

    /// What the container's own process was told, for others to be like it.
    pub fn first_plan(&self) -> Result<&ProcessPlan, AgentError> {
        let plan = self.parts.process.as_ref();
        plan.ok_or_else(|| AgentError::Spec(oci::SpecError::invalid("process", "is missing")))
    }

    /// A process that nobody can name: whoever makes it keeps it.
    pub async fn create_job_process(
        &self,
        reaper: &Reaper,
        layout: &Layout,
        plan: ProcessPlan,
        terminal: bool,
        wanted: Wanted,
    ) -> Result<Process, AgentError> {
        if self.is_paused.load(Ordering::Relaxed) {
            return Err(self.bad_state("is paused"));
        }
        self.joined_process(reaper, layout, plan, terminal, wanted)
            .await
    }

    async fn joined_process(
        &self,
        reaper: &Reaper,
        layout: &Layout,
        process: ProcessPlan,
        terminal: bool,
        wanted: Wanted,
    ) -> Result<Process, AgentError> {
        let first = self.process("")?;
        let pidfd = self.first().clone().filter(|_| !first.has_ended());
        let Some(pidfd) = pidfd else {
            return Err(self.bad_state("has no running first process"));
        };
        let plan = Plan {
            container_id: self.id.clone(),
            container: None,
            join: SharedNamespaces {
                mount: true,
                ipc: true,
                uts: true,
            },
            terminal,
            process,
            seccomp: self.parts.seccomp.clone(),
        };
        let create = async |cgroup: OwnedFd| {
            let surroundings = Surroundings {
                new: NewNamespaces::default(),
                pid_namespace: Some((*pidfd).as_fd()),
                join: Some((*pidfd).as_fd()),
                cgroup: cgroup.as_fd(),
            };
            Process::create(reaper, &plan, surroundings, &self.cgroup, wanted).await
        };
        match create(self.cgroup.open()?).await {
            // The container has controllers of its own for cgroups below (systemd, a container engine), so
            // its own may hold no process any more: the new one goes where the first one went.
            Err(error) if error.is_no_internal_process() => {
                let beside =
                    cgroup::open_of_process(&self.cgroup, &layout.cgroup_root, first.pid())?;
                Ok(create(beside).await?)
            }
            other => Ok(other?),
        }
    }
}

fn pidfd(process: &Process) -> Result<OwnedFd, AgentError> {
    use rustix::process::{Pid, PidfdFlags, pidfd_open};
    i32::try_from(process.pid())
        .ok()
        .and_then(Pid::from_raw)
        .ok_or(rustix::io::Errno::SRCH)
        .and_then(|pid| pidfd_open(pid, PidfdFlags::empty()))
        .map_err(|errno| AgentError::Pidfd(errno.into()))
}
