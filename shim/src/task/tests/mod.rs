// SPDX-License-Identifier: Apache-2.0
//! The 17 calls against a machine that is a fake: what they answer, what they ask of the machine, and
//! what containerd is told in which order.

use std::fs;

use containerd_shim_protos::api::*;
use cube_runtime::{Kind, Stats};
use protobuf::Message;
use protobuf::well_known_types::any::Any;
use tempfile::TempDir;
use tokio::io::AsyncWriteExt;
use tokio::time::timeout;
use ttrpc::Code;

use super::lifecycle::Exited;
use super::*;
use crate::events::Encoded;
use crate::guest::fake::{FakeMachine, PID};

mod control;
mod create;
mod exec;
mod life;
mod shutdown;

const SOON: Duration = Duration::from_secs(10);

/// A spec that a machine can be made from: what `ctr run` writes, shortened.
const SPEC: &str = r#"{
    "ociVersion": "1.0.2",
    "process": {"terminal": false, "user": {"uid": 0, "gid": 0}, "args": ["true"], "cwd": "/"},
    "root": {"path": "rootfs"},
    "linux": {"namespaces": [{"type": "pid"}, {"type": "mount"}, {"type": "network"}]}
}"#;

struct Fixture {
    shim: Arc<Shim>,
    machine: FakeMachine,
    publisher: Publisher,
    dir: TempDir,
}

impl Fixture {
    fn new() -> Self {
        let machine = FakeMachine::default();
        let publisher = Publisher::collecting();
        let identity = Identity {
            address: "/run/containerd/containerd.sock".into(),
            namespace: "default".into(),
            sandbox: "t1".into(),
            socket: None,
        };
        let boot = Box::new(machine.clone());
        let shim = Shim::new(identity, Config::default(), boot, publisher.clone());
        Self {
            shim: Arc::new(shim),
            machine,
            publisher,
            dir: tempfile::tempdir().unwrap(),
        }
    }

    fn request(&self, id: &str) -> CreateTaskRequest {
        let bundle = self.dir.path().join(id);
        fs::create_dir_all(&bundle).unwrap();
        fs::write(bundle.join("config.json"), SPEC).unwrap();
        CreateTaskRequest {
            id: id.into(),
            bundle: bundle.display().to_string(),
            ..Default::default()
        }
    }

    async fn create(&self, id: &str) {
        assert_eq!(self.shim.do_create(self.request(id)).await.unwrap(), PID);
    }

    async fn running(id: &str) -> Self {
        let fixture = Self::new();
        fixture.create(id).await;
        assert_eq!(fixture.shim.do_start(id, "").await.unwrap(), PID);
        fixture
    }

    async fn exec(&self, id: &str, exec: &str) {
        self.add_exec(id, exec).await.unwrap();
        self.shim.do_start(id, exec).await.unwrap();
    }

    async fn add_exec(&self, id: &str, exec: &str) -> Result<(), TaskError> {
        let spec = Any {
            value: br#"{"args":["true"],"cwd":"/"}"#.to_vec(),
            ..Default::default()
        };
        let request = ExecProcessRequest {
            id: id.into(),
            exec_id: exec.into(),
            spec: Some(spec).into(),
            ..Default::default()
        };
        self.shim.do_exec(request).await
    }

    async fn kill(&self, id: &str, exec: &str, signal: u32) -> Result<(), TaskError> {
        let request = KillRequest {
            id: id.into(),
            exec_id: exec.into(),
            signal,
            ..Default::default()
        };
        self.shim.do_kill(request).await
    }

    async fn wait(&self, id: &str, exec: &str) -> Exited {
        timeout(SOON, self.shim.do_wait(id, exec))
            .await
            .unwrap()
            .unwrap()
    }

    fn status(&self, id: &str, exec: &str) -> Status {
        self.shim.do_state(id, exec).unwrap().status.unwrap()
    }

    /// The events so far, each as its topic without the common part.
    fn told(&self) -> Vec<String> {
        let topic = |event: &Encoded| event.topic.trim_start_matches("/tasks/").to_owned();
        self.publisher.collected().iter().map(topic).collect()
    }
}

fn code(result: Result<impl Sized, TaskError>) -> Code {
    match result.err().map(ttrpc::Error::from) {
        Some(ttrpc::Error::RpcStatus(status)) => status.code(),
        other => panic!("not a status: {other:?}"),
    }
}
