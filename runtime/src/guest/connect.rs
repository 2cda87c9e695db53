// SPDX-License-Identifier: Apache-2.0
//! From a machine that boots to a guest that is ours: dial, greet, claim.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use cube_protocol::v1::agent::{ClaimRequest, GreetRequest};
use cube_protocol::v1::agent_ttrpc::AgentClient;
use cube_protocol::{CONTROL_PORT, PROTOCOL_VERSION};
use rustix::io::{Errno, fcntl_dupfd_cloexec};
use rustix::net::{Shutdown, shutdown};
use thiserror::Error;
use tokio::net::UnixStream;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, sleep_until, timeout, timeout_at};
use ttrpc::r#async::Client;
use ttrpc::r#async::transport::Socket;

use super::link::Link;
use super::{CALL_TIMEOUT, Guest, GuestError};
use crate::error::Kind;
use crate::exit::VmmExit;
use crate::guest_text;
use crate::trace;
use crate::vmm::End;
use crate::vsock::{self, DialError};

/// Pause between attempts to reach an agent that is still booting: what a cold boot may be noticed late.
const DIAL_INTERVAL: Duration = Duration::from_millis(10);

/// Longest single attempt: a guest that lost the request on its way up is asked again.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a guest may take to close a connection that the host has closed.
const HANG_UP_TIMEOUT: Duration = Duration::from_secs(10);

/// Random bytes for the guest's pool: twice what the kernel wants for a full reseed (256 bits).
const ENTROPY_BYTES: usize = 64;

/// Bytes of a machine id (machine-id(5)).
const MACHINE_ID_BYTES: usize = 16;

/// A guest whose agent answered and that has no identity of its own yet. There is nothing it can run.
pub(crate) struct Unclaimed {
    guest: Guest,
    gone: oneshot::Receiver<()>,
    /// The same connection, to close it in an orderly way.
    stream: OwnedFd,
}

/// Dials the agent until it answers, the machine ends or the time is up.
pub(crate) async fn connect(
    vsock: &Path,
    end: End,
    deadline: Instant,
) -> Result<Unclaimed, ClaimError> {
    let stream = dial_until(vsock, &end, deadline).await?;
    let again = fcntl_dupfd_cloexec(&stream, 0).map_err(ClaimError::HangUp)?;
    let (link, gone) = Link::new(stream);
    let client = AgentClient::new(Client::new(Socket::new(link)));
    let guest = Guest {
        client,
        vsock: vsock.into(),
        end,
    };
    Ok(Unclaimed {
        guest,
        gone,
        stream: again,
    })
}

/// The same for a guest that was restored, whose agent listens already: all of it up to the
/// acknowledged claim has one limit.
pub(crate) async fn connect_restored(
    vsock: &Path,
    end: End,
    limit: Duration,
    hostname: &str,
) -> Result<(Guest, oneshot::Receiver<()>), ClaimError> {
    let deadline = Instant::now() + limit;
    let unacknowledged = |source| ClaimError::Unacknowledged {
        limit_ms: limit.as_millis(),
        source,
    };
    let unclaimed = {
        let _stage = trace::stage("connect");
        match connect(vsock, end, deadline).await {
            Err(ClaimError::Timeout { source, .. }) => return Err(unacknowledged(source)),
            connected => connected?,
        }
    };
    let _stage = trace::stage("claim");
    timeout_at(deadline, unclaimed.claim(hostname))
        .await
        .unwrap_or_else(|_elapsed| Err(unacknowledged(None)))
}

impl Unclaimed {
    /// Checks the agent's protocol, then gives the guest its own name, time and randomness. The guest
    /// is usable once it has said that it has them; what comes with it resolves when its agent has
    /// closed the connection.
    pub(crate) async fn claim(
        self,
        hostname: &str,
    ) -> Result<(Guest, oneshot::Receiver<()>), ClaimError> {
        self.guest.claim(hostname).await?;
        Ok((self.guest, self.gone))
    }

    /// Checks the agent's protocol and hangs up. When this returns, the guest has hung up too, so that
    /// neither the VMM nor the guest's kernel knows of a connection any more.
    pub(crate) async fn greet_and_leave(self) -> Result<(), ClaimError> {
        self.guest.greet().await?;
        let Self {
            guest,
            gone,
            stream,
        } = self;
        drop(guest);
        // The client's reader sees the end of the stream when the guest has closed its side in answer
        // to this, and drops the connection. A send or a close would not tell.
        shutdown(&stream, Shutdown::Write).map_err(ClaimError::HangUp)?;
        match timeout(HANG_UP_TIMEOUT, gone).await {
            // The sender is dropped without a word: that is the signal.
            Ok(_dropped) => Ok(()),
            Err(_elapsed) => Err(ClaimError::HangUp(Errno::TIMEDOUT)),
        }
    }
}

impl Guest {
    /// Checks the agent's protocol, then gives the guest its own name, time and randomness. Returns when it has said
    /// that it has them.
    pub(crate) async fn claim(&self, hostname: &str) -> Result<(), ClaimError> {
        let greeted = self.greet().await?;
        let random = random_bytes().map_err(ClaimError::Entropy)?;
        let (entropy, machine_id) = random.split_at(ENTROPY_BYTES);
        let mut request = ClaimRequest {
            hostname: hostname.into(),
            entropy: entropy.into(),
            machine_id: machine_id
                .iter()
                .map(|byte| format!("{byte:02x}"))
                .collect(),
            ..Default::default()
        };
        // Read last, and both at once: from them the guest works out how long the request took.
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        request.since_greeting_ns = u64::try_from(greeted.elapsed().as_nanos()).unwrap_or(0);
        request.realtime_ns = now
            .ok()
            .and_then(|now| u64::try_from(now.as_nanos()).ok())
            .ok_or(ClaimError::Clock)?;
        self.call(
            "take its identity",
            Some(CALL_TIMEOUT),
            |client, context| async move { client.claim(context, &request).await },
        )
        .await
        .map_err(ClaimError::Call)?;
        Ok(())
    }

    /// Answers when the answer came.
    async fn greet(&self) -> Result<Instant, ClaimError> {
        let request = GreetRequest {
            protocol: PROTOCOL_VERSION,
            ..Default::default()
        };
        let answer = self
            .call("greet", Some(CALL_TIMEOUT), |client, context| async move {
                client.greet(context, &request).await
            })
            .await
            .map_err(ClaimError::Call)?;
        let greeted = Instant::now();
        if answer.protocol != PROTOCOL_VERSION {
            return Err(ClaimError::Protocol {
                theirs: answer.protocol,
                agent: guest_text::one_line(&answer.agent_version),
            });
        }
        tracing::debug!(
            agent = guest_text::one_line(&answer.agent_version),
            kernel = guest_text::one_line(&answer.kernel_release),
            "the guest answers"
        );
        Ok(greeted)
    }
}

async fn dial_until(vsock: &Path, end: &End, deadline: Instant) -> Result<UnixStream, ClaimError> {
    let began = Instant::now();
    let mut last = None;
    loop {
        let attempt = async {
            let dialled = timeout(ATTEMPT_TIMEOUT, vsock::dial(vsock, CONTROL_PORT)).await;
            if !matches!(dialled, Ok(Ok(_))) {
                sleep(DIAL_INTERVAL).await;
            }
            dialled
        };
        tokio::select! {
            biased;
            exit = end.wait() => return Err(ClaimError::Ended(exit)),
            () = sleep_until(deadline) => return Err(ClaimError::Timeout {
                waited_s: began.elapsed().as_secs(),
                source: last,
            }),
            dialled = attempt => match dialled {
                Ok(Ok(stream)) => return Ok(stream),
                Ok(Err(error)) => last = Some(error),
                Err(_elapsed) => {}
            },
        }
    }
}

fn random_bytes() -> io::Result<[u8; ENTROPY_BYTES + MACHINE_ID_BYTES]> {
    let mut bytes = [0; ENTROPY_BYTES + MACHINE_ID_BYTES];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// Why a guest could not be reached and claimed.
#[derive(Debug, Error)]
pub enum ClaimError {
    /// The machine ended first.
    #[error("the machine ended before its agent answered: {0}")]
    Ended(VmmExit),
    /// The agent never answered.
    #[error("the guest's agent did not answer within {waited_s} s")]
    Timeout {
        /// How long it was waited for.
        waited_s: u64,
        /// The last failure.
        source: Option<DialError>,
    },
    /// The agent of a restored guest did not say in time that it has an identity of its own.
    #[error("the guest's agent did not acknowledge its identity within {limit_ms} ms")]
    Unacknowledged {
        /// How long it had.
        limit_ms: u128,
        /// Why it could not be dialled, if it came no further.
        source: Option<DialError>,
    },
    /// The connection could not be closed.
    #[error("the connection to the guest's agent could not be closed")]
    HangUp(#[source] Errno),
    /// A call failed.
    #[error("the guest's agent answered, but not as it should")]
    Call(#[source] GuestError),
    /// The agent is of another generation.
    #[error(
        "the guest's agent {agent} speaks protocol {theirs}, this program {PROTOCOL_VERSION}: build the guest image anew"
    )]
    Protocol {
        /// Its protocol.
        theirs: u32,
        /// Its version.
        agent: String,
    },
    /// No random bytes.
    #[error("no random bytes for the guest could be read from /dev/urandom")]
    Entropy(#[source] io::Error),
    /// A clock before 1970 or after 2554.
    #[error("the host's clock cannot be given to a guest")]
    Clock,
}

impl ClaimError {
    /// The class of this failure.
    pub fn kind(&self) -> Kind {
        match self {
            ClaimError::Ended(_) => Kind::Unavailable,
            ClaimError::Timeout { .. } | ClaimError::Unacknowledged { .. } => {
                Kind::DeadlineExceeded
            }
            ClaimError::Call(source) => source.kind(),
            ClaimError::Protocol { .. } => Kind::FailedPrecondition,
            ClaimError::Entropy(_) | ClaimError::Clock | ClaimError::HangUp(_) => Kind::Internal,
        }
    }
}
