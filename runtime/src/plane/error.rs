// SPDX-License-Identifier: Apache-2.0
//! What can go wrong between a plane and its agent.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use cube_protocol::v1::plane as wire;
use cube_protocol::{FrameError, PROTOCOL_VERSION};
use protobuf::Message;
use thiserror::Error;

use crate::error::Kind;
use crate::guest_text;
use crate::vsock::DialError;

/// A call that failed. `what` completes "the guest could not ...".
#[derive(Debug, Error)]
pub enum PlaneError {
    /// There is no sandbox, or it is on its way out.
    #[error("there is no sandbox in {}", dir.display())]
    NoSandbox {
        /// Its directory.
        dir: PathBuf,
    },
    /// The agent could not be reached.
    #[error("the guest's agent could not be reached")]
    Dial(#[source] DialError),
    /// The agent is of another generation.
    #[error("the guest's agent speaks another protocol than {PROTOCOL_VERSION}: {message}")]
    Protocol {
        /// The agent's words.
        message: String,
    },
    /// The agent said no.
    #[error("the guest could not {what}: {message}")]
    Refused {
        /// What was asked.
        what: &'static str,
        /// Why, for programs.
        fault: Fault,
        /// Why, for people: the agent's words.
        message: String,
    },
    /// The agent did not answer in time; a machine that is paused does not.
    #[error("the guest did not {what} within {} s", limit.as_secs())]
    Timeout {
        /// What was asked.
        what: &'static str,
        /// How long it had.
        limit: Duration,
    },
    /// The connection broke. The next call dials anew.
    #[error("the connection broke while the guest was to {what}")]
    Lost {
        /// What was asked.
        what: &'static str,
        /// How.
        #[source]
        source: LostError,
    },
    /// The request is too long for a frame.
    #[error("what is needed to {what} does not fit into a message")]
    TooLong {
        /// What was asked.
        what: &'static str,
        /// How long it is.
        #[source]
        source: FrameError,
    },
    /// The agent answered something that is no answer to this.
    #[error("the guest's answer to the request to {what} makes no sense")]
    Malformed {
        /// What was asked.
        what: &'static str,
    },
}

/// How a connection broke.
#[derive(Debug, Error)]
pub enum LostError {
    /// It failed, or ended too early.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// Neither side can go on after this.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// The connection of the short calls.
    #[error(transparent)]
    Call(#[from] ttrpc::Error),
}

/// Why the agent said no.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// None of these.
    Other,
    /// A path, a name or a number that cannot be meant.
    Invalid,
    /// The sandbox has no such container.
    NoContainer,
    /// The container's /etc/passwd does not know the user.
    NoUser,
    /// The directory that the job is to start in is not there.
    NoCwd,
    /// The program could not be executed.
    NotStarted,
    /// No such job.
    NoJob,
    /// The job has no input, or none any more.
    NoInput,
    /// The job is not on a terminal.
    NoTerminal,
    /// Nothing has this path.
    NoPath,
    /// Something has this path.
    Exists,
    /// Not a directory.
    NotADirectory,
    /// A directory.
    IsADirectory,
    /// Neither a file nor a directory.
    SpecialFile,
    /// The file system is full.
    NoSpace,
    /// The file system is read-only, or the kernel says no.
    NotPermitted,
    /// The file system does not do that.
    NotSupported,
    /// A limit of the agent.
    TooMany,
}

impl PlaneError {
    /// The class of this failure.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Refused { fault, .. } => fault.kind(),
            Self::NoSandbox { .. } => Kind::NotFound,
            Self::Protocol { .. } => Kind::FailedPrecondition,
            Self::Timeout { .. } => Kind::DeadlineExceeded,
            Self::Dial(_) | Self::Lost { .. } => Kind::Unavailable,
            Self::TooLong { .. } => Kind::InvalidArgument,
            Self::Malformed { .. } => Kind::Internal,
        }
    }

    /// Why the agent said no, if it did.
    pub fn fault(&self) -> Option<Fault> {
        match self {
            Self::Refused { fault, .. } => Some(*fault),
            _ => None,
        }
    }

    pub(super) fn refused(what: &'static str, fault: &wire::Fault) -> Self {
        Self::Refused {
            what,
            fault: fault.kind.enum_value_or_default().into(),
            message: guest_text::one_line(&fault.message),
        }
    }

    /// From the end of a call over ttrpc.
    pub(super) fn of_call(what: &'static str, error: ttrpc::Error) -> Self {
        let ttrpc::Error::RpcStatus(status) = error else {
            return Self::Lost {
                what,
                source: error.into(),
            };
        };
        let fault = status
            .details()
            .first()
            .and_then(|detail| wire::Fault::parse_from_bytes(&detail.value).ok())
            .unwrap_or_default();
        Self::Refused {
            what,
            fault: fault.kind.enum_value_or_default().into(),
            message: guest_text::one_line(status.message()),
        }
    }
}

impl Fault {
    fn kind(self) -> Kind {
        match self {
            Self::Other => Kind::Internal,
            Self::Invalid
            | Self::NoUser
            | Self::NoCwd
            | Self::NotStarted
            | Self::NotADirectory
            | Self::IsADirectory
            | Self::SpecialFile => Kind::InvalidArgument,
            Self::NoContainer | Self::NoJob | Self::NoPath => Kind::NotFound,
            Self::Exists => Kind::AlreadyExists,
            Self::NoInput | Self::NoTerminal | Self::NotPermitted => Kind::FailedPrecondition,
            Self::NotSupported => Kind::Unimplemented,
            Self::NoSpace | Self::TooMany => Kind::ResourceExhausted,
        }
    }
}

impl From<wire::FaultKind> for Fault {
    fn from(kind: wire::FaultKind) -> Self {
        use wire::FaultKind as Wire;
        match kind {
            Wire::OTHER => Self::Other,
            Wire::INVALID => Self::Invalid,
            Wire::NO_CONTAINER => Self::NoContainer,
            Wire::NO_USER => Self::NoUser,
            Wire::NO_CWD => Self::NoCwd,
            Wire::NOT_STARTED => Self::NotStarted,
            Wire::NO_JOB => Self::NoJob,
            Wire::NO_INPUT => Self::NoInput,
            Wire::NO_TERMINAL => Self::NoTerminal,
            Wire::NO_PATH => Self::NoPath,
            Wire::EXISTS => Self::Exists,
            Wire::NOT_A_DIRECTORY => Self::NotADirectory,
            Wire::IS_A_DIRECTORY => Self::IsADirectory,
            Wire::SPECIAL_FILE => Self::SpecialFile,
            Wire::NO_SPACE => Self::NoSpace,
            Wire::NOT_PERMITTED => Self::NotPermitted,
            Wire::NOT_SUPPORTED => Self::NotSupported,
            Wire::TOO_MANY => Self::TooMany,
        }
    }
}
