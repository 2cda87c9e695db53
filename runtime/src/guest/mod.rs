// SPDX-License-Identifier: Apache-2.0
//! The guest as its agent shows it: one connection for calls, one more for each stream.
//!
//! A guest is an adversary. Whatever it answers is bounded and made printable here, every call has a
//! time limit (a wait for an event has none) and ends with the machine.
//!
//! ```text
//! connect --> Unclaimed --claim--> Guest --> containers, processes, streams
//! ```
//!
//! An unclaimed guest has no method that runs anything of a user's.

mod calls;
mod connect;
mod link;

use std::future::Future;
use std::path::PathBuf;
use std::time::Duration;

use cube_protocol::v1::agent_ttrpc::AgentClient;
use cube_protocol::{HelloError, StreamAnswer, StreamHello};
use thiserror::Error;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use ttrpc::context::{self, Context};

pub use connect::ClaimError;
pub(crate) use connect::{connect, connect_restored};
pub(crate) use link::Link;

use crate::error::Kind;
use crate::exit::VmmExit;
use crate::guest_text;
use crate::vmm::End;
use crate::vsock::{self, DialError};

/// Longest time for a call that only changes something small. Generous: a host that emulates
/// virtualisation is 40 times slower, and a guest under memory pressure is slower still.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);

/// Longest time to set up or take down a container or process: it mounts, unmounts and writes back.
const SETUP_TIMEOUT: Duration = Duration::from_secs(60);

/// Longest time to open a stream.
const STREAM_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a machine whose connection broke may take to end and so to tell why.
const END_AFTER_LOSS: Duration = Duration::from_secs(2);

/// Added to a limit before the connection itself gives a call up: the caller's own limit comes first.
const GRACE: Duration = Duration::from_secs(1);

/// A claimed guest. Clones speak over the same connection.
#[derive(Clone)]
pub(crate) struct Guest {
    client: AgentClient,
    vsock: PathBuf,
    end: End,
}

impl Guest {
    /// Where the host's side of its vsock is.
    pub(crate) fn vsock(&self) -> &std::path::Path {
        &self.vsock
    }

    /// Opens one stream of a process that was created and not started.
    pub(crate) async fn open_stream(&self, hello: StreamHello) -> Result<UnixStream, StreamError> {
        let opening = tokio::time::timeout(STREAM_TIMEOUT, open_stream(&self.vsock, &hello));
        tokio::select! {
            biased;
            opened = opening => opened.unwrap_or(Err(StreamError::Timeout { limit: STREAM_TIMEOUT })),
            exit = self.end.wait() => Err(StreamError::Ended(exit)),
        }
    }

    /// Makes one call. `what` completes "the guest could not ...".
    ///
    /// The call runs in a task of its own: ttrpc closes the whole connection when a caller goes away
    /// while a request is being written, and callers here go away when their clients do.
    async fn call<T, F>(
        &self,
        what: &'static str,
        limit: Option<Duration>,
        rpc: impl FnOnce(AgentClient, Context) -> F,
    ) -> Result<T, GuestError>
    where
        T: Send + 'static,
        F: Future<Output = ttrpc::Result<T>> + Send + 'static,
    {
        let context = limit.map_or_else(Context::default, |limit| {
            context::with_duration(limit.saturating_add(GRACE))
        });
        let answer = tokio::spawn(rpc(self.client.clone(), context));
        let limited = async {
            match limit {
                Some(limit) => tokio::time::timeout(limit, answer)
                    .await
                    .map_err(|_| GuestError::Timeout { what, limit }),
                None => Ok(answer.await),
            }
        };
        let answer = tokio::select! {
            biased;
            answer = limited => answer?,
            exit = self.end.wait() => return Err(GuestError::Ended { what, exit }),
        };
        match answer {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(ttrpc::Error::RpcStatus(status))) => Err(GuestError::Refused {
                what,
                kind: kind_of(status.code()),
                message: guest_text::one_line(status.message()),
            }),
            // The connection broke, most likely because the machine is ending: that says more.
            Ok(Err(source)) => Err(match self.end.within(END_AFTER_LOSS).await {
                Some(exit) => GuestError::Ended { what, exit },
                None => GuestError::Connection { what, source },
            }),
            Err(_aborted) => Err(GuestError::Abandoned { what }),
        }
    }
}

impl std::fmt::Debug for Guest {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Guest")
            .field("vsock", &self.vsock)
            .finish_non_exhaustive()
    }
}

async fn open_stream(
    vsock: &std::path::Path,
    hello: &StreamHello,
) -> Result<UnixStream, StreamError> {
    let frame = hello.encode().map_err(StreamError::Hello)?;
    let mut stream = vsock::dial(vsock, cube_protocol::STREAM_PORT)
        .await
        .map_err(StreamError::Dial)?;
    let answer = async {
        stream.write_all(&frame).await?;
        stream.read_u8().await
    };
    let answer = answer.await.map_err(StreamError::Io)?;
    match StreamAnswer::from_code(answer).map_err(StreamError::Hello)? {
        StreamAnswer::Attached => Ok(stream),
        StreamAnswer::Refused => Err(StreamError::Refused),
    }
}

fn kind_of(code: ttrpc::Code) -> Kind {
    use ttrpc::Code;
    match code {
        Code::INVALID_ARGUMENT | Code::OUT_OF_RANGE => Kind::InvalidArgument,
        Code::NOT_FOUND => Kind::NotFound,
        Code::ALREADY_EXISTS => Kind::AlreadyExists,
        Code::FAILED_PRECONDITION | Code::ABORTED => Kind::FailedPrecondition,
        Code::UNIMPLEMENTED => Kind::Unimplemented,
        Code::RESOURCE_EXHAUSTED => Kind::ResourceExhausted,
        Code::DEADLINE_EXCEEDED => Kind::DeadlineExceeded,
        Code::UNAVAILABLE => Kind::Unavailable,
        Code::OK
        | Code::CANCELLED
        | Code::UNKNOWN
        | Code::PERMISSION_DENIED
        | Code::UNAUTHENTICATED
        | Code::INTERNAL
        | Code::DATA_LOSS => Kind::Internal,
    }
}

/// What can go wrong with one call to the agent.
#[derive(Debug, Error)]
pub enum GuestError {
    /// The agent answered with an error.
    #[error("the guest could not {what}: {message}")]
    Refused {
        /// What was asked.
        what: &'static str,
        /// The class the agent gave.
        kind: Kind,
        /// The agent's words.
        message: String,
    },
    /// The agent did not answer in time.
    #[error("the guest did not {what} within {} s", limit.as_secs())]
    Timeout {
        /// What was asked.
        what: &'static str,
        /// How long it had.
        limit: Duration,
    },
    /// The machine ended.
    #[error("the guest could not {what} because the machine ended: {exit}")]
    Ended {
        /// What was asked.
        what: &'static str,
        /// How it ended.
        exit: VmmExit,
    },
    /// The connection to the agent broke, and the machine did not end.
    #[error("the guest could not be asked to {what}")]
    Connection {
        /// What was asked.
        what: &'static str,
        /// Why.
        source: ttrpc::Error,
    },
    /// This program is shutting down.
    #[error("the request to {what} was given up because this program is ending")]
    Abandoned {
        /// What was asked.
        what: &'static str,
    },
}

impl GuestError {
    /// The class of this failure.
    pub fn kind(&self) -> Kind {
        match self {
            GuestError::Refused { kind, .. } => *kind,
            GuestError::Timeout { .. } => Kind::DeadlineExceeded,
            GuestError::Ended { .. }
            | GuestError::Connection { .. }
            | GuestError::Abandoned { .. } => Kind::Unavailable,
        }
    }
}

/// Why a stream of a process could not be opened.
#[derive(Debug, Error)]
pub enum StreamError {
    /// The guest could not be reached.
    #[error("the stream could not be connected")]
    Dial(#[source] DialError),
    /// The ids do not fit, or the agent's answer was none.
    #[error("the stream's opening was malformed")]
    Hello(#[source] HelloError),
    /// The connection failed while it was being opened.
    #[error("the stream's connection failed")]
    Io(#[source] std::io::Error),
    /// The agent does not know the stream.
    #[error("the agent refused the stream")]
    Refused,
    /// It took too long.
    #[error("the stream was not open within {} s", limit.as_secs())]
    Timeout {
        /// How long it had.
        limit: Duration,
    },
    /// The machine ended.
    #[error("the machine ended: {0}")]
    Ended(VmmExit),
}

#[cfg(test)]
mod tests;
