// SPDX-License-Identifier: Apache-2.0
//! The connection of the short calls: dialled when it is needed, greeted, shared, and dialled anew after it
//! was lost. A pause, a snapshot or a restart of the agent's machine loses it; nothing else notices.

use std::future::Future;
use std::path::{Path, PathBuf};
use std::time::Duration;

use cube_protocol::v1::agent::GreetRequest;
use cube_protocol::v1::agent_ttrpc::AgentClient;
use cube_protocol::v1::plane_ttrpc::PlaneClient;
use cube_protocol::{CONTROL_PORT, PROTOCOL_VERSION};
use tokio::net::UnixStream;
use tokio::sync::{Mutex, oneshot};
use tokio::time::timeout;
use ttrpc::r#async::Client;
use ttrpc::r#async::transport::Socket;
use ttrpc::context::{self, Context};

use super::PlaneError;
use crate::guest::Link;
use crate::guest_text;
use crate::vsock;

/// Longest time to reach the agent and to be answered.
const OPEN_TIMEOUT: Duration = Duration::from_secs(10);

/// Longest time for a call. Generous: what it does may wait for a disk, and a host that emulates
/// virtualisation is 40 times slower.
pub(super) const CALL_TIMEOUT: Duration = Duration::from_secs(60);

/// Added to a limit before the connection itself gives a call up: the caller's own limit comes first.
const GRACE: Duration = Duration::from_secs(1);

/// Where an agent is, and the connection to it, if there is one.
pub(super) struct Connection {
    dir: PathBuf,
    vsock: PathBuf,
    live: Mutex<Option<Live>>,
}

struct Live {
    client: PlaneClient,
    /// Resolves when the client has dropped its socket, which it does when that breaks.
    gone: oneshot::Receiver<()>,
}

impl Connection {
    /// To the agent of the sandbox in this directory.
    pub(super) async fn open(dir: &Path) -> Result<Self, PlaneError> {
        let connection = Self {
            dir: dir.into(),
            vsock: crate::layout::vsock_path(dir),
            live: Mutex::default(),
        };
        connection.client().await?;
        Ok(connection)
    }

    /// Makes one call. It runs in a task of its own: ttrpc closes the whole connection when a caller goes
    /// away while a request is being written, and callers here go away when their clients do.
    pub(super) async fn call<T, F>(
        &self,
        what: &'static str,
        limit: Option<Duration>,
        rpc: impl FnOnce(PlaneClient, Context) -> F,
    ) -> Result<T, PlaneError>
    where
        T: Send + 'static,
        F: Future<Output = ttrpc::Result<T>> + Send + 'static,
    {
        let client = self.client().await?;
        let context = limit.map_or_else(Context::default, |limit| {
            context::with_duration(limit.saturating_add(GRACE))
        });
        let answer = tokio::spawn(rpc(client, context));
        let answered = match limit {
            Some(limit) => timeout(limit, answer)
                .await
                .map_err(|_| PlaneError::Timeout { what, limit })?,
            None => answer.await,
        };
        match answered {
            Ok(answer) => answer.map_err(|error| PlaneError::of_call(what, error)),
            // The task is aborted by nobody but an async runtime that is being shut down.
            Err(ended) => Err(PlaneError::Lost {
                what,
                source: std::io::Error::other(ended).into(),
            }),
        }
    }

    /// Connects to a port of the guest.
    pub(super) async fn dial(&self, port: u32) -> Result<UnixStream, PlaneError> {
        if !self.vsock.exists() {
            return Err(PlaneError::NoSandbox {
                dir: self.dir.clone(),
            });
        }
        vsock::dial(&self.vsock, port)
            .await
            .map_err(PlaneError::Dial)
    }

    async fn client(&self) -> Result<PlaneClient, PlaneError> {
        let mut live = self.live.lock().await;
        if let Some(live) = &mut *live
            && matches!(
                live.gone.try_recv(),
                Err(oneshot::error::TryRecvError::Empty)
            )
        {
            return Ok(live.client.clone());
        }
        let limit = OPEN_TIMEOUT;
        let fresh = timeout(limit, self.greet())
            .await
            .map_err(|_| PlaneError::Timeout {
                what: "answer",
                limit,
            })??;
        let client = fresh.client.clone();
        *live = Some(fresh);
        Ok(client)
    }

    async fn greet(&self) -> Result<Live, PlaneError> {
        const WHAT: &str = "answer a greeting";
        let (link, gone) = Link::new(self.dial(CONTROL_PORT).await?);
        let client = Client::new(Socket::new(link));
        let agent = AgentClient::new(client.clone());
        let request = GreetRequest {
            protocol: PROTOCOL_VERSION,
            ..Default::default()
        };
        match agent.greet(Context::default(), &request).await {
            Ok(answer) if answer.protocol == PROTOCOL_VERSION => Ok(Live {
                client: PlaneClient::new(client),
                gone,
            }),
            Ok(answer) => Err(PlaneError::Protocol {
                message: format!("{}", answer.protocol),
            }),
            // It refuses nothing but another protocol.
            Err(ttrpc::Error::RpcStatus(status)) => Err(PlaneError::Protocol {
                message: guest_text::one_line(status.message()),
            }),
            Err(error) => Err(PlaneError::of_call(WHAT, error)),
        }
    }
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Connection")
            .field("vsock", &self.vsock)
            .finish_non_exhaustive()
    }
}
