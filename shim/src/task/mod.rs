// SPDX-License-Identifier: Apache-2.0
//! The task API: containers and their processes, as containerd drives them.
//!
//! | file | calls |
//! |---|---|
//! | [`service`] | all 17, as ttrpc adapters over the `do_*` cores |
//! | [`create`], [`start`], [`delete`] | Create; Exec, Start; Delete, Shutdown |
//! | [`control`] | Kill, Pause, Resume, Update, ResizePty, CloseIO |
//! | [`query`] | State, Pids, Connect, Wait, Stats |
//! | [`lifecycle`] | what may happen when, and what is told in which order |
//! | [`container`] | one task: its ledger and its live processes |

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use cube_runtime::{Config, SandboxKey, SandboxSpec};
use protobuf::well_known_types::timestamp::Timestamp;
use tokio::sync::{Mutex as AsyncMutex, watch};

use crate::error::TaskError;
use crate::events::Publisher;
use crate::guest::{Boot, Machine};

mod container;
mod control;
mod create;
mod delete;
mod lifecycle;
mod query;
mod service;
mod start;

#[cfg(test)]
mod tests;

pub use container::Container;
pub use lifecycle::{Exited, IllegalMove};
pub use service::{services, to_the_end};

/// Longest wait for all exit events after a machine was ended; its processes know at once.
const EXITS_LIMIT: Duration = Duration::from_secs(2);

/// One shim: at most one machine, and the tasks in it.
pub struct Shim {
    identity: Identity,
    config: Config,
    boot: Box<dyn Boot>,
    publisher: Publisher,
    /// Locked while a machine is made or ended, so that the containers of a pod agree on one.
    machine: AsyncMutex<Option<Arc<dyn Machine>>>,
    tasks: Mutex<BTreeMap<String, Slot>>,
    /// Whether the sandbox API keeps the machine, with or without tasks in it.
    held: AtomicBool,
    /// Whether a Shutdown came while nothing but names was there; changed with `tasks` locked.
    shutdown_owed: AtomicBool,
    stopping: watch::Sender<bool>,
}

/// Who the shim works for.
#[derive(Clone, Debug)]
pub struct Identity {
    /// containerd's gRPC address.
    pub address: String,
    /// containerd's namespace.
    pub namespace: String,
    /// The sandbox: the pod's, or its only container's id.
    pub sandbox: String,
    /// The socket it listens on.
    pub socket: Option<PathBuf>,
}

enum Slot {
    /// The name is taken, the task is not there yet.
    Reserved,
    Filled(Arc<Container>),
}

impl Shim {
    /// A shim without a machine yet.
    pub fn new(
        identity: Identity,
        config: Config,
        boot: Box<dyn Boot>,
        publisher: Publisher,
    ) -> Self {
        Self {
            identity,
            config,
            boot,
            publisher,
            machine: AsyncMutex::new(None),
            tasks: Mutex::default(),
            held: AtomicBool::new(false),
            shutdown_owed: AtomicBool::new(false),
            stopping: watch::Sender::new(false),
        }
    }

    /// Waits until the shim has nothing more to do.
    pub async fn stopped(&self) {
        let mut stopping = self.stopping.subscribe();
        // The sender is in self: it cannot be gone.
        stopping.wait_for(|stopping| *stopping).await.ok();
    }

    /// Lets [`Shim::stopped`] return. The socket goes at once and once only: whoever is told that we end
    /// may start another shim of the same name, which must not find ours nor lose its own.
    pub fn stop(&self) {
        if self.stopping.send_replace(true) {
            return;
        }
        if let Some(socket) = &self.identity.socket {
            // One that stays behind is replaced by the next start.
            std::fs::remove_file(socket).ok();
        }
    }

    /// Whether nothing would be lost if the shim ended now.
    pub fn is_vacant(&self) -> bool {
        let no_machine = self
            .machine
            .try_lock()
            .is_ok_and(|machine| machine.is_none());
        no_machine && self.tasks().is_empty() && !self.is_held()
    }

    /// Keeps the machine although no task may be in it, or lets it go with its last task.
    pub fn hold(&self, held: bool) {
        self.held.store(held, Ordering::Relaxed);
    }

    /// See [`Shim::hold`].
    pub fn is_held(&self) -> bool {
        self.held.load(Ordering::Relaxed)
    }

    /// Ends everything: the machine at once, then waits for the exits that follow from it.
    pub async fn end(&self) {
        self.end_machine_or_say().await;
        let containers = self.containers();
        let all_told = async {
            for container in &containers {
                // An error says that there is nothing to wait for.
                container.wait("").await.ok();
            }
        };
        if tokio::time::timeout(EXITS_LIMIT, all_told).await.is_err() {
            tracing::warn!("not every process's end is known yet");
        }
    }

    /// Who this shim is to the runtime.
    pub fn key(&self) -> SandboxKey {
        SandboxKey {
            address: self.identity.address.clone(),
            namespace: self.identity.namespace.clone(),
            id: self.identity.sandbox.clone(),
        }
    }

    /// The host's configuration.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The machine; made if there is none. True if it was made by this call.
    pub async fn machine(
        &self,
        spec: impl FnOnce() -> Result<SandboxSpec, TaskError>,
    ) -> Result<(Arc<dyn Machine>, bool), TaskError> {
        let mut place = self.machine.lock().await;
        if let Some(machine) = &*place {
            return Ok((machine.clone(), false));
        }
        let machine = self.boot.boot(&self.config, spec()?).await?;
        *place = Some(machine.clone());
        tokio::spawn(watch_over(machine.clone()));
        Ok((machine, true))
    }

    /// Ends the machine, if there is one, and removes what is left of it.
    pub async fn end_machine(&self) -> Result<(), TaskError> {
        let mut place = self.machine.lock().await;
        if let Some(machine) = place.take() {
            machine.destroy().await?;
        }
        Ok(())
    }

    /// The same, where nobody could do anything about a failure.
    pub async fn end_machine_or_say(&self) {
        if let Err(error) = self.end_machine().await {
            let error = cube_runtime::error::chain(&error);
            tracing::error!(error, "the machine could not be removed completely");
        }
    }

    /// A task that is there.
    fn container(&self, id: &str) -> Result<Arc<Container>, TaskError> {
        match self.tasks().get(id) {
            Some(Slot::Filled(container)) => Ok(container.clone()),
            Some(Slot::Reserved) | None => Err(TaskError::UnknownTask { id: id.to_owned() }),
        }
    }

    fn containers(&self) -> Vec<Arc<Container>> {
        let tasks = self.tasks();
        let filled = tasks.values().filter_map(|slot| match slot {
            Slot::Filled(container) => Some(container.clone()),
            Slot::Reserved => None,
        });
        filled.collect()
    }

    fn tasks(&self) -> MutexGuard<'_, BTreeMap<String, Slot>> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a Shutdown has to wait: for a task, whose end brings another, or for one that is being made,
    /// whose end brings none.
    fn defers_shutdown(&self) -> bool {
        let tasks = self.tasks();
        let reserved = |slot: &Slot| matches!(slot, Slot::Reserved);
        if !tasks.is_empty() && tasks.values().all(reserved) {
            self.shutdown_owed.store(true, Ordering::Relaxed);
        }
        !tasks.is_empty() || self.is_held()
    }

    /// Takes a name; gives it back when dropped unfilled.
    fn reserve<'a>(&'a self, id: &'a str) -> Result<Reservation<'a>, TaskError> {
        let mut tasks = self.tasks();
        if tasks.contains_key(id) {
            return Err(TaskError::TaskExists { id: id.to_owned() });
        }
        tasks.insert(id.to_owned(), Slot::Reserved);
        Ok(Reservation { shim: self, id })
    }
}

/// A name that is taken. A Shutdown that came meanwhile is carried out when it is given back or filled:
/// containerd, whose client has gone away, asks once and does not wait for a Create that is under way.
struct Reservation<'a> {
    shim: &'a Shim,
    id: &'a str,
}

impl Reservation<'_> {
    fn fill(self, container: Arc<Container>) {
        let mut tasks = self.shim.tasks();
        tasks.insert(self.id.to_owned(), Slot::Filled(container));
        let owed = self.shim.shutdown_owed.swap(false, Ordering::Relaxed);
        // Without a task the sandbox's own one can only have been given up. A further one of a pod has
        // clients of its own: the Shutdown was another's, and another comes with its end.
        if owed && self.id == self.shim.identity.sandbox {
            self.shim.stop();
        }
    }
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        let mut tasks = self.shim.tasks();
        if let Some(Slot::Reserved) = tasks.get(self.id) {
            tasks.remove(self.id);
            let owed = self.shim.shutdown_owed.load(Ordering::Relaxed);
            if owed && tasks.is_empty() && !self.shim.is_held() {
                self.shim.stop();
            }
        }
    }
}

/// The reason of a machine's end belongs into the log whoever asks or does not ask for it.
async fn watch_over(machine: Arc<dyn Machine>) {
    let pid = machine.pid();
    let exit = machine.exited().await;
    match exit.is_orderly() {
        true => tracing::info!(pid, "the machine ended"),
        false => tracing::error!(pid, reason = %exit, "the machine ended unexpectedly"),
    }
}

/// As protobuf has it.
pub fn timestamp(at: SystemTime) -> Timestamp {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp {
        seconds: i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
        nanos: since.subsec_nanos().cast_signed(),
        ..Default::default()
    }
}
