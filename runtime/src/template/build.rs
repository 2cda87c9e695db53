// SPDX-License-Identifier: Apache-2.0
//! The files of a template, from a machine: boot, save, try.
//!
//! A guest is booted and greeted, so that its agent is known to be up, and not claimed: it has no name,
//! no machine id and no seed that two clones could share. The connection is closed and seen closed by
//! the guest before the machine stops, or a clone would wait for a host that it never spoke to. What was
//! saved is then restored once, as a start does it. That shows that it works and which pages a start
//! touches; a template that does not come up is not published.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use cube_snapshot::manifest::Shape;
use cube_vmm::control::SaveFiles;
use thiserror::Error;
use tokio::time::{Instant, sleep, timeout};

use super::open::{Found, TemplateFiles};
use super::store::{Store, Unavailable};
use super::wanted::{Wanted, WantedError};
use super::{MEMORY, STATE, WORKING_SET};
use crate::config::Config;
use crate::error::chain;
use crate::guest::{self, ClaimError};
use crate::image::GuestImage;
use crate::launch::{self, Launched, Running};
use crate::layout::SandboxKey;
use crate::sandbox::CreateError;
use crate::spec::SandboxSpec;
use crate::trace;
use crate::vmm::VmmError;

/// How long a guest is left alone between its last answer and the save: the kernel finishes what it put
/// off while it booted, and closed connections are forgotten, once here and not in every clone.
const SETTLE: Duration = Duration::from_millis(500);

/// How long a VMM that was told to quit may take.
const QUIT_TIMEOUT: Duration = Duration::from_secs(10);

/// Host name of the guest that a template is tried with.
const TRIAL_HOSTNAME: &str = "template-trial";

/// What [`build`] did.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Built {
    /// The name of the template.
    pub name: String,
    /// Whether it was there already.
    pub was_there: bool,
}

/// Makes the template for machines of this size, unless it is there.
pub async fn build(config: &Config, vcpus: u8, memory_mib: u32) -> Result<Built, BuildError> {
    trace::enable(config.trace);
    let shape = Shape { vcpus, memory_mib };
    let kvm = launch::open_kvm().map_err(BuildError::boot)?;
    let wanted = Wanted::find(config, shape, kvm.as_fd()).map_err(BuildError::Wanted)?;
    let store = Store::of(config);
    let name = wanted.name().to_owned();
    if let Found::Template(_) = store.open(&wanted) {
        return Ok(Built {
            name,
            was_there: true,
        });
    }
    let made = store.claim(&wanted, config.build_patience(), |into| {
        make(config, &wanted, into)
    });
    match made.await {
        Ok(_) => Ok(Built {
            name,
            was_there: false,
        }),
        Err(Unavailable::Build(error)) => Err(*error),
        Err(Unavailable::Store(error)) => Err(BuildError::Store(Box::new(error))),
    }
}

/// Makes the files of the template that is wanted, in an empty directory.
pub(crate) async fn make(
    config: &Config,
    wanted: &Wanted,
    into: PathBuf,
) -> Result<(), BuildError> {
    let spec = spec_of(config, wanted);
    let machine = {
        let _stage = trace::stage("template.boot");
        boot(config, &spec).await?
    };
    {
        let _stage = trace::stage("template.save");
        save(machine, &into).await?;
    }
    let _stage = trace::stage("template.trial");
    try_out(config, &spec, &into).await
}

/// A machine that belongs to no sandbox. Its name is that of the template, so that a builder that takes
/// over from one that was killed finds what is left of its machine; `cube ps` shows it.
fn spec_of(config: &Config, wanted: &Wanted) -> SandboxSpec {
    let Shape { vcpus, memory_mib } = wanted.shape();
    SandboxSpec {
        key: SandboxKey {
            address: config.templates.display().to_string(),
            namespace: "cube.template".into(),
            id: wanted.name().into(),
        },
        netns: None,
        hostname: TRIAL_HOSTNAME.into(),
        vcpus,
        memory_mib,
        cgroup: None,
        egress: None,
        from: None,
    }
}

/// Spawns a VMM and writes it down.
async fn launch(config: &Config, spec: &SandboxSpec) -> Result<Launched, BuildError> {
    let (config, spec) = (config.clone(), spec.clone());
    blocking(move || {
        let mut machine = launch::launch(&config, &spec).map_err(BuildError::boot)?;
        let written = machine.write_down(None);
        written.map_err(|source| BuildError::boot(CreateError::Layout(source)))?;
        Ok(machine)
    })
    .await
}

async fn boot(config: &Config, spec: &SandboxSpec) -> Result<Running, BuildError> {
    let deadline = Instant::now() + config.boot_timeout();
    let (dir, run) = (config.image.clone(), config.run.clone());
    let image = blocking(move || {
        let image = GuestImage::open(&dir, &run).map_err(CreateError::Image);
        image.map_err(BuildError::boot)
    });
    let image = image.await?;
    let kvm = launch::open_kvm().map_err(BuildError::boot)?;
    let machine = launch(config, spec).await?;
    let machine = machine.boot(config, kvm, image).await;
    let machine = machine.map_err(|source| BuildError::boot(CreateError::Boot(source)))?;
    let up = async {
        let end = machine.vmm.end().clone();
        let guest = guest::connect(&machine.footprint.dir.vsock_path(), end, deadline).await?;
        guest.greet_and_leave().await
    };
    if let Err(source) = up.await {
        let failed = CreateError::claim(source, &machine.footprint.dir);
        return Err(BuildError::boot(failed));
    }
    sleep(SETTLE).await;
    Ok(machine)
}

async fn save(machine: Running, into: &Path) -> Result<(), BuildError> {
    let vmm = &machine.vmm;
    let files = SaveFiles {
        state: create(into, STATE)?,
        memory: create(into, MEMORY)?,
        pagemap: vmm.page_map().map_err(BuildError::PageMap)?,
    };
    vmm.pause().await.map_err(BuildError::Save)?;
    vmm.save(files).await.map_err(BuildError::Save)?;
    end(machine).await
}

/// Restores what was saved as a start does, rehearses a container, and records which pages that touched.
async fn try_out(config: &Config, spec: &SandboxSpec, from: &Path) -> Result<(), BuildError> {
    let kvm = launch::open_kvm().map_err(BuildError::boot)?;
    let files = TemplateFiles {
        state: open(from, STATE)?,
        memory: open(from, MEMORY)?,
        working_set: None,
        disks: Vec::new(),
    };
    let machine = launch(config, spec).await?;
    let machine = machine.restore(kvm, files, true).await;
    let machine = machine.map_err(BuildError::Restore)?;
    let claimed = async {
        let (end, limit) = (machine.vmm.end().clone(), config.claim_timeout());
        let vsock = machine.footprint.dir.vsock_path();
        guest::connect_restored(&vsock, end, limit, &spec.hostname).await
    };
    let (guest, _gone) = claimed.await.map_err(|source| BuildError::Trial {
        last_words: machine.footprint.dir.last_words(),
        source,
    })?;
    if let Err(error) = guest.rehearse().await {
        tracing::warn!(error = %chain(&error), "clones start slower: the pages that a container touches are not among the recorded");
    }
    let pagemap = machine.vmm.page_map().map_err(BuildError::PageMap)?;
    let recorded = machine.vmm.working_set(create(from, WORKING_SET)?, pagemap);
    if let Err(error) = recorded.await {
        tracing::warn!(error = %chain(&error), "clones start slower: the pages that a start touches were not recorded");
        remove(from, WORKING_SET)?;
    }
    drop(guest);
    end(machine).await
}

/// Ends a machine that nobody needs any more, and removes what it occupied.
async fn end(machine: Running) -> Result<(), BuildError> {
    let Running { vmm, footprint, .. } = machine;
    vmm.note_stop("the template is done");
    if let Err(error) = vmm.quit().await {
        tracing::debug!(error = %chain(&error), "cube-vmm was told to end");
    }
    if timeout(QUIT_TIMEOUT, vmm.end().wait()).await.is_err() {
        tracing::warn!(
            pid = vmm.pid(),
            "cube-vmm did not end in time and is killed"
        );
    }
    blocking(move || footprint.clear().map_err(BuildError::Clear)).await
}

fn create(dir: &Path, name: &str) -> Result<OwnedFd, BuildError> {
    let path = dir.join(name);
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&path);
    file.map(Into::into)
        .map_err(|source| BuildError::File { path, source })
}

fn open(dir: &Path, name: &str) -> Result<OwnedFd, BuildError> {
    let path = dir.join(name);
    let file = File::open(&path);
    file.map(Into::into)
        .map_err(|source| BuildError::File { path, source })
}

fn remove(dir: &Path, name: &str) -> Result<(), BuildError> {
    let path = dir.join(name);
    std::fs::remove_file(&path).map_err(|source| BuildError::File { path, source })
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, BuildError> + Send + 'static,
) -> Result<T, BuildError> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or(Err(BuildError::Abandoned))
}

/// Why a template could not be made.
#[derive(Debug, Error)]
pub enum BuildError {
    /// It cannot be said which one to make.
    #[error("it cannot be said what a template would be made of")]
    Wanted(#[source] WantedError),
    /// The store would not have it.
    #[error("there is no place for the template")]
    Store(#[source] Box<super::StoreError>),
    /// The guest did not come up: a sandbox that is booted would not either.
    #[error("the guest could not be booted")]
    Boot(#[source] Box<CreateError>),
    /// The VMM's memory cannot be looked at.
    #[error("the page map of the VMM could not be opened")]
    PageMap(#[source] io::Error),
    /// A file of it could not be made or opened.
    #[error("{} could not be opened", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The machine could not be saved.
    #[error("the guest could not be saved")]
    Save(#[source] VmmError),
    /// What was saved could not be restored.
    #[error("the saved guest could not be restored")]
    Restore(#[source] VmmError),
    /// What was restored did not answer.
    #[error(
        "the restored guest did not come up{}",
        crate::sandbox::words(last_words)
    )]
    Trial {
        /// The end of the machine's logs.
        last_words: String,
        /// Why.
        source: ClaimError,
    },
    /// What its machine occupied would not go.
    #[error("the machine that it was made with was not removed")]
    Clear(#[source] crate::reap::ReapError),
    /// This program is shutting down.
    #[error("the template was given up because this program is ending")]
    Abandoned,
}

impl BuildError {
    fn boot(source: CreateError) -> Self {
        BuildError::Boot(Box::new(source))
    }
}
