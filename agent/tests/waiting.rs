// SPDX-License-Identifier: Apache-2.0
//! An agent that nobody has claimed yet: what it answers, what it refuses, and that it waits without doing
//! anything. Needs neither root nor containers: none is made.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on should say where"
)]

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use cube_protocol::v1::agent as wire;
use cube_protocol::v1::agent_ttrpc::AgentClient;
use cube_protocol::{CONTROL_PORT, PROTOCOL_VERSION};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use ttrpc::asynchronous::Client;
use ttrpc::asynchronous::transport::Socket;
use ttrpc::context::Context;

const PATIENCE: Duration = Duration::from_secs(30);

struct Agent {
    dir: TempDir,
    process: Child,
}

impl Agent {
    /// With a directory in place of cgroups, so no container can be made.
    async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        fs::create_dir(path("cgroup")).unwrap();
        fs::write(path("cgroup/cgroup.controllers"), "").unwrap();
        fs::create_dir(path("slots")).unwrap();
        let process = Command::new(env!("CARGO_BIN_EXE_cube-agent"))
            .arg("serve")
            .arg("--listen")
            .arg(format!("unix:{}", path("agent.sock").display()))
            .arg("--slots")
            .arg(path("slots"))
            .arg("--run")
            .arg(path("run"))
            .arg("--cgroup")
            .arg(path("cgroup"))
            // The rehearsal cannot be held without cgroups, and says so.
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let agent = Self { dir, process };
        let deadline = Instant::now() + PATIENCE;
        while !agent.socket().exists() {
            assert!(Instant::now() < deadline);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        agent
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("agent.sock")
    }

    async fn connect(&self) -> AgentClient {
        let mut connection = UnixStream::connect(self.socket()).await.unwrap();
        let line = format!("CONNECT {CONTROL_PORT}\n");
        connection.write_all(line.as_bytes()).await.unwrap();
        let mut answer = [0; 5];
        connection.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"OK 1\n");
        AgentClient::new(Client::new(Socket::new(connection)))
    }

    /// How often each of its threads has gone to sleep so far.
    fn sleeps(&self) -> Vec<String> {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.process.id())).unwrap();
        let mut counts: Vec<String> = tasks
            .map(|task| {
                let status = fs::read_to_string(task.unwrap().path().join("status")).unwrap();
                let line = status.lines().find(|l| l.starts_with("voluntary"));
                line.unwrap().to_owned()
            })
            .collect();
        counts.sort();
        counts
    }

    fn descriptors(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.process.id()))
            .unwrap()
            .count()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

fn soon() -> Context {
    ttrpc::context::with_duration(PATIENCE)
}

fn greeting() -> wire::GreetRequest {
    let mut greeting = wire::GreetRequest::new();
    greeting.protocol = PROTOCOL_VERSION;
    greeting
}

fn refusal<T: std::fmt::Debug>(result: ttrpc::Result<T>) -> String {
    match result.unwrap_err() {
        ttrpc::Error::RpcStatus(status) => {
            assert_eq!(status.code(), ttrpc::Code::FAILED_PRECONDITION);
            status.message
        }
        other => panic!("not a status: {other}"),
    }
}

#[tokio::test]
async fn a_connection_that_ends_before_the_claim_leaves_nothing_and_the_next_is_served() {
    let agent = Agent::start().await;
    let before = agent.descriptors();
    for _ in 0..3 {
        let client = agent.connect().await;
        let answer = client.greet(soon(), &greeting()).await.unwrap();
        assert_eq!(answer.protocol, PROTOCOL_VERSION);
        drop(client);
    }
    let deadline = Instant::now() + PATIENCE;
    while agent.descriptors() != before {
        assert!(Instant::now() < deadline, "connections are still open");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn nothing_is_made_before_the_claim() {
    let agent = Agent::start().await;
    let client = agent.connect().await;
    let mut container = wire::CreateContainerRequest::new();
    container.container_id = "c".to_owned();
    container.root.mut_or_insert_default().fs_type = "ext4".to_owned();
    let text = refusal(client.create_container(soon(), &container).await);
    assert_eq!(text, "the machine has not been claimed yet");
    let mut process = wire::CreateProcessRequest::new();
    process.container_id = "c".to_owned();
    let text = refusal(client.create_process(soon(), &process).await);
    assert_eq!(text, "the machine has not been claimed yet");
}

#[tokio::test]
async fn waiting_costs_nothing() {
    let agent = Agent::start().await;
    let client = agent.connect().await;
    client.greet(soon(), &greeting()).await.unwrap();
    drop(client);
    // Whatever the end of the connection still set off.
    tokio::time::sleep(Duration::from_millis(500)).await;
    let before = agent.sleeps();
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert_eq!(agent.sleeps(), before, "something ticks");
}
