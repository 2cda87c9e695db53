// SPDX-License-Identifier: Apache-2.0
//! Where connections come from: vsock in a machine; outside of one, for tests, a Unix socket that speaks as
//! the host's side of a machine's vsock does (`CONNECT <port>\n`, answered by `OK <number>\n`), so that the
//! same client reaches either.
//!
//! The control port leads to the ttrpc services, the stream port to the streams of a process, the plane port to
//! whatever its opening says, the TCP port to the ports of the machine, the DNS port to who answers its names.

use std::convert::Infallible;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use cube_protocol::{
    CONTROL_PORT, DNS_PORT, HelloError, PLANE_PORT, STREAM_PORT, StreamAnswer, StreamHello,
    TCP_PORT,
};
use thiserror::Error;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixListener;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tokio_vsock::{VMADDR_CID_ANY, VMADDR_CID_HOST, VsockAddr, VsockListener};
use ttrpc::asynchronous::transport::{Listener, Socket};

use crate::agent::Agent;
use crate::cause::{Cause, chain};
use crate::plane;
use crate::process::{AttachError, Connection, StreamEnd};
use crate::service::Service;

/// How long a connection may take to say what it is. The host sends that at once.
const HELLO_TIMEOUT: Duration = Duration::from_secs(10);

/// Pause after an accept that failed, most likely for want of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Longest first line on the Unix socket: `CONNECT 4294967295`.
const MAX_LINE: usize = 32;

/// Control connections that wait to be served.
const BACKLOG: usize = 16;

/// Why the agent cannot be reached.
#[derive(Debug, Error)]
pub enum TransportError {
    /// bind or listen.
    #[error("cannot listen on {address}")]
    Listen {
        /// Where.
        address: String,
        /// The kernel's answer.
        #[source]
        source: Cause,
    },
    /// The ttrpc server.
    #[error("cannot serve control connections")]
    Serve(#[source] ttrpc::Error),
}

/// A connection that was refused.
#[derive(Debug, Error)]
enum StreamError {
    #[error("no hello within {} s", HELLO_TIMEOUT.as_secs())]
    Silent,
    #[error("not a hello")]
    Hello(#[from] HelloError),
    #[error("the connection broke")]
    Io(#[source] Cause),
    #[error("nothing to attach to")]
    Process(#[from] crate::error::AgentError),
    #[error("cannot attach")]
    Attach(#[from] AttachError),
}

/// Where to be reached.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Address {
    /// One vsock port for each purpose.
    Vsock,
    /// A Unix socket for all of them.
    Unix(PathBuf),
}

/// Serves an agent for ever.
pub async fn serve(agent: Arc<Agent>, address: Address) -> Result<Infallible, TransportError> {
    let (control, sockets) = mpsc::channel(BACKLOG);
    let mut server = ttrpc::r#async::Server::new()
        .register_service(Service::new(Arc::clone(&agent)).methods())
        .register_service(plane::service::Service::new(Arc::clone(&agent)).methods())
        .add_listener(Listener::new(ReceiverStream::new(sockets)));
    // Serves as long as it is not dropped.
    server.start().await.map_err(TransportError::Serve)?;
    let switch = Arc::new(Switch { agent, control });
    match address {
        Address::Vsock => switch.accept_vsock().await,
        Address::Unix(path) => switch.accept_unix(&path).await,
    }
}

/// Hands connections on to where they belong.
struct Switch {
    agent: Arc<Agent>,
    control: mpsc::Sender<io::Result<Socket>>,
}

impl Switch {
    async fn accept_vsock(self: Arc<Self>) -> Result<Infallible, TransportError> {
        let control = listen(CONTROL_PORT)?;
        let streams = listen(STREAM_PORT)?;
        let ports = listen(TCP_PORT)?;
        let plane = listen(PLANE_PORT)?;
        let names = listen(DNS_PORT)?;
        loop {
            let (accepted, port) = tokio::select! {
                accepted = control.accept() => (accepted, CONTROL_PORT),
                accepted = streams.accept() => (accepted, STREAM_PORT),
                accepted = ports.accept() => (accepted, TCP_PORT),
                accepted = plane.accept() => (accepted, PLANE_PORT),
                accepted = names.accept() => (accepted, DNS_PORT),
            };
            match accepted {
                Ok((connection, peer)) if peer.cid() == VMADDR_CID_HOST => {
                    self.connect(port, connection).await;
                }
                // Nobody else can reach these ports, unless the kernel had a loopback for vsock.
                Ok((_, peer)) => tracing::warn!(cid = peer.cid(), "not the host: refused"),
                Err(error) => accept_failed(&error).await,
            }
        }
    }

    async fn accept_unix(self: Arc<Self>, path: &Path) -> Result<Infallible, TransportError> {
        let listener = UnixListener::bind(path).map_err(|source| TransportError::Listen {
            address: path.display().to_string(),
            source: source.into(),
        })?;
        loop {
            match listener.accept().await {
                Ok((mut connection, _)) => {
                    let this = Arc::clone(&self);
                    tokio::spawn(async move {
                        // Without OK the client knows that nobody serves its port.
                        if let Ok(Some(port)) = port_of(&mut connection).await
                            && connection.write_all(b"OK 1\n").await.is_ok()
                        {
                            this.connect(port, connection).await;
                        }
                    });
                }
                Err(error) => accept_failed(&error).await,
            }
        }
    }

    async fn connect(self: &Arc<Self>, port: u32, connection: impl Connection + 'static) {
        let agent = Arc::clone(&self.agent);
        match port {
            // Only a server that has ended does not take it, and then the agent ends too.
            CONTROL_PORT => drop(self.control.send(Ok(Socket::new(connection))).await),
            // A client that goes away is how most of these two end.
            PLANE_PORT => drop(tokio::spawn(async move {
                if let Err(error) = plane::channel::serve(agent, connection).await {
                    tracing::debug!(error = %chain(&error), "a connection of the plane ended early");
                }
            })),
            TCP_PORT => drop(tokio::spawn(async move {
                if let Err(error) = agent.join_port(connection).await {
                    tracing::debug!(%error, "a connection to a port ended early");
                }
            })),
            DNS_PORT => drop(tokio::spawn(
                async move { agent.relay_names(connection).await },
            )),
            _ => drop(tokio::spawn(async move {
                if let Err(error) = attach(&agent, connection).await {
                    tracing::warn!(error = %chain(&error), "stream refused");
                }
            })),
        }
    }
}

fn listen(port: u32) -> Result<VsockListener, TransportError> {
    VsockListener::bind(VsockAddr::new(VMADDR_CID_ANY, port)).map_err(|source| {
        TransportError::Listen {
            address: format!("vsock port {port}"),
            source: source.into(),
        }
    })
}

async fn accept_failed(error: &io::Error) {
    tracing::error!(%error, "cannot accept a connection");
    sleep(ACCEPT_PAUSE).await;
}

/// Reads `CONNECT <port>\n`, byte by byte so as not to take what follows.
async fn port_of(connection: &mut impl Connection) -> io::Result<Option<u32>> {
    let mut line = Vec::new();
    while line.last() != Some(&b'\n') && line.len() < MAX_LINE {
        line.push(connection.read_u8().await?);
    }
    let port = std::str::from_utf8(&line)
        .ok()
        .and_then(|line| line.strip_prefix("CONNECT "))
        .and_then(|port| port.trim_end().parse().ok());
    let served = [CONTROL_PORT, STREAM_PORT, PLANE_PORT, TCP_PORT, DNS_PORT];
    Ok(port.filter(|port| served.contains(port)))
}

/// Joins a connection with the stream that it names.
async fn attach(
    agent: &Agent,
    mut connection: impl Connection + 'static,
) -> Result<(), StreamError> {
    let hello = timeout(HELLO_TIMEOUT, hello(&mut connection))
        .await
        .map_err(|_| StreamError::Silent)??;
    let taken = take(agent, &hello);
    let answer = match &taken {
        Ok(_) => StreamAnswer::Attached,
        Err(_) => StreamAnswer::Refused,
    };
    connection
        .write_u8(answer.code())
        .await
        .map_err(|error| StreamError::Io(error.into()))?;
    let (process, end) = taken?;
    process.streams().pump(hello.stream, end, connection);
    Ok(())
}

type Taken = (Arc<crate::process::Process>, StreamEnd);

fn take(agent: &Agent, hello: &StreamHello) -> Result<Taken, StreamError> {
    let process = agent.process_of(hello)?;
    let end = process.streams().take(hello.stream)?;
    Ok((process, end))
}

async fn hello(connection: &mut impl Connection) -> Result<StreamHello, HelloError> {
    let mut header = [0; 2];
    connection.read_exact(&mut header).await?;
    let mut body = vec![0; StreamHello::body_len(header)?];
    connection.read_exact(&mut body).await?;
    StreamHello::decode_body(&body)
}
