// SPDX-License-Identifier: Apache-2.0
//! Starting a stage and talking to it until it has become the user's program. The other half is
//! `crate::stage`.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::abort;

use rustix::fs::{CWD, MemfdFlags, Mode, OFlags, memfd_create, openat};
use rustix::process::Pid;
use rustix::thread::{
    LinkNameSpaceType, ThreadNameSpaceType, move_into_link_name_space, move_into_thread_name_spaces,
};
use thiserror::Error;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::reaper::{Death, Reaper};
use crate::cause::Cause;
use crate::stage::{Channel, Message, Plan};
use crate::sys::{self, NewNamespaces, StageFailure};

/// A process that did not come to be.
#[derive(Debug, Error)]
pub enum SpawnError {
    /// Pipes, the plan's file and the like.
    #[error("cannot prepare the {what} of a process")]
    Prepare {
        /// Which.
        what: &'static str,
        /// The kernel's answer.
        #[source]
        source: Cause,
    },
    /// clone3. With EAGAIN the container's limit of processes is the reason.
    #[error("cannot start a process")]
    Clone(#[source] Cause),
    /// What the stage said before it ended.
    #[error("{0}")]
    Stage(String),
    /// It ended without a word: killed from outside.
    #[error("the process was killed while it was being set up{hint}")]
    Killed {
        /// Why, if that is known.
        hint: &'static str,
    },
    /// execve, before the stage was one.
    #[error("cannot set the process up")]
    Exec(#[source] Cause),
}

/// Why a process was killed early, or could not even begin: its memory is that of its container.
pub const TOO_SMALL: &str = ": the container's memory limit is too low to start it";

impl From<StageFailure> for SpawnError {
    fn from(failure: StageFailure) -> Self {
        match failure {
            StageFailure::Clone(error) => Self::Clone(error.into()),
            StageFailure::Exec(error) => match error.kind() {
                // With one word as its arguments, the second means that there was no page for them.
                io::ErrorKind::OutOfMemory | io::ErrorKind::ArgumentListTooLong => {
                    Self::Killed { hint: TOO_SMALL }
                }
                _ => Self::Exec(error.into()),
            },
        }
    }
}

impl SpawnError {
    /// Whether the cgroup has cgroups with controllers below it and therefore takes no process itself.
    pub fn is_no_internal_process(&self) -> bool {
        matches!(self, Self::Clone(cause) if cause.kind() == io::ErrorKind::ResourceBusy)
    }
}

/// What surrounds a new process.
pub struct Surroundings<'a> {
    /// Namespaces to make.
    pub new: NewNamespaces,
    /// Process whose pid namespace it is born into.
    pub pid_namespace: Option<BorrowedFd<'a>>,
    /// Process whose other namespaces its plan joins.
    pub join: Option<BorrowedFd<'a>>,
    /// Cgroup that it is born in.
    pub cgroup: BorrowedFd<'a>,
}

/// The agent's side of a stage.
#[derive(Debug)]
pub struct Stage {
    channel: AsyncFd<OwnedFd>,
}

impl Stage {
    /// Starts one. `streams` become its descriptors 0, 1 and 2.
    pub fn spawn(
        reaper: &Reaper,
        plan: &Plan,
        surroundings: &Surroundings<'_>,
        streams: &[OwnedFd; 3],
        on_death: impl FnOnce(Death) + Send + 'static,
    ) -> Result<(Pid, Self), SpawnError> {
        let prepare = |what| {
            move |error: io::Error| SpawnError::Prepare {
                what,
                source: error.into(),
            }
        };
        let plan = plan_file(plan).map_err(prepare("plan"))?;
        let (ours, theirs) = Channel::pair().map_err(prepare("channel"))?;
        let channel = sys::watch(ours.into(), Interest::READABLE).map_err(prepare("channel"))?;
        let [stdin, stdout, stderr] = streams;
        let mut fds = vec![
            stdin.as_fd(),
            stdout.as_fd(),
            stderr.as_fd(),
            theirs.as_fd(),
            plan.as_fd(),
        ];
        fds.extend(surroundings.join);
        let clone = || sys::spawn_stage(surroundings.new, surroundings.cgroup, &fds);
        let pid = reaper
            .spawn(|| born_in(surroundings.pid_namespace, clone), on_death)
            .map_err(SpawnError::from)?;
        Ok((pid, Self { channel }))
    }

    /// Waits until it is prepared; gives the master side of its terminal, if it has one.
    pub async fn ready(&self) -> Result<Option<OwnedFd>, SpawnError> {
        match self.receive().await {
            Ok(Some(Message::Ready(terminal))) => Ok(terminal),
            Ok(Some(Message::Failed(text))) => Err(SpawnError::Stage(text)),
            _ => Err(SpawnError::Killed { hint: "" }),
        }
    }

    /// Lets it become the program, and waits until it has.
    pub async fn go(self) -> Result<(), SpawnError> {
        // A stage that was killed meanwhile is an exit for whoever waits for the process, not an error.
        if Channel::send_to(self.channel.get_ref(), &Message::Go).is_err() {
            return Ok(());
        }
        match self.receive().await {
            Ok(Some(Message::Failed(text))) => Err(SpawnError::Stage(text)),
            _ => Ok(()),
        }
    }

    async fn receive(&self) -> io::Result<Option<Message>> {
        self.channel
            .async_io(Interest::READABLE, Channel::receive_from)
            .await
    }
}

fn plan_file(plan: &Plan) -> io::Result<OwnedFd> {
    let mut file = File::from(memfd_create("plan", MemfdFlags::CLOEXEC)?);
    file.write_all(&serde_json::to_vec(plan)?)?;
    Ok(file.into())
}

/// Runs `clone` so that its child is born into the pid namespace of another process.
fn born_in(
    process: Option<BorrowedFd<'_>>,
    clone: impl FnOnce() -> Result<Pid, StageFailure>,
) -> Result<Pid, StageFailure> {
    let Some(process) = process else {
        return clone();
    };
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let own = openat(CWD, "/proc/self/ns/pid", flags, Mode::empty()).map_err(io::Error::from)?;
    move_into_thread_name_spaces(process, ThreadNameSpaceType::PROCESS_ID)
        .map_err(io::Error::from)?;
    let child = clone();
    if move_into_link_name_space(own.as_fd(), Some(LinkNameSpaceType::ProcessID)).is_err() {
        // Every later child would be born in the wrong container.
        abort();
    }
    child
}
