// SPDX-License-Identifier: Apache-2.0
//! One test's directory, with the real daemon in it and a client that speaks containerd's wire.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use cube_snapshotter::wire::{self, snapshots_client::SnapshotsClient};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

use crate::host::{self, Mounted};

/// A start makes two file systems at most; a busy machine takes its time.
const START_LIMIT: Duration = Duration::from_secs(60);

/// The program under test: cargo's, or the one that `CUBE_SNAPSHOTTER` names, such as an installed one.
pub fn binary() -> PathBuf {
    let given = std::env::var_os("CUBE_SNAPSHOTTER").map(PathBuf::from);
    given.unwrap_or_else(|| env!("CARGO_BIN_EXE_cube-snapshotter").into())
}

pub struct World {
    dir: TempDir,
}

impl World {
    /// None if the host cannot run this test.
    pub fn new() -> Option<Self> {
        host::is_able().then(|| Self {
            dir: tempfile::Builder::new()
                .prefix("cube-snapshotter-test-")
                .tempdir()
                .unwrap(),
        })
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    pub fn root(&self) -> PathBuf {
        self.path().join("root")
    }

    pub fn store(&self) -> PathBuf {
        self.root().join("store")
    }

    pub fn socket(&self) -> PathBuf {
        self.path().join("s.sock")
    }

    /// The image files there are.
    pub fn images(&self) -> usize {
        fs::read_dir(self.store().join("images")).unwrap().count()
    }

    /// The daemon's command line on this world's root and socket.
    pub fn command(&self) -> Command {
        let mut command = Command::new(binary());
        command
            .arg("--root")
            .arg(self.root())
            .arg("--address")
            .arg(self.socket())
            .args(["--size", "1GiB", "--pool-size", "512MiB"])
            .stdin(Stdio::null());
        command
    }

    pub fn start(&self) -> Daemon {
        self.start_command(self.command())
    }

    pub fn start_command(&self, command: Command) -> Daemon {
        let daemon = self.spawn(command);
        daemon.wait_ready(&self.socket());
        daemon
    }

    /// Starts without waiting for it to serve.
    pub fn spawn(&self, mut command: Command) -> Daemon {
        let log = self.path().join("log");
        let file = File::options().create(true).append(true).open(&log);
        command.stderr(file.unwrap()).stdout(Stdio::null());
        Daemon {
            child: command.spawn().unwrap(),
            log,
        }
    }

    pub async fn client(&self) -> Client {
        Client::connect(&self.socket()).await
    }
}

impl Drop for World {
    fn drop(&mut self) {
        for point in host::mounts_below(self.path()) {
            host::unmount(&point);
        }
        // A loop device that lost its mount goes a moment later; one that never had one, by hand.
        let deadline = Instant::now() + Duration::from_secs(5);
        while !host::loops_below(self.path()).is_empty() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(20));
        }
        for file in host::loops_below(self.path()) {
            let listed = host::run("losetup", ["-j".as_ref(), file.as_os_str()]);
            for line in listed.unwrap_or_default().lines() {
                let device = line.split(':').next().unwrap_or_default();
                host::run("losetup", ["-d", device]).ok();
            }
        }
    }
}

/// A running daemon; killed when dropped.
pub struct Daemon {
    child: Child,
    log: PathBuf,
}

impl Daemon {
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// `kill -9`, as early or late as it comes.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// SIGTERM and the exit status.
    pub fn stop(mut self) -> ExitStatus {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, Signal::TERM).unwrap();
        self.child.wait().unwrap()
    }

    /// Waits for it to end by itself.
    pub fn ended(mut self) -> (ExitStatus, String) {
        let status = self.child.wait().unwrap();
        (status, self.log())
    }

    fn wait_ready(&self, socket: &Path) {
        let deadline = Instant::now() + START_LIMIT;
        // The socket is bound before the store is open; "serving" is said when both are.
        let before = self.log().matches("serving").count();
        while UnixStream::connect(socket).is_err()
            || self.log().matches("serving").count() <= before
        {
            let alive = Path::new(&format!("/proc/{}/fd", self.pid())).exists();
            let waited = Instant::now() < deadline;
            assert!(alive && waited, "the daemon did not start: {}", self.log());
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// containerd's side of the wire.
#[derive(Clone)]
pub struct Client(SnapshotsClient<Channel>);

pub fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    let own = pairs.iter().map(|(k, v)| ((*k).into(), (*v).into()));
    own.collect()
}

impl Client {
    pub async fn connect(socket: &Path) -> Self {
        let address = format!("unix://{}", socket.display());
        let channel = Endpoint::from_shared(address).unwrap().connect().await;
        Self(SnapshotsClient::new(channel.unwrap()))
    }

    pub async fn prepare(&self, key: &str, parent: &str) -> Result<wire::Mount, Status> {
        self.prepare_labelled(key, parent, &[]).await
    }

    pub async fn prepare_labelled(
        &self,
        key: &str,
        parent: &str,
        pairs: &[(&str, &str)],
    ) -> Result<wire::Mount, Status> {
        let request = wire::PrepareSnapshotRequest {
            snapshotter: "cube".into(),
            key: key.into(),
            parent: parent.into(),
            labels: labels(pairs),
        };
        let mounts = self.0.clone().prepare(request).await?.into_inner().mounts;
        Ok(only(mounts))
    }

    pub async fn view(&self, key: &str, parent: &str) -> Result<wire::Mount, Status> {
        let request = wire::ViewSnapshotRequest {
            snapshotter: "cube".into(),
            key: key.into(),
            parent: parent.into(),
            labels: labels(&[]),
        };
        let mounts = self.0.clone().view(request).await?.into_inner().mounts;
        Ok(only(mounts))
    }

    pub async fn mounts(&self, key: &str) -> Result<wire::Mount, Status> {
        let request = wire::MountsRequest {
            snapshotter: "cube".into(),
            key: key.into(),
        };
        let mounts = self.0.clone().mounts(request).await?.into_inner().mounts;
        Ok(only(mounts))
    }

    pub async fn commit(&self, name: &str, key: &str) -> Result<(), Status> {
        self.commit_labelled(name, key, &[]).await
    }

    pub async fn commit_labelled(
        &self,
        name: &str,
        key: &str,
        pairs: &[(&str, &str)],
    ) -> Result<(), Status> {
        let request = wire::CommitSnapshotRequest {
            snapshotter: "cube".into(),
            name: name.into(),
            key: key.into(),
            labels: labels(pairs),
        };
        self.0.clone().commit(request).await.map(drop)
    }

    pub async fn remove(&self, key: &str) -> Result<(), Status> {
        let request = wire::RemoveSnapshotRequest {
            snapshotter: "cube".into(),
            key: key.into(),
        };
        self.0.clone().remove(request).await.map(drop)
    }

    pub async fn stat(&self, key: &str) -> Result<wire::Info, Status> {
        let request = wire::StatSnapshotRequest {
            snapshotter: "cube".into(),
            key: key.into(),
        };
        let response = self.0.clone().stat(request).await?;
        Ok(response.into_inner().info.unwrap())
    }

    pub async fn update(&self, info: wire::Info, paths: &[&str]) -> Result<wire::Info, Status> {
        let request = wire::UpdateSnapshotRequest {
            snapshotter: "cube".into(),
            info: Some(info),
            update_mask: Some(wire::FieldMask {
                paths: paths.iter().map(|path| (*path).into()).collect(),
            }),
        };
        let response = self.0.clone().update(request).await?;
        Ok(response.into_inner().info.unwrap())
    }

    pub async fn usage(&self, key: &str) -> Result<wire::UsageResponse, Status> {
        let request = wire::UsageRequest {
            snapshotter: "cube".into(),
            key: key.into(),
        };
        Ok(self.0.clone().usage(request).await?.into_inner())
    }

    pub async fn cleanup(&self) -> Result<(), Status> {
        let request = wire::CleanupRequest {
            snapshotter: "cube".into(),
        };
        self.0.clone().cleanup(request).await.map(drop)
    }

    pub async fn list(&self, filters: &[&str]) -> Result<Vec<wire::Info>, Status> {
        let request = wire::ListSnapshotsRequest {
            snapshotter: "cube".into(),
            filters: filters.iter().map(|filter| (*filter).into()).collect(),
        };
        let mut stream = self.0.clone().list(request).await?.into_inner();
        let mut all = Vec::new();
        while let Some(chunk) = stream.message().await? {
            all.extend(chunk.info);
        }
        Ok(all)
    }

    pub async fn keys(&self, filters: &[&str]) -> Vec<String> {
        let all = self.list(filters).await.unwrap();
        all.into_iter().map(|info| info.name).collect()
    }
}

fn only(mut mounts: Vec<wire::Mount>) -> wire::Mount {
    assert_eq!(mounts.len(), 1);
    mounts.remove(0)
}

/// Mounts what the snapshotter handed out.
pub fn mount(mount: &wire::Mount, on: &Path) -> Mounted {
    Mounted::new(&mount.r#type, &mount.source, &mount.options, on).unwrap()
}

pub fn assert_code<T: std::fmt::Debug>(result: Result<T, Status>, code: Code) -> String {
    let status = result.unwrap_err();
    assert_eq!(status.code(), code, "{status}");
    status.message().to_owned()
}
