// SPDX-License-Identifier: Apache-2.0
//! Everything that a request to the plane can fail with, and the kind and status that the host sees.

use std::io;
use std::path::{Path, PathBuf};

use cube_protocol::v1::plane as wire;
use cube_protocol::v1::plane::FaultKind;
use protobuf::Message;
use rustix::io::Errno;
use thiserror::Error;
use ttrpc::Code;
use ttrpc::proto::Any;

use crate::cause::{Cause, chain};
use crate::error::AgentError;
use crate::process::SignalError;

/// Name of the type of a fault in the details of a status.
const TYPE_URL: &str = "cube.agent.v1.Fault";

/// A request that failed.
#[derive(Debug, Error)]
pub enum PlaneFault {
    /// About a container or a process.
    #[error(transparent)]
    Agent(#[from] AgentError),
    /// A field of a request is missing or malformed.
    #[error("{field}: {reason}")]
    Request {
        /// Which.
        field: &'static str,
        /// Why.
        reason: String,
    },
    /// /etc/passwd does not know it.
    #[error("invalid username: '{user}'")]
    NoUser {
        /// As it was given.
        user: String,
    },
    /// Where a job is to start.
    #[error("cwd '{}' does not exist", cwd.display())]
    NoCwd {
        /// As it was understood.
        cwd: PathBuf,
    },
    /// No process, no program.
    #[error(transparent)]
    NotStarted(AgentError),
    /// None of that number or tag.
    #[error("process {job} does not exist")]
    NoJob {
        /// As it was given.
        job: String,
    },
    /// It was started without, or it is closed.
    #[error("the process has no input{why}")]
    NoInput {
        /// Why, if there is more to say.
        why: &'static str,
    },
    /// It was started with pipes.
    #[error("the process has no terminal")]
    NoTerminal,
    /// A directory, where there may be none.
    #[error("path '{}' is a directory", path.display())]
    IsADirectory {
        /// In the container.
        path: PathBuf,
    },
    /// Something else, where a directory is needed.
    #[error("path '{}' is not a directory", path.display())]
    NotADirectory {
        /// In the container.
        path: PathBuf,
    },
    /// Something is there.
    #[error("path '{}' exists already", path.display())]
    Exists {
        /// In the container.
        path: PathBuf,
    },
    /// Device, socket, FIFO.
    #[error("path '{}' is neither a file nor a directory", path.display())]
    Special {
        /// In the container.
        path: PathBuf,
    },
    /// Nothing is there.
    #[error("path '{}' does not exist", path.display())]
    NoPath {
        /// In the container.
        path: PathBuf,
    },
    /// The kernel says no.
    #[error("cannot {action} '{}'", path.display())]
    File {
        /// What was tried.
        action: &'static str,
        /// In the container.
        path: PathBuf,
        /// Which of the kinds it is.
        kind: FaultKind,
        /// The kernel's answer.
        #[source]
        source: Cause,
    },
    /// A limit of the agent.
    #[error("more than {most} {what}")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// How many may be.
        most: usize,
    },
}

impl PlaneFault {
    /// From the kernel's answer about a path.
    pub fn file(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_path_buf();
        move |error| {
            let errno = error.raw_os_error().map(Errno::from_raw_os_error);
            let kind = match errno {
                Some(Errno::NOENT) => return Self::NoPath { path },
                Some(Errno::NOTDIR) => return Self::NotADirectory { path },
                Some(Errno::ISDIR) => return Self::IsADirectory { path },
                Some(Errno::EXIST | Errno::NOTEMPTY) => return Self::Exists { path },
                Some(Errno::NOSPC | Errno::DQUOT) => FaultKind::NO_SPACE,
                Some(Errno::ROFS | Errno::PERM | Errno::ACCESS | Errno::BUSY | Errno::TXTBSY) => {
                    FaultKind::NOT_PERMITTED
                }
                Some(
                    Errno::NAMETOOLONG | Errno::LOOP | Errno::INVAL | Errno::RANGE | Errno::TOOBIG,
                ) => FaultKind::INVALID,
                Some(Errno::OPNOTSUPP | Errno::XDEV) => FaultKind::NOT_SUPPORTED,
                _ => FaultKind::OTHER,
            };
            Self::File {
                action,
                path,
                kind,
                source: error.into(),
            }
        }
    }

    /// Its kind and its words.
    pub fn to_wire(&self) -> wire::Fault {
        let mut fault = wire::Fault::new();
        fault.kind = self.kind().into();
        fault.message = chain(self);
        fault
    }

    fn kind(&self) -> FaultKind {
        match self {
            Self::Agent(AgentError::NoContainer { .. } | AgentError::ContainerState { .. }) => {
                FaultKind::NO_CONTAINER
            }
            Self::Agent(AgentError::Signal(SignalError::Ended) | AgentError::NoProcess { .. })
            | Self::NoJob { .. } => FaultKind::NO_JOB,
            Self::Agent(_) => FaultKind::OTHER,
            Self::Request { .. } => FaultKind::INVALID,
            Self::NoUser { .. } => FaultKind::NO_USER,
            Self::NoCwd { .. } => FaultKind::NO_CWD,
            Self::NotStarted(_) => FaultKind::NOT_STARTED,
            Self::NoInput { .. } => FaultKind::NO_INPUT,
            Self::NoTerminal => FaultKind::NO_TERMINAL,
            Self::IsADirectory { .. } => FaultKind::IS_A_DIRECTORY,
            Self::NotADirectory { .. } => FaultKind::NOT_A_DIRECTORY,
            Self::Exists { .. } => FaultKind::EXISTS,
            Self::Special { .. } => FaultKind::SPECIAL_FILE,
            Self::NoPath { .. } => FaultKind::NO_PATH,
            Self::File { kind, .. } => *kind,
            Self::TooMany { .. } => FaultKind::TOO_MANY,
        }
    }
}

impl From<PlaneFault> for ttrpc::Error {
    fn from(fault: PlaneFault) -> Self {
        let fault = fault.to_wire();
        let mut status = ttrpc::get_status(Code::UNKNOWN, &fault.message);
        // The message is in the status.
        let mut kind = wire::Fault::new();
        kind.kind = fault.kind;
        let mut detail = Any::new();
        detail.type_url = TYPE_URL.to_owned();
        detail.value = kind.write_to_bytes().unwrap_or_default();
        status.details.push(detail);
        Self::RpcStatus(status)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_errno_becomes_the_kind_that_a_program_can_tell() {
        for (errno, kind) in [
            (Errno::NOENT, FaultKind::NO_PATH),
            (Errno::NOSPC, FaultKind::NO_SPACE),
            (Errno::DQUOT, FaultKind::NO_SPACE),
            (Errno::ROFS, FaultKind::NOT_PERMITTED),
            (Errno::XDEV, FaultKind::NOT_SUPPORTED),
            (Errno::IO, FaultKind::OTHER),
        ] {
            let fault = PlaneFault::file("look at", Path::new("/x"))(errno.into());
            assert_eq!(fault.kind(), kind, "{errno}");
        }
        let fault = PlaneFault::file("look at", Path::new("/x"))(Errno::NOENT.into());
        assert_eq!(fault.to_string(), "path '/x' does not exist");
    }

    #[test]
    fn a_status_carries_the_kind() {
        let fault = PlaneFault::NoUser { user: "x".into() };
        let ttrpc::Error::RpcStatus(status) = fault.into() else {
            panic!("not a status");
        };
        let kind = wire::Fault::parse_from_bytes(&status.details[0].value).unwrap();
        assert_eq!(kind.kind.enum_value(), Ok(FaultKind::NO_USER));
        assert_eq!(status.message(), "invalid username: 'x'");
    }
}
