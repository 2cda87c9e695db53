// SPDX-License-Identifier: Apache-2.0
//! One `cube-vmm` process as its parent sees it: spawn, requests over the control socket, end.
//!
//! The process is this one's child and is waited for by a task of this module alone; a program that
//! uses this crate must not reap children that it did not start (`waitpid(-1)`).
//! Removing what the process leaves behind is not done here: see `footprint`.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, SystemTime};

use cube_net::wire::{Namespace, NamespaceError};
use cube_vmm::config::{BootConfig, RestoreConfig};
use cube_vmm::control::{BootFiles, Client, ControlError, RestoreFiles, SaveFiles};
use cube_vmm::exit::ExitReason;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use thiserror::Error;
use tokio::process::{Child, Command};
use tokio::sync::watch;

use crate::cgroup;
use crate::error::Kind;
use crate::exit::{Cause, VmmExit};
use crate::layout;

/// Name of the binary, where no configuration names a path.
const BINARY: &str = "cube-vmm";

/// How long a VMM whose control socket broke may take to end and so to tell why.
const END_AFTER_LOSS: Duration = Duration::from_secs(2);

/// What the VMM's own environment keeps of this process's: nothing of it is configuration.
const KEPT_VARIABLES: [&str; 2] = ["RUST_LOG", "RUST_BACKTRACE"];

/// A handle to the process; clones are of the same one. Dropping the last one closes the control
/// socket, which ends the VMM.
#[derive(Clone, Debug)]
pub(crate) struct Vmm {
    pid: u32,
    process: Arc<OwnedFd>,
    control: Arc<Mutex<Client>>,
    stop: Arc<OnceLock<&'static str>>,
    end: End,
}

/// Where a VMM's end leaves traces that explain it.
#[derive(Clone, Debug)]
pub(crate) struct Traces {
    /// The sandbox's directory with its logs.
    pub(crate) dir: PathBuf,
    /// `memory.events` of its host cgroup, if it has one.
    pub(crate) memory_events: Option<PathBuf>,
}

/// The end of a VMM, for any number of waiters.
#[derive(Clone, Debug)]
pub(crate) struct End(watch::Receiver<Option<VmmExit>>);

impl Vmm {
    /// Starts the process. It does nothing until it is told to boot or to restore.
    pub(crate) fn spawn(program: &Path, log: File, traces: Traces) -> Result<Self, VmmError> {
        let spawn_failed = |source| VmmError::Spawn {
            program: program.into(),
            source,
        };
        let (ours, theirs) = socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )
        .map_err(|errno| spawn_failed(errno.into()))?;
        let log_too = log.try_clone().map_err(spawn_failed)?;
        let kept = KEPT_VARIABLES
            .into_iter()
            .filter_map(|name| Some((name, std::env::var_os(name)?)));
        let child = Command::new(program)
            .stdin(Stdio::from(theirs))
            .stdout(log)
            .stderr(log_too)
            .env_clear()
            .envs(kept)
            // No `current_dir`: the jail has its own, and a static program would have to fork for it, which
            // copies the page tables, where it can do with posix_spawn(3) otherwise.
            // Signals that a terminal sends to the parent's group are not meant for it.
            .process_group(0)
            .spawn()
            .map_err(spawn_failed)?;
        let pid = child
            .id()
            .expect("a child that nobody waited for has a pid");
        // Not waited for yet, so the pid cannot have become another process's.
        let process = open_process(pid).map_err(|errno| spawn_failed(errno.into()))?;
        let stop = Arc::new(OnceLock::new());
        let (sender, receiver) = watch::channel(None);
        tokio::spawn(watch_end(child, stop.clone(), traces, sender));
        Ok(Self {
            pid,
            process: Arc::new(process),
            control: Arc::new(Mutex::new(Client::new(ours))),
            stop,
            end: End(receiver),
        })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    /// The process itself, for whoever has to end it by force.
    pub(crate) fn process(&self) -> Arc<OwnedFd> {
        self.process.clone()
    }

    pub(crate) fn end(&self) -> &End {
        &self.end
    }

    pub(crate) async fn boot(&self, config: BootConfig, files: BootFiles) -> Result<(), VmmError> {
        self.request(move |client| client.boot(&config, files))
            .await
    }

    pub(crate) async fn restore(
        &self,
        config: RestoreConfig,
        files: RestoreFiles,
    ) -> Result<(), VmmError> {
        self.request(move |client| client.restore(&config, files))
            .await
    }

    pub(crate) async fn resume(&self) -> Result<(), VmmError> {
        self.request(Client::resume).await
    }

    pub(crate) async fn pause(&self) -> Result<(), VmmError> {
        self.request(Client::pause).await
    }

    /// Writes the machine, which has to be paused, into empty files.
    pub(crate) async fn save(&self, files: SaveFiles) -> Result<(), VmmError> {
        self.request(move |client| client.save(&files)).await
    }

    /// Writes down which pages a restored machine has touched.
    pub(crate) async fn working_set(
        &self,
        into: OwnedFd,
        pagemap: OwnedFd,
    ) -> Result<(), VmmError> {
        self.request(move |client| client.working_set(&into, &pagemap))
            .await
    }

    /// Opens the page map of the process, which has no `/proc` of its own. Only of a VMM that has answered:
    /// a page map belongs to the memory that the process has at this moment, and `spawn` returns an instant
    /// before the new program's memory takes the place of this one's (`exec_mmap` in the kernel's fs/exec.c).
    pub(crate) fn page_map(&self) -> io::Result<OwnedFd> {
        let file = File::open(format!("/proc/{}/pagemap", self.pid))?;
        self.is_still_itself()?;
        Ok(file.into())
    }

    /// The network namespace that it lives in. Only of a VMM that boots or restores: it enters the jail first.
    pub(crate) fn namespace(&self) -> Result<Namespace, NamespaceError> {
        let path = PathBuf::from(format!("/proc/{}/ns/net", self.pid));
        let namespace = Namespace::open(&path)?;
        match self.is_still_itself() {
            Ok(()) => Ok(namespace),
            Err(source) => Err(NamespaceError::Open { path, source }),
        }
    }

    /// One that lives now lived when something of it was opened by its pid, which so was no other's.
    fn is_still_itself(&self) -> io::Result<()> {
        let mut watched = [PollFd::from_borrowed_fd(
            self.process.as_fd(),
            PollFlags::IN,
        )];
        match poll(&mut watched, Some(&Timespec::default()))? {
            0 => Ok(()),
            _ => Err(io::Error::other("the VMM has ended")),
        }
    }

    pub(crate) async fn attach(
        &self,
        slot: u8,
        disk: OwnedFd,
        read_only: bool,
    ) -> Result<(), VmmError> {
        self.request(move |client| client.attach(slot, disk, read_only))
            .await
    }

    pub(crate) async fn detach(&self, slot: u8) -> Result<(), VmmError> {
        self.request(move |client| client.detach(slot)).await
    }

    pub(crate) async fn attach_net(&self, slot: u8, tap: OwnedFd) -> Result<(), VmmError> {
        self.request(move |client| client.attach_net(slot, tap))
            .await
    }

    pub(crate) async fn detach_net(&self, slot: u8) -> Result<(), VmmError> {
        self.request(move |client| client.detach_net(slot)).await
    }

    pub(crate) async fn quit(&self) -> Result<(), VmmError> {
        self.request(Client::quit).await
    }

    /// Says why the process is about to be ended; the first reason counts.
    pub(crate) fn note_stop(&self, why: &'static str) {
        self.stop.get_or_init(|| why);
    }

    /// Ends the process now. The end arrives like any other.
    pub(crate) fn kill(&self, why: &'static str) {
        self.note_stop(why);
        match pidfd_send_signal(&*self.process, Signal::KILL) {
            Ok(()) | Err(Errno::SRCH) => {}
            Err(errno) => tracing::error!(pid = self.pid, %errno, "cube-vmm could not be killed"),
        }
    }

    /// Runs one blocking exchange on a thread of its own. The client has a limit for each reply.
    async fn request<T: Send + 'static>(
        &self,
        exchange: impl FnOnce(&mut Client) -> Result<T, ControlError> + Send + 'static,
    ) -> Result<T, VmmError> {
        let control = self.control.clone();
        let answer = tokio::task::spawn_blocking(move || {
            exchange(&mut control.lock().unwrap_or_else(PoisonError::into_inner))
        })
        .await
        .map_err(|_| VmmError::Abandoned)?;
        match answer {
            Ok(value) => Ok(value),
            Err(source @ ControlError::Refused { .. }) => Err(VmmError::Control(source)),
            // The socket broke: the process is about to end, and its end says more.
            Err(source) => match self.end.within(END_AFTER_LOSS).await {
                Some(exit) => Err(VmmError::Ended(exit)),
                None => Err(VmmError::Control(source)),
            },
        }
    }
}

impl End {
    /// Waits for it.
    pub(crate) async fn wait(&self) -> VmmExit {
        let mut receiver = self.0.clone();
        let exit = receiver
            .wait_for(Option::is_some)
            .await
            .ok()
            .and_then(|exit| exit.clone());
        // The sender goes away without a word only when the async runtime is being shut down.
        exit.unwrap_or_else(|| VmmExit {
            cause: Cause::Stopped("the program that ran the sandbox is ending"),
            at: SystemTime::now(),
            last_words: String::new(),
        })
    }

    /// Waits for it, but not longer than this.
    pub(crate) async fn within(&self, limit: Duration) -> Option<VmmExit> {
        tokio::time::timeout(limit, self.wait()).await.ok()
    }

    /// An end that a test decides.
    #[cfg(test)]
    pub(crate) fn channel() -> (watch::Sender<Option<VmmExit>>, Self) {
        let (sender, receiver) = watch::channel(None);
        (sender, Self(receiver))
    }
}

/// The VMM binary: as configured, else beside the running program, else the first on PATH.
pub(crate) fn find(configured: Option<&Path>) -> Result<PathBuf, VmmError> {
    if let Some(path) = configured {
        return Ok(path.into());
    }
    let beside = std::env::current_exe()
        .ok()
        .and_then(|exe| Some(exe.parent()?.join(BINARY)));
    let on_path = std::env::var_os("PATH").unwrap_or_default();
    let on_path = std::env::split_paths(&on_path).map(|dir| dir.join(BINARY));
    beside
        .into_iter()
        .chain(on_path)
        .find(|path| path.is_file())
        .ok_or(VmmError::NotFound)
}

fn open_process(pid: u32) -> Result<OwnedFd, Errno> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    pidfd_open(pid.ok_or(Errno::INVAL)?, PidfdFlags::empty())
}

async fn watch_end(
    mut child: Child,
    stop: Arc<OnceLock<&'static str>>,
    traces: Traces,
    end: watch::Sender<Option<VmmExit>>,
) {
    let status = child.wait().await;
    let mut exit = VmmExit {
        cause: cause_of(status, stop.get().copied()),
        at: SystemTime::now(),
        last_words: String::new(),
    };
    let events = traces.memory_events.as_deref();
    if exit.cause == Cause::Signal(Signal::KILL.as_raw()) && events.is_some_and(cgroup::oom_killed)
    {
        exit.cause = Cause::HostOutOfMemory;
    }
    if !exit.is_orderly() {
        exit.last_words = layout::last_words(&traces.dir);
    }
    end.send_replace(Some(exit));
}

fn cause_of(status: io::Result<ExitStatus>, stop: Option<&'static str>) -> Cause {
    let Ok(status) = status else {
        return Cause::Stopped("its end could not be waited for");
    };
    let killed = status.signal() == Some(Signal::KILL.as_raw());
    match (status.signal(), status.code(), stop) {
        (Some(_), _, Some(why)) if killed => Cause::Stopped(why),
        (Some(signal), _, _) => Cause::Signal(signal),
        (None, Some(code), _) => {
            ExitReason::from_code(code).map_or(Cause::Code(code), Cause::Reason)
        }
        (None, None, _) => Cause::Code(-1),
    }
}

/// What can go wrong between the runtime and a VMM.
#[derive(Debug, Error)]
pub enum VmmError {
    /// There is no binary.
    #[error(
        "no {BINARY} was found beside this program or on PATH: install it there or set `vmm` in the configuration"
    )]
    NotFound,
    /// The binary could not be started.
    #[error("{} could not be started", program.display())]
    Spawn {
        /// The binary.
        program: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The VMM refused a request or did not answer.
    #[error("the VMM did not do as asked")]
    Control(#[source] ControlError),
    /// The VMM ended instead of answering.
    #[error("the machine ended: {0}")]
    Ended(VmmExit),
    /// This program is shutting down.
    #[error("the request was given up because this program is ending")]
    Abandoned,
}

impl VmmError {
    /// Whether the VMM itself said no, or gave up; not so if it was killed or the host is at its end.
    pub(crate) fn is_refusal(&self) -> bool {
        match self {
            VmmError::Control(source) => matches!(source, ControlError::Refused { .. }),
            VmmError::Ended(exit) => matches!(exit.cause, Cause::Reason(_) | Cause::Code(_)),
            VmmError::NotFound | VmmError::Spawn { .. } | VmmError::Abandoned => false,
        }
    }

    /// The class of this failure.
    pub fn kind(&self) -> Kind {
        match self {
            VmmError::NotFound | VmmError::Spawn { .. } | VmmError::Control(_) => Kind::Internal,
            VmmError::Ended(_) | VmmError::Abandoned => Kind::Unavailable,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spawn(program: &str, dir: &Path) -> Result<Vmm, VmmError> {
        let log = File::create(dir.join("vmm.log")).unwrap();
        let traces = Traces {
            dir: dir.into(),
            memory_events: Some(dir.join("memory.events")),
        };
        Vmm::spawn(Path::new(program), log, traces)
    }

    fn check(raw: i32, stop: Option<&'static str>, expect: Cause) {
        assert_eq!(cause_of(Ok(ExitStatus::from_raw(raw)), stop), expect);
    }

    #[test]
    fn each_kind_of_end_has_its_cause() {
        check(0, None, Cause::Reason(ExitReason::Stopped));
        check(11 << 8, None, Cause::Reason(ExitReason::GuestReset));
        check(99 << 8, None, Cause::Code(99));
        check(9, None, Cause::Signal(9));
        check(9, Some("why"), Cause::Stopped("why"));
        check(6, Some("why"), Cause::Signal(6));
        check(0, Some("why"), Cause::Reason(ExitReason::Stopped));
    }

    #[tokio::test]
    async fn a_program_that_is_no_vmm_ends_and_says_so() {
        let dir = tempfile::tempdir().unwrap();
        let vmm = spawn("/bin/false", dir.path()).unwrap();
        let error = vmm.quit().await.unwrap_err();
        assert!(matches!(error, VmmError::Ended(_)), "{error}");
        assert_eq!(vmm.end().wait().await.cause, Cause::Code(1));
        assert_eq!(error.kind(), Kind::Unavailable);
    }

    #[tokio::test]
    async fn a_missing_program_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let error = spawn("/nonexistent/vmm", dir.path()).unwrap_err();
        assert!(error.to_string().contains("/nonexistent/vmm"), "{error}");
    }

    #[tokio::test]
    async fn a_kill_is_reported_with_its_reason_and_the_last_words() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("serial.log"), "guest says hello\n").unwrap();
        // `cat` waits for its standard input, the control socket, as a VMM does.
        let vmm = spawn("/bin/cat", dir.path()).unwrap();
        vmm.kill("the test wants it");
        let exit = vmm.end().wait().await;
        assert_eq!(exit.cause, Cause::Stopped("the test wants it"));
        assert!(exit.last_words.contains("guest says hello"), "{exit}");
    }

    #[tokio::test]
    async fn a_kill_by_the_hosts_kernel_for_want_of_memory_is_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        for (events, expect) in [
            ("oom_kill 0\n", Cause::Signal(9)),
            ("oom_kill 1\n", Cause::HostOutOfMemory),
        ] {
            std::fs::write(dir.path().join("memory.events"), events).unwrap();
            let vmm = spawn("/bin/cat", dir.path()).unwrap();
            pidfd_send_signal(&*vmm.process, Signal::KILL).unwrap();
            assert_eq!(vmm.end().wait().await.cause, expect);
        }
    }
}
