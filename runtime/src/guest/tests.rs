// SPDX-License-Identifier: Apache-2.0
//! Error paths only, against an agent that misbehaves on purpose; the real one is met in `tests/`.

use super::*;
use crate::exit::Cause;
use async_trait::async_trait;
use cube_protocol::v1::agent::{
    ContainerRequest, Empty, GreetRequest, GreetResponse, ProcessRequest, WaitProcessResponse,
};
use cube_protocol::v1::agent_ttrpc::{Agent, create_agent};
use std::sync::Arc;
use std::time::SystemTime;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::UnixListener;
use tokio::sync::watch;
use tokio::time::Instant;
use ttrpc::r#async::TtrpcContext;

struct Fake {
    protocol: u32,
}

#[async_trait]
impl Agent for Fake {
    async fn greet(&self, _: &TtrpcContext, _: GreetRequest) -> ttrpc::Result<GreetResponse> {
        Ok(GreetResponse {
            protocol: self.protocol,
            agent_version: "9.9\x1b[0m".into(),
            ..Default::default()
        })
    }

    async fn pause_container(&self, _: &TtrpcContext, _: ContainerRequest) -> ttrpc::Result<Empty> {
        let text = format!("no such\n{}", "x".repeat(100_000));
        let status = ttrpc::get_status(ttrpc::Code::NOT_FOUND, text);
        Err(ttrpc::Error::RpcStatus(status))
    }

    async fn wait_process(
        &self,
        _: &TtrpcContext,
        _: ProcessRequest,
    ) -> ttrpc::Result<WaitProcessResponse> {
        std::future::pending().await
    }
}

/// A machine whose agent is a task of this process.
struct FakeMachine {
    _dir: TempDir,
    vsock: PathBuf,
    sender: watch::Sender<Option<VmmExit>>,
    end: End,
    served: tokio::task::JoinHandle<()>,
}

impl FakeMachine {
    fn start(agent: Option<Fake>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let vsock = dir.path().join("vsock.sock");
        let listener = UnixListener::bind(&vsock).unwrap();
        let (sender, end) = End::channel();
        let served = tokio::spawn(serve(listener, agent));
        Self {
            _dir: dir,
            vsock,
            sender,
            end,
            served,
        }
    }

    async fn claim(&self) -> Result<Guest, ClaimError> {
        let deadline = Instant::now() + Duration::from_secs(1);
        let unclaimed = connect(&self.vsock, self.end.clone(), deadline).await?;
        Ok(unclaimed.claim("host").await?.0)
    }

    /// A guest that skipped its claim: these tests are of what comes later.
    fn guest(&self, stream: UnixStream) -> Guest {
        let client = ttrpc::r#async::Client::new(ttrpc::r#async::transport::Socket::new(stream));
        Guest {
            client: AgentClient::new(client),
            vsock: self.vsock.clone(),
            end: self.end.clone(),
        }
    }

    fn end(&self) {
        self.sender.send_replace(Some(VmmExit {
            cause: Cause::Signal(9),
            at: SystemTime::now(),
            last_words: String::new(),
        }));
    }
}

/// Accepts connections to the control port; without an agent, refuses them.
async fn serve(listener: UnixListener, agent: Option<Fake>) {
    let Some(agent) = agent else {
        loop {
            drop(listener.accept().await.unwrap());
        }
    };
    let (stream, _) = listener.accept().await.unwrap();
    let mut stream = BufReader::with_capacity(1, stream);
    let mut line = String::new();
    stream.read_line(&mut line).await.unwrap();
    assert_eq!(line, "CONNECT 1024\n");
    let mut stream = stream.into_inner();
    stream.write_all(b"OK 1\n").await.unwrap();
    let connections = one_connection(stream);
    let mut server = ttrpc::r#async::Server::new()
        .add_listener(ttrpc::r#async::transport::Listener::new(connections))
        .register_service(create_agent(Arc::new(agent)));
    server.start().await.unwrap();
    std::future::pending::<()>().await;
    server.shutdown().await.unwrap();
}

fn one_connection(
    stream: UnixStream,
) -> impl futures::Stream<Item = std::io::Result<UnixStream>> + Send {
    use futures::StreamExt as _;
    futures::stream::iter([Ok(stream)]).chain(futures::stream::pending())
}

async fn connected() -> (FakeMachine, Guest) {
    let machine = FakeMachine::start(Some(Fake { protocol: 1 }));
    let stream = vsock::dial(&machine.vsock, 1024).await.unwrap();
    let guest = machine.guest(stream);
    (machine, guest)
}

#[tokio::test]
async fn an_agent_that_is_not_there_is_a_timeout_with_its_cause() {
    let machine = FakeMachine::start(None);
    let error = machine.claim().await.unwrap_err();
    assert!(
        matches!(
            &error,
            ClaimError::Timeout {
                source: Some(DialError::Refused { .. }),
                ..
            }
        ),
        "{error:?}"
    );
}

#[tokio::test]
async fn a_machine_that_ends_while_it_boots_is_not_waited_for() {
    let machine = FakeMachine::start(None);
    machine.end();
    let error = machine.claim().await.unwrap_err();
    assert!(error.to_string().contains("killed by signal 9"), "{error}");
}

#[tokio::test]
async fn an_agent_of_another_protocol_is_not_claimed() {
    let machine = FakeMachine::start(Some(Fake { protocol: 77 }));
    let error = machine.claim().await.unwrap_err();
    assert!(matches!(error, ClaimError::Protocol { theirs: 77, .. }));
    assert!(!error.to_string().contains('\x1b'), "{error:?}");
}

#[tokio::test]
async fn a_claim_that_is_not_acknowledged_gives_no_guest() {
    // This agent does not know the call, which ttrpc answers with NOT_FOUND.
    let machine = FakeMachine::start(Some(Fake {
        protocol: cube_protocol::PROTOCOL_VERSION,
    }));
    let error = machine.claim().await.unwrap_err();
    assert!(matches!(
        error,
        ClaimError::Call(GuestError::Refused { .. })
    ));
}

#[tokio::test]
async fn a_restored_guest_that_keeps_silent_is_given_up_in_its_own_time() {
    // Accepts the connection and never says a word.
    let dir = tempfile::tempdir().unwrap();
    let vsock = dir.path().join("vsock.sock");
    let listener = UnixListener::bind(&vsock).unwrap();
    let silent = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.write_all(b"OK 1\n").await.unwrap();
        std::future::pending::<()>().await;
    });
    let (_sender, end) = End::channel();
    let began = Instant::now();
    let limit = Duration::from_secs(1);
    let error = connect_restored(&vsock, end, limit, "host")
        .await
        .unwrap_err();
    assert!(
        matches!(error, ClaimError::Unacknowledged { limit_ms: 1000, .. }),
        "{error}"
    );
    assert_eq!(error.kind(), Kind::DeadlineExceeded);
    assert!(began.elapsed() < CALL_TIMEOUT);
    silent.abort();
}

#[tokio::test]
async fn leaving_returns_when_the_guest_has_hung_up() {
    let machine = FakeMachine::start(Some(Fake {
        protocol: cube_protocol::PROTOCOL_VERSION,
    }));
    let deadline = Instant::now() + Duration::from_secs(5);
    let unclaimed = connect(&machine.vsock, machine.end.clone(), deadline).await;
    unclaimed.unwrap().greet_and_leave().await.unwrap();
}

#[tokio::test]
async fn leaving_a_guest_of_another_protocol_is_refused() {
    let machine = FakeMachine::start(Some(Fake { protocol: 77 }));
    let deadline = Instant::now() + Duration::from_secs(5);
    let unclaimed = connect(&machine.vsock, machine.end.clone(), deadline).await;
    let error = unclaimed.unwrap().greet_and_leave().await.unwrap_err();
    assert!(
        matches!(error, ClaimError::Protocol { theirs: 77, .. }),
        "{error}"
    );
}

#[tokio::test]
async fn a_refusal_keeps_its_class_and_is_short_and_printable() {
    let (_machine, guest) = connected().await;
    let error = guest.pause_container("c").await.unwrap_err();
    assert_eq!(error.kind(), Kind::NotFound);
    let text = error.to_string();
    assert!(text.starts_with("the guest could not pause the container: no such x"));
    assert!(text.len() < 1200);
}

#[tokio::test]
async fn pending_calls_end_with_the_machine() {
    let (machine, guest) = connected().await;
    let waiting = tokio::spawn({
        let guest = guest.clone();
        async move { guest.wait_process("c", "").await }
    });
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(!waiting.is_finished());
    machine.end();
    let error = waiting.await.unwrap().unwrap_err();
    assert!(matches!(error, GuestError::Ended { .. }), "{error}");
    let later = guest.wait_process("c", "").await.unwrap_err();
    assert!(matches!(later, GuestError::Ended { .. }), "{later}");
}

#[tokio::test]
async fn a_broken_connection_to_a_living_machine_is_told_apart() {
    let (machine, guest) = connected().await;
    machine.served.abort();
    let error = guest.wait_process("c", "").await.unwrap_err();
    assert!(matches!(error, GuestError::Connection { .. }), "{error}");
    assert_eq!(error.kind(), Kind::Unavailable);
}
