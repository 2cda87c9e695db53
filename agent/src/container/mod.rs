// SPDX-License-Identifier: Apache-2.0
//! One container: its cgroup, its root file system, its processes.
//!
//! What the spec says was translated once, when the container was made; every later process is put together
//! from these parts. [`crate::agent`] keeps the containers and is the only caller.

mod arrival;
mod files;
mod parts;
mod processes;
mod rehearsal;
mod rootfs;
mod shared_memory;
mod slots;
mod start;
mod tmpfs;

use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

pub use files::{FileError, Files, HostFile};
pub use parts::{Layout, Parts};
pub use rehearsal::rehearse;
pub use rootfs::{FsType, Rootfs, RootfsError};
pub use shared_memory::{SharedMemory, SharedMemoryError};
pub use slots::{SlotError, Slots};
pub use start::Command;

use crate::cause::Cause;
use crate::cgroup::{self, Cgroup, OomWatch, Stats};
use crate::error::AgentError;
use crate::oci;
use crate::plane::{Jobs, View, Visit, Visitors};
use crate::process::{Process, SIGKILL, SignalError, Wanted};
use crate::stage::Root;
use crate::sys;
use processes::Processes;

/// Longest time for a root file system to be written back before a save. The host waits for a minute, and
/// whoever gave up waiting must not find everything stopped later.
const SYNC_LIMIT: Duration = Duration::from_secs(30);

/// A container that exists.
pub struct Container {
    id: String,
    cgroup: Arc<Cgroup>,
    parts: Parts,
    /// Taken by the one who deletes it.
    rootfs: tokio::sync::Mutex<Rootfs>,
    /// Taken by the one who deletes it.
    lent: Mutex<Option<Lent>>,
    processes: Processes,
    jobs: Arc<Jobs>,
    visitors: Visitors,
    /// The first process, for others to join its namespaces.
    first: Mutex<Option<Arc<OwnedFd>>>,
    is_paused: AtomicBool,
    /// Kills for want of memory that somebody has been told of.
    told_oom_kills: AtomicU64,
    gone: watch::Sender<bool>,
}

/// How the first process of a container was made.
#[derive(Clone, Copy, Debug)]
pub struct FirstProcess {
    /// In the machine's pid namespace.
    pub pid: u32,
    /// On a terminal.
    pub terminal: bool,
    /// Which of its streams are open.
    pub streams: Wanted,
}

/// What is mounted in the machine for a container's tree to bind, and unmounted when this is dropped.
struct Lent {
    files: Files,
    _shared_memory: Option<Arc<tmpfs::Tmpfs>>,
}

impl Container {
    /// Puts one together; undone if any step fails.
    pub async fn create(
        id: &str,
        parts: Parts,
        layout: &Layout,
        disk: Disk,
        lender: Lender<'_>,
    ) -> Result<Self, AgentError> {
        let lent = Lent {
            files: Files::keep(layout.files(id), lender.files)?,
            _shared_memory: parts
                .shares_memory
                .then(|| lender.shared_memory.lend(layout))
                .transpose()?,
        };
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
            lent: Mutex::new(Some(lent)),
            processes: Processes::of(id),
            jobs: Arc::default(),
            visitors: Visitors::default(),
            first: Mutex::default(),
            is_paused: AtomicBool::new(false),
            told_oom_kills: AtomicU64::new(0),
            gone: watch::Sender::new(false),
        })
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
                && let Err(error) = sys::kill(pid, signal)
                && error.raw_os_error() != Some(libc::ESRCH)
            {
                return Err(AgentError::Signal(SignalError::Kill {
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

    /// Stops everything in it for the machine to be saved, or lets it go on; one that a client has paused stays
    /// so.
    pub async fn stand(&self, stands: bool) -> Result<(), AgentError> {
        for process in self.processes.all() {
            process.streams().hold(stands);
        }
        if !self.is_paused.load(Ordering::Relaxed) {
            self.cgroup.freeze(stands).await?;
        }
        Ok(())
    }

    /// Writes its root file system back.
    pub async fn sync(&self) -> Result<(), AgentError> {
        let synced = timeout(SYNC_LIMIT, async { self.rootfs.lock().await.sync().await }).await;
        let synced = synced.unwrap_or_else(|_| Err(Cause::new("it takes too long")));
        synced.map_err(|source| AgentError::Sync {
            id: self.id.clone(),
            source,
        })
    }

    /// The streams of its processes wait for new connections; tells how the first process was made.
    pub fn adopt(&self) -> Result<FirstProcess, AgentError> {
        for process in self.processes.all() {
            process.streams().rewind();
        }
        let first = self.process("")?;
        Ok(FirstProcess {
            pid: first.pid(),
            terminal: first.has_terminal(),
            streams: first.streams().wanted(),
        })
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

    /// Gives one of its files of the host new contents.
    pub fn update_file(&self, destination: &Path, content: &[u8]) -> Result<(), AgentError> {
        match &*self.lent() {
            Some(lent) => Ok(lent.files.update(destination, content)?),
            None => Err(self.is_gone()),
        }
    }

    /// Its counters.
    pub fn stats(&self) -> Result<Stats, AgentError> {
        Ok(self.cgroup.stats()?)
    }

    /// Numbers of its processes, with the names of those that have one.
    pub fn pids(&self) -> Result<Vec<(u32, String)>, AgentError> {
        let pids = self.cgroup.pids()?;
        let name = |pid| self.processes.name_of(pid).unwrap_or_default();
        Ok(pids.into_iter().map(|pid| (pid, name(pid))).collect())
    }

    /// A process by name.
    pub fn process(&self, exec_id: &str) -> Result<Arc<Process>, AgentError> {
        self.processes.get(exec_id)
    }

    /// Forgets an ended process. One that is not known is forgotten already.
    pub fn delete_process(&self, exec_id: &str) -> Result<(), AgentError> {
        self.processes.delete(exec_id)
    }

    /// Waits until the kernel has killed a process for want of memory since the last time that this
    /// answered. An error if the container goes away first.
    pub async fn wait_oom(&self) -> Result<(), AgentError> {
        let mut gone = self.gone.subscribe();
        let watch = OomWatch::new(self.cgroup.path())?;
        loop {
            let kills = match self.cgroup.oom_kills() {
                // Its files went first.
                Err(_) if *gone.borrow() || !self.cgroup.path().exists() => {
                    return Err(self.is_gone());
                }
                kills => kills?,
            };
            if self.told_oom_kills.fetch_max(kills, Ordering::Relaxed) < kills {
                return Ok(());
            }
            tokio::select! {
                changed = watch.changed() => changed.map_err(|error| AgentError::OomWatch(error.into()))?,
                _ = gone.wait_for(|gone| *gone) => return Err(self.is_gone()),
            }
        }
    }

    /// Kills what still runs and takes everything down. Can be tried again if it fails.
    pub async fn delete(&self) -> Result<(), AgentError> {
        self.cgroup.kill().await?;
        if !self.visitors.leave().await {
            tracing::warn!(container = %self.id, "somebody still looks at its files");
        }
        self.jobs.end().await;
        for process in self.processes.all() {
            process.wait().await;
            process.streams().close();
        }
        self.processes.clear();
        *self.first() = None;
        *self.lent() = None;
        self.rootfs.lock().await.unmount().await?;
        self.cgroup.remove().await?;
        self.gone.send_replace(true);
        Ok(())
    }

    /// The first process, for another container of the pod to share namespaces with.
    pub fn pidfd(&self) -> Option<Arc<OwnedFd>> {
        self.first().clone()
    }

    /// Its processes that outlive whoever started them.
    pub fn jobs(&self) -> &Arc<Jobs> {
        &self.jobs
    }

    /// Lets somebody look at its tree, as its first process sees it.
    pub async fn visit(&self) -> Result<Visit, AgentError> {
        let first = self.process("")?;
        let inside = self.visitors.enter().ok_or_else(|| self.is_leaving())?;
        let path = Path::new("/proc")
            .join(first.pid().to_string())
            .join("root");
        let opened = spawn_blocking(move || View::of(Root::open(&path)?)).await;
        let view = opened
            .map_err(|_| AgentError::Broken)?
            .map_err(|error| AgentError::Tree(error.into()))?;
        // Another process may have had the number since.
        if first.has_ended() {
            return Err(self.bad_state("has no running first process"));
        }
        Ok(Visit::new(inside, view))
    }

    /// Why nobody can look at it any more.
    pub fn is_leaving(&self) -> AgentError {
        self.bad_state("is being deleted")
    }

    fn is_gone(&self) -> AgentError {
        AgentError::NoContainer {
            id: self.id.clone(),
        }
    }

    fn bad_state(&self, state: &'static str) -> AgentError {
        AgentError::ContainerState {
            id: self.id.clone(),
            state,
        }
    }

    fn lent(&self) -> MutexGuard<'_, Option<Lent>> {
        self.lent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn first(&self) -> MutexGuard<'_, Option<Arc<OwnedFd>>> {
        self.first.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a container is lent, and by whom.
#[derive(Clone, Copy)]
pub struct Lender<'a> {
    /// Files of the host.
    pub files: &'a [HostFile],
    /// The machine's.
    pub shared_memory: &'a SharedMemory,
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
