// SPDX-License-Identifier: Apache-2.0
//! One process of a container: its streams, signals and end.
//!
//! ```text
//! Sandbox::create_process --> set up, streams connected --start--> runs --> ended --delete--> forgotten
//! ```
//!
//! A task of this module waits for the end from the beginning on, so the end is known to any number of
//! waiters, also after the process was forgotten and after the machine is gone.

mod adopted;

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use cube_protocol::v1::agent::WaitProcessResponse;
use cube_protocol::{Stdio, StreamHello};
use thiserror::Error;
use tokio::net::UnixStream;
use tokio::sync::watch;

use crate::container::Container;
use crate::error::Kind;
use crate::exit::VmmExit;
use crate::guest::{Guest, GuestError, StreamError};
use crate::network::{Network, NetworkError};
use crate::trace;

/// The status of a process that was killed: 128 + SIGKILL.
const KILLED: u32 = 137;

/// The status of a process whose end the guest would not tell, as containerd has it
/// (`UnknownExitStatus`).
const UNKNOWN: u32 = 255;

/// `SIGKILL`.
const SIGKILL: u32 = 9;

/// Which process to create.
#[derive(Clone, Debug, Default)]
pub struct Command {
    /// Its name; empty for the container's first process.
    pub exec_id: String,
    /// The OCI process object as JSON for a further process; none for the first.
    pub process_json: Option<Vec<u8>>,
    /// Whether it gets a terminal. Its output is then all on stdout.
    pub terminal: bool,
    /// Whether it has a standard input; without, it reads the end at once.
    pub stdin: bool,
    /// Whether its standard output is read; without, it goes nowhere.
    pub stdout: bool,
    /// Whether its standard error is read; without, it goes nowhere. False with a terminal.
    pub stderr: bool,
}

/// How a process ended.
#[derive(Clone, Debug)]
pub struct Exit {
    /// 0 to 255; 128 + n for a death by signal n; 137 if the machine ended first.
    pub status: u32,
    /// When, by the host's clock.
    pub exited_at: SystemTime,
    /// The guest's kernel had killed a process of the container for want of memory.
    pub oom_killed: bool,
    /// Set if the machine ended before the process was known to.
    pub machine: Option<VmmExit>,
}

/// A process that was set up: its streams are connected, it runs from [`Process::start`] on.
///
/// Dropping it does nothing to the process; [`Process::delete`] forgets an ended one.
#[derive(Debug)]
pub struct Process {
    guest: Guest,
    network: Arc<Network>,
    container: Arc<Container>,
    exec_id: String,
    pid: u32,
    streams: Streams,
    exit: watch::Receiver<Option<Exit>>,
}

#[derive(Debug)]
struct Streams {
    stdin: Option<UnixStream>,
    stdout: Option<UnixStream>,
    stderr: Option<UnixStream>,
}

impl Process {
    pub(crate) async fn create(
        guest: Guest,
        network: Arc<Network>,
        container: Arc<Container>,
        command: Command,
    ) -> Result<Self, SpawnError> {
        let _stage = trace::stage("process");
        let exec_id = command.exec_id.clone();
        let adopted = container.first().filter(|_| exec_id.is_empty());
        let wanted = match adopted {
            None => command.clone(),
            Some(first) => adopted::check(first, &command)?,
        };
        let pid = match adopted {
            Some(first) => first.pid,
            None => guest
                .create_process(container.id(), command.clone())
                .await
                .map_err(SpawnError::SetUp)?,
        };
        let streams = match Streams::open(&guest, container.id(), &wanted).await {
            Ok(streams) => streams,
            // One that was there before stays: the whole machine goes with it.
            Err(error) if adopted.is_some() => return Err(error),
            Err(error) => {
                abandon(&guest, container.id(), &exec_id).await;
                return Err(error);
            }
        };
        let streams = match adopted {
            None => streams,
            Some(_) => adopted::fit(streams, &command)?,
        };
        let (sender, exit) = watch::channel(None);
        let waiting = wait_for_end(
            guest.clone(),
            container.id().to_owned(),
            exec_id.clone(),
            SystemTime::now(),
        );
        tokio::spawn(async move { sender.send_replace(Some(waiting.await)) });
        Ok(Self {
            guest,
            network,
            container,
            exec_id,
            pid,
            streams,
            exit,
        })
    }

    /// Its process id in the guest's root pid namespace.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// The stream into the process, once. Shutting down its write side is the end of its input.
    pub fn take_stdin(&mut self) -> Option<UnixStream> {
        self.streams.stdin.take()
    }

    /// The stream out of the process, once. Its end comes after the last byte.
    pub fn take_stdout(&mut self) -> Option<UnixStream> {
        self.streams.stdout.take()
    }

    /// The error stream out of the process, once.
    pub fn take_stderr(&mut self) -> Option<UnixStream> {
        self.streams.stderr.take()
    }

    /// Lets it run. What clients put into the sandbox's network namespace until now is the guest's when the
    /// first process of a sandbox runs. For the first process of a container its poststart hooks run too.
    pub async fn start(&self) -> Result<(), StartError> {
        let _stage = trace::stage("start");
        self.network.attach().await.map_err(StartError::Network)?;
        let is_adopted = self.exec_id.is_empty() && self.container.first().is_some();
        let started = match is_adopted {
            true => self.guest.thaw().await,
            false => {
                let id = self.container.id();
                self.guest.start_process(id, &self.exec_id).await
            }
        };
        started.map_err(StartError::Guest)?;
        if self.exec_id.is_empty() {
            self.container.started().await;
        }
        Ok(())
    }

    /// Sends a signal, to every process of the container if `all`.
    pub async fn signal(&self, signal: u32, all: bool) -> Result<(), GuestError> {
        self.guest
            .signal_process(self.container.id(), &self.exec_id, signal, all)
            .await
    }

    /// Tells the terminal its size.
    pub async fn resize(&self, columns: u16, rows: u16) -> Result<(), GuestError> {
        self.guest
            .resize_terminal(self.container.id(), &self.exec_id, columns, rows)
            .await
    }

    /// Waits for its end. Any number of waiters, at any time, also after [`Process::delete`]
    /// and after the end of the machine.
    pub async fn wait(&self) -> Exit {
        let mut exit = self.exit.clone();
        let ended = exit.wait_for(Option::is_some).await;
        // The waiting task goes away without a word only when the async runtime is being shut down.
        ended
            .ok()
            .and_then(|exit| exit.clone())
            .unwrap_or_else(|| Exit::of(UNKNOWN))
    }

    /// Forgets an ended process; fails while it runs. Idempotent, and nothing after the end of the
    /// machine.
    pub async fn delete(&self) -> Result<(), GuestError> {
        match self
            .guest
            .delete_process(self.container.id(), &self.exec_id)
            .await
        {
            Err(GuestError::Ended { .. }) => Ok(()),
            other => other,
        }
    }
}

impl Streams {
    async fn open(guest: &Guest, id: &str, wanted: &Command) -> Result<Self, SpawnError> {
        let open = async |stream, wanted_one: bool| {
            if !wanted_one {
                return Ok(None);
            }
            let hello = StreamHello {
                container_id: id.to_owned(),
                exec_id: wanted.exec_id.clone(),
                stream,
            };
            let opened = guest.open_stream(hello).await;
            opened
                .map(Some)
                .map_err(|source| SpawnError::Stream { stream, source })
        };
        let (stdin, stdout, stderr) = tokio::try_join!(
            open(Stdio::Stdin, wanted.stdin),
            open(Stdio::Stdout, wanted.stdout),
            open(Stdio::Stderr, wanted.stderr && !wanted.terminal),
        )?;
        Ok(Self {
            stdin,
            stdout,
            stderr,
        })
    }
}

impl Exit {
    fn of(status: u32) -> Self {
        Self {
            status,
            exited_at: SystemTime::now(),
            oom_killed: false,
            machine: None,
        }
    }

    /// What the guest said, made possible: a status is a byte, and an end is after the beginning and
    /// not in the future.
    fn from_guest(answer: &WaitProcessResponse, created_at: SystemTime) -> Self {
        let said = UNIX_EPOCH.checked_add(Duration::from_nanos(answer.exited_at_ns));
        let now = SystemTime::now();
        Self {
            status: answer.exit_status.min(UNKNOWN),
            exited_at: said.unwrap_or(now).max(created_at).min(now),
            oom_killed: answer.oom_killed,
            machine: None,
        }
    }
}

async fn wait_for_end(guest: Guest, id: String, exec_id: String, created_at: SystemTime) -> Exit {
    match guest.wait_process(&id, &exec_id).await {
        Ok(answer) => Exit::from_guest(&answer, created_at),
        Err(GuestError::Ended { exit, .. }) => Exit {
            machine: Some(exit),
            ..Exit::of(KILLED)
        },
        Err(error) => {
            tracing::warn!(
                container = id,
                exec_id,
                error = %crate::error::chain(&error),
                "the end of a process is not known"
            );
            Exit::of(UNKNOWN)
        }
    }
}

/// Ends a process that will never be started.
async fn abandon(guest: &Guest, id: &str, exec_id: &str) {
    let ended = async {
        guest.signal_process(id, exec_id, SIGKILL, false).await?;
        guest.wait_process(id, exec_id).await?;
        guest.delete_process(id, exec_id).await
    };
    if let Err(error) = ended.await {
        tracing::debug!(container = id, exec_id, error = %crate::error::chain(&error), "abandoned");
    }
}

/// Why a process does not run.
#[derive(Debug, Error)]
pub enum StartError {
    /// The sandbox has no network yet and could not be given one.
    #[error("the sandbox's network could not be set up")]
    Network(#[source] NetworkError),
    /// The guest did not let it run.
    #[error(transparent)]
    Guest(GuestError),
}

impl StartError {
    /// The class of this failure.
    pub fn kind(&self) -> Kind {
        match self {
            StartError::Network(source) => source.kind(),
            StartError::Guest(source) => source.kind(),
        }
    }
}

/// Why a process could not be created.
#[derive(Debug, Error)]
pub enum SpawnError {
    /// No such container.
    #[error("the sandbox has no container {id:?}")]
    UnknownContainer {
        /// The name asked for.
        id: String,
    },
    /// The agent refused it or could not be asked.
    #[error("the process could not be set up")]
    SetUp(#[source] GuestError),
    /// A stream could not be opened.
    #[error("{stream:?} of the process could not be connected")]
    Stream {
        /// Which.
        stream: Stdio,
        /// Why.
        source: StreamError,
    },
    /// The process that goes on is of another kind.
    #[error("the process was saved {}, and cannot go on {}", words(*saved), words(!*saved))]
    Terminal {
        /// Whether it has a terminal.
        saved: bool,
    },
    /// A stream that leads nowhere could not be made.
    #[error("a stream of the process could not be made")]
    Nowhere(#[source] std::io::Error),
    /// This program is shutting down.
    #[error("the process was given up because this program is ending")]
    Abandoned,
}

fn words(terminal: bool) -> &'static str {
    match terminal {
        true => "on a terminal",
        false => "without a terminal",
    }
}

impl SpawnError {
    /// The class of this failure.
    pub fn kind(&self) -> Kind {
        match self {
            SpawnError::UnknownContainer { .. } => Kind::NotFound,
            SpawnError::SetUp(source) => source.kind(),
            SpawnError::Stream { .. } | SpawnError::Nowhere(_) => Kind::Internal,
            SpawnError::Terminal { .. } => Kind::InvalidArgument,
            SpawnError::Abandoned => Kind::Unavailable,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_guest_says_of_an_end_is_made_possible() {
        let created = SystemTime::now() - Duration::from_secs(60);
        let exit = |exit_status, exited_at_ns| {
            let answer = WaitProcessResponse {
                exit_status,
                exited_at_ns,
                ..Default::default()
            };
            Exit::from_guest(&answer, created)
        };
        assert_eq!(exit(143, 0).status, 143);
        assert_eq!(exit(u32::MAX, 0).status, 255);
        assert_eq!(exit(0, 0).exited_at, created);
        assert!(exit(0, u64::MAX).exited_at <= SystemTime::now());
        let between = created + Duration::from_secs(5);
        let ns = between.duration_since(UNIX_EPOCH).unwrap().as_nanos();
        assert_eq!(exit(0, ns.try_into().unwrap()).exited_at, between);
    }
}
