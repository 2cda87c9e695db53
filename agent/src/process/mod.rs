// SPDX-License-Identifier: Apache-2.0
//! One process of a container: the first one, or one executed later.
//!
//! ```text
//! create -> Created -- start --> Running -- death --> Ended
//!              \---------------- death --------------/
//! ```
//! [`spawn`] brings it to life, [`reaper`] notices its end, [`streams`] carries its bytes. The container
//! decides what it is made of (`crate::container`).

mod reaper;
mod spawn;
mod streams;

use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Instant, SystemTime};

use tokio::sync::watch;

pub use reaper::{Death, Reaper};
pub use spawn::{SpawnError, Stage, Surroundings};
pub use streams::{AttachError, Connection, StreamEnd, Streams, Wanted};

use crate::cause::Cause;
use crate::cgroup::Cgroup;
use crate::stage::{Plan, WindowSize, resize};
use crate::sys;

/// How a process ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Exit {
    /// 0 to 255, or 128 plus the number of the signal that killed it.
    pub status: u32,
    /// The signal that killed it; 0: none, it exited.
    pub signal: u32,
    /// When.
    pub at: SystemTime,
    /// The kernel had killed a process of the container for want of memory by then.
    pub oom_killed: bool,
}

/// A live or ended process.
#[derive(Debug)]
pub struct Process {
    pid: u32,
    /// Taken by the one who starts it.
    stage: Mutex<Option<Stage>>,
    exit: watch::Receiver<Option<Exit>>,
    streams: Arc<Streams>,
    terminal: Option<OwnedFd>,
}

impl Process {
    /// Sets a process up to the point just before its program.
    pub async fn create(
        reaper: &Reaper,
        plan: &Plan,
        surroundings: Surroundings<'_>,
        cgroup: &Arc<Cgroup>,
        wanted: Wanted,
    ) -> Result<Self, SpawnError> {
        let begun = Instant::now();
        let failed = |source: std::io::Error| SpawnError::Prepare {
            what: "streams",
            source: source.into(),
        };
        let (streams, theirs) = if plan.terminal {
            Streams::nulls().map_err(failed)?
        } else {
            Streams::pipes(wanted).map_err(failed)?
        };
        let (publish, exit) = watch::channel(None);
        let watched = Arc::clone(cgroup);
        let on_death = move |death: Death| {
            // Read at once: later kills are not this process's.
            let oom_killed = watched.oom_kills().is_ok_and(|kills| kills > 0);
            publish.send_replace(Some(Exit {
                status: death.status,
                signal: death.signal,
                at: death.at,
                oom_killed,
            }));
        };
        let (pid, stage) = Stage::spawn(reaper, plan, &surroundings, &theirs, on_death)?;
        let born = begun.elapsed();
        // Else a reader would never see the end of the process's output.
        drop(theirs);
        let pid = pid.as_raw_pid().cast_unsigned();
        let mut process = Self {
            pid,
            stage: Mutex::new(None),
            exit,
            streams: Arc::new(streams),
            terminal: None,
        };
        match stage.ready().await {
            Ok(None) => {}
            Ok(Some(master)) => {
                process
                    .streams
                    .use_terminal(&master, wanted)
                    .map_err(failed)?;
                process.terminal = Some(master);
            }
            Err(error) => return Err(process.explain(error).await),
        }
        process.stage = Mutex::new(Some(stage));
        tracing::info!(pid, ?born, ready = ?begun.elapsed(), "process set up");
        Ok(process)
    }

    /// Lets it run its program.
    pub async fn start(&self) -> Result<(), StartError> {
        let waiting = self.streams.waiting();
        if !waiting.is_empty() {
            return Err(StartError::NotConnected {
                streams: waiting.join(", "),
            });
        }
        let stage = self.take_stage().ok_or(StartError::Started)?;
        let begun = Instant::now();
        match stage.go().await {
            Ok(()) => {
                tracing::info!(pid = self.pid, elapsed = ?begun.elapsed(), "process started");
                Ok(())
            }
            Err(error) => Err(StartError::Program(self.explain(error).await)),
        }
    }

    /// In the machine's pid namespace.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Its streams, for connections to be joined with.
    pub fn streams(&self) -> &Arc<Streams> {
        &self.streams
    }

    /// Whether it has a terminal.
    pub fn has_terminal(&self) -> bool {
        self.terminal.is_some()
    }

    /// Whether it has ended; then its number means nothing any more.
    pub fn has_ended(&self) -> bool {
        self.exit.borrow().is_some()
    }

    /// Waits for its end, or looks back at it.
    pub async fn wait(&self) -> Exit {
        let mut exit = self.exit.clone();
        loop {
            if let Some(exit) = *exit.borrow_and_update() {
                return exit;
            }
            if exit.changed().await.is_err() {
                // The reaper lives as long as the agent.
                std::future::pending::<()>().await;
            }
        }
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: u32) -> Result<(), SignalError> {
        if self.has_ended() {
            return Err(SignalError::Ended);
        }
        let is_waiting = self
            .stage
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .is_some();
        // A stage that waits for its start may be the first process of its namespace, which the kernel
        // shields from signals without a handler. What would end a usual process must end it too.
        let signal = if is_waiting && ends_by_default(signal) {
            SIGKILL
        } else {
            signal
        };
        sys::kill(self.pid, signal).map_err(|error| SignalError::Kill {
            signal,
            source: error.into(),
        })
    }

    /// Sends a signal to the group that it leads: a stage made itself the leader of a session.
    pub fn signal_group(&self, signal: u32) -> Result<(), SignalError> {
        if self.has_ended() {
            return Err(SignalError::Ended);
        }
        sys::kill_group(self.pid, signal).map_err(|error| SignalError::Kill {
            signal,
            source: error.into(),
        })
    }

    /// Tells its terminal how large it is.
    pub fn resize(&self, size: WindowSize) -> Result<(), ResizeError> {
        let terminal = self.terminal.as_ref().ok_or(ResizeError::NoTerminal)?;
        resize(terminal, size).map_err(|error| ResizeError::Ioctl(error.into()))
    }

    fn take_stage(&self) -> Option<Stage> {
        self.stage
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
    }

    /// Adds what is known about a stage that ended without a word, once it is buried.
    async fn explain(&self, error: SpawnError) -> SpawnError {
        let exit = self.wait().await;
        match error {
            SpawnError::Killed { .. } if exit.oom_killed => SpawnError::Killed {
                hint: spawn::TOO_SMALL,
            },
            other => other,
        }
    }
}

/// A process that cannot be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Its output would have nowhere to go.
    #[error("the process has no connection for its {streams} yet")]
    NotConnected {
        /// Which streams.
        streams: String,
    },
    /// A process starts once.
    #[error("the process has been started already")]
    Started,
    /// execve failed.
    #[error(transparent)]
    Program(SpawnError),
}

/// A signal that did not arrive.
#[derive(Debug, thiserror::Error)]
pub enum SignalError {
    /// There is nobody any more.
    #[error("process already finished")]
    Ended,
    /// kill(2).
    #[error("cannot send signal {signal}")]
    Kill {
        /// Its number.
        signal: u32,
        /// The kernel's answer.
        #[source]
        source: Cause,
    },
}

/// A terminal that was not resized.
#[derive(Debug, thiserror::Error)]
pub enum ResizeError {
    /// The process has pipes.
    #[error("the process has no terminal")]
    NoTerminal,
    /// The ioctl failed.
    #[error("cannot resize the terminal")]
    Ioctl(#[source] Cause),
}

/// `SIGKILL` of signal(7).
pub const SIGKILL: u32 = 9;

/// signal(7): everything but the existence check, SIGCHLD, SIGCONT, the four stops, SIGURG and SIGWINCH.
fn ends_by_default(signal: u32) -> bool {
    !matches!(signal, 0 | 17..=23 | 28)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_that_a_process_survives_are_not_turned_into_a_kill() {
        use libc::*;
        for signal in [SIGTERM, SIGINT, SIGHUP, SIGUSR1, SIGKILL, SIGPWR, 34 + 3] {
            assert!(ends_by_default(signal.cast_unsigned()), "{signal}");
        }
        for signal in [
            SIGCHLD, SIGCONT, SIGSTOP, SIGTSTP, SIGTTIN, SIGTTOU, SIGURG, SIGWINCH,
        ] {
            assert!(!ends_by_default(signal.cast_unsigned()), "{signal}");
        }
    }
}
