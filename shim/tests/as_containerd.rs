// SPDX-License-Identifier: Apache-2.0
//! The binary as containerd runs it: flags, environment, standard input, working directory; then its
//! socket, dialled with a client of ours. No machine is made: there is no guest image.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a failing helper is a failing test, and a skip is said"
)]

use std::fs;
use std::io::Write;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use containerd_shim_protos::api::*;
use containerd_shim_protos::bootstrap_api::{BootstrapParams, BootstrapResult};
use containerd_shim_protos::shim_async::TaskClient;
use containerd_shim_protos::types::introspection::RuntimeInfo;
use protobuf::Message;
use protobuf::well_known_types::any::Any;
use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use tempfile::TempDir;
use ttrpc::r#async::transport::Socket;
use ttrpc::{Code, asynchronous::Client, context};

const SHIM: &str = env!("CARGO_BIN_EXE_containerd-shim-cube-v1");
const SOON: Duration = Duration::from_secs(20);

const SPEC: &str = r#"{
    "ociVersion": "1.0.2",
    "process": {"user": {"uid": 0, "gid": 0}, "args": ["true"], "cwd": "/"},
    "root": {"path": "rootfs"},
    "linux": {"namespaces": [{"type": "network"}]}
}"#;

/// One containerd and its bundles.
struct Containerd {
    dir: TempDir,
    namespace: String,
}

impl Containerd {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        // A namespace of its own keeps its sockets apart from everybody else's.
        let namespace = format!("test-{}", dir.path().file_name().unwrap().to_str().unwrap());
        Self { dir, namespace }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn bundle(&self, id: &str, config: Option<&str>) -> PathBuf {
        let bundle = self.path(id);
        fs::create_dir_all(&bundle).unwrap();
        if let Some(config) = config {
            fs::write(bundle.join("config.json"), config).unwrap();
        }
        bundle
    }

    fn command(&self, bundle: &Path, id: &str) -> Command {
        let mut command = Command::new(SHIM);
        command
            .args(["-namespace", &self.namespace])
            .args(["-address", "/run/containerd/containerd.sock"])
            .args(["-publish-binary", "/usr/bin/containerd"])
            .args(["-id", id])
            .current_dir(bundle)
            .env("CUBE_CONFIG", self.config_file())
            .env("CUBE_RUN", self.path("run"))
            .env("CUBE_IMAGE", self.path("no-image"))
            .env("TTRPC_ADDRESS", self.path("events.sock"))
            .env("MAX_SHIM_VERSION", "2")
            .env_remove("CUBE_TRACE");
        command
    }

    fn config_file(&self) -> PathBuf {
        let path = self.path("config.toml");
        if !path.exists() {
            fs::write(&path, "").unwrap();
        }
        path
    }

    fn start(&self, bundle: &Path, id: &str, stdin: &[u8]) -> Output {
        let mut child = self
            .command(bundle, id)
            .arg("start")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(stdin).unwrap();
        // Returns only when the server has let go of both streams.
        child.wait_with_output().unwrap()
    }

    fn started(&self, bundle: &Path, id: &str) -> Shim {
        let output = self.start(bundle, id, b"");
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success(), "{text}{:?}", output.stderr);
        assert!(output.stderr.is_empty());
        Shim::at(&text)
    }

    /// Sockets of the older dialects go where containerd's own do, and that takes root.
    fn may_bind() -> bool {
        let root = rustix::process::geteuid().is_root();
        if !root {
            println!("skipped: only root may make sockets in /run/containerd/s");
        }
        root
    }
}

/// A server, killed at the end of the test if it still lives.
struct Shim {
    socket: PathBuf,
    pid: Option<Pid>,
}

impl Shim {
    fn at(address: &str) -> Self {
        let socket = PathBuf::from(address.strip_prefix("unix://").unwrap());
        Self { socket, pid: None }
    }

    async fn dial(&mut self) -> TaskClient {
        let stream = tokio::net::UnixStream::connect(&self.socket).await.unwrap();
        let client = TaskClient::new(Client::new(Socket::new(stream)));
        let connected = client
            .connect(limit(), &ConnectRequest::new())
            .await
            .unwrap();
        self.pid = Pid::from_raw(connected.shim_pid.cast_signed());
        client
    }

    async fn ended(&self) -> bool {
        let patience = Instant::now() + SOON;
        while Instant::now() < patience {
            if test_kill_process(self.pid.unwrap()).is_err() {
                return true;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        false
    }
}

impl Drop for Shim {
    fn drop(&mut self) {
        if let Some(pid) = self.pid {
            kill_process(pid, Signal::KILL).ok();
        }
        fs::remove_file(&self.socket).ok();
    }
}

fn limit() -> context::Context {
    context::with_duration(SOON)
}

fn code<T>(result: ttrpc::Result<T>) -> (Code, String) {
    match result.err() {
        Some(ttrpc::Error::RpcStatus(status)) => (status.code(), status.message().to_owned()),
        other => panic!("not a status: {other:?}"),
    }
}

fn create(bundle: &Path, id: &str) -> CreateTaskRequest {
    CreateTaskRequest {
        id: id.into(),
        bundle: bundle.display().to_string(),
        ..Default::default()
    }
}

#[tokio::test]
async fn a_whole_visit_of_containerd_1_6() {
    if !Containerd::may_bind() {
        return;
    }
    let containerd = Containerd::new();
    let bundle = containerd.bundle("t1", Some(SPEC));
    let mut shim = containerd.started(&bundle, "t1");
    let address = fs::read_to_string(bundle.join("address")).unwrap();
    assert_eq!(address, format!("unix://{}", shim.socket.display()));
    let socket = fs::metadata(&shim.socket).unwrap();
    assert!(socket.file_type().is_socket());
    assert_eq!(socket.permissions().mode() & 0o777, 0o600);

    let client = shim.dial().await;
    let request = StateRequest {
        id: "t1".into(),
        ..Default::default()
    };
    assert_eq!(
        code(client.state(limit(), &request).await).0,
        Code::NOT_FOUND
    );
    let checkpoint = client
        .checkpoint(limit(), &CheckpointTaskRequest::new())
        .await;
    assert_eq!(code(checkpoint).0, Code::UNIMPLEMENTED);
    let (failure, text) = code(client.create(limit(), &create(&bundle, "t1")).await);
    assert_eq!(failure, Code::FAILED_PRECONDITION, "{text}");
    assert!(text.contains("no guest to boot"), "{text}");

    let server = fs::read_link(format!("/proc/{}/fd/0", shim.pid.unwrap())).unwrap();
    assert_eq!(server, Path::new("/dev/null"));
    client
        .shutdown(limit(), &ShutdownRequest::new())
        .await
        .unwrap();
    drop(client);
    assert!(shim.ended().await);
    assert!(!shim.socket.exists());
}

#[tokio::test]
async fn both_names_of_the_task_service_answer() {
    if !Containerd::may_bind() {
        return;
    }
    let containerd = Containerd::new();
    let bundle = containerd.bundle("t1", Some(SPEC));
    let mut shim = containerd.started(&bundle, "t1");
    shim.dial().await;
    let stream = tokio::net::UnixStream::connect(&shim.socket).await.unwrap();
    let client = Client::new(Socket::new(stream));
    let call = async |service: &str| {
        let mut request = ttrpc::Request::new();
        request.service = service.to_owned();
        request.method = "Connect".to_owned();
        request.payload = ConnectRequest::new().write_to_bytes().unwrap();
        request.timeout_nano = 10_000_000_000;
        client.request(request).await
    };
    for version in ["v2", "v3"] {
        let answer = call(&format!("containerd.task.{version}.Task"))
            .await
            .unwrap();
        let connected = ConnectResponse::parse_from_bytes(&answer.payload).unwrap();
        assert_eq!(connected.task_pid, 0);
    }
    assert!(call("containerd.task.v1.Task").await.is_err());
}

#[tokio::test]
async fn containerd_2_3_gets_its_own_dialect_and_directory() {
    let containerd = Containerd::new();
    let bundle = containerd.bundle("t1", Some(SPEC));
    let params = BootstrapParams {
        instance_id: "t1".into(),
        namespace: containerd.namespace.clone(),
        socket_dir: Some(containerd.path("s").display().to_string()),
        ..Default::default()
    };
    let output = containerd.start(&bundle, "t1", &params.write_to_bytes().unwrap());
    let result = BootstrapResult::parse_from_bytes(&output.stdout).unwrap();
    assert_eq!((result.version, result.protocol.as_str()), (3, "ttrpc"));
    let mut shim = Shim::at(&result.address);
    assert!(shim.socket.starts_with(containerd.path("s")));
    shim.dial().await;
}

#[tokio::test]
async fn the_switch_gets_json() {
    if !Containerd::may_bind() {
        return;
    }
    let containerd = Containerd::new();
    let bundle = containerd.bundle("t1", Some(SPEC));
    fs::write(containerd.config_file(), "task_v3 = true\n").unwrap();
    let output = containerd.start(&bundle, "t1", b"");
    let reply: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(reply["version"], 3);
    assert_eq!(reply["protocol"], "ttrpc");
    let mut shim = Shim::at(reply["address"].as_str().unwrap());
    shim.dial().await;
}

#[tokio::test]
async fn the_containers_of_a_pod_get_the_pods_shim() {
    if !Containerd::may_bind() {
        return;
    }
    let containerd = Containerd::new();
    let member = r#"{"annotations":{
        "io.kubernetes.cri.container-type":"container",
        "io.kubernetes.cri.sandbox-id":"pod"}}"#;
    let member = containerd.bundle("c1", Some(member));
    let orphan = containerd.start(&member, "c1", b"");
    assert!(!orphan.status.success());
    let text = String::from_utf8(orphan.stderr).unwrap();
    assert!(
        text.contains("the pod of this container has no live sandbox"),
        "{text}"
    );

    let leader = containerd.bundle("pod", Some(SPEC));
    let mut shim = containerd.started(&leader, "pod");
    shim.dial().await;
    let joined = containerd.start(&member, "c1", b"");
    let address = format!("unix://{}", shim.socket.display());
    assert_eq!(String::from_utf8(joined.stdout).unwrap(), address);
    assert_eq!(fs::read_to_string(member.join("address")).unwrap(), address);
}

#[tokio::test]
async fn sigterm_ends_it() {
    if !Containerd::may_bind() {
        return;
    }
    let containerd = Containerd::new();
    let bundle = containerd.bundle("t1", Some(SPEC));
    let mut shim = containerd.started(&bundle, "t1");
    shim.dial().await;
    kill_process(shim.pid.unwrap(), Signal::TERM).unwrap();
    assert!(shim.ended().await);
    assert!(!shim.socket.exists());
}

#[tokio::test]
async fn delete_removes_the_socket_of_a_killed_shim_and_not_that_of_a_living_one() {
    if !Containerd::may_bind() {
        return;
    }
    let containerd = Containerd::new();
    let bundle = containerd.bundle("t1", Some(SPEC));
    let mut shim = containerd.started(&bundle, "t1");
    shim.dial().await;
    delete(&containerd, &bundle, "t1");
    assert!(shim.socket.exists());
    kill_process(shim.pid.unwrap(), Signal::KILL).unwrap();
    assert!(shim.ended().await);
    assert!(shim.socket.exists());
    delete(&containerd, &bundle, "t1");
    assert!(!shim.socket.exists());
}

#[tokio::test]
async fn a_lost_connection_does_not_end_it() {
    if !Containerd::may_bind() {
        return;
    }
    let containerd = Containerd::new();
    let bundle = containerd.bundle("t1", Some(SPEC));
    let mut shim = containerd.started(&bundle, "t1");
    let first = shim.dial().await;
    let pid = shim.pid;
    drop(first);
    tokio::time::sleep(Duration::from_millis(200)).await;
    shim.dial().await;
    assert_eq!(shim.pid, pid);
}

#[test]
fn a_configuration_that_is_not_valid_is_the_users_to_see() {
    let containerd = Containerd::new();
    let bundle = containerd.bundle("t1", Some(SPEC));
    fs::write(containerd.config_file(), "memori_mib = 1\n").unwrap();
    let output = containerd.start(&bundle, "t1", b"");
    assert!(!output.status.success());
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(
        text.contains("config.toml") && text.contains("memori_mib"),
        "{text}"
    );
}

fn delete(containerd: &Containerd, bundle: &Path, id: &str) -> DeleteResponse {
    let started = Instant::now();
    let output = containerd
        .command(bundle, id)
        .arg("-bundle")
        .arg(bundle)
        .arg("delete")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{:?}",
        String::from_utf8(output.stderr)
    );
    // containerd gives it five.
    assert!(started.elapsed() < Duration::from_secs(2));
    DeleteResponse::parse_from_bytes(&output.stdout).unwrap()
}

#[test]
fn delete_works_on_half_a_bundle_and_twice() {
    let containerd = Containerd::new();
    for config in [None, Some("{"), Some(SPEC)] {
        let bundle = containerd.bundle("t1", config);
        for _ in 0..2 {
            let response = delete(&containerd, &bundle, "t1");
            assert_eq!((response.pid, response.exit_status), (0, 137));
            assert!(response.exited_at.seconds > 1_700_000_000);
        }
    }
}

#[test]
fn delete_reports_the_exit_that_the_shim_saw() {
    let containerd = Containerd::new();
    let bundle = containerd.bundle("t1", Some(SPEC));
    let saved = r#"{"pid":77,"exit":{"status":3,"at_ns":1700000000000000005}}"#;
    fs::write(bundle.join("cube-task.json"), saved).unwrap();
    let response = delete(&containerd, &bundle, "t1");
    assert_eq!((response.pid, response.exit_status), (77, 3));
    assert_eq!(response.exited_at.seconds, 1_700_000_000);
    assert_eq!(response.exited_at.nanos, 5);
}

#[test]
fn info_describes_the_runtime_whatever_the_options() {
    let options = Any {
        type_url: "containerd.runc.v1.Options".into(),
        ..Default::default()
    };
    let mut child = Command::new(SHIM)
        .arg("-info")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    // It may have answered and gone before it could be told.
    stdin.write_all(&options.write_to_bytes().unwrap()).ok();
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    let info = RuntimeInfo::parse_from_bytes(&output.stdout).unwrap();
    assert_eq!(info.name, "io.cube.v1");
}

#[test]
fn a_person_gets_a_version_or_an_explanation() {
    let run = |arg: &str| Command::new(SHIM).arg(arg).output().unwrap();
    let version = run("-v");
    assert!(version.status.success());
    assert!(version.stdout.starts_with(b"containerd-shim-cube-v1 "));
    let nothing = run("help");
    assert!(!nothing.status.success());
    let text = String::from_utf8(nothing.stderr).unwrap();
    assert!(text.contains("unknown action \"help\""), "{text}");
}
