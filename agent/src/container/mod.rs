// SPDX-License-Identifier: Apache-2.0
//! One container: its cgroup, its root file system, its processes.
//!
//! What the spec says was translated once, when the container was made; every later process is put together
//! from these parts. [`crate::agent`] keeps the containers and is the only caller.

mod parts;
mod rootfs;
mod slots;

use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

pub use parts::{Layout, Parts};
pub use rootfs::{FsType, Rootfs, RootfsError};
pub use slots::{SlotError, Slots};

use crate::cgroup::{self, Cgroup, OomWatch, Stats};
use crate::error::AgentError;
use crate::oci;
use crate::process::{Process, Reaper, SIGKILL, Surroundings, Wanted};
use crate::stage::{Plan, SharedNamespaces};
use crate::sys::NewNamespaces;

/// A container that exists.
pub struct Container {
    id: String,
    cgroup: Arc<Cgroup>,
    parts: Parts,
    /// Taken by the one who deletes it.
    rootfs: tokio::sync::Mutex<Rootfs>,
    processes: Mutex<HashMap<String, Slot>>,
    /// The first process, for others to join its namespaces.
    first: Mutex<Option<Arc<OwnedFd>>>,
    is_paused: AtomicBool,
    /// Kills for want of memory that somebody has been told of.
    told_oom_kills: AtomicU64,
    gone: watch::Sender<bool>,
}

enum Slot {
    /// The name is taken, the process not there yet.
    Reserved,
    Taken(Arc<Process>),
}

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
    /// Puts one together; undone if any step fails.
    pub async fn create(
        id: &str,
        parts: Parts,
        layout: &Layout,
        disk: Disk,
    ) -> Result<Self, AgentError> {
        let cgroup = Cgroup::create(layout.cgroup.join(id))?;
        cgroup.apply(&parts.limits)?;
        cgroup.restrict_devices(&parts.devices)?;
        let device = layout.slots.device(disk.slot).await?;
        let path = layout.rootfs(id);
        let rootfs = Rootfs::mount(device, path, disk.fs_type, disk.read_only).await?;
        Ok(Self {
            id: id.to_owned(),
            cgroup: Arc::new(cgroup),
            parts,
            rootfs: tokio::sync::Mutex::new(rootfs),
            processes: Mutex::default(),
            first: Mutex::default(),
            is_paused: AtomicBool::new(false),
            told_oom_kills: AtomicU64::new(0),
            gone: watch::Sender::new(false),
        })
    }

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
        let reservation = self.reserve(command.exec_id)?;
        let process = if command.exec_id.is_empty() {
            self.first_process(reaper, pod, &command).await?
        } else {
            self.further_process(reaper, layout, &command).await?
        };
        let pid = process.pid();
        reservation.fill(process);
        Ok(pid)
    }

    /// A process by name.
    pub fn process(&self, exec_id: &str) -> Result<Arc<Process>, AgentError> {
        match self.processes().get(exec_id) {
            Some(Slot::Taken(process)) => Ok(Arc::clone(process)),
            Some(Slot::Reserved) | None => Err(AgentError::NoProcess {
                container: self.id.clone(),
                exec_id: exec_id.to_owned(),
            }),
        }
    }

    /// Forgets an ended process. One that is not known is forgotten already.
    pub fn delete_process(&self, exec_id: &str) -> Result<(), AgentError> {
        let mut processes = self.processes();
        match processes.get(exec_id) {
            None => Ok(()),
            Some(Slot::Taken(process)) if process.has_ended() => {
                process.streams().close();
                processes.remove(exec_id);
                Ok(())
            }
            Some(_) => Err(AgentError::ProcessState {
                container: self.id.clone(),
                exec_id: exec_id.to_owned(),
                state: "is running",
            }),
        }
    }

    /// Signals every process that is in the container, whoever started it.
    pub fn signal_all(&self, signal: u32) -> Result<(), AgentError> {
        if signal == SIGKILL {
            self.cgroup.kill_now()?;
            return Ok(());
        }
        for pid in self.cgroup.pids()? {
            // Ended since it was listed, or invisible here (pid 0): nobody to signal.
            if pid > 0
                && let Err(error) = crate::sys::kill(pid, signal)
                && error.raw_os_error() != Some(libc::ESRCH)
            {
                return Err(AgentError::Signal(crate::process::SignalError::Kill {
                    signal,
                    source: error.into(),
                }));
            }
        }
        Ok(())
    }

    /// Freezes every process, or lets them go on.
    pub async fn pause(&self, paused: bool) -> Result<(), AgentError> {
        self.cgroup.freeze(paused).await?;
        self.is_paused.store(paused, Ordering::Relaxed);
        Ok(())
    }

    /// Changes limits. Clients send the rules about devices along, which cannot change.
    pub fn update(&self, resources: &oci::Resources) -> Result<(), AgentError> {
        let devices = cgroup::device_rules(&resources.devices)?;
        if !resources.devices.is_empty() && devices != self.parts.devices {
            let field = "devices: a change of the rules";
            return Err(cgroup::LimitError::Unsupported { field }.into());
        }
        self.cgroup.apply(&cgroup::settings(resources)?)?;
        Ok(())
    }

    /// Its counters.
    pub fn stats(&self) -> Result<Stats, AgentError> {
        Ok(self.cgroup.stats()?)
    }

    /// Numbers of its processes, with the names of those that have one.
    pub fn pids(&self) -> Result<Vec<(u32, String)>, AgentError> {
        let pids = self.cgroup.pids()?;
        let processes = self.processes();
        let name = |pid: u32| {
            processes
                .iter()
                .find(
                    |(_, slot)| matches!(slot, Slot::Taken(p) if p.pid() == pid && !p.has_ended()),
                )
                .map(|(exec_id, _)| exec_id.clone())
                .unwrap_or_default()
        };
        Ok(pids.into_iter().map(|pid| (pid, name(pid))).collect())
    }

    /// Waits until the kernel has killed a process for want of memory since the last time that this
    /// answered. An error if the container goes away first.
    pub async fn wait_oom(&self) -> Result<(), AgentError> {
        let mut gone = self.gone.subscribe();
        let watch = OomWatch::new(self.cgroup.path())?;
        loop {
            let kills = self.cgroup.oom_kills()?;
            if self.told_oom_kills.fetch_max(kills, Ordering::Relaxed) < kills {
                return Ok(());
            }
            tokio::select! {
                changed = watch.changed() => changed.map_err(|error| AgentError::OomWatch(error.into()))?,
                _ = gone.wait_for(|gone| *gone) => return Err(AgentError::NoContainer { id: self.id.clone() }),
            }
        }
    }

    /// Kills what still runs and takes everything down. Can be tried again if it fails.
    pub async fn delete(&self) -> Result<(), AgentError> {
        self.cgroup.kill().await?;
        for process in self.live_processes() {
            process.wait().await;
            process.streams().close();
        }
        self.processes().clear();
        *self.first() = None;
        self.rootfs.lock().await.unmount().await?;
        self.cgroup.remove().await?;
        self.gone.send_replace(true);
        Ok(())
    }

    /// The first process, for another container of the pod to share namespaces with.
    pub fn pidfd(&self) -> Option<Arc<OwnedFd>> {
        self.first().clone()
    }

    async fn first_process(
        &self,
        reaper: &Reaper,
        pod: Option<Arc<OwnedFd>>,
        command: &Command<'_>,
    ) -> Result<Process, AgentError> {
        let parts = &self.parts;
        let process = parts
            .process
            .clone()
            .ok_or_else(|| AgentError::Spec(oci::SpecError::invalid("process", "is missing")))?;
        let namespaces = parts.namespaces;
        let plan = Plan {
            container_id: self.id.clone(),
            container: Some(parts.container.clone()),
            join: namespaces.joined(),
            terminal: command.terminal,
            process,
            seccomp: parts.seccomp.clone(),
        };
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
        let first = self.process("")?;
        let pidfd = self.first().clone().filter(|_| !first.has_ended());
        let Some(pidfd) = pidfd else {
            return Err(self.bad_state("has no running first process"));
        };
        let asked: oci::Process = oci::parse("process object", command.json)?;
        let plan = Plan {
            container_id: self.id.clone(),
            container: None,
            join: SharedNamespaces {
                mount: true,
                ipc: true,
                uts: true,
            },
            terminal: command.terminal,
            process: oci::process_plan(&asked, self.parts.process.as_ref())?,
            seccomp: self.parts.seccomp.clone(),
        };
        let create = async |cgroup: OwnedFd| {
            let surroundings = Surroundings {
                new: NewNamespaces::default(),
                pid_namespace: Some((*pidfd).as_fd()),
                join: Some((*pidfd).as_fd()),
                cgroup: cgroup.as_fd(),
            };
            Process::create(reaper, &plan, surroundings, &self.cgroup, command.wanted).await
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

    fn reserve(&self, exec_id: &str) -> Result<Reservation<'_>, AgentError> {
        let mut processes = self.processes();
        if processes.contains_key(exec_id) {
            return Err(AgentError::ProcessExists {
                container: self.id.clone(),
                exec_id: exec_id.to_owned(),
            });
        }
        processes.insert(exec_id.to_owned(), Slot::Reserved);
        Ok(Reservation {
            container: self,
            exec_id: exec_id.to_owned(),
            is_filled: false,
        })
    }

    fn live_processes(&self) -> Vec<Arc<Process>> {
        let processes = self.processes();
        let taken = processes.values().filter_map(|slot| match slot {
            Slot::Taken(process) => Some(Arc::clone(process)),
            Slot::Reserved => None,
        });
        taken.collect()
    }

    fn bad_state(&self, state: &'static str) -> AgentError {
        AgentError::ContainerState {
            id: self.id.clone(),
            state,
        }
    }

    fn processes(&self) -> MutexGuard<'_, HashMap<String, Slot>> {
        self.processes
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn first(&self) -> MutexGuard<'_, Option<Arc<OwnedFd>>> {
        self.first.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The disk of a container.
#[derive(Clone, Copy, Debug)]
pub struct Disk {
    /// Slot of the machine.
    pub slot: u32,
    /// What is on it.
    pub fs_type: FsType,
    /// Mount it so.
    pub read_only: bool,
}

/// A name in the list of processes; free again unless it is filled.
struct Reservation<'a> {
    container: &'a Container,
    exec_id: String,
    is_filled: bool,
}

impl Reservation<'_> {
    fn fill(mut self, process: Process) {
        self.is_filled = true;
        let slot = Slot::Taken(Arc::new(process));
        self.container
            .processes()
            .insert(self.exec_id.clone(), slot);
    }
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        if !self.is_filled {
            self.container.processes().remove(&self.exec_id);
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
