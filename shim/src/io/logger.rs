// SPDX-License-Identifier: Apache-2.0
//! A logger: a program of the client's that reads a container's output (`binary://` targets).
//!
//! It finds stdout on descriptor 3, stderr on 4, and says on 5 that it reads. It ends by itself
//! when both streams do.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::fcntl::OFlag;
use nix::spawn::{PosixSpawnAttr, PosixSpawnFileActions, PosixSpawnFlags, posix_spawn};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::stat::Mode;
use rustix::io::fcntl_dupfd_cloexec;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, WaitOptions, waitpid};
use tokio::net::unix::pipe;
use tokio::time::timeout;

use super::sink::Sink;
use super::target::{LoggerSpec, Ready};
use super::{Owner, StdioError};

/// How long a logger may take to say that it reads; it only opens its own log.
const READY_LIMIT: Duration = Duration::from_secs(10);
/// How long Delete waits for a logger to write what it has read.
const FINISH_LIMIT: Duration = Duration::from_secs(2);
/// Above every descriptor number that the logger is promised.
const OUT_OF_THE_WAY: i32 = 10;

/// How often an ending logger is looked at.
const FINISH_STEP: Duration = Duration::from_millis(5);

/// A running logger, our child.
pub struct Logger {
    program: PathBuf,
    /// None once it was seen to have ended: the number may be somebody else's by then.
    pid: Option<Pid>,
}

/// Starts a logger and waits until it reads. The sinks are its stdout and stderr streams.
pub async fn start(spec: LoggerSpec, owner: Owner<'_>) -> Result<(Sink, Sink, Logger), StdioError> {
    let LoggerSpec {
        program,
        args,
        ready,
    } = spec;
    let failed = |source: io::Error| StdioError::Logger {
        program: program.clone(),
        source,
    };
    let (stdout_read, stdout_write) = new_pipe().map_err(failed)?;
    let (stderr_read, stderr_write) = new_pipe().map_err(failed)?;
    let (ready_read, ready_write) = new_pipe().map_err(failed)?;
    let child_ends = [stdout_read, stderr_read, ready_write];
    let pid = spawn(&program, &args, owner, &child_ends).map_err(failed)?;
    drop(child_ends);

    let logger = Logger {
        program: program.clone(),
        pid: Some(pid),
    };
    let sink = |fd| pipe::Sender::from_owned_fd(fd).map(Sink::Pipe);
    let stdout = sink(stdout_write).map_err(failed)?;
    let stderr = sink(stderr_write).map_err(failed)?;
    wait_ready(ready_read, ready, &program).await?;
    Ok((stdout, stderr, logger))
}

impl Logger {
    /// For a logger whose streams have ended: gives it a moment to write what it read.
    pub async fn finish(mut self) {
        let ended = async {
            while self.is_alive() {
                tokio::time::sleep(FINISH_STEP).await;
            }
        };
        if timeout(FINISH_LIMIT, ended).await.is_err() {
            tracing::warn!(program = ?self.program, "the logger still runs; it is left to itself");
        }
    }

    fn is_alive(&mut self) -> bool {
        let running = |pid: &Pid| matches!(waitpid(Some(*pid), WaitOptions::NOHANG), Ok(None));
        self.pid = self.pid.filter(running);
        self.pid.is_some()
    }
}

impl Drop for Logger {
    /// It may live on without us, but not as a zombie for as long as we live.
    fn drop(&mut self) {
        self.is_alive();
    }
}

fn new_pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(pipe_with(PipeFlags::CLOEXEC)?)
}

/// `posix_spawn` and not `std::process::Command`, which gives a child no descriptors above 2.
fn spawn(
    program: &Path,
    args: &[String],
    owner: Owner<'_>,
    ends: &[OwnedFd; 3],
) -> io::Result<Pid> {
    let text = |bytes: &[u8]| CString::new(bytes).map_err(io::Error::from);
    let path = text(program.as_os_str().as_bytes())?;
    let mut argv = vec![path.clone()];
    for arg in args {
        argv.push(text(arg.as_bytes())?);
    }
    let environment = [
        text(format!("CONTAINER_ID={}", owner.container).as_bytes())?,
        text(format!("CONTAINER_NAMESPACE={}", owner.namespace).as_bytes())?,
    ];
    let mut actions = PosixSpawnFileActions::init()?;
    for fd in 0..3 {
        actions.add_open(fd, "/dev/null", OFlag::O_RDWR, Mode::empty())?;
    }
    // A pipe may have one of the numbers that the next step writes to.
    let mut moved = Vec::new();
    for (number, end) in (3..).zip(ends) {
        let end = fcntl_dupfd_cloexec(end, OUT_OF_THE_WAY)?;
        actions.add_dup2(end.as_raw_fd(), number)?;
        moved.push(end);
    }
    let mut attributes = PosixSpawnAttr::init()?;
    let mut ours = SigSet::empty();
    ours.add(Signal::SIGPIPE);
    attributes.set_sigdefault(&ours)?;
    attributes.set_sigmask(&SigSet::empty())?;
    attributes.set_flags(
        PosixSpawnFlags::POSIX_SPAWN_SETSIGDEF | PosixSpawnFlags::POSIX_SPAWN_SETSIGMASK,
    )?;
    let pid = posix_spawn(path.as_c_str(), &actions, &attributes, &argv, &environment)?;
    Pid::from_raw(pid.as_raw()).ok_or_else(|| io::Error::other("posix_spawn gave no pid"))
}

async fn wait_ready(end: OwnedFd, ready: Ready, program: &Path) -> Result<(), StdioError> {
    use tokio::io::AsyncReadExt;
    let failed = |source: io::Error| StdioError::Logger {
        program: program.to_owned(),
        source,
    };
    let mut end = pipe::Receiver::from_owned_fd(end).map_err(failed)?;
    let mut byte = [0];
    let said = timeout(READY_LIMIT, end.read(&mut byte));
    let said = said.await.map_err(|_| StdioError::LoggerSlow {
        program: program.to_owned(),
        limit: READY_LIMIT,
    })?;
    match (said.map_err(failed)?, ready) {
        (0, Ready::Byte) => Err(StdioError::LoggerGone {
            program: program.to_owned(),
        }),
        _ => Ok(()),
    }
}
