// SPDX-License-Identifier: Apache-2.0
//! Everything that a call to the agent can fail with, and the status that the caller sees.

use thiserror::Error;
use ttrpc::Code;

use crate::cause::{Cause, chain};
use crate::cgroup::{CgroupError, LimitError};
use crate::container::{FileError, RootfsError, SharedMemoryError, SlotError};
use crate::network::NetworkError;
use crate::oci::SpecError;
use crate::process::{ResizeError, SignalError, SpawnError, StartError};

/// A call that failed.
#[derive(Debug, Error)]
pub enum AgentError {
    /// A field of a request is missing or malformed.
    #[error("{field}: {reason}")]
    Request {
        /// Which.
        field: &'static str,
        /// Why.
        reason: String,
    },
    /// The host speaks another version.
    #[error("the host speaks protocol {host}, this agent {agent}")]
    Protocol {
        /// Its version.
        host: u32,
        /// Ours.
        agent: u32,
    },
    /// Nothing of a user's starts in a machine without an identity of its own.
    #[error("the machine has not been claimed yet")]
    NotClaimed,
    /// It has one, and what runs in it relies on that.
    #[error("the machine has been claimed already")]
    Claimed,
    /// Every process stands still, until the machine goes on.
    #[error("the machine is being saved or restored")]
    Quiesced,
    /// There is nothing to let go on.
    #[error("the machine's processes were not stopped")]
    NotQuiesced,
    /// What was written could not be brought to the disk.
    #[error("the file system of container {id} could not be written back")]
    Sync {
        /// Its name.
        id: String,
        /// The kernel's answer.
        #[source]
        source: Cause,
    },
    /// The machine could not be given one.
    #[error("cannot set the machine's {what}")]
    Identity {
        /// Which part of it.
        what: &'static str,
        /// The kernel's answer.
        #[source]
        source: Cause,
    },
    /// The name is not known.
    #[error("container {id} does not exist")]
    NoContainer {
        /// Its name.
        id: String,
    },
    /// The name is taken.
    #[error("container {id} exists already")]
    ContainerExists {
        /// Its name.
        id: String,
    },
    /// Not now.
    #[error("container {id} {state}")]
    ContainerState {
        /// Its name.
        id: String,
        /// What it is in the middle of, with its verb.
        state: &'static str,
    },
    /// The name is not known.
    #[error("container {container} has no process {exec_id:?}")]
    NoProcess {
        /// Its container.
        container: String,
        /// Its name.
        exec_id: String,
    },
    /// The name is taken.
    #[error("container {container} has a process {exec_id:?} already")]
    ProcessExists {
        /// Its container.
        container: String,
        /// Its name.
        exec_id: String,
    },
    /// Not now.
    #[error("process {exec_id:?} of container {container} {state}")]
    ProcessState {
        /// Its container.
        container: String,
        /// Its name.
        exec_id: String,
        /// What it is in the middle of, with its verb.
        state: &'static str,
    },
    /// There is nobody to share namespaces with.
    #[error(
        "linux.namespaces: the pod's first container is not running, so nothing can be shared with it"
    )]
    NoPod,
    /// The spec cannot become a container here.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// A limit cannot be set here.
    #[error(transparent)]
    Limit(#[from] LimitError),
    /// The kernel refused something about a cgroup.
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    /// Events of a cgroup cannot be waited for.
    #[error("cannot wait for memory.events to change")]
    OomWatch(#[source] Cause),
    /// The disk is not there.
    #[error(transparent)]
    Slot(#[from] SlotError),
    /// The disk cannot be used.
    #[error(transparent)]
    Rootfs(#[from] RootfsError),
    /// A file of the host cannot be had.
    #[error(transparent)]
    File(#[from] FileError),
    /// /dev/shm cannot be had.
    #[error(transparent)]
    SharedMemory(#[from] SharedMemoryError),
    /// The process did not come to be.
    #[error(transparent)]
    Spawn(#[from] SpawnError),
    /// The process did not become its program.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The signal did not arrive.
    #[error(transparent)]
    Signal(#[from] SignalError),
    /// The terminal did not change.
    #[error(transparent)]
    Resize(#[from] ResizeError),
    /// A process that was just made cannot be held on to.
    #[error("cannot open the process just started")]
    Pidfd(#[source] Cause),
    /// The container's tree cannot be looked at.
    #[error("cannot open the container's root directory")]
    Tree(#[source] Cause),
    /// The network is not what was wanted.
    #[error(transparent)]
    Network(#[from] NetworkError),
    /// A call broke off; the log says more.
    #[error("the agent failed in the middle of the call")]
    Broken,
}

impl AgentError {
    fn code(&self) -> Code {
        match self {
            Self::Request { .. } | Self::Network(NetworkError::Request { .. }) => {
                Code::INVALID_ARGUMENT
            }
            Self::Spec(SpecError::Unsupported { .. }) => Code::UNIMPLEMENTED,
            Self::Spec(_) => Code::INVALID_ARGUMENT,
            Self::Limit(LimitError::Unsupported { .. }) => Code::UNIMPLEMENTED,
            Self::Limit(LimitError::Invalid { .. }) => Code::INVALID_ARGUMENT,
            Self::Rootfs(RootfsError::Type { .. }) => Code::UNIMPLEMENTED,
            Self::File(
                FileError::TooMany { .. } | FileError::TooLong { .. } | FileError::Twice { .. },
            ) => Code::INVALID_ARGUMENT,
            Self::NoContainer { .. }
            | Self::NoProcess { .. }
            | Self::File(FileError::Unknown { .. }) => Code::NOT_FOUND,
            Self::Signal(SignalError::Ended) => Code::NOT_FOUND,
            Self::ContainerExists { .. } | Self::ProcessExists { .. } => Code::ALREADY_EXISTS,
            Self::Protocol { .. }
            | Self::NotClaimed
            | Self::Claimed
            | Self::Quiesced
            | Self::NotQuiesced
            | Self::ContainerState { .. }
            | Self::ProcessState { .. }
            | Self::NoPod
            | Self::Start(StartError::NotConnected { .. } | StartError::Started)
            | Self::Resize(ResizeError::NoTerminal) => Code::FAILED_PRECONDITION,
            // What other runtimes say when a process cannot be started: clients go by the text.
            Self::Spawn(_) | Self::Start(StartError::Program(_)) => Code::UNKNOWN,
            Self::Identity { .. }
            | Self::Sync { .. }
            | Self::Cgroup(_)
            | Self::OomWatch(_)
            | Self::Slot(_)
            | Self::Rootfs(_)
            | Self::File(_)
            | Self::SharedMemory(_)
            | Self::Signal(SignalError::Kill { .. })
            | Self::Resize(ResizeError::Ioctl(_))
            | Self::Pidfd(_)
            | Self::Tree(_)
            | Self::Network(_)
            | Self::Broken => Code::INTERNAL,
        }
    }
}

impl From<AgentError> for ttrpc::Error {
    fn from(error: AgentError) -> Self {
        Self::RpcStatus(ttrpc::get_status(error.code(), chain(&error)))
    }
}
