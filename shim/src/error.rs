// SPDX-License-Identifier: Apache-2.0
//! Why a call failed, and the status containerd gets for it. The text reaches whoever typed `ctr`.

use cube_runtime::config::ConfigError;
use cube_runtime::{
    ContainerError, CreateError, DestroyError, GuestError, Kind, NetworkError, SnapshotError,
    SpawnError, SpecError, StartError,
};
use thiserror::Error;
use ttrpc::Code;

use crate::bundle::BundleError;
use crate::io::StdioError;
use crate::task::IllegalMove;

/// Why a call of the task or sandbox API failed.
#[derive(Debug, Error)]
pub enum TaskError {
    /// No such task.
    #[error("there is no task {id:?} in this sandbox")]
    UnknownTask {
        /// Its id.
        id: String,
    },
    /// The id is taken.
    #[error("there is a task {id:?} in this sandbox already")]
    TaskExists {
        /// Its id.
        id: String,
    },
    /// No such sandbox.
    #[error("this shim serves no sandbox {id:?}")]
    UnknownSandbox {
        /// Its id.
        id: String,
    },
    /// The sandbox is not where it should be for this call.
    #[error("sandbox {id:?} is {is}, not {wanted}")]
    SandboxState {
        /// Its id.
        id: String,
        /// Where it is.
        is: &'static str,
        /// Where the call needs it.
        wanted: &'static str,
    },
    /// The call does not fit what the process does at the moment.
    #[error(transparent)]
    Move(#[from] IllegalMove),
    /// A process was deleted while somebody waited for its end.
    #[error("process {exec:?} of task {id:?} was deleted before it ran")]
    DeletedBeforeEnd {
        /// The task.
        id: String,
        /// The process.
        exec: String,
    },
    /// Only a terminal has a size.
    #[error("process {exec:?} of task {id:?} has no terminal to resize")]
    NoTerminal {
        /// The task.
        id: String,
        /// The process.
        exec: String,
    },
    /// A terminal's size is two numbers of 16 bits.
    #[error("a terminal cannot have {columns} columns and {rows} rows")]
    TerminalSize {
        /// Asked width.
        columns: u32,
        /// Asked height.
        rows: u32,
    },
    /// A message inside the request is missing or malformed.
    #[error("the request's {what} is not valid")]
    Payload {
        /// Which part.
        what: &'static str,
        /// Where and why.
        source: serde_json::Error,
    },
    /// Something that this runtime does not do.
    #[error("{what} is not supported by io.cube.v1")]
    Unsupported {
        /// What was asked.
        what: &'static str,
    },
    /// The pod wants the host's network.
    #[error("a pod on the host's network cannot be a microVM; drop hostNetwork")]
    HostNetwork,
    /// The bundle.
    #[error("the container's bundle cannot be used")]
    Bundle(#[from] BundleError),
    /// Standard streams.
    #[error(transparent)]
    Stdio(#[from] StdioError),
    /// The configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The OCI spec asks for something a machine cannot be.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// The machine could not be made.
    #[error(transparent)]
    Machine(Box<CreateError>),
    /// The container could not be made or removed.
    #[error(transparent)]
    Container(#[from] ContainerError),
    /// The process could not be made.
    #[error(transparent)]
    Spawn(#[from] SpawnError),
    /// The process could not be made to run.
    #[error(transparent)]
    Start(StartError),
    /// It could not be saved.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// The network could not be changed.
    #[error(transparent)]
    Network(#[from] NetworkError),
    /// The guest could not do it.
    #[error(transparent)]
    Guest(#[from] GuestError),
    /// The machine could not be removed.
    #[error(transparent)]
    Destroy(#[from] DestroyError),
    /// The call's own task died.
    #[error("the shim failed while it served this call")]
    Crashed(#[from] tokio::task::JoinError),
}

impl TaskError {
    /// Whether it says no more than that something is not there (any more).
    pub fn is_not_found(&self) -> bool {
        self.code() == Code::NOT_FOUND
    }

    /// The one place where failures become statuses.
    fn code(&self) -> Code {
        match self {
            TaskError::UnknownTask { .. }
            | TaskError::UnknownSandbox { .. }
            | TaskError::DeletedBeforeEnd { .. } => Code::NOT_FOUND,
            TaskError::TaskExists { .. } => Code::ALREADY_EXISTS,
            TaskError::Move(error) => match error {
                // containerd takes NOT_FOUND from Kill as "it is over", which is what it wanted.
                IllegalMove::UnknownProcess { .. } | IllegalMove::Ended { .. } => Code::NOT_FOUND,
                IllegalMove::ProcessExists { .. } => Code::ALREADY_EXISTS,
                IllegalMove::NotNow { .. } => Code::FAILED_PRECONDITION,
            },
            TaskError::SandboxState { .. } | TaskError::NoTerminal { .. } => {
                Code::FAILED_PRECONDITION
            }
            TaskError::TerminalSize { .. }
            | TaskError::Payload { .. }
            | TaskError::HostNetwork
            | TaskError::Stdio(StdioError::Scheme { .. }) => Code::INVALID_ARGUMENT,
            TaskError::Unsupported { .. } => Code::UNIMPLEMENTED,
            TaskError::Bundle(_) | TaskError::Config(_) => Code::FAILED_PRECONDITION,
            TaskError::Stdio(
                StdioError::Open { .. }
                | StdioError::Logger { .. }
                | StdioError::LoggerGone { .. }
                | StdioError::LoggerSlow { .. },
            ) => Code::FAILED_PRECONDITION,
            TaskError::Spec(error) => of_kind(error.kind()),
            TaskError::Machine(error) => of_kind(error.kind()),
            TaskError::Container(error) => of_kind(error.kind()),
            TaskError::Spawn(error) => of_kind(error.kind()),
            // A command that is not there must not look like a task that is not there.
            TaskError::Start(error) => match error.kind() {
                Kind::NotFound => Code::INVALID_ARGUMENT,
                kind => of_kind(kind),
            },
            TaskError::Snapshot(error) => of_kind(error.kind()),
            TaskError::Network(error) => of_kind(error.kind()),
            TaskError::Guest(error) => of_kind(error.kind()),
            TaskError::Destroy(error) => of_kind(error.kind()),
            TaskError::Crashed(_) => Code::INTERNAL,
        }
    }
}

fn of_kind(kind: Kind) -> Code {
    match kind {
        Kind::InvalidArgument => Code::INVALID_ARGUMENT,
        Kind::NotFound => Code::NOT_FOUND,
        Kind::AlreadyExists => Code::ALREADY_EXISTS,
        Kind::FailedPrecondition => Code::FAILED_PRECONDITION,
        Kind::Unimplemented => Code::UNIMPLEMENTED,
        Kind::ResourceExhausted => Code::RESOURCE_EXHAUSTED,
        Kind::DeadlineExceeded => Code::DEADLINE_EXCEEDED,
        Kind::Unavailable => Code::UNAVAILABLE,
        Kind::Internal => Code::INTERNAL,
    }
}

impl From<CreateError> for TaskError {
    fn from(error: CreateError) -> Self {
        // By far the largest of them.
        TaskError::Machine(Box::new(error))
    }
}

impl From<TaskError> for ttrpc::Error {
    fn from(error: TaskError) -> Self {
        let text = cube_runtime::error::chain(&error);
        ttrpc::Error::RpcStatus(ttrpc::get_status(error.code(), text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_status_carries_the_whole_chain_once() {
        let error = TaskError::Bundle(BundleError::Read {
            path: "/b/config.json".into(),
            source: std::io::Error::from_raw_os_error(2),
        });
        let ttrpc::Error::RpcStatus(status) = error.into() else {
            panic!("not a status");
        };
        assert_eq!(status.code(), Code::FAILED_PRECONDITION);
        assert_eq!(
            status.message(),
            "the container's bundle cannot be used: \"/b/config.json\" could not be read: \
             No such file or directory (os error 2)"
        );
    }
}
