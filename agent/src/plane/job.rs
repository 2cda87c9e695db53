// SPDX-License-Identifier: Apache-2.0
//! One job: a process, its input, and those who hold its output.
//!
//! ```text
//! pipe or terminal --> run --> holder's queue --> its connection
//!                        \---> dropped, while nobody holds it
//! ```
//! Holders come and go. The slowest of them sets the pace, as a pipe's reader does; one that goes away is
//! noticed by its closed queue. The end is told when the process has ended and its output too, or when what
//! still holds the output (a daemon that it left behind) has been quiet for a while.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use cube_protocol::v1::plane as wire;
use cube_protocol::{FrameKind, Stdio};
use rustix::io::{read, write};
use tokio::io::Interest;
use tokio::io::unix::AsyncFdReadyGuard;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use super::fault::PlaneFault;
use crate::error::AgentError;
use crate::process::{AttachError, Exit, Process, SIGKILL, StreamEnd};
use crate::stage::WindowSize;

/// Bytes that are read at once: what a pipe holds.
const CHUNK: usize = 64 * 1024;

/// Chunks that wait for one holder: one that is sent, one that is next.
const QUEUE: usize = 2;

/// Most who hold one job's output; each has a queue.
pub const MAX_HOLDERS: usize = 16;

/// How long an output that somebody else keeps open has to be silent after the job's end until that is told.
const QUIET: Duration = Duration::from_millis(500);

/// A piece of output, the same for all holders.
pub type Chunk = (FrameKind, Arc<[u8]>);

/// The job.
#[derive(Debug)]
pub struct Job {
    /// As the container sees it.
    pub pid: u32,
    /// Empty: none.
    pub tag: String,
    has_terminal: bool,
    process: Process,
    input: tokio::sync::Mutex<Option<StreamEnd>>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Only while it runs: nobody asks later, and it may be long.
    config: wire::JobConfig,
    holders: Vec<mpsc::Sender<Chunk>>,
    end: Option<Exit>,
}

/// The agent's ends of a job's output.
pub struct Outputs {
    output: Source,
    errors: Source,
}

struct Source {
    kind: FrameKind,
    /// None: it has ended.
    fd: Option<StreamEnd>,
}

impl Job {
    /// From a process that was set up and not started, whose streams nobody has taken.
    pub fn of(
        process: Process,
        pid: u32,
        request: &wire::StartJob,
    ) -> Result<(Arc<Self>, Outputs), AttachError> {
        let has_terminal = request.terminal.is_some();
        let streams = process.streams();
        let input = match request.stdin || has_terminal {
            true => Some(streams.take(Stdio::Stdin)?),
            false => None,
        };
        let outputs = Outputs {
            output: Source {
                kind: FrameKind::Output,
                fd: Some(streams.take(Stdio::Stdout)?),
            },
            errors: Source {
                kind: FrameKind::Errors,
                fd: match has_terminal {
                    true => None,
                    false => Some(streams.take(Stdio::Stderr)?),
                },
            },
        };
        let state = State {
            config: request.config.clone().unwrap_or_default(),
            ..State::default()
        };
        let job = Self {
            pid,
            tag: request.tag.clone(),
            has_terminal,
            process,
            input: tokio::sync::Mutex::new(input),
            state: Mutex::new(state),
        };
        Ok((Arc::new(job), outputs))
    }

    /// Lets its program run.
    pub async fn start(&self) -> Result<(), AgentError> {
        Ok(self.process.start().await?)
    }

    /// Carries its output until nobody can write any more.
    pub async fn run(&self, mut outputs: Outputs) {
        let mut ended = None;
        let mut buffer = vec![0; CHUNK];
        let mut is_told = false;
        let mut quiet_at = Instant::now();
        loop {
            if let Some(exit) = ended
                && !is_told
                && outputs.have_ended()
            {
                self.tell_end(exit);
                is_told = true;
            }
            if is_told && outputs.have_ended() {
                return;
            }
            tokio::select! {
                // Bytes before silence: what is there to be read is not quiet.
                biased;
                exit = self.process.wait(), if ended.is_none() => {
                    ended = Some(exit);
                    quiet_at = Instant::now() + QUIET;
                }
                (kind, len) = outputs.read(&mut buffer) => {
                    if len > 0 {
                        self.give((kind, buffer[..len].into())).await;
                        quiet_at = Instant::now() + QUIET;
                    }
                }
                () = sleep_until(quiet_at), if ended.is_some() && !is_told => {
                    if let Some(exit) = ended {
                        self.tell_end(exit);
                    }
                    is_told = true;
                }
            }
        }
    }

    /// Holds its output from now on. The queue is closed at the end, or at once if that was before.
    pub fn hold(&self) -> Result<mpsc::Receiver<Chunk>, PlaneFault> {
        let (sender, receiver) = mpsc::channel(QUEUE);
        let mut state = self.state();
        state.holders.retain(|holder| !holder.is_closed());
        if state.holders.len() >= MAX_HOLDERS {
            return Err(PlaneFault::TooMany {
                what: "holders of one process's output",
                most: MAX_HOLDERS,
            });
        }
        if state.end.is_none() {
            state.holders.push(sender);
        }
        Ok(receiver)
    }

    /// Its end, once that was told.
    pub fn end(&self) -> Option<wire::JobEnd> {
        self.state().end.map(end_of)
    }

    /// Whether its process is over, whatever of its output is left.
    pub fn has_ended(&self) -> bool {
        self.process.has_ended()
    }

    /// Waits for the end of its process.
    pub async fn wait(&self) -> wire::JobEnd {
        end_of(self.process.wait().await)
    }

    /// Writes to its input. What the process does not read waits in the pipe, and then here.
    pub async fn write_input(&self, data: &[u8]) -> Result<(), PlaneFault> {
        const CLOSED: PlaneFault = PlaneFault::NoInput { why: "" };
        let input = self.input.lock().await;
        let fd = input.as_ref().ok_or(CLOSED)?;
        let mut rest = data;
        while !rest.is_empty() {
            let written = tokio::select! {
                written = fd.async_io(Interest::WRITABLE, |fd| Ok(write(fd, rest)?)) => written,
                // Nobody will read it.
                _ = self.process.wait() => return Err(PlaneFault::NoInput { why: ": it has ended" }),
            };
            match written {
                Ok(count) => rest = &rest[count..],
                Err(_) => {
                    return Err(PlaneFault::NoInput {
                        why: ": it has closed it",
                    });
                }
            }
        }
        Ok(())
    }

    /// Has it read the end.
    pub async fn close_input(&self) -> Result<(), PlaneFault> {
        if self.has_terminal {
            return Err(PlaneFault::NoInput {
                why: " of its own: end that of a terminal by writing 0x04",
            });
        }
        // Closed before is closed.
        *self.input.lock().await = None;
        Ok(())
    }

    /// Signals its process, or the whole group that it leads.
    pub fn signal(&self, signal: u32, group: bool) -> Result<(), PlaneFault> {
        let sent = if group {
            self.process.signal_group(signal)
        } else {
            self.process.signal(signal)
        };
        sent.map_err(|error| PlaneFault::Agent(error.into()))
    }

    /// Kills its group.
    pub fn kill(&self) {
        if let Err(fault) = self.signal(SIGKILL, true) {
            tracing::debug!(%fault, "a process ended before it was killed");
        }
    }

    /// Tells its terminal how large it is.
    pub fn resize(&self, size: WindowSize) -> Result<(), PlaneFault> {
        if !self.has_terminal {
            return Err(PlaneFault::NoTerminal);
        }
        let resized = self.process.resize(size);
        resized.map_err(|error| PlaneFault::Agent(error.into()))
    }

    /// For a list.
    pub fn to_wire(&self) -> wire::Job {
        let mut job = wire::Job::new();
        job.pid = self.pid;
        job.config = Some(self.state().config.clone()).into();
        job.tag.clone_from(&self.tag);
        job.terminal = self.has_terminal;
        job
    }

    async fn give(&self, chunk: Chunk) {
        // Not under the lock: a holder may take long, and another may come meanwhile.
        let holders = self.state().holders.clone();
        let mut has_left = false;
        for holder in holders {
            has_left |= holder.send(chunk.clone()).await.is_err();
        }
        if has_left {
            self.state().holders.retain(|holder| !holder.is_closed());
        }
    }

    fn tell_end(&self, exit: Exit) {
        let mut state = self.state();
        state.end = Some(exit);
        state.holders.clear();
        state.config = wire::JobConfig::new();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What came of a look at an output.
enum Seen {
    /// So many bytes.
    Bytes(FrameKind, usize),
    /// Nothing after all.
    Nothing,
    /// Nobody can write to it any more.
    End(FrameKind),
}

impl Outputs {
    fn have_ended(&self) -> bool {
        self.output.fd.is_none() && self.errors.fd.is_none()
    }

    /// Reads from whichever has something. Waits for ever once both have ended. Can be given up without a
    /// loss.
    async fn read(&mut self, buffer: &mut [u8]) -> (FrameKind, usize) {
        let seen = tokio::select! {
            (kind, ready) = self.output.ready() => look(kind, ready, buffer),
            (kind, ready) = self.errors.ready() => look(kind, ready, buffer),
        };
        match seen {
            Seen::Bytes(kind, len) => (kind, len),
            Seen::Nothing => (FrameKind::Output, 0),
            Seen::End(kind) => {
                for source in [&mut self.output, &mut self.errors] {
                    source.fd.take_if(|_| source.kind == kind);
                }
                (kind, 0)
            }
        }
    }
}

type Ready<'a> = io::Result<AsyncFdReadyGuard<'a, OwnedFd>>;

impl Source {
    async fn ready(&self) -> (FrameKind, Ready<'_>) {
        match &self.fd {
            Some(fd) => (self.kind, fd.readable().await),
            None => std::future::pending().await,
        }
    }
}

fn look(kind: FrameKind, ready: Ready<'_>, buffer: &mut [u8]) -> Seen {
    let read = ready.map(|mut ready| ready.try_io(|fd| Ok(read(fd.get_ref(), buffer)?)));
    match read {
        Ok(Ok(Ok(len @ 1..))) => Seen::Bytes(kind, len),
        // Somebody else was faster.
        Ok(Err(_would_block)) => Seen::Nothing,
        // Also the error that a terminal gives whose other side nobody holds any more.
        Ok(Ok(_)) | Err(_) => Seen::End(kind),
    }
}

fn end_of(exit: Exit) -> wire::JobEnd {
    let mut end = wire::JobEnd::new();
    end.signal = exit.signal;
    end.exit_code = if exit.signal == 0 { exit.status } else { 0 };
    end.ended_at_ns = crate::service::nanoseconds(exit.at);
    end.oom_killed = exit.oom_killed;
    end
}
