// SPDX-License-Identifier: Apache-2.0
//! Against an agent that is a task of this process and misbehaves on purpose; the real one is met in
//! `tests/vm_plane.rs`.

use std::collections::BTreeMap;
use std::os::unix::net::UnixStream as StdStream;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use cube_protocol::v1::agent::{ContainerRequest, GreetRequest, GreetResponse};
use cube_protocol::v1::agent_ttrpc::{Agent, create_agent};
use cube_protocol::v1::plane as wire;
use cube_protocol::v1::plane_ttrpc::{self, create_plane};
use cube_protocol::{CONTROL_PORT, FrameKind, PLANE_PORT, PROTOCOL_VERSION, encode_frame};
use protobuf::Message;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::time::timeout;
use ttrpc::r#async::TtrpcContext;
use ttrpc::r#async::transport::{Listener, Socket};

use super::error::LostError;
use super::*;
use crate::error::Kind;

const SOON: Duration = Duration::from_secs(10);

/// What a connection to the plane's port is answered, once its opening was read.
type Script = Vec<u8>;

#[derive(Clone)]
struct Fake {
    protocol: u32,
}

#[async_trait]
impl Agent for Fake {
    async fn greet(&self, _: &TtrpcContext, _: GreetRequest) -> ttrpc::Result<GreetResponse> {
        Ok(GreetResponse {
            protocol: self.protocol,
            ..Default::default()
        })
    }
}

#[async_trait]
impl plane_ttrpc::Plane for Fake {
    async fn list_jobs(
        &self,
        _: &TtrpcContext,
        _: ContainerRequest,
    ) -> ttrpc::Result<wire::ListJobsResponse> {
        Ok(wire::ListJobsResponse::new())
    }

    async fn wait_job(&self, _: &TtrpcContext, _: wire::JobRequest) -> ttrpc::Result<wire::JobEnd> {
        std::future::pending().await
    }

    async fn stat(&self, _: &TtrpcContext, _: wire::PathRequest) -> ttrpc::Result<wire::Entry> {
        let mut fault = wire::Fault::new();
        fault.kind = wire::FaultKind::NO_PATH.into();
        let mut status = ttrpc::get_status(ttrpc::Code::UNKNOWN, "gone\x1b[0m");
        let mut detail = ttrpc::proto::Any::new();
        detail.value = fault.write_to_bytes().unwrap();
        status.details.push(detail);
        Err(ttrpc::Error::RpcStatus(status))
    }
}

/// A sandbox's directory with such an agent behind its socket.
struct FakeSandbox {
    dir: TempDir,
    control: Arc<Mutex<Vec<StdStream>>>,
}

impl FakeSandbox {
    fn start(fake: Fake, script: Script) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(dir.path().join("vsock.sock")).unwrap();
        let control: Arc<Mutex<Vec<StdStream>>> = Arc::default();
        let connections = Arc::clone(&control);
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (fake, script) = (fake.clone(), script.clone());
                tokio::spawn(serve(stream, fake, script, Arc::clone(&connections)));
            }
        });
        Self { dir, control }
    }

    async fn open(&self) -> Result<Plane, PlaneError> {
        Plane::open(self.dir.path(), "c").await
    }

    fn break_connections(&self) {
        for stream in self.control.lock().unwrap().iter() {
            stream.shutdown(std::net::Shutdown::Both).unwrap();
        }
    }
}

const GOOD: Fake = Fake {
    protocol: PROTOCOL_VERSION,
};

async fn serve(
    stream: UnixStream,
    fake: Fake,
    script: Script,
    control: Arc<Mutex<Vec<StdStream>>>,
) {
    let mut stream = BufReader::with_capacity(1, stream);
    let mut line = String::new();
    stream.read_line(&mut line).await.unwrap();
    let mut stream = stream.into_inner();
    stream.write_all(b"OK 1\n").await.unwrap();
    if line == format!("CONNECT {PLANE_PORT}\n") {
        // Some of the opening is enough.
        stream.read_u8().await.unwrap();
        stream.write_all(&script).await.unwrap();
        stream.shutdown().await.unwrap();
        std::future::pending::<()>().await;
    }
    assert_eq!(line, format!("CONNECT {CONTROL_PORT}\n"));
    let stream = stream.into_std().unwrap();
    control.lock().unwrap().push(stream.try_clone().unwrap());
    let socket = Socket::new(UnixStream::from_std(stream).unwrap());
    let one = futures::stream::once(async move { Ok::<_, std::io::Error>(socket) });
    let mut server = ttrpc::r#async::Server::new()
        .add_listener(Listener::new(Box::pin(one)))
        .register_service(create_agent(Arc::new(fake.clone())))
        .register_service(create_plane(Arc::new(fake)));
    server.start().await.unwrap();
    std::future::pending::<()>().await;
}

fn answer(answer: wire::answer::Answer) -> Vec<u8> {
    let mut message = wire::Answer::new();
    message.answer = Some(answer);
    let bytes = message.write_to_bytes().unwrap();
    encode_frame(FrameKind::Message, &bytes).unwrap()
}

fn started() -> Vec<u8> {
    answer(wire::answer::Answer::Started(wire::JobStarted::new()))
}

fn refusal(kind: wire::FaultKind) -> Vec<u8> {
    let mut fault = wire::Fault::new();
    fault.kind = kind.into();
    fault.message = "no\nmore".into();
    answer(wire::answer::Answer::Fault(fault))
}

#[tokio::test]
async fn a_lost_connection_is_an_error_and_the_next_call_dials_anew() {
    let sandbox = FakeSandbox::start(GOOD, Script::new());
    let plane = sandbox.open().await.unwrap();
    plane.jobs().await.unwrap();
    assert_eq!(sandbox.control.lock().unwrap().len(), 1);
    let waiting = {
        let plane = plane.clone();
        tokio::spawn(async move { plane.wait(&JobRef::Pid(1)).await })
    };
    // Answered on the same connection, so the wait is on its way.
    plane.jobs().await.unwrap();
    sandbox.break_connections();
    let error = timeout(SOON, waiting).await.unwrap().unwrap().unwrap_err();
    assert!(matches!(error, PlaneError::Lost { .. }), "{error:?}");
    assert_eq!(error.kind(), Kind::Unavailable);
    plane.jobs().await.unwrap();
    assert_eq!(sandbox.control.lock().unwrap().len(), 2);
    // One that was lost while nobody called is not noticed.
    sandbox.break_connections();
    tokio::time::sleep(Duration::from_millis(50)).await;
    plane.jobs().await.unwrap();
}

#[tokio::test]
async fn a_fault_is_told_to_programs_and_to_people() {
    let sandbox = FakeSandbox::start(GOOD, refusal(wire::FaultKind::NO_CWD));
    let plane = sandbox.open().await.unwrap();
    let error = plane.stat(&Place::new("/x")).await.unwrap_err();
    assert_eq!(error.fault(), Some(Fault::NoPath));
    assert_eq!(
        error.to_string(),
        "the guest could not look at the path: gone [0m"
    );
    let error = plane.start(&StartJob::default()).await.unwrap_err();
    assert_eq!(error.fault(), Some(Fault::NoCwd));
    assert_eq!(error.kind(), Kind::InvalidArgument);
    assert!(error.to_string().ends_with("no more"), "{error}");
}

#[tokio::test]
async fn another_protocol_and_no_sandbox_are_told_apart() {
    let sandbox = FakeSandbox::start(Fake { protocol: 1 }, Script::new());
    let error = sandbox.open().await.unwrap_err();
    assert!(matches!(error, PlaneError::Protocol { .. }), "{error:?}");
    let dir = tempfile::tempdir().unwrap();
    let error = Plane::open(dir.path(), "c").await.unwrap_err();
    assert!(matches!(error, PlaneError::NoSandbox { .. }), "{error:?}");
    // A socket that nobody serves any more.
    drop(UnixListener::bind(dir.path().join("vsock.sock")).unwrap());
    let error = Plane::open(dir.path(), "c").await.unwrap_err();
    assert!(matches!(error, PlaneError::Dial(_)), "{error:?}");
}

/// What a job's output is when the guest sends this after the job's start.
async fn output_of(after: &[u8]) -> Result<Option<JobEvent>, PlaneError> {
    let script = [started(), after.to_vec()].concat();
    let sandbox = FakeSandbox::start(GOOD, script);
    let plane = sandbox.open().await.unwrap();
    let mut output = plane.start(&StartJob::default()).await.unwrap();
    timeout(SOON, output.next()).await.unwrap()
}

#[tokio::test]
async fn a_guest_that_breaks_the_protocol_gets_no_memory_and_a_precise_error() {
    let too_long = output_of(&[1, 0xff, 0, 0, 0]).await.unwrap_err();
    let is_frame = |error: &PlaneError| {
        matches!(
            error,
            PlaneError::Lost {
                source: LostError::Frame(_),
                ..
            }
        )
    };
    assert!(is_frame(&too_long), "{too_long:?}");
    let no_kind = output_of(&[9, 0, 0, 0, 0]).await.unwrap_err();
    assert!(is_frame(&no_kind), "{no_kind:?}");
    for (bytes, what) in [(&[][..], "nothing"), (&[1, 0, 0, 0, 9, 1], "a part")] {
        let early = output_of(bytes).await.unwrap_err();
        assert!(
            matches!(early, PlaneError::Lost { .. }),
            "{what}: {early:?}"
        );
    }
    let not_a_message = encode_frame(FrameKind::Message, &[0xff; 9]).unwrap();
    let malformed = output_of(&not_a_message).await.unwrap_err();
    assert!(
        matches!(malformed, PlaneError::Malformed { .. }),
        "{malformed:?}"
    );
    let out_of_turn = encode_frame(FrameKind::End, &[]).unwrap();
    let malformed = output_of(&out_of_turn).await.unwrap_err();
    assert!(
        matches!(malformed, PlaneError::Malformed { .. }),
        "{malformed:?}"
    );
}

#[tokio::test]
async fn what_a_guest_says_of_an_end_is_made_possible() {
    let end = wire::JobEnd {
        exit_code: 70_000,
        ended_at_ns: u64::MAX,
        ..Default::default()
    };
    let message = encode_frame(FrameKind::Message, &end.write_to_bytes().unwrap()).unwrap();
    let Some(JobEvent::End(end)) = output_of(&message).await.unwrap() else {
        panic!("no end");
    };
    assert_eq!((end.exit_code, end.signal), (255, None));
}

#[tokio::test]
async fn a_writer_hears_of_a_full_disk_before_it_has_sent_all() {
    let sandbox = FakeSandbox::start(GOOD, refusal(wire::FaultKind::NO_SPACE));
    let plane = sandbox.open().await.unwrap();
    let mut writer = plane
        .write(&Place::new("/x"), &BTreeMap::new())
        .await
        .unwrap();
    // The guest reads nothing of this.
    let all = vec![0; 64 << 20];
    let error = timeout(SOON, writer.write(&all))
        .await
        .unwrap()
        .unwrap_err();
    assert_eq!(error.fault(), Some(Fault::NoSpace), "{error:?}");
    assert_eq!(error.kind(), Kind::ResourceExhausted);
}
