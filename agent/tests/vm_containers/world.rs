// SPDX-License-Identifier: Apache-2.0
//! An agent with its surroundings, and what a host would do with it. Everything is gone when it is dropped.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use cube_protocol::v1::agent as wire;
use cube_protocol::v1::agent_ttrpc::AgentClient;
use cube_protocol::{
    CONTROL_PORT, PROTOCOL_VERSION, STREAM_PORT, Stdio, StreamAnswer, StreamHello,
};
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use ttrpc::asynchronous::transport::Socket;
use ttrpc::context::Context;

use crate::spec;

const CGROUPS: &str = "/sys/fs/cgroup";
const BUSYBOX: &str = "/bin/busybox";

/// As its claim gives it.
pub const MACHINE_ID: &str = "00112233445566778899aabbccddeeff";

/// Longest wait for anything; the development VM emulates its processor.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Starts a world, or skips the test.
macro_rules! world {
    () => {
        match crate::world::World::start().await {
            Ok(world) => world,
            Err(missing) => return crate::world::skip(missing),
        }
    };
}
pub(crate) use world;

/// Says what is missing.
pub fn skip(missing: &str) {
    assert!(
        std::env::var("CUBE_REQUIRE_KVM").as_deref() != Ok("1"),
        "cannot be skipped: {missing}"
    );
    eprintln!("skipped: {missing}");
}

pub struct World {
    pub client: AgentClient,
    dir: TempDir,
    agent: Child,
    loops: Vec<PathBuf>,
    cgroup: PathBuf,
}

/// What a process left behind.
#[derive(Debug)]
pub struct Output {
    pub status: u32,
    pub stdout: String,
    pub stderr: String,
    pub oom_killed: bool,
}

/// Connections to a process's streams.
#[derive(Default)]
pub struct Streams {
    pub stdin: Option<UnixStream>,
    pub stdout: Option<UnixStream>,
    pub stderr: Option<UnixStream>,
}

impl World {
    /// An agent with one disk in slot 0; claimed.
    pub async fn start() -> Result<Self, &'static str> {
        missing().map_or(Ok(()), Err)?;
        let mut world = Self::start_unclaimed().await;
        let mut claim = wire::ClaimRequest::new();
        claim.entropy = vec![7; 32];
        claim.machine_id = MACHINE_ID.to_owned();
        world.client.claim(soon(), &claim).await.unwrap();
        world.add_disk(0);
        Ok(world)
    }

    async fn start_unclaimed() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        // Controllers of the test's cgroup come from its parent.
        let controllers = fs::read_to_string(format!("{CGROUPS}/cgroup.controllers")).unwrap();
        for controller in controllers.split_whitespace() {
            let enabled = fs::write(
                format!("{CGROUPS}/cgroup.subtree_control"),
                format!("+{controller}"),
            );
            assert!(enabled.is_ok() || !["memory", "pids", "cpu"].contains(&controller));
        }
        let cgroup = PathBuf::from(format!(
            "{CGROUPS}/cube-test-{}-{number}",
            std::process::id()
        ));
        fs::create_dir(&cgroup).unwrap();
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("slots")).unwrap();
        let socket = dir.path().join("agent.sock");
        // CUBE_AGENT: another build of it, such as the one in a guest image.
        let program = std::env::var_os("CUBE_AGENT");
        let program = program.unwrap_or_else(|| env!("CARGO_BIN_EXE_cube-agent").into());
        let agent = Command::new(program)
            .arg("serve")
            .arg("--listen")
            .arg(format!("unix:{}", socket.display()))
            .arg("--slots")
            .arg(dir.path().join("slots"))
            .arg("--run")
            .arg(dir.path().join("run"))
            .arg("--cgroup")
            .arg(&cgroup)
            .spawn()
            .unwrap();
        let connection = connect(&socket, CONTROL_PORT).await;
        let client = AgentClient::new(ttrpc::r#async::Client::new(Socket::new(connection)));
        let mut greet = wire::GreetRequest::new();
        greet.protocol = PROTOCOL_VERSION;
        client.greet(soon(), &greet).await.unwrap();
        Self {
            client,
            dir,
            agent,
            loops: Vec::new(),
            cgroup,
        }
    }

    /// As [`World::start`], without the claim.
    pub async fn unclaimed() -> Result<Self, &'static str> {
        missing().map_or(Ok(()), Err)?;
        let mut world = Self::start_unclaimed().await;
        world.add_disk(0);
        Ok(world)
    }

    /// Puts a disk with a busybox system into a slot.
    pub fn add_disk(&mut self, slot: u32) {
        static IMAGE: OnceLock<PathBuf> = OnceLock::new();
        let image = IMAGE.get_or_init(|| {
            // Made anew by every run: cheap, and never older than the busybox in it.
            let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("cube-agent");
            drop(fs::remove_dir_all(dir.join("tree")));
            make_tree(&dir.join("tree"));
            let image = make_image(&dir.join("tree"), &dir.join("new.img"));
            let disk = dir.join("disk.img");
            fs::rename(image, &disk).unwrap();
            disk
        });
        let copy = self.dir.path().join(format!("disk-{slot}.img"));
        let copied = Command::new("cp")
            .arg("--sparse=always")
            .arg(image)
            .arg(&copy)
            .status();
        assert!(copied.unwrap().success());
        self.attach_image(slot, &copy);
    }

    /// The same with changes to the busybox system.
    pub fn add_changed_disk(&mut self, slot: u32, change: impl FnOnce(&Path)) {
        let tree = self.dir.path().join("tree");
        make_tree(&tree);
        change(&tree);
        let image = make_image(&tree, &self.dir.path().join("changed.img"));
        self.attach_image(slot, &image);
    }

    fn attach_image(&mut self, slot: u32, image: &Path) {
        let losetup = Command::new("losetup")
            .args(["--find", "--show"])
            .arg(image)
            .output()
            .unwrap();
        assert!(losetup.status.success(), "{losetup:?}");
        let device = PathBuf::from(String::from_utf8(losetup.stdout).unwrap().trim());
        let link = self.dir.path().join(format!("slots/cube-slot-{slot}"));
        symlink(&device, link).unwrap();
        self.loops.push(device);
    }

    /// Makes a container on slot 0.
    pub async fn create(&self, id: &str, spec: &Value) -> ttrpc::Result<()> {
        self.create_on(0, id, spec).await
    }

    /// Makes a container on a slot.
    pub async fn create_on(&self, slot: u32, id: &str, spec: &Value) -> ttrpc::Result<()> {
        let mut request = wire::CreateContainerRequest::new();
        request.container_id = id.to_owned();
        request.spec_json = serde_json::to_vec(spec).unwrap();
        let root = request.root.mut_or_insert_default();
        root.slot = slot;
        root.fs_type = "ext4".to_owned();
        self.client.create_container(soon(), &request).await?;
        Ok(())
    }

    /// Sets a process up, first or further, and connects to every stream that it can have.
    pub async fn create_process(
        &self,
        id: &str,
        exec_id: &str,
        process: Option<&Value>,
        terminal: bool,
    ) -> ttrpc::Result<(u32, Streams)> {
        let mut request = wire::CreateProcessRequest::new();
        request.container_id = id.to_owned();
        request.exec_id = exec_id.to_owned();
        request.process_json = process.map_or(Vec::new(), |p| serde_json::to_vec(p).unwrap());
        request.terminal = terminal;
        request.stdin = true;
        request.stdout = true;
        request.stderr = !terminal;
        let response = self.client.create_process(soon(), &request).await?;
        let attach = |stream| self.attach(id, exec_id, stream);
        let streams = Streams {
            stdin: attach(Stdio::Stdin).await,
            stdout: attach(Stdio::Stdout).await,
            stderr: if terminal {
                None
            } else {
                attach(Stdio::Stderr).await
            },
        };
        Ok((response.pid, streams))
    }

    /// Opens a stream; `None` if it is refused.
    pub async fn attach(&self, id: &str, exec_id: &str, stream: Stdio) -> Option<UnixStream> {
        let hello = StreamHello {
            container_id: id.to_owned(),
            exec_id: exec_id.to_owned(),
            stream,
        };
        let mut connection = connect(&self.socket(), STREAM_PORT).await;
        connection
            .write_all(&hello.encode().unwrap())
            .await
            .unwrap();
        let answer = connection.read_u8().await.unwrap();
        (StreamAnswer::from_code(answer).unwrap() == StreamAnswer::Attached).then_some(connection)
    }

    pub async fn start_process(&self, id: &str, exec_id: &str) -> ttrpc::Result<()> {
        self.client
            .start_process(soon(), &process(id, exec_id))
            .await?;
        Ok(())
    }

    pub async fn wait(&self, id: &str, exec_id: &str) -> wire::WaitProcessResponse {
        self.client
            .wait_process(soon(), &process(id, exec_id))
            .await
            .unwrap()
    }

    pub async fn signal(
        &self,
        id: &str,
        exec_id: &str,
        signal: i32,
        all: bool,
    ) -> ttrpc::Result<()> {
        let mut request = wire::SignalProcessRequest::new();
        request.container_id = id.to_owned();
        request.exec_id = exec_id.to_owned();
        request.signal = signal.cast_unsigned();
        request.all = all;
        self.client.signal_process(soon(), &request).await?;
        Ok(())
    }

    pub async fn delete_process(&self, id: &str, exec_id: &str) -> ttrpc::Result<()> {
        self.client
            .delete_process(soon(), &process(id, exec_id))
            .await?;
        Ok(())
    }

    pub async fn delete(&self, id: &str) -> ttrpc::Result<()> {
        self.client.delete_container(soon(), &container(id)).await?;
        Ok(())
    }

    /// Starts a process that was set up, closes its input and collects everything.
    pub async fn collect(&self, id: &str, exec_id: &str, streams: Streams) -> Output {
        self.start_process(id, exec_id).await.unwrap();
        drop(streams.stdin);
        let (stdout, stderr) = tokio::join!(
            drain(streams.stdout.unwrap()),
            drain(streams.stderr.unwrap())
        );
        let exit = self.wait(id, exec_id).await;
        Output {
            status: exit.exit_status,
            stdout,
            stderr,
            oom_killed: exit.oom_killed,
        }
    }

    /// A container from its beginning to its end.
    pub async fn run(&self, spec: &Value) -> ttrpc::Result<Output> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let id = format!("run-{}", COUNT.fetch_add(1, Ordering::Relaxed));
        self.create(&id, spec).await?;
        let output = match self.create_process(&id, "", None, false).await {
            Ok((_, streams)) => Ok(self.collect(&id, "", streams).await),
            Err(error) => Err(error),
        };
        self.delete(&id).await?;
        output
    }

    /// A shell script as the only process of a container.
    pub async fn sh(&self, script: &str) -> Output {
        self.run(&spec::spec(spec::shell(script))).await.unwrap()
    }

    /// A container whose first process waits for its end, running.
    pub async fn idle(&self, id: &str) {
        self.idle_with(id, |_| {}).await;
    }

    /// The same with a change to its spec.
    pub async fn idle_with(&self, id: &str, change: impl FnOnce(&mut Value)) {
        let mut spec = spec::spec(spec::process(&["sleep", "1000000"]));
        change(&mut spec);
        self.create(id, &spec).await.unwrap();
        let (_, streams) = self.create_process(id, "", None, false).await.unwrap();
        self.start_process(id, "").await.unwrap();
        drop(streams);
    }

    /// A further process from its beginning to its end.
    pub async fn exec(&self, id: &str, process: &Value) -> ttrpc::Result<Output> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let exec_id = format!("exec-{}", COUNT.fetch_add(1, Ordering::Relaxed));
        let (_, streams) = self
            .create_process(id, &exec_id, Some(process), false)
            .await?;
        let output = self.collect(id, &exec_id, streams).await;
        self.delete_process(id, &exec_id).await?;
        Ok(output)
    }

    /// Nothing of any container is left in the system.
    pub fn assert_clean(&self) {
        let below = fs::read_dir(&self.cgroup).unwrap();
        let cgroups: Vec<_> = below
            .map(|entry| entry.unwrap())
            .filter(|entry| entry.file_type().unwrap().is_dir())
            .collect();
        assert!(cgroups.is_empty(), "cgroups left: {cgroups:?}");
        let mounts = fs::read_to_string("/proc/mounts").unwrap();
        let run = self.dir.path().display().to_string();
        let left: Vec<_> = mounts.lines().filter(|line| line.contains(&run)).collect();
        assert!(left.is_empty(), "mounts left: {left:?}");
        let containers = self.dir.path().join("run/containers");
        let left = fs::read_dir(containers).map_or(0, Iterator::count);
        assert_eq!(left, 0, "directories left");
        let children = format!("/proc/{0}/task/{0}/children", self.agent.id());
        let children = fs::read_to_string(children).unwrap();
        assert_eq!(children, "", "processes left");
    }

    /// Of the agent, for looks at what it holds.
    pub fn agent_pid(&self) -> u32 {
        self.agent.id()
    }

    /// The containers' parent.
    pub fn cgroup(&self) -> &Path {
        &self.cgroup
    }

    /// A directory on the host, for things that must not be reached.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("agent.sock")
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.agent.kill().unwrap();
        self.agent.wait().unwrap();
        // After a failed test something may be left; leave as little of it as possible.
        for directory in children(&self.cgroup) {
            drop(fs::write(directory.join("cgroup.kill"), "1"));
        }
        drop(
            Command::new("sh")
                .arg("-c")
                .arg(format!(
                    "umount -R {}/run/containers/* 2>/dev/null",
                    self.dir.path().display()
                ))
                .status(),
        );
        for device in &self.loops {
            drop(Command::new("losetup").arg("-d").arg(device).status());
        }
        for directory in children(&self.cgroup)
            .into_iter()
            .chain([self.cgroup.clone()])
        {
            for _ in 0..100 {
                if fs::remove_dir(&directory).is_ok() {
                    break;
                }
                std::thread::sleep(Duration::from_millis(10));
            }
        }
    }
}

fn children(directory: &Path) -> Vec<PathBuf> {
    fs::read_dir(directory).map_or(Vec::new(), |entries| {
        entries
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| path.is_dir())
            .collect()
    })
}

/// A context with a time limit.
pub fn soon() -> Context {
    ttrpc::context::with_duration(PATIENCE)
}

pub fn container(id: &str) -> wire::ContainerRequest {
    let mut request = wire::ContainerRequest::new();
    request.container_id = id.to_owned();
    request
}

pub fn process(id: &str, exec_id: &str) -> wire::ProcessRequest {
    let mut request = wire::ProcessRequest::new();
    request.container_id = id.to_owned();
    request.exec_id = exec_id.to_owned();
    request
}

/// The status and text of a call that must fail.
pub fn refusal<T: std::fmt::Debug>(result: ttrpc::Result<T>) -> (ttrpc::Code, String) {
    match result.unwrap_err() {
        ttrpc::Error::RpcStatus(status) => (status.code(), status.message),
        other => panic!("not a status: {other}"),
    }
}

async fn drain(mut stream: UnixStream) -> String {
    let mut bytes = Vec::new();
    tokio::time::timeout(PATIENCE, stream.read_to_end(&mut bytes))
        .await
        .unwrap()
        .unwrap();
    String::from_utf8_lossy(&bytes).into_owned()
}

async fn connect(socket: &Path, port: u32) -> UnixStream {
    let deadline = std::time::Instant::now() + PATIENCE;
    let mut connection = loop {
        match UnixStream::connect(socket).await {
            Ok(connection) => break connection,
            Err(error) => assert!(std::time::Instant::now() < deadline, "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    let line = format!("CONNECT {port}\n");
    connection.write_all(line.as_bytes()).await.unwrap();
    let mut answer = String::new();
    BufReader::with_capacity(1, &mut connection)
        .read_line(&mut answer)
        .await
        .unwrap();
    assert!(answer.starts_with("OK "), "{answer:?}");
    connection
}

/// Why containers cannot be tried here.
fn missing() -> Option<&'static str> {
    if !rustix::process::geteuid().is_root() {
        return Some("containers need root");
    }
    let controllers = fs::read_to_string(format!("{CGROUPS}/cgroup.controllers"));
    let has = |name| {
        controllers
            .as_ref()
            .is_ok_and(|list| list.split_whitespace().any(|word| word == name))
    };
    if !(has("memory") && has("pids") && has("cpu")) {
        return Some("containers need cgroup v2 with its controllers");
    }
    if !Path::new(BUSYBOX).exists() {
        return Some("containers need a static /bin/busybox as their contents");
    }
    None
}

fn make_image(tree: &Path, image: &Path) -> PathBuf {
    fs::File::create(image).unwrap().set_len(64 << 20).unwrap();
    let mkfs = Command::new("mkfs.ext4")
        .args(["-q", "-O", "^has_journal", "-E", "lazy_itable_init=1", "-d"])
        .arg(tree)
        .arg(image)
        .status();
    assert!(mkfs.unwrap().success());
    image.to_path_buf()
}

fn make_tree(tree: &Path) {
    for directory in ["bin", "etc", "tmp", "home/user"] {
        fs::create_dir_all(tree.join(directory)).unwrap();
    }
    fs::copy(BUSYBOX, tree.join("bin/busybox")).unwrap();
    let applets = Command::new(BUSYBOX).arg("--list").output().unwrap();
    for applet in String::from_utf8(applets.stdout).unwrap().lines() {
        if applet != "busybox" {
            symlink("busybox", tree.join("bin").join(applet)).unwrap();
        }
    }
    fs::write(
        tree.join("etc/passwd"),
        "root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000::/home/user:/bin/sh\n",
    )
    .unwrap();
    fs::write(
        tree.join("etc/foreign"),
        b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\xb7\0",
    )
    .unwrap();
    let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(tree.join("etc/foreign"), executable).unwrap();
    symlink("/tmp", tree.join("link")).unwrap();
}
