// SPDX-License-Identifier: Apache-2.0
//! From a name to a VMM that waits to be told which machine to be, and from there to one that runs.
//!
//! The same for a sandbox and for the machines that templates are made with: the directory first, so
//! that whatever follows has a place to be removed from -> the host cgroup -> the process, moved into the
//! cgroup before it takes memory and written down before it runs anything -> boot or restore. All but
//! the last step is blocking and takes a few milliseconds.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;

use cube_net::wire::Namespace;
use cube_vmm::config::{BootConfig, RestoreConfig};
use cube_vmm::control::{BootFiles, RestoreFiles};

use crate::cgroup::HostCgroup;
use crate::config::Config;
use crate::footprint::Footprint;
use crate::image::GuestImage;
use crate::layout::{
    Layout, LayoutError, NamespaceState, Record, SandboxDir, SandboxState, VmmState,
};
use crate::sandbox::CreateError;
use crate::spec::SandboxSpec;
use crate::template::TemplateFiles;
use crate::trace;
use crate::vmm::{self, Traces, Vmm, VmmError};

/// `MISC_MAJOR` and `KVM_MINOR` of linux/major.h and linux/miscdevice.h.
const MISC_MAJOR: u32 = 10;
const KVM_MINOR: u32 = 232;

/// A VMM that was told nothing yet, and what it occupies. Dropping it removes both.
#[derive(Debug)]
pub(crate) struct Launched {
    pub(crate) vmm: Vmm,
    pub(crate) footprint: Footprint,
    ends: Ends,
    state: SandboxState,
    /// The user and group it will become.
    id: u32,
}

/// A machine that runs, and what it occupies.
#[derive(Debug)]
pub(crate) struct Running {
    pub(crate) vmm: Vmm,
    pub(crate) footprint: Footprint,
    pub(crate) record: Record,
}

/// The host's ends of a machine's devices.
#[derive(Debug)]
struct Ends {
    vsock: OwnedFd,
    serial: OwnedFd,
    netns: Option<OwnedFd>,
}

/// Makes the directory and the cgroup and starts the process.
pub(crate) fn launch(config: &Config, spec: &SandboxSpec) -> Result<Launched, CreateError> {
    let _stage = trace::stage("spawn");
    let program = vmm::find(config.vmm.as_deref()).map_err(CreateError::Spawn)?;
    let netns = spec.netns.as_deref().map(Namespace::open).transpose();
    let netns = netns.map_err(CreateError::Netns)?;
    let given = netns.as_ref().map(NamespaceState::of).transpose();
    let given = given.map_err(CreateError::Netns)?;
    let dir =
        SandboxDir::create(&Layout::new(&config.run), &spec.key).map_err(CreateError::Layout)?;
    let mut footprint = Footprint::new(dir);
    let dir = &footprint.dir;
    let ends = Ends {
        vsock: dir.bind_vsock().map_err(CreateError::Layout)?.into(),
        serial: dir.serial_log().map_err(CreateError::Layout)?.into(),
        netns: netns.map(Into::into),
    };
    let log = dir.vmm_log().map_err(CreateError::Layout)?;
    if let Some(path) = &spec.cgroup {
        footprint.cgroup = HostCgroup::create(path).map_err(CreateError::Cgroup)?;
    }
    let traces = Traces {
        dir: footprint.dir.path().into(),
        memory_events: footprint.cgroup.as_ref().map(HostCgroup::memory_events),
    };
    let vmm = Vmm::spawn(&program, log, traces).map_err(CreateError::Spawn)?;
    footprint.process = Some(vmm.process());
    if let Some(cgroup) = &footprint.cgroup {
        cgroup.add(vmm.pid()).map_err(CreateError::Cgroup)?;
    }
    adjust_oom_score(vmm.pid(), config.oom_score_adj);
    Ok(Launched {
        state: state_of(spec, &vmm, &footprint, given),
        // A uid of its own: two VMMs can neither signal nor trace each other. `Config` checks the base.
        id: config.vmm_uid_base.saturating_add(vmm.pid()),
        vmm,
        footprint,
        ends,
    })
}

fn state_of(
    spec: &SandboxSpec,
    vmm: &Vmm,
    footprint: &Footprint,
    netns: Option<NamespaceState>,
) -> SandboxState {
    // A process that is gone already is named by a start time that none has; its end says how.
    let gone = VmmState {
        pid: vmm.pid(),
        start_ticks: 0,
    };
    let identity = VmmState::of(vmm.pid()).unwrap_or(gone);
    let mut state = SandboxState::new(spec.key.clone(), spec.vcpus, spec.memory_mib, identity);
    if let Some(cgroup) = &footprint.cgroup {
        state.cgroups = cgroup.made().to_vec();
    }
    state.network.namespace = netns;
    state.network.egress = spec.egress.clone();
    state
}

impl Launched {
    /// Writes down who it is and which template it comes from, if it is restored from one. Has to be done
    /// before it runs.
    pub(crate) fn write_down(&mut self, template: Option<&str>) -> Result<(), LayoutError> {
        self.state.template = template.map(str::to_owned);
        self.state.write(self.footprint.dir.path())
    }

    /// Boots a guest.
    pub(crate) async fn boot(
        self,
        config: &Config,
        kvm: File,
        image: GuestImage,
    ) -> Result<Running, VmmError> {
        let boot = BootConfig {
            vcpus: self.state.vcpus,
            memory_mib: self.state.memory_mib,
            cmdline: config.cmdline.clone(),
            uid: self.id,
            gid: self.id,
        };
        let files = BootFiles {
            kvm: kvm.into(),
            kernel: image.kernel,
            initramfs: image.initramfs,
            vsock: self.ends.vsock,
            serial: self.ends.serial,
            netns: self.ends.netns,
        };
        self.vmm.boot(boot, files).await?;
        Ok(Running::new(self.vmm, self.footprint, self.state))
    }

    /// Restores a guest; `record` if it is to tell its working set.
    pub(crate) async fn restore(
        self,
        kvm: File,
        template: TemplateFiles,
        record: bool,
    ) -> Result<Running, VmmError> {
        let restore = RestoreConfig {
            uid: self.id,
            gid: self.id,
            record,
            disks: template.disks.iter().map(|disk| disk.config).collect(),
        };
        let files = RestoreFiles {
            kvm: kvm.into(),
            state: template.state,
            memory: template.memory,
            working_set: template.working_set,
            vsock: self.ends.vsock,
            serial: self.ends.serial,
            netns: self.ends.netns,
            disks: template.disks.into_iter().map(|disk| disk.file).collect(),
        };
        self.vmm.restore(restore, files).await?;
        Ok(Running::new(self.vmm, self.footprint, self.state))
    }
}

impl Running {
    fn new(vmm: Vmm, footprint: Footprint, state: SandboxState) -> Self {
        Self {
            vmm,
            record: Record::new(footprint.dir.path(), state),
            footprint,
        }
    }
}

/// Opens the device that makes machines.
pub(crate) fn open_kvm() -> Result<File, CreateError> {
    open_kvm_device().map_err(CreateError::Kvm)
}

/// The same for whoever makes none.
pub(crate) fn open_kvm_device() -> io::Result<File> {
    let file = OpenOptions::new().read(true).write(true).open("/dev/kvm")?;
    // Something else in its place (containers are given /dev/null so) would fail later and less clearly.
    if file.metadata()?.rdev() != rustix::fs::makedev(MISC_MAJOR, KVM_MINOR) {
        return Err(io::Error::other("it is not the KVM device"));
    }
    Ok(file)
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
