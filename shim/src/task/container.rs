// SPDX-License-Identifier: Apache-2.0
//! One task: the ledger of its processes, their live halves, and whoever waits for their end.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use futures::FutureExt;
use tokio::sync::{Mutex as AsyncMutex, watch};
use tokio::task::AbortHandle;

use super::lifecycle::{Exited, IllegalMove, Ledger, Phase};
use crate::bundle::TaskState;
use crate::error::TaskError;
use crate::events::{Event, Publisher};
use crate::guest::{GuestProcess, Machine, Spawned};
use crate::io::{Opened, ProcessIo, Stdio};

/// How long further processes may outlive the first: its kernel has killed them already, and only
/// their ends are still on the way.
const EXECS_LIMIT: Duration = Duration::from_secs(5);
/// The end of a process whose own end never came.
const KILLED: u32 = 128 + 9;
/// Pause between two reports of a full memory: a guest may not flood containerd with them.
const OOM_PAUSE: Duration = Duration::from_secs(1);

/// One task.
pub struct Container {
    /// Its id.
    pub id: String,
    /// Its bundle directory.
    pub bundle: PathBuf,
    /// The machine it lives in.
    pub machine: Arc<dyn Machine>,
    publisher: Publisher,
    state: Mutex<State>,
}

struct State {
    ledger: Ledger,
    processes: BTreeMap<String, Entry>,
    oom_watch: Option<AbortHandle>,
}

/// What the shim keeps of one process besides its phase.
struct Entry {
    stdio: Stdio,
    /// The OCI process object of a further process.
    spec: Option<Vec<u8>>,
    live: Option<Arc<Live>>,
    /// A terminal size that came before the terminal.
    size: Option<(u16, u16)>,
    /// CloseIO came before the process.
    stdin_closed: bool,
    /// One Start or Delete at a time.
    gate: Arc<AsyncMutex<()>>,
    exited: watch::Sender<Option<Exited>>,
}

/// A process in the machine.
pub struct Live {
    /// The process.
    pub process: Arc<dyn GuestProcess>,
    /// Its moving streams.
    pub io: ProcessIo,
}

/// What Start needs of a process that is only known yet.
pub struct Blueprint {
    /// Its streams.
    pub stdio: Stdio,
    /// Its OCI process object.
    pub spec: Option<Vec<u8>>,
}

/// What State tells.
pub struct Snapshot {
    /// Where the process is.
    pub phase: Phase,
    /// Its streams.
    pub stdio: Stdio,
    /// Its pid; 0 for a further process that does not run yet.
    pub pid: u32,
}

impl Container {
    /// A task whose first process is about to be attached.
    pub fn new(
        id: &str,
        bundle: &Path,
        machine: Arc<dyn Machine>,
        publisher: Publisher,
        stdio: Stdio,
    ) -> Arc<Self> {
        let state = State {
            ledger: Ledger::new(id, machine.pid()),
            processes: BTreeMap::from([(String::new(), Entry::new(stdio, None))]),
            oom_watch: None,
        };
        let container = Arc::new(Self {
            id: id.to_owned(),
            bundle: bundle.to_owned(),
            machine,
            publisher,
            state: Mutex::new(state),
        });
        let watch = tokio::spawn(watch_memory(container.clone())).abort_handle();
        container.lock().oom_watch = Some(watch);
        container
    }

    /// One step in the ledger, and everything that follows from it at once: the events in their
    /// order, the file that outlives us, the waiters.
    pub fn advance(
        &self,
        step: impl FnOnce(&mut Ledger) -> Result<Vec<Event>, IllegalMove>,
    ) -> Result<(), IllegalMove> {
        self.step(&mut self.lock(), step)
    }

    /// A look into the ledger.
    pub fn look<T>(&self, at: impl FnOnce(&Ledger) -> T) -> T {
        at(&self.lock().ledger)
    }

    /// Leaves in the bundle what `delete` needs if the shim dies.
    pub fn save(&self, pid: u32, exited: Option<Exited>) {
        let exit = exited.map(Into::into);
        if let Err(error) = (TaskState { pid, exit }).save(&self.bundle) {
            // containerd removes bundles under our feet when it gives up on a task.
            let error = cube_runtime::error::chain(&error);
            tracing::warn!(error, "the task's state is not saved");
        }
    }

    /// Makes a further process known.
    pub fn add_exec(&self, exec: &str, stdio: Stdio, spec: Vec<u8>) -> Result<(), IllegalMove> {
        let mut state = self.lock();
        self.step(&mut state, |ledger| ledger.add_exec(exec))?;
        let entry = Entry::new(stdio, Some(spec));
        state.processes.insert(exec.to_owned(), entry);
        Ok(())
    }

    /// Forgets a further process.
    pub fn forget_exec(&self, exec: &str) {
        let mut state = self.lock();
        state.ledger.forget_exec(exec);
        state.processes.remove(exec);
    }

    /// Connects a process with its streams and waits for its end in the background.
    pub fn attach(self: &Arc<Self>, exec: &str, spawned: Spawned, opened: Opened) -> Arc<Live> {
        let (machine, id) = (self.machine.clone(), self.id.clone());
        let probe = move || {
            let (machine, id) = (machine.clone(), id.clone());
            async move { machine.answers(&id).await }.boxed()
        };
        let live = Arc::new(Live {
            process: spawned.process,
            io: opened.attach(spawned.streams, Arc::new(probe)),
        });
        if let Some(entry) = self.lock().processes.get_mut(exec) {
            if entry.stdin_closed {
                live.io.close_stdin();
            }
            entry.live = Some(live.clone());
        }
        tokio::spawn(watch_process(self.clone(), exec.to_owned(), live.clone()));
        live
    }

    /// Waits for the end of a process, from before its start until it is deleted.
    pub async fn wait(&self, exec: &str) -> Result<Exited, TaskError> {
        let mut exited = self.entry(exec, |entry| entry.exited.subscribe())?;
        match exited.wait_for(Option::is_some).await.as_deref() {
            Ok(Some(exited)) => Ok(*exited),
            Ok(None) | Err(_) => Err(TaskError::DeletedBeforeEnd {
                id: self.id.clone(),
                exec: exec.to_owned(),
            }),
        }
    }

    /// The lock that Start and Delete of one process share.
    pub fn gate(&self, exec: &str) -> Result<Arc<AsyncMutex<()>>, IllegalMove> {
        self.entry(exec, |entry| entry.gate.clone())
    }

    /// A process that is in the machine; none for one that is only known.
    pub fn live(&self, exec: &str) -> Result<Option<Arc<Live>>, IllegalMove> {
        self.entry(exec, |entry| entry.live.clone())
    }

    /// What Start needs.
    pub fn blueprint(&self, exec: &str) -> Result<Blueprint, IllegalMove> {
        self.entry(exec, |entry| Blueprint {
            stdio: entry.stdio.clone(),
            spec: entry.spec.clone(),
        })
    }

    /// What State tells.
    pub fn snapshot(&self, exec: &str) -> Result<Snapshot, IllegalMove> {
        let (phase, pid) = self.look(|ledger| Ok((ledger.phase(exec)?, ledger.pid())))?;
        let known_only = !exec.is_empty() && matches!(phase, Phase::Created | Phase::Starting);
        Ok(Snapshot {
            phase,
            stdio: self.entry(exec, |entry| entry.stdio.clone())?,
            pid: if known_only { 0 } else { pid },
        })
    }

    /// Whether a process has a terminal.
    pub fn has_terminal(&self, exec: &str) -> Result<bool, IllegalMove> {
        self.entry(exec, |entry| entry.stdio.terminal)
    }

    /// Keeps a terminal's size until there is a terminal; the process if there is one already.
    pub fn keep_size(
        &self,
        exec: &str,
        size: (u16, u16),
    ) -> Result<Option<Arc<Live>>, IllegalMove> {
        self.entry_mut(exec, |entry| {
            entry.size = Some(size);
            entry.live.clone()
        })
    }

    /// The size kept for a new terminal.
    pub fn kept_size(&self, exec: &str) -> Option<(u16, u16)> {
        self.entry(exec, |entry| entry.size).ok().flatten()
    }

    /// CloseIO, also before there is a process.
    pub fn close_stdin(&self, exec: &str) -> Result<(), IllegalMove> {
        let live = self.entry_mut(exec, |entry| {
            entry.stdin_closed = true;
            entry.live.clone()
        })?;
        if let Some(live) = live {
            live.io.close_stdin();
        }
        Ok(())
    }

    /// The task is going away.
    pub fn retire(&self) {
        if let Some(watch) = self.lock().oom_watch.take() {
            watch.abort();
        }
    }

    fn step(
        &self,
        state: &mut State,
        step: impl FnOnce(&mut Ledger) -> Result<Vec<Event>, IllegalMove>,
    ) -> Result<(), IllegalMove> {
        for event in step(&mut state.ledger)? {
            self.publisher.publish(event);
        }
        for (exec, entry) in &state.processes {
            let Ok(Phase::Stopped(exited)) = state.ledger.phase(exec) else {
                continue;
            };
            let news = |told: &mut Option<Exited>| told.replace(exited).is_none();
            if entry.exited.send_if_modified(news) && exec.is_empty() {
                self.save(state.ledger.pid(), Some(exited));
            }
        }
        Ok(())
    }

    fn entry<T>(&self, exec: &str, read: impl FnOnce(&Entry) -> T) -> Result<T, IllegalMove> {
        self.entry_mut(exec, |entry| read(entry))
    }

    fn entry_mut<T>(
        &self,
        exec: &str,
        change: impl FnOnce(&mut Entry) -> T,
    ) -> Result<T, IllegalMove> {
        match self.lock().processes.get_mut(exec) {
            Some(entry) => Ok(change(entry)),
            None => Err(IllegalMove::UnknownProcess {
                task: self.id.clone(),
                exec: exec.to_owned(),
            }),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entry {
    fn new(stdio: Stdio, spec: Option<Vec<u8>>) -> Self {
        Self {
            stdio,
            spec,
            live: None,
            size: None,
            stdin_closed: false,
            gate: Arc::default(),
            exited: watch::Sender::new(None),
        }
    }
}

/// Tells the end of one process.
async fn watch_process(container: Arc<Container>, exec: String, live: Arc<Live>) {
    let exit = live.process.wait().await;
    let id = &container.id;
    if let Some(machine) = &exit.machine {
        tracing::error!(id, exec, reason = %machine, "the process ended with its machine");
    }
    live.io.process_ended();
    let exited = Exited {
        status: exit.status,
        at: exit.exited_at,
        oom_killed: exit.oom_killed,
    };
    tracing::debug!(id, exec, status = exited.status, "process ended");
    let told = container.advance(|ledger| ledger.ended(&exec, exited));
    debug_assert!(told.is_ok(), "an end is never illegal");
    if exec.is_empty() && container.look(Ledger::end_is_held) {
        tokio::time::sleep(EXECS_LIMIT).await;
        let killed = Exited {
            status: KILLED,
            at: SystemTime::now(),
            oom_killed: false,
        };
        let told = container.advance(|ledger| ledger.end_execs(killed));
        debug_assert!(told.is_ok(), "an end is never illegal");
    }
}

/// Tells each time that memory ran out, until the machine or the container is gone.
async fn watch_memory(container: Arc<Container>) {
    while container.machine.wait_oom(&container.id).await.is_ok() {
        let told = container.advance(Ledger::out_of_memory);
        debug_assert!(told.is_ok(), "running out of memory is never illegal");
        tokio::time::sleep(OOM_PAUSE).await;
    }
}
