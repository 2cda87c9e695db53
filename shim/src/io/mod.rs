// SPDX-License-Identifier: Apache-2.0
//! A process's standard streams, between the machine and whatever containerd named.
//!
//! ```text
//! machine --stdout, stderr--> pump --> fifo | file | logger program | nowhere
//! machine <------ stdin ------ pump <-- fifo
//! ```
//!
//! Rules, for every kind of target:
//! * A full target stops the reading from the machine, whose own credit then stops the process: at
//!   most one chunk waits here, and an idle stream holds no buffer at all.
//! * A client that leaves, and a containerd that restarts, end nothing: each fifo is held open from
//!   both sides until its stream is over.
//! * After the process has ended its output is read to the end. A background child that keeps the
//!   stream open without writing is not waited for ([`pump::SILENCE`], and the guest must answer: it
//!   may only be slow). A client that does not read is waited for until Delete, and there for
//!   [`DRAIN_LIMIT`].

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::future::BoxFuture;
use thiserror::Error;
use tokio::net::UnixStream;
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinHandle};
use tokio::time::{Instant, timeout_at};

mod logger;
mod pump;
mod sink;
mod source;
mod target;

#[cfg(test)]
mod tests;

use logger::Logger;
use pump::Cutoff;
use sink::Sink;
use source::Keeper;
use target::Target;

/// Longest wait of a Delete for output that nobody takes: as long as containerd 2.3's own shim.
const DRAIN_LIMIT: Duration = Duration::from_secs(10);

/// The streams of one process as containerd named them; repeated in State.
#[derive(Clone, Debug, Default)]
pub struct Stdio {
    /// Empty, or the path of a fifo.
    pub stdin: String,
    /// Empty, a path or a URI.
    pub stdout: String,
    /// Empty, a path or a URI; not used with a terminal.
    pub stderr: String,
    /// Whether the process gets a terminal, whose output is all on stdout.
    pub terminal: bool,
}

/// Whose streams they are; a logger program is told.
#[derive(Clone, Copy, Debug)]
pub struct Owner<'a> {
    /// containerd's namespace.
    pub namespace: &'a str,
    /// The container.
    pub container: &'a str,
}

/// What can be wrong with a process's streams.
#[derive(Debug, Error)]
pub enum StdioError {
    /// Not a kind of target that we know.
    #[error(
        "{uri:?} is not a stream target: expected a path, file:///path, binary:///program or binary-v2:///program"
    )]
    Scheme {
        /// As it was given.
        uri: String,
    },
    /// A target could not be opened.
    #[error("{stream} could not be connected to {path:?}")]
    Open {
        /// stdin, stdout or stderr.
        stream: &'static str,
        /// The target.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A logger could not be started.
    #[error("the logger {program:?} could not be started")]
    Logger {
        /// The program.
        program: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A logger did not say that it reads.
    #[error("the logger {program:?} was not ready within {limit:?}")]
    LoggerSlow {
        /// The program.
        program: PathBuf,
        /// How long it had.
        limit: Duration,
    },
    /// A logger ended before it was ready.
    #[error("the logger {program:?} ended before it was ready")]
    LoggerGone {
        /// The program.
        program: PathBuf,
    },
}

/// The streams' outer ends: the outputs open and ready, the input known to be there.
pub struct Opened {
    stdin: Option<PathBuf>,
    stdout: Option<Sink>,
    stderr: Option<Sink>,
    logger: Option<Logger>,
}

/// Asks the guest something. True if it answered: then whatever it had sent before has arrived too,
/// since answers and streams leave the machine through one queue.
pub type Probe = Arc<dyn Fn() -> BoxFuture<'static, bool> + Send + Sync>;

/// The streams' inner ends.
#[derive(Default)]
pub struct Streams {
    /// Into the process.
    pub stdin: Option<UnixStream>,
    /// Out of it.
    pub stdout: Option<UnixStream>,
    /// Out of it; none with a terminal.
    pub stderr: Option<UnixStream>,
}

impl Stdio {
    /// Opens the outputs. Nothing of a good target can go wrong after this.
    pub async fn open(&self, owner: Owner<'_>) -> Result<Opened, StdioError> {
        let stdin = match self.stdin.as_str() {
            "" => None,
            path => Some(source::find(path.into())?),
        };
        let target = Target::parse(&self.stdout)?;
        if let Target::Logger(spec) = target {
            let (stdout, stderr, logger) = logger::start(spec, owner).await?;
            return Ok(Opened {
                stdin,
                stdout: Some(stdout),
                stderr: (!self.terminal && !self.stderr.is_empty()).then_some(stderr),
                logger: Some(logger),
            });
        }
        let stderr = match self.terminal {
            true => None,
            false => Sink::open("stderr", Target::parse(&self.stderr)?)?,
        };
        Ok(Opened {
            stdin,
            stdout: Sink::open("stdout", target)?,
            stderr,
            logger: None,
        })
    }
}

impl Opened {
    /// Which streams the process is to have: stdin, stdout, stderr.
    pub fn wanted(&self) -> (bool, bool, bool) {
        let Self {
            stdin,
            stdout,
            stderr,
            ..
        } = self;
        (stdin.is_some(), stdout.is_some(), stderr.is_some())
    }

    /// Joins the outer ends to the inner ones; output flows from now on.
    pub fn attach(self, inner: Streams, probe: Probe) -> ProcessIo {
        let (ended, end_seen) = watch::channel(false);
        let cutoff = Cutoff {
            ended: end_seen,
            probe,
        };
        let mut outputs = Vec::new();
        for (sink, stream) in [(self.stdout, inner.stdout), (self.stderr, inner.stderr)] {
            if let (Some(sink), Some(stream)) = (sink, stream) {
                outputs.push(tokio::spawn(pump::output(stream, sink, cutoff.clone())));
            }
        }
        let input = match (self.stdin, inner.stdin) {
            (Some(path), Some(stream)) => Input::Waiting {
                path,
                stream,
                closed: false,
            },
            _ => Input::Over,
        };
        ProcessIo {
            ended,
            input: Mutex::new(input),
            outputs: Mutex::new(outputs),
            logger: Mutex::new(self.logger),
        }
    }
}

/// The moving streams of one process.
pub struct ProcessIo {
    ended: watch::Sender<bool>,
    input: Mutex<Input>,
    outputs: Mutex<Vec<JoinHandle<()>>>,
    logger: Mutex<Option<Logger>>,
}

/// Standard input. It is not opened before Start: a client whose input is short reaches its end as soon
/// as somebody opens the other side, and only then learns that its task was created. `ctr` can ask for
/// CloseIO only after that, and asks once.
enum Input {
    Waiting {
        path: PathBuf,
        stream: UnixStream,
        /// CloseIO came already.
        closed: bool,
    },
    Flowing {
        /// Our own write end, until CloseIO.
        keeper: Option<Keeper>,
        pump: AbortHandle,
    },
    Over,
}

impl ProcessIo {
    /// Lets input flow. For a process that is about to run; once.
    pub fn start_input(&self) -> Result<(), StdioError> {
        let mut input = lock(&self.input);
        match std::mem::replace(&mut *input, Input::Over) {
            Input::Waiting {
                path,
                stream,
                closed,
            } => {
                let (source, keeper) = source::open(path)?;
                let pump = tokio::spawn(pump::input(source, stream)).abort_handle();
                let keeper = Some(keeper).filter(|_| !closed);
                *input = Input::Flowing { keeper, pump };
            }
            other => *input = other,
        }
        Ok(())
    }

    /// CloseIO: the process reads the end once every client has closed its end too. Twice is once.
    pub fn close_stdin(&self) {
        match &mut *lock(&self.input) {
            Input::Waiting { closed, .. } => *closed = true,
            Input::Flowing { keeper, .. } => *keeper = None,
            Input::Over => {}
        }
    }

    /// The process has ended: no more input, and output only as long as it comes.
    pub fn process_ended(&self) {
        self.ended.send_replace(true);
        self.end_input();
    }

    fn end_input(&self) {
        let input = std::mem::replace(&mut *lock(&self.input), Input::Over);
        if let Input::Flowing { pump, .. } = input {
            pump.abort();
        }
    }

    /// Waits until all output is where it belongs, or [`DRAIN_LIMIT`] has passed; then gives up on
    /// what is left. For an ended process.
    pub async fn drain(&self) {
        self.drain_within(DRAIN_LIMIT).await;
    }

    async fn drain_within(&self, limit: Duration) {
        let deadline = Instant::now() + limit;
        let outputs = std::mem::take(&mut *lock(&self.outputs));
        for mut output in outputs {
            if timeout_at(deadline, &mut output).await.is_err() {
                output.abort();
                tracing::warn!(?limit, "output that no client took is dropped");
            }
        }
        let logger = lock(&self.logger).take();
        if let Some(logger) = logger {
            logger.finish().await;
        }
    }
}

impl Drop for ProcessIo {
    fn drop(&mut self) {
        self.end_input();
        for output in lock(&self.outputs).drain(..) {
            output.abort();
        }
    }
}

/// A panic under one of these locks leaves whole values behind, so a poisoned lock is as good.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(|poisoned| poisoned.into_inner())
}
