// SPDX-License-Identifier: Apache-2.0
//! A machine without a machine: what it is told to do is recorded, what it is to answer is set.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard};
use std::time::SystemTime;

use cube_runtime::Kind;
use cube_runtime::exit::Cause;
use tokio::net::UnixStream;
use tokio::sync::{Notify, watch};

use super::*;

/// The host's pid of every fake.
pub const PID: u32 = 4242;

/// One machine, and the one [`Boot`] that makes it.
#[derive(Clone, Default)]
pub struct FakeMachine {
    inner: Arc<Inner>,
}

#[derive(Default)]
struct Inner {
    state: Mutex<State>,
    gone: watch::Sender<Option<VmmExit>>,
    oom: Notify,
}

#[derive(Default)]
struct State {
    /// What was asked, in order.
    calls: Vec<String>,
    /// What the next call with this name answers instead.
    failures: BTreeMap<&'static str, Kind>,
    /// Calls with this name do not return until it is taken away.
    stuck: Option<(&'static str, Arc<Notify>)>,
    processes: BTreeMap<(String, String), FakeProcess>,
    stats: Stats,
    /// The spec of the last container.
    spec: Vec<u8>,
}

/// One process.
#[derive(Clone)]
pub struct FakeProcess {
    machine: FakeMachine,
    name: String,
    exit: watch::Sender<Option<Exit>>,
    /// The process's ends of its streams.
    ends: Arc<Mutex<[Option<UnixStream>; 3]>>,
}

impl FakeMachine {
    /// Everything asked so far, in order.
    pub fn calls(&self) -> Vec<String> {
        self.state().calls.clone()
    }

    /// Lets the next call of a name fail.
    pub fn fail(&self, call: &'static str, kind: Kind) {
        self.state().failures.insert(call, kind);
    }

    /// Lets calls of a name wait until the answer is notified.
    pub fn stick(&self, call: &'static str) -> Arc<Notify> {
        let release = Arc::new(Notify::new());
        self.state().stuck = Some((call, release.clone()));
        release
    }

    /// What [`Machine::stats`] answers.
    pub fn set_stats(&self, stats: Stats) {
        self.state().stats = stats;
    }

    /// What the guest was told of its last container.
    pub fn spec(&self) -> Vec<u8> {
        self.state().spec.clone()
    }

    /// Reports one lack of memory.
    pub fn run_out_of_memory(&self) {
        self.inner.oom.notify_one();
    }

    /// A process that was created.
    pub fn process(&self, container: &str, exec: &str) -> FakeProcess {
        let name = (container.to_owned(), exec.to_owned());
        self.state().processes[&name].clone()
    }

    /// Ends the machine from outside.
    pub fn crash(&self) {
        self.end(Cause::Signal(9));
    }

    fn end(&self, cause: Cause) {
        let exit = VmmExit {
            cause,
            at: SystemTime::now(),
            last_words: String::new(),
        };
        self.inner.gone.send_replace(Some(exit.clone()));
        let processes: Vec<_> = self.state().processes.values().cloned().collect();
        for process in processes {
            process.end(Exit {
                machine: Some(exit.clone()),
                ..exit_of(137)
            });
        }
    }

    /// Records a call, waits if it is to, and tells what it answers.
    async fn called(&self, call: &'static str, operand: &str) -> Option<Kind> {
        let stuck = {
            let mut state = self.state();
            state
                .calls
                .push(format!("{call} {operand}").trim().to_owned());
            let stuck = state.stuck.as_ref().filter(|(name, _)| *name == call);
            stuck.map(|(_, release)| release.clone())
        };
        if let Some(release) = stuck {
            release.notified().await;
        }
        self.state().failures.remove(call)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.inner.state.lock().unwrap()
    }
}

fn refused(what: &'static str, kind: Kind) -> GuestError {
    GuestError::Refused {
        what,
        kind,
        message: "told to".into(),
    }
}

fn answer(failure: Option<Kind>, what: &'static str) -> Result<(), GuestError> {
    failure.map_or(Ok(()), |kind| Err(refused(what, kind)))
}

fn exit_of(status: u32) -> Exit {
    Exit {
        status,
        exited_at: SystemTime::now(),
        oom_killed: false,
        machine: None,
    }
}

#[async_trait]
impl Boot for FakeMachine {
    async fn boot(&self, _: &Config, spec: SandboxSpec) -> Result<Arc<dyn Machine>, CreateError> {
        match self.called("boot", &spec.key.id).await {
            None => Ok(Arc::new(self.clone())),
            Some(_) => Err(CreateError::Kvm(std::io::ErrorKind::NotFound.into())),
        }
    }
}

#[async_trait]
impl Machine for FakeMachine {
    fn pid(&self) -> u32 {
        PID
    }

    async fn create_container(&self, spec: ContainerSpec) -> Result<(), ContainerError> {
        let failure = self.called("create_container", &spec.id).await;
        self.state().spec = spec.oci.into_json();
        answer(failure, "set the container up").map_err(ContainerError::Guest)
    }

    async fn create_process(
        &self,
        container: &str,
        command: Command,
    ) -> Result<Spawned, SpawnError> {
        let name = format!("{container}/{}", command.exec_id);
        let failure = self.called("create_process", &name).await;
        answer(failure, "set the process up").map_err(SpawnError::SetUp)?;
        let pair = |wanted: bool| match wanted {
            true => UnixStream::pair()
                .map(|(near, far)| (Some(near), Some(far)))
                .unwrap(),
            false => (None, None),
        };
        let (stdin, far_in) = pair(command.stdin);
        let (stdout, far_out) = pair(command.stdout);
        let (stderr, far_err) = pair(command.stderr);
        let process = FakeProcess {
            machine: self.clone(),
            name,
            exit: watch::Sender::new(None),
            ends: Arc::new(Mutex::new([far_in, far_out, far_err])),
        };
        let key = (container.to_owned(), command.exec_id);
        self.state().processes.insert(key, process.clone());
        let streams = Streams {
            stdin,
            stdout,
            stderr,
        };
        Ok(Spawned {
            process: Arc::new(process),
            streams,
        })
    }

    async fn delete_container(&self, container: &str) -> Result<(), ContainerError> {
        let failure = self.called("delete_container", container).await;
        answer(failure, "delete the container").map_err(ContainerError::Guest)
    }

    async fn pause(&self, container: &str) -> Result<(), GuestError> {
        answer(self.called("pause", container).await, "pause")
    }

    async fn resume(&self, container: &str) -> Result<(), GuestError> {
        answer(self.called("resume", container).await, "resume")
    }

    async fn update(&self, container: &str, resources: Vec<u8>) -> Result<(), GuestError> {
        let operand = format!("{container} {}", String::from_utf8(resources).unwrap());
        answer(self.called("update", &operand).await, "update")
    }

    async fn set_egress(&self, policy: Policy) -> Result<(), NetworkError> {
        let operand = serde_json::to_string(&policy).unwrap();
        match self.called("set_egress", &operand).await {
            Some(_) => Err(NetworkError::Abandoned),
            None => Ok(()),
        }
    }

    async fn snapshot(&self, _: &Config, name: &SnapshotName) -> Result<Duration, SnapshotError> {
        match self.called("snapshot", name.as_str()).await {
            Some(_) => Err(SnapshotError::Abandoned),
            None => Ok(Duration::ZERO),
        }
    }

    async fn stats(&self, container: &str) -> Result<Stats, GuestError> {
        answer(self.called("stats", container).await, "tell its figures")?;
        Ok(self.state().stats.clone())
    }

    async fn answers(&self, _: &str) -> bool {
        true
    }

    async fn wait_oom(&self, _: &str) -> Result<(), GuestError> {
        self.inner.oom.notified().await;
        Ok(())
    }

    async fn exited(&self) -> VmmExit {
        let mut gone = self.inner.gone.subscribe();
        gone.wait_for(Option::is_some)
            .await
            .unwrap()
            .clone()
            .unwrap()
    }

    async fn destroy(&self) -> Result<(), DestroyError> {
        self.called("destroy", "").await;
        self.end(Cause::Stopped("told to"));
        Ok(())
    }
}

impl FakeProcess {
    /// Ends it.
    pub fn exit(&self, status: u32) {
        self.end(exit_of(status));
    }

    /// Ends it for want of memory.
    pub fn exit_out_of_memory(&self) {
        self.end(Exit {
            oom_killed: true,
            ..exit_of(137)
        });
    }

    /// Its own end of stdin (0), stdout (1) or stderr (2).
    pub fn stream(&self, number: usize) -> UnixStream {
        self.ends.lock().unwrap()[number].take().unwrap()
    }

    fn end(&self, exit: Exit) {
        let first = self.exit.send_if_modified(|told| {
            let first = told.is_none();
            told.get_or_insert(exit);
            first
        });
        if first {
            *self.ends.lock().unwrap() = [None, None, None];
        }
    }
}

#[async_trait]
impl GuestProcess for FakeProcess {
    async fn start(&self) -> Result<(), StartError> {
        let failure = self.machine.called("start", &self.name).await;
        answer(failure, "run it").map_err(StartError::Guest)
    }

    async fn signal(&self, signal: u32, all: bool) -> Result<(), GuestError> {
        let all = if all { " all" } else { "" };
        let operand = format!("{} {signal}{all}", self.name);
        let failure = self.machine.called("signal", &operand).await;
        if failure == Some(Kind::DeadlineExceeded) {
            return Err(GuestError::Timeout {
                what: "signal it",
                limit: std::time::Duration::from_secs(1),
            });
        }
        answer(failure, "signal it")?;
        if signal == 9 {
            self.exit(137);
        }
        Ok(())
    }

    async fn resize(&self, columns: u16, rows: u16) -> Result<(), GuestError> {
        let operand = format!("{} {columns}x{rows}", self.name);
        answer(self.machine.called("resize", &operand).await, "resize it")
    }

    async fn wait(&self) -> Exit {
        let mut exit = self.exit.subscribe();
        exit.wait_for(Option::is_some)
            .await
            .unwrap()
            .clone()
            .unwrap()
    }

    async fn delete(&self) -> Result<(), GuestError> {
        answer(self.machine.called("delete", &self.name).await, "forget it")
    }
}
