// SPDX-License-Identifier: Apache-2.0
//! What a task's processes may do next, and in which order containerd is told. Pure bookkeeping: it
//! reads no clock and starts nothing; the live halves are in [`super::container`].
//!
//! ```text
//! Created --begin_start--> Starting --started--> Running <--begin_pause, paused--> Paused
//!    |                        |                     |          (the first process only)  |
//!    +------ ended -----------+ start_failed        +------------- ended -----------------+--> Stopped
//! ```
//!
//! Two rules hold an end back (containerd's runtime v2 README, "Events"):
//! * no process may end before its start was told, even if it did: in `Starting` an end waits;
//! * the first process is the last to end: its end waits for every further process that runs.
//!
//! `Stopped` means *told*: State, Wait and the exit event never disagree.

use std::collections::BTreeMap;
use std::time::SystemTime;

use thiserror::Error;

use crate::events::Event;

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exited {
    /// 0 to 255; 128 + n for a death by signal n.
    pub status: u32,
    /// When.
    pub at: SystemTime,
    /// Whether the guest's kernel had killed a process of the task for want of memory.
    pub oom_killed: bool,
}

/// Where a process is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Set up (the first process) or only known (a further one).
    Created,
    /// Asked to run.
    Starting,
    /// Runs.
    Running,
    /// Runs, and is being frozen.
    Pausing,
    /// Frozen.
    Paused,
    /// Ended, and containerd was told.
    Stopped(Exited),
}

/// A request that does not fit the phase.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum IllegalMove {
    /// No such process.
    #[error("task {task:?} has no process {exec:?}")]
    UnknownProcess {
        /// The task.
        task: String,
        /// The process.
        exec: String,
    },
    /// The name is taken.
    #[error("task {task:?} has a process {exec:?} already")]
    ProcessExists {
        /// The task.
        task: String,
        /// The process.
        exec: String,
    },
    /// Too late.
    #[error("{process} has ended")]
    Ended {
        /// The process.
        process: String,
    },
    /// Too early, or not now.
    #[error("{process} cannot be {verb} while it is {phase}")]
    NotNow {
        /// The process.
        process: String,
        /// What was asked.
        verb: &'static str,
        /// Where it is.
        phase: &'static str,
    },
}

/// The processes of one task.
#[derive(Debug)]
pub struct Ledger {
    task: String,
    pid: u32,
    init: Entry,
    execs: BTreeMap<String, Entry>,
    oom_told: bool,
}

#[derive(Debug)]
struct Entry {
    phase: Phase,
    /// Its end, while that may not be told yet.
    held: Option<Exited>,
}

type Told = Result<Vec<Event>, IllegalMove>;

impl Ledger {
    /// A task whose first process is set up. The pid is the machine's for every process.
    pub fn new(task: &str, pid: u32) -> Self {
        Self {
            task: task.to_owned(),
            pid,
            init: Entry::new(),
            execs: BTreeMap::new(),
            oom_told: false,
        }
    }

    /// The pid that all processes of the task are known by.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Where a process is; the empty name is the first process.
    pub fn phase(&self, exec: &str) -> Result<Phase, IllegalMove> {
        self.entry(exec).map(|entry| entry.phase)
    }

    /// The further processes that run.
    pub fn running_execs(&self) -> impl Iterator<Item = &str> {
        let running = self
            .execs
            .iter()
            .filter(|(_, entry)| entry.phase == Phase::Running);
        running.map(|(exec, _)| exec.as_str())
    }

    /// A further process is announced.
    pub fn add_exec(&mut self, exec: &str) -> Told {
        // The empty name is the first process's.
        if exec.is_empty() || self.execs.contains_key(exec) {
            return Err(IllegalMove::ProcessExists {
                task: self.task.clone(),
                exec: exec.to_owned(),
            });
        }
        self.may_host()?;
        self.execs.insert(exec.to_owned(), Entry::new());
        Ok(vec![Event::ExecAdded {
            task: self.task.clone(),
            exec: exec.to_owned(),
        }])
    }

    /// A process is about to run.
    pub fn begin_start(&mut self, exec: &str) -> Told {
        let entry = self.entry(exec)?;
        if entry.phase != Phase::Created || entry.held.is_some() {
            return Err(self.not_now(exec, "started"));
        }
        if !exec.is_empty() {
            self.may_host()?;
        }
        self.entry_mut(exec)?.phase = Phase::Starting;
        Ok(vec![])
    }

    /// It runs, or has even ended by now.
    pub fn started(&mut self, exec: &str) -> Told {
        if self.entry(exec)?.phase != Phase::Starting {
            return Err(self.not_now(exec, "said to run"));
        }
        self.entry_mut(exec)?.phase = Phase::Running;
        let (task, pid) = (self.task.clone(), self.pid);
        let mut events = vec![match exec {
            "" => Event::Started { task, pid },
            exec => Event::ExecStarted {
                task,
                exec: exec.to_owned(),
                pid,
            },
        }];
        self.tell_ends(&mut events);
        Ok(events)
    }

    /// It could not be made to run. The first process was there and is no more: that is told. A
    /// further one never was, which the failed Start itself says.
    pub fn start_failed(&mut self, exec: &str, exited: Exited) -> Told {
        let entry = self.entry_mut(exec)?;
        let exited = entry.held.take().unwrap_or(exited);
        let mut events = vec![];
        if exec.is_empty() {
            entry.phase = Phase::Created;
            entry.held = Some(exited);
        } else {
            entry.phase = Phase::Stopped(exited);
        }
        self.tell_ends(&mut events);
        Ok(events)
    }

    /// A process ended. Twice is once; so is an unknown one, which was forgotten meanwhile.
    pub fn ended(&mut self, exec: &str, exited: Exited) -> Told {
        let mut events = vec![];
        if let Ok(entry) = self.entry_mut(exec) {
            // Nothing of a further process is in the machine before its start.
            let absent = entry.phase == Phase::Created && !exec.is_empty();
            if absent || matches!(entry.phase, Phase::Stopped(_)) {
                return Ok(events);
            }
            entry.held.get_or_insert(exited);
            self.tell_ends(&mut events);
        }
        Ok(events)
    }

    /// The first process ended some time ago and no further one can be alive any more, whatever the
    /// guest says: they all end like this.
    pub fn end_execs(&mut self, exited: Exited) -> Told {
        let mut events = vec![];
        if self.init.held.is_some() {
            for entry in self.execs.values_mut().filter(|entry| entry.is_alive()) {
                entry.held.get_or_insert(exited);
            }
            self.tell_ends(&mut events);
        }
        Ok(events)
    }

    /// Whether the first process has ended but its end is still held back.
    pub fn end_is_held(&self) -> bool {
        self.init.held.is_some()
    }

    /// A process of the task was killed for want of memory.
    pub fn out_of_memory(&mut self) -> Told {
        if matches!(self.init.phase, Phase::Stopped(_)) {
            return Ok(vec![]);
        }
        self.oom_told = true;
        Ok(vec![Event::OutOfMemory {
            task: self.task.clone(),
        }])
    }

    /// The task is about to be frozen.
    pub fn begin_pause(&mut self) -> Told {
        self.turn(Phase::Running, Phase::Pausing, "paused")
    }

    /// It is frozen, or could not be.
    pub fn paused(&mut self, done: bool) -> Told {
        let (phase, events) = match done {
            true => (
                Phase::Paused,
                vec![Event::Paused {
                    task: self.task.clone(),
                }],
            ),
            false => (Phase::Running, vec![]),
        };
        // It may have ended meanwhile.
        Ok(
            match self.turn(Phase::Pausing, phase, "said to be paused") {
                Ok(_) => events,
                Err(_) => vec![],
            },
        )
    }

    /// Whether it may be thawed.
    pub fn may_resume(&self) -> Result<(), IllegalMove> {
        match self.init.phase {
            Phase::Paused => Ok(()),
            Phase::Stopped(_) => Err(self.has_ended("")),
            _ => Err(self.not_now("", "resumed")),
        }
    }

    /// It goes on.
    pub fn resumed(&mut self) -> Told {
        Ok(match self.turn(Phase::Paused, Phase::Running, "resumed") {
            Ok(_) => vec![Event::Resumed {
                task: self.task.clone(),
            }],
            Err(_) => vec![],
        })
    }

    /// Whether a signal can reach it.
    pub fn may_signal(&self, exec: &str) -> Result<(), IllegalMove> {
        let entry = self.entry(exec)?;
        match entry.phase {
            Phase::Stopped(_) => Err(self.has_ended(exec)),
            _ if entry.held.is_some() => Err(self.has_ended(exec)),
            // Nothing of it is in the machine yet.
            Phase::Created if !exec.is_empty() => Err(self.refuse_signal(exec)),
            _ => Ok(()),
        }
    }

    /// Why a signal cannot reach it now.
    pub fn refuse_signal(&self, exec: &str) -> IllegalMove {
        self.not_now(exec, "signalled")
    }

    /// Whether it may be forgotten, and how it ended. A first process that never ran is to be killed
    /// before.
    pub fn may_delete(&self, exec: &str) -> Result<Option<Exited>, IllegalMove> {
        match self.phase(exec)? {
            Phase::Created => Ok(None),
            Phase::Stopped(exited) => Ok(Some(exited)),
            _ => Err(self.not_now(exec, "deleted")),
        }
    }

    /// A further process is forgotten.
    pub fn forget_exec(&mut self, exec: &str) {
        self.execs.remove(exec);
    }

    fn tell_ends(&mut self, events: &mut Vec<Event>) {
        let mut told = Vec::new();
        for (exec, entry) in &mut self.execs {
            if let Some(exited) = entry.take_end() {
                told.push((exec.clone(), exited));
            }
        }
        if !self.execs.values().any(Entry::is_alive)
            && let Some(exited) = self.init.take_end()
        {
            told.push((String::new(), exited));
        }
        for (exec, exited) in told {
            if exited.oom_killed && !self.oom_told {
                self.oom_told = true;
                let task = self.task.clone();
                events.push(Event::OutOfMemory { task });
            }
            events.push(Event::Ended {
                task: self.task.clone(),
                exec,
                pid: self.pid,
                exited,
            });
        }
    }

    fn turn(&mut self, from: Phase, to: Phase, verb: &'static str) -> Told {
        if self.init.phase == from && self.init.held.is_none() {
            self.init.phase = to;
            return Ok(vec![]);
        }
        Err(match self.is_over() {
            true => self.has_ended(""),
            false => self.not_now("", verb),
        })
    }

    /// Whether a further process may live beside the first.
    fn may_host(&self) -> Result<(), IllegalMove> {
        match self.init.phase {
            _ if self.is_over() => Err(self.has_ended("")),
            Phase::Pausing | Phase::Paused => Err(self.not_now("", "given a process")),
            _ => Ok(()),
        }
    }

    fn is_over(&self) -> bool {
        self.init.held.is_some() || matches!(self.init.phase, Phase::Stopped(_))
    }

    fn entry(&self, exec: &str) -> Result<&Entry, IllegalMove> {
        match exec {
            "" => Ok(&self.init),
            exec => self.execs.get(exec).ok_or_else(|| self.unknown(exec)),
        }
    }

    fn entry_mut(&mut self, exec: &str) -> Result<&mut Entry, IllegalMove> {
        let unknown = self.unknown(exec);
        match exec {
            "" => Ok(&mut self.init),
            exec => self.execs.get_mut(exec).ok_or(unknown),
        }
    }

    fn unknown(&self, exec: &str) -> IllegalMove {
        IllegalMove::UnknownProcess {
            task: self.task.clone(),
            exec: exec.to_owned(),
        }
    }

    fn has_ended(&self, exec: &str) -> IllegalMove {
        IllegalMove::Ended {
            process: self.name(exec),
        }
    }

    fn not_now(&self, exec: &str, verb: &'static str) -> IllegalMove {
        IllegalMove::NotNow {
            process: self.name(exec),
            verb,
            phase: self.phase(exec).map_or("unknown", Phase::name),
        }
    }

    fn name(&self, exec: &str) -> String {
        match exec {
            "" => format!("task {:?}", self.task),
            exec => format!("process {exec:?} of task {:?}", self.task),
        }
    }
}

impl Entry {
    fn new() -> Self {
        Self {
            phase: Phase::Created,
            held: None,
        }
    }

    fn is_alive(&self) -> bool {
        !matches!(self.phase, Phase::Created | Phase::Stopped(_))
    }

    /// Its end, if it is time to tell it.
    fn take_end(&mut self) -> Option<Exited> {
        if self.phase == Phase::Starting {
            return None;
        }
        let exited = self.held.take()?;
        self.phase = Phase::Stopped(exited);
        Some(exited)
    }
}

impl Phase {
    fn name(self) -> &'static str {
        match self {
            Phase::Created => "created",
            Phase::Starting => "starting",
            Phase::Running => "running",
            Phase::Pausing => "being paused",
            Phase::Paused => "paused",
            Phase::Stopped(_) => "stopped",
        }
    }
}

#[cfg(test)]
mod tests;
