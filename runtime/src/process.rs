// SPDX-License-Identifier: Apache-2.0
//! One process of a container: its streams, signals and end.

use std::time::SystemTime;

use thiserror::Error;
use tokio::net::UnixStream;

use crate::error::Kind;
use crate::exit::VmmExit;
use crate::guest::GuestError;

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
    pid: u32,
    stdin: Option<UnixStream>,
    stdout: Option<UnixStream>,
    stderr: Option<UnixStream>,
}

impl Process {
    /// Its process id in the guest's root pid namespace.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// The stream into the process, once. Shutting down its write side is the end of its input;
    /// with a terminal, dropping it leaves the terminal open.
    pub fn take_stdin(&mut self) -> Option<UnixStream> {
        self.stdin.take()
    }

    /// The stream out of the process, once. Its end comes after the last byte.
    pub fn take_stdout(&mut self) -> Option<UnixStream> {
        self.stdout.take()
    }

    /// The error stream out of the process, once.
    pub fn take_stderr(&mut self) -> Option<UnixStream> {
        self.stderr.take()
    }

    /// Lets it run. For the first process the container's poststart hooks run too.
    pub async fn start(&self) -> Result<(), GuestError> {
        std::future::pending().await
    }

    /// Sends a signal, to every process of the container if `all`.
    pub async fn signal(&self, signal: u32, all: bool) -> Result<(), GuestError> {
        let _unused = (signal, all);
        std::future::pending().await
    }

    /// Tells the terminal its size.
    pub async fn resize(&self, columns: u16, rows: u16) -> Result<(), GuestError> {
        let _unused = (columns, rows);
        std::future::pending().await
    }

    /// Waits for its end. Any number of waiters, at any time, also after [`Process::delete`]
    /// and after the end of the machine.
    pub async fn wait(&self) -> Exit {
        std::future::pending().await
    }

    /// Forgets an ended process; fails while it runs. Idempotent.
    pub async fn delete(&self) -> Result<(), GuestError> {
        std::future::pending().await
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
    #[error("process {exec_id:?} of container {id:?} could not be set up")]
    SetUp {
        /// The container.
        id: String,
        /// The process; empty: the first.
        exec_id: String,
        /// What the agent said.
        source: GuestError,
    },
}

impl SpawnError {
    /// The class of this failure.
    pub fn kind(&self) -> Kind {
        match self {
            SpawnError::UnknownContainer { .. } => Kind::NotFound,
            SpawnError::SetUp { source, .. } => source.kind(),
        }
    }
}
