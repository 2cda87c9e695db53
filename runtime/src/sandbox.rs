// SPDX-License-Identifier: Apache-2.0
//! The waist. A front door needs nothing else.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fs::{self, File, OpenOptions};
use std::future::Future;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use cube_vmm::config::BootConfig;
use cube_vmm::control::BootFiles;
use thiserror::Error;
use tokio::time::Instant;

/// A container's cgroup figures, by the names the guest's kernel gives them.
pub use cube_protocol::v1::agent::StatsResponse as Stats;

use crate::cgroup::{CgroupError, HostCgroup};
use crate::config::Config;
use crate::container::{Container, ContainerError, ContainerSpec, Machine};
use crate::error::Kind;
use crate::exit::VmmExit;
use crate::footprint::Footprint;
use crate::guest::{self, ClaimError, Guest, GuestError};
use crate::image::{GuestImage, ImageError};
use crate::layout::{Layout, LayoutError, SandboxDir, SandboxState, VmmState};
use crate::process::{Command, Process, SpawnError};
use crate::reap::ReapError;
use crate::slots::Slots;
use crate::spec::SandboxSpec;
use crate::trace;
use crate::vmm::{self, Traces, Vmm, VmmError};

/// How long an orderly end may take before the VMM is killed: containerd gives a shim's shutdown 3 s.
const ORDERLY_END: Duration = Duration::from_millis(1500);

/// How long a machine may outlive its agent's connection: a guest that powers off closes it first.
const END_AFTER_AGENT: Duration = Duration::from_secs(5);

/// A running machine with a claimed guest in it.
///
/// All methods take `&self` and may be called at once from many tasks. What changes the machine is
/// finished once it was begun, even if the caller goes away. When the machine ends, every pending call
/// fails at once with the reason, and [`Sandbox::exited`] resolves. Dropping a sandbox that was not
/// destroyed kills its VMM and removes its files.
#[derive(Debug)]
pub struct Sandbox {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    vmm: Vmm,
    guest: Guest,
    slots: Slots,
    /// By name; `None` while one is being made.
    containers: Mutex<HashMap<String, Option<Arc<Container>>>>,
    /// Taken by whoever destroys the sandbox.
    footprint: tokio::sync::Mutex<Option<Footprint>>,
}

impl Sandbox {
    /// Spawns a VMM, boots the guest and claims it. On failure nothing is left behind.
    pub async fn create(config: &Config, spec: SandboxSpec) -> Result<Self, CreateError> {
        trace::enable(config.trace);
        let _whole = trace::stage("create");
        let deadline = Instant::now() + config.boot_timeout();

        let (image, dir) = prepare(config, &spec).await?;
        let files = Files::open(image, &dir, &spec)?;
        let mut footprint = Footprint::new(dir);
        if let Some(path) = &spec.cgroup {
            footprint.cgroup = HostCgroup::create(path).map_err(CreateError::Cgroup)?;
        }
        let vmm = spawn(config, &mut footprint, &spec)?;

        {
            let _stage = trace::stage("boot");
            vmm.boot(boot_config(config, &spec, vmm.pid()), files.0)
                .await
                .map_err(CreateError::Boot)?;
        }
        let guest = claim(&vmm, &footprint.dir, &spec, deadline).await?;

        Ok(Self {
            inner: Arc::new(Inner {
                vmm,
                guest,
                slots: Slots::default(),
                containers: Mutex::default(),
                footprint: tokio::sync::Mutex::new(Some(footprint)),
            }),
        })
    }

    /// The VMM's process id: it lives in the sandbox's network namespace until the end.
    pub fn pid(&self) -> u32 {
        self.inner.vmm.pid()
    }

    /// Attaches the root file system, sets the container up in the guest and runs the create hooks.
    pub async fn create_container(&self, spec: ContainerSpec) -> Result<(), ContainerError> {
        let inner = self.inner.clone();
        finish(async move {
            let name = Reservation::new(&inner, spec.id.clone())?;
            let container = Container::create(inner.machine(), spec).await?;
            name.fill(container);
            Ok(())
        })
        .await
        .unwrap_or(Err(ContainerError::Abandoned))
    }

    /// Sets a process up to the point just before it runs, with its streams connected.
    pub async fn create_process(
        &self,
        container: &str,
        command: Command,
    ) -> Result<Process, SpawnError> {
        let found = self.inner.container(container);
        let container = found.ok_or_else(|| SpawnError::UnknownContainer {
            id: container.to_owned(),
        })?;
        let guest = self.inner.guest.clone();
        finish(Process::create(guest, container, command))
            .await
            .unwrap_or(Err(SpawnError::Abandoned))
    }

    /// Kills what still runs, takes the root file system away, runs the poststop hooks. Works after
    /// the end of the machine too; an unknown container is [`ContainerError::Unknown`].
    pub async fn delete_container(&self, container: &str) -> Result<(), ContainerError> {
        let unknown = || ContainerError::Unknown {
            id: container.to_owned(),
        };
        let container = self.inner.container(container).ok_or_else(unknown)?;
        let inner = self.inner.clone();
        finish(async move {
            container.delete(inner.machine()).await?;
            inner.containers().remove(container.id());
            Ok(())
        })
        .await
        .unwrap_or(Err(ContainerError::Abandoned))
    }

    /// Freezes every process of a container.
    pub async fn pause(&self, container: &str) -> Result<(), GuestError> {
        self.inner.guest.pause_container(container).await
    }

    /// Lets them go on.
    pub async fn resume(&self, container: &str) -> Result<(), GuestError> {
        self.inner.guest.resume_container(container).await
    }

    /// Changes a container's limits: OCI `LinuxResources` as JSON.
    pub async fn update(&self, container: &str, resources_json: Vec<u8>) -> Result<(), GuestError> {
        self.inner
            .guest
            .update_container(container, resources_json)
            .await
    }

    /// A container's cgroup figures.
    pub async fn stats(&self, container: &str) -> Result<Stats, GuestError> {
        self.inner.guest.stats(container).await
    }

    /// The processes of a container, by the guest's process ids.
    pub async fn pids(&self, container: &str) -> Result<Vec<GuestPid>, GuestError> {
        self.inner.guest.pids(container).await
    }

    /// Answers when a process of the container was killed for want of memory; call it again for the next.
    pub async fn wait_oom(&self, container: &str) -> Result<(), GuestError> {
        self.inner.guest.wait_oom(container).await
    }

    /// Waits for the end of the machine. Any number of waiters, at any time.
    pub async fn exited(&self) -> VmmExit {
        self.inner.vmm.end().wait().await
    }

    /// Ends the machine and removes everything of it from the host. Idempotent.
    pub async fn destroy(&self) -> Result<(), DestroyError> {
        let inner = self.inner.clone();
        finish(async move { inner.destroy().await })
            .await
            .unwrap_or(Err(DestroyError::Abandoned))
    }
}

/// One process of a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GuestPid {
    /// In the guest's root pid namespace.
    pub pid: u32,
    /// Its name, if [`Sandbox::create_process`] made it with one.
    pub exec_id: String,
}

impl Inner {
    fn machine(&self) -> Machine<'_> {
        Machine {
            vmm: &self.vmm,
            guest: &self.guest,
            slots: &self.slots,
        }
    }

    fn containers(&self) -> std::sync::MutexGuard<'_, HashMap<String, Option<Arc<Container>>>> {
        self.containers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn container(&self, id: &str) -> Option<Arc<Container>> {
        self.containers().get(id).cloned().flatten()
    }

    async fn destroy(&self) -> Result<(), DestroyError> {
        let _stage = trace::stage("destroy");
        // A second caller waits here for the first.
        let mut footprint = self.footprint.lock().await;
        let Some(taken) = footprint.take() else {
            return Ok(());
        };
        self.vmm.note_stop("the sandbox was destroyed");
        if tokio::time::timeout(ORDERLY_END, self.end_orderly())
            .await
            .is_err()
        {
            tracing::warn!(
                pid = self.vmm.pid(),
                "cube-vmm did not end in time and is killed"
            );
        }
        tokio::task::spawn_blocking(|| taken.clear())
            .await
            .map_err(|_| DestroyError::Abandoned)?
            .map_err(DestroyError::Remove)
    }

    /// With containers left the guest is asked, so that their disks are written back; without, the
    /// VMM alone has to end.
    async fn end_orderly(&self) {
        let nothing_left = self.containers().is_empty();
        let asked = if nothing_left {
            self.vmm
                .quit()
                .await
                .map_err(|error| crate::error::chain(&error))
        } else {
            self.guest
                .shutdown()
                .await
                .map_err(|error| crate::error::chain(&error))
        };
        if let Err(error) = asked {
            tracing::debug!(error, "the machine was asked to end");
        }
        self.vmm.end().wait().await;
    }
}

/// A name that is taken by a container to come, and free again if it does not.
struct Reservation<'a> {
    inner: &'a Inner,
    id: String,
}

impl<'a> Reservation<'a> {
    fn new(inner: &'a Inner, id: String) -> Result<Self, ContainerError> {
        match inner.containers().entry(id.clone()) {
            Entry::Occupied(_) => Err(ContainerError::Exists { id }),
            Entry::Vacant(entry) => {
                entry.insert(None);
                Ok(Self { inner, id })
            }
        }
    }

    fn fill(self, container: Arc<Container>) {
        self.inner
            .containers()
            .insert(self.id.clone(), Some(container));
    }
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        let mut containers = self.inner.containers();
        if matches!(containers.get(&self.id), Some(None)) {
            containers.remove(&self.id);
        }
    }
}

/// Runs to the end whatever the caller does; `None` if the async runtime is shut down.
async fn finish<T: Send + 'static>(work: impl Future<Output = T> + Send + 'static) -> Option<T> {
    tokio::spawn(work).await.ok()
}

/// What reads and writes files before there is anything to undo, on a thread that may block.
async fn prepare(
    config: &Config,
    spec: &SandboxSpec,
) -> Result<(GuestImage, SandboxDir), CreateError> {
    let _stage = trace::stage("prepare");
    let layout = Layout::new(&config.run);
    let (image, key) = (config.image.clone(), spec.key.clone());
    let prepared = tokio::task::spawn_blocking(move || {
        let image = GuestImage::open(&image, layout.run()).map_err(CreateError::Image)?;
        let dir = SandboxDir::create(&layout, &key).map_err(CreateError::Layout)?;
        Ok((image, dir))
    });
    prepared.await.unwrap_or(Err(CreateError::Abandoned))
}

/// Everything that the VMM gets as descriptors, because it opens nothing itself.
struct Files(BootFiles);

impl Files {
    fn open(image: GuestImage, dir: &SandboxDir, spec: &SandboxSpec) -> Result<Self, CreateError> {
        let kvm = OpenOptions::new().read(true).write(true).open("/dev/kvm");
        let netns = spec.netns.as_ref().map(|path| {
            File::open(path).map_err(|source| CreateError::Netns {
                path: path.clone(),
                source,
            })
        });
        Ok(Self(BootFiles {
            kvm: kvm.map_err(CreateError::Kvm)?.into(),
            kernel: image.kernel,
            initramfs: image.initramfs,
            vsock: dir.bind_vsock().map_err(CreateError::Layout)?.into(),
            serial: dir.serial_log().map_err(CreateError::Layout)?.into(),
            netns: netns.transpose()?.map(Into::into),
        }))
    }
}

/// Starts the VMM where it belongs, before it takes any memory, and writes down who it is.
fn spawn(
    config: &Config,
    footprint: &mut Footprint,
    spec: &SandboxSpec,
) -> Result<Vmm, CreateError> {
    let _stage = trace::stage("spawn");
    let dir = &footprint.dir;
    let program = vmm::find(config.vmm.as_deref()).map_err(CreateError::Spawn)?;
    let log = dir.vmm_log().map_err(CreateError::Layout)?;
    let traces = Traces {
        dir: dir.path().into(),
        memory_events: footprint.cgroup.as_ref().map(HostCgroup::memory_events),
    };
    let vmm = Vmm::spawn(&program, log, traces).map_err(CreateError::Spawn)?;
    footprint.process = Some(vmm.process());
    if let Some(cgroup) = &footprint.cgroup {
        cgroup.add(vmm.pid()).map_err(CreateError::Cgroup)?;
    }
    adjust_oom_score(vmm.pid(), config.oom_score_adj);
    let identity = VmmState::of(vmm.pid()).ok_or(CreateError::Abandoned)?;
    let mut state = SandboxState::new(spec.key.clone(), spec.vcpus, spec.memory_mib, identity);
    if let Some(cgroup) = &footprint.cgroup {
        state.cgroups = cgroup.made().to_vec();
    }
    state.write(dir.path()).map_err(CreateError::Layout)?;
    Ok(vmm)
}

fn boot_config(config: &Config, spec: &SandboxSpec, pid: u32) -> BootConfig {
    // A uid of its own: two VMMs can neither signal nor trace each other. `Config` checks the base.
    let id = config.vmm_uid_base.saturating_add(pid);
    BootConfig {
        vcpus: spec.vcpus,
        memory_mib: spec.memory_mib,
        cmdline: config.cmdline.clone(),
        uid: id,
        gid: id,
    }
}

async fn claim(
    vmm: &Vmm,
    dir: &SandboxDir,
    spec: &SandboxSpec,
    deadline: Instant,
) -> Result<Guest, CreateError> {
    let failed = |source| CreateError::Claim {
        last_words: match &source {
            ClaimError::Timeout { .. } | ClaimError::Call(_) => dir.last_words(),
            // The end of a machine carries its own, the others need none.
            _ => String::new(),
        },
        source,
    };
    let unclaimed = {
        let _stage = trace::stage("connect");
        guest::connect(&dir.vsock_path(), vmm.end().clone(), deadline)
            .await
            .map_err(failed)?
    };
    let _stage = trace::stage("claim");
    let (guest, agent_gone) = unclaimed.claim(&spec.hostname).await.map_err(failed)?;
    tokio::spawn(end_with_agent(vmm.clone(), agent_gone));
    Ok(guest)
}

/// A machine whose agent is gone can be asked nothing and told nothing: it is ended, so that its
/// processes have an end too.
async fn end_with_agent(vmm: Vmm, agent_gone: tokio::sync::oneshot::Receiver<()>) {
    let end = vmm.end().clone();
    tokio::select! {
        _ = end.wait() => return,
        _ = agent_gone => {}
    }
    if end.within(END_AFTER_AGENT).await.is_none() {
        tracing::error!(pid = vmm.pid(), "the guest's agent closed its connection");
        vmm.kill("the guest's agent closed its connection");
    }
}

/// Makes the VMM a better choice for the host's out-of-memory killer than this process, which has to
/// report its end. Hosts that do not allow it go on with the inherited score.
fn adjust_oom_score(pid: u32, relative: i32) {
    let adjust = || -> io::Result<()> {
        let own = fs::read_to_string("/proc/self/oom_score_adj")?;
        let own: i32 = own.trim().parse().map_err(io::Error::other)?;
        let score = own.saturating_add(relative).clamp(-1000, 1000);
        fs::write(format!("/proc/{pid}/oom_score_adj"), score.to_string())
    };
    if let Err(error) = adjust() {
        tracing::debug!(pid, %error, "the oom score stays as it is");
    }
}

/// Why a sandbox could not be created.
#[derive(Debug, Error)]
pub enum CreateError {
    /// The guest image is missing or damaged.
    #[error("there is no guest to boot")]
    Image(#[source] ImageError),
    /// Its directory could not be made.
    #[error("the sandbox's directory could not be set up")]
    Layout(#[source] LayoutError),
    /// No hardware virtualisation.
    #[error(
        "/dev/kvm could not be opened: this host cannot run microVMs; `cube doctor` says what is missing"
    )]
    Kvm(#[source] io::Error),
    /// The network namespace of the spec.
    #[error("the network namespace {} could not be opened", path.display())]
    Netns {
        /// As the spec names it.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The host's cgroup.
    #[error("the machine's cgroup could not be set up")]
    Cgroup(#[source] CgroupError),
    /// The VMM could not be started.
    #[error("the machine could not be started")]
    Spawn(#[source] VmmError),
    /// The VMM could not build or run the machine.
    #[error("the machine could not be booted")]
    Boot(#[source] VmmError),
    /// The guest's agent could not be reached or refused the claim.
    #[error("the guest did not come up{}", words(last_words))]
    Claim {
        /// The end of the machine's logs; empty if the cause has them.
        last_words: String,
        /// Why.
        source: ClaimError,
    },
    /// This program is shutting down.
    #[error("the sandbox was given up because this program is ending")]
    Abandoned,
}

fn words(last_words: &str) -> String {
    if last_words.is_empty() {
        String::new()
    } else {
        format!(" (last words: {last_words})")
    }
}

impl CreateError {
    /// The class of this failure.
    pub fn kind(&self) -> Kind {
        match self {
            CreateError::Image(source) => source.kind(),
            CreateError::Layout(LayoutError::Exists { .. }) => Kind::AlreadyExists,
            CreateError::Layout(_) | CreateError::Cgroup(_) => Kind::Internal,
            CreateError::Kvm(_) => Kind::FailedPrecondition,
            CreateError::Netns { .. } => Kind::InvalidArgument,
            CreateError::Spawn(source) | CreateError::Boot(source) => source.kind(),
            CreateError::Claim { source, .. } => source.kind(),
            CreateError::Abandoned => Kind::Unavailable,
        }
    }
}

/// Why a sandbox could not be removed completely.
#[derive(Debug, Error)]
pub enum DestroyError {
    /// Something would not go.
    #[error("the sandbox could not be removed")]
    Remove(#[source] ReapError),
    /// This program is shutting down.
    #[error("the removal was given up because this program is ending")]
    Abandoned,
}

impl DestroyError {
    /// The class of this failure.
    pub fn kind(&self) -> Kind {
        match self {
            DestroyError::Remove(_) => Kind::Internal,
            DestroyError::Abandoned => Kind::Unavailable,
        }
    }
}
