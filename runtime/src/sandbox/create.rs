// SPDX-License-Identifier: Apache-2.0
//! The recipe of a sandbox, top to bottom.
//!
//! Its VMM is spawned while its template is looked for; neither needs the other. With a template the
//! guest is restored, its agent greeted and given an identity of its own. The first start of a shape
//! makes the template; one that turns out to be unfit is made anew, once. Where there can be none the
//! guest is booted, which takes as long as a boot and gives the same sandbox, and a line in the log says
//! what to mend. Whatever goes wrong, [`Launched`] and [`Running`] undo what was done.

mod error;
mod restored;

use std::fs::File;
use std::os::fd::AsFd;
use std::time::Duration;

use cube_snapshot::manifest::Shape;
use tokio::time::Instant;

use crate::config::Config;
use crate::error::chain;
use crate::guest::{self, Guest};
use crate::image::GuestImage;
use crate::launch::{self, Launched, Running};
use crate::snapshot::{ContainerRecord, Origin};
use crate::spec::SandboxSpec;
use crate::template::{
    self, BuildError, Found, Lease, Store, Template, Unavailable, Unfit, Wanted,
};
use crate::trace;
use crate::vmm::Vmm;

pub use error::CreateError;
use error::last_words;
pub(crate) use error::words;

/// How long a machine may outlive its agent's connection: a guest that powers off closes it first.
const END_AFTER_AGENT: Duration = Duration::from_secs(5);

/// How often a template is restored: if the VMM refuses it, it is made anew. If it refuses that too, the
/// fault is not the template's.
const RESTORES: usize = 2;

/// Spawns a VMM, restores or boots the guest and claims it.
pub(super) async fn create(config: &Config, spec: &SandboxSpec) -> Result<Created, CreateError> {
    trace::enable(config.trace);
    let _whole = trace::stage("create");
    match &spec.from {
        Some(from) => restored::create(config, spec, from).await,
        None => fresh(config, spec).await,
    }
}

/// A guest that is ours, and where it comes from.
pub(super) struct Created {
    pub(super) machine: Running,
    pub(super) guest: Guest,
    /// The memory file that it was restored from; none: it was booted.
    pub(super) origin: Option<Origin>,
    /// The container that is in it already.
    pub(super) container: Option<ContainerRecord>,
}

/// A guest with nothing in it.
async fn fresh(config: &Config, spec: &SandboxSpec) -> Result<Created, CreateError> {
    let restores = if config.cold { 0 } else { RESTORES };
    for restore in 1..=restores {
        // Both are waited for: whoever hears that one failed finds nothing of the other.
        let (launched, look) = tokio::join!(launch(config, spec), look(config, spec));
        match warm(config, spec, launched?, look?).await? {
            Warm::Claimed(machine, guest) => {
                let template = machine.footprint.template.as_ref();
                let origin = template.map(|lease| Origin::Template {
                    name: lease.name(),
                    memory: lease.memory_path(),
                });
                return Ok(Created {
                    machine: *machine,
                    guest,
                    origin,
                    container: None,
                });
            }
            Warm::NoTemplate => break,
            Warm::Refused { lease, unfit } if restore < RESTORES => {
                condemn(config, lease, unfit).await?;
            }
            Warm::Refused { lease, unfit } => {
                tracing::warn!(template = lease.name(), reason = %chain(&unfit), "a new template is refused too: the guest is booted");
            }
        }
    }
    let (machine, guest) = cold(config, spec).await?;
    Ok(Created {
        machine,
        guest,
        origin: None,
        container: None,
    })
}

/// What was found out while the VMM was being spawned.
struct Look {
    kvm: File,
    wanted: Wanted,
    found: Found,
}

/// What came of a try to restore.
enum Warm {
    /// A guest that is ours.
    Claimed(Box<Running>, Guest),
    /// There can be no template now. It is in the log why.
    NoTemplate,
    /// The VMM would not restore this one.
    Refused { lease: Lease, unfit: Unfit },
}

async fn launch(config: &Config, spec: &SandboxSpec) -> Result<Launched, CreateError> {
    let (config, spec) = (config.clone(), spec.clone());
    blocking(move || launch::launch(&config, &spec)).await
}

/// Looks for the template that the spec needs.
async fn look(config: &Config, spec: &SandboxSpec) -> Result<Look, CreateError> {
    let config = config.clone();
    let shape = Shape {
        vcpus: spec.vcpus,
        memory_mib: spec.memory_mib,
    };
    blocking(move || {
        let _stage = trace::stage("template.open");
        let kvm = launch::open_kvm()?;
        let wanted = Wanted::find(&config, shape, kvm.as_fd()).map_err(CreateError::wanted)?;
        let found = Store::of(&config).open(&wanted);
        Ok(Look { kvm, wanted, found })
    })
    .await
}

async fn warm(
    config: &Config,
    spec: &SandboxSpec,
    mut launched: Launched,
    look: Look,
) -> Result<Warm, CreateError> {
    let Some(template) = obtain(config, &mut launched, look.wanted, look.found).await? else {
        return Ok(Warm::NoTemplate);
    };
    let Template { mut files, lease } = template;
    launched
        .write_down(Some(&lease.name()))
        .map_err(CreateError::Layout)?;
    launched.footprint.template = Some(lease.clone());
    if !config.prefault {
        files.working_set = None;
    }
    let restored = {
        let _stage = trace::stage("restore");
        launched.restore(look.kvm, files, false).await
    };
    let machine = match restored {
        Ok(machine) => machine,
        Err(source) if source.is_refusal() => {
            let unfit = Unfit::Refused {
                reason: chain(&source),
            };
            return Ok(Warm::Refused { lease, unfit });
        }
        Err(source) => return Err(CreateError::Restore(source)),
    };
    let dir = &machine.footprint.dir;
    let (end, limit) = (machine.vmm.end().clone(), config.claim_timeout());
    match guest::connect_restored(&dir.vsock_path(), end, limit, &spec.hostname).await {
        Ok((guest, agent_gone)) => {
            tokio::spawn(end_with_agent(machine.vmm.clone(), agent_gone));
            Ok(Warm::Claimed(Box::new(machine), guest))
        }
        Err(source) => {
            let error = CreateError::Unclaimed {
                last_words: last_words(&source, dir),
                template: lease.name(),
                source: Box::new(source),
            };
            // Whoever hears of it finds nothing of it any more.
            drop(machine);
            doubt(config, lease).await?;
            Err(error)
        }
    }
}

/// The template that was found, or one that is made now; none where the guest has to be booted.
async fn obtain(
    config: &Config,
    launched: &mut Launched,
    wanted: Wanted,
    found: Found,
) -> Result<Option<Template>, CreateError> {
    if let Found::Template(template) = found {
        return Ok(Some(template));
    }
    // This takes as long as a boot: what exists so far has to be found if this program dies meanwhile.
    launched.write_down(None).map_err(CreateError::Layout)?;
    let store = Store::of(config);
    let made = store.claim(&wanted, config.build_patience(), |into| {
        template::make(config, &wanted, into)
    });
    match made.await {
        Ok(template) => Ok(Some(template)),
        Err(Unavailable::Build(failed)) => match *failed {
            // A second boot would end as the first one did.
            BuildError::Boot(source) => Err(*source),
            other => {
                tracing::warn!(error = %chain(&other), "there is no template, so the guest is booted");
                Ok(None)
            }
        },
        Err(Unavailable::Store(error)) => {
            tracing::warn!(error = %chain(&error), "there is no template, so the guest is booted");
            Ok(None)
        }
    }
}

/// Takes a template out of the store, so that it is made anew.
async fn condemn(config: &Config, lease: Lease, unfit: Unfit) -> Result<(), CreateError> {
    let store = Store::of(config);
    blocking(move || {
        if let Err(error) = store.condemn(&lease, &unfit) {
            tracing::warn!(error = %chain(&error), "the template stays");
        }
        Ok(())
    })
    .await
}

/// Reads a template whose clone did not come up, which no start has the time for. A damaged one is
/// taken away; otherwise it was not the template's fault.
async fn doubt(config: &Config, lease: Lease) -> Result<(), CreateError> {
    let store = Store::of(config);
    blocking(move || {
        if let Err(unfit) = store.verify(&lease)
            && let Err(error) = store.condemn(&lease, &unfit)
        {
            tracing::warn!(error = %chain(&error), "the template stays");
        }
        Ok(())
    })
    .await
}

/// Boots a guest and claims it.
async fn cold(config: &Config, spec: &SandboxSpec) -> Result<(Running, Guest), CreateError> {
    let deadline = Instant::now() + config.boot_timeout();
    let (dir, run) = (config.image.clone(), config.run.clone());
    let image = blocking(move || {
        let _stage = trace::stage("image");
        GuestImage::open(&dir, &run).map_err(CreateError::Image)
    });
    let image = image.await?;
    let kvm = launch::open_kvm()?;
    let mut launched = launch(config, spec).await?;
    launched.write_down(None).map_err(CreateError::Layout)?;
    let machine = {
        let _stage = trace::stage("boot");
        launched
            .boot(config, kvm, image)
            .await
            .map_err(CreateError::Boot)?
    };
    let guest = claim(&machine, spec, deadline).await?;
    Ok((machine, guest))
}

async fn claim(
    machine: &Running,
    spec: &SandboxSpec,
    deadline: Instant,
) -> Result<Guest, CreateError> {
    let dir = &machine.footprint.dir;
    let failed = |source| CreateError::claim(source, dir);
    let unclaimed = {
        let _stage = trace::stage("connect");
        guest::connect(&dir.vsock_path(), machine.vmm.end().clone(), deadline)
            .await
            .map_err(failed)?
    };
    let _stage = trace::stage("claim");
    let (guest, agent_gone) = unclaimed.claim(&spec.hostname).await.map_err(failed)?;
    tokio::spawn(end_with_agent(machine.vmm.clone(), agent_gone));
    Ok(guest)
}

/// Runs file and process work on a thread that may block.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, CreateError> + Send + 'static,
) -> Result<T, CreateError> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or(Err(CreateError::Abandoned))
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
