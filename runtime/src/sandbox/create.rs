// SPDX-License-Identifier: Apache-2.0
//! The recipe of a sandbox, top to bottom. The order is the content:
//!
//! the guest image is checked before anything is made -> the directory, so that a left-over is found and
//! whatever follows has a place to be removed from -> the host cgroup -> the VMM's process, moved into the
//! cgroup before it takes memory and written down before it runs anything -> boot -> the agent answers ->
//! the guest has an identity of its own. From the directory on, [`Footprint`] undoes all of it.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::time::Duration;

use cube_vmm::config::BootConfig;
use cube_vmm::control::BootFiles;
use thiserror::Error;
use tokio::time::Instant;

use crate::cgroup::{CgroupError, HostCgroup};
use crate::config::Config;
use crate::error::Kind;
use crate::footprint::Footprint;
use crate::guest::{self, ClaimError, Guest};
use crate::image::{GuestImage, ImageError};
use crate::layout::{Layout, LayoutError, SandboxDir, SandboxState, VmmState};
use crate::spec::SandboxSpec;
use crate::trace;
use crate::vmm::{self, Traces, Vmm, VmmError};

/// How long a machine may outlive its agent's connection: a guest that powers off closes it first.
const END_AFTER_AGENT: Duration = Duration::from_secs(5);

/// `MISC_MAJOR` and `KVM_MINOR` of linux/major.h and linux/miscdevice.h.
const MISC_MAJOR: u32 = 10;
const KVM_MINOR: u32 = 232;

/// Spawns a VMM, boots the guest and claims it.
pub(super) async fn create(
    config: &Config,
    spec: &SandboxSpec,
) -> Result<(Vmm, Guest, Footprint), CreateError> {
    trace::enable(config.trace);
    let _whole = trace::stage("create");
    let deadline = Instant::now() + config.boot_timeout();

    let (image, mut footprint) = prepare(config, spec).await?;
    let files = open_files(image, &footprint.dir, spec)?;
    if let Some(path) = &spec.cgroup {
        footprint.cgroup = HostCgroup::create(path).map_err(CreateError::Cgroup)?;
    }
    let vmm = spawn(config, &mut footprint, spec)?;

    {
        let _stage = trace::stage("boot");
        vmm.boot(boot_config(config, spec, vmm.pid()), files)
            .await
            .map_err(CreateError::Boot)?;
    }
    let guest = claim(&vmm, &footprint.dir, spec, deadline).await?;
    Ok((vmm, guest, footprint))
}

/// Checks the image and makes the directory, on a thread that may block.
async fn prepare(
    config: &Config,
    spec: &SandboxSpec,
) -> Result<(GuestImage, Footprint), CreateError> {
    let _stage = trace::stage("prepare");
    let layout = Layout::new(&config.run);
    let (image, key) = (config.image.clone(), spec.key.clone());
    let prepared = tokio::task::spawn_blocking(move || {
        let image = GuestImage::open(&image, layout.run()).map_err(CreateError::Image)?;
        let dir = SandboxDir::create(&layout, &key).map_err(CreateError::Layout)?;
        Ok((image, Footprint::new(dir)))
    });
    prepared.await.unwrap_or(Err(CreateError::Abandoned))
}

/// Everything that the VMM gets as descriptors, because it opens nothing itself.
fn open_files(
    image: GuestImage,
    dir: &SandboxDir,
    spec: &SandboxSpec,
) -> Result<BootFiles, CreateError> {
    let netns = spec.netns.as_ref().map(|path| {
        File::open(path).map_err(|source| CreateError::Netns {
            path: path.clone(),
            source,
        })
    });
    Ok(BootFiles {
        kvm: open_kvm().map_err(CreateError::Kvm)?.into(),
        kernel: image.kernel,
        initramfs: image.initramfs,
        vsock: dir.bind_vsock().map_err(CreateError::Layout)?.into(),
        serial: dir.serial_log().map_err(CreateError::Layout)?.into(),
        netns: netns.transpose()?.map(Into::into),
    })
}

fn open_kvm() -> io::Result<File> {
    let file = OpenOptions::new().read(true).write(true).open("/dev/kvm")?;
    // Something else in its place (containers are given /dev/null so) would fail later and less clearly.
    if file.metadata()?.rdev() != rustix::fs::makedev(MISC_MAJOR, KVM_MINOR) {
        return Err(io::Error::other("it is not the KVM device"));
    }
    Ok(file)
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
    // A process that is gone already is named by a start time that none has; boot says how it ended.
    let gone = VmmState {
        pid: vmm.pid(),
        start_ticks: 0,
    };
    let identity = VmmState::of(vmm.pid()).unwrap_or(gone);
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
    #[error("there is no guest to boot: build the guest image, or set CUBE_IMAGE to its directory")]
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
