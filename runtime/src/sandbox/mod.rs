// SPDX-License-Identifier: Apache-2.0
//! The waist. A front door needs nothing else.

mod create;

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use cube_net::policy::Policy;
use thiserror::Error;
use tokio::net::UnixStream;

pub use create::CreateError;
pub(crate) use create::words;
/// A container's cgroup figures, by the names the guest's kernel gives them.
pub use cube_protocol::v1::agent::StatsResponse as Stats;

use crate::config::Config;
use crate::container::{Container, ContainerError, ContainerSpec, Machine};
use crate::error::{self, Kind};
use crate::exit::VmmExit;
use crate::footprint::Footprint;
use crate::guest::{Guest, GuestError};
use crate::launch::Running;
use crate::network::{Egress, Network, NetworkError, Servers};
use crate::ports::{self, PortError};
use crate::process::{Command, Process, SpawnError};
use crate::reap::ReapError;
use crate::slots::Slots;
use crate::snapshot::{ContainerRecord, Origin, SnapshotError, SnapshotName, Snapshots, Source};
use crate::spec::SandboxSpec;
use crate::trace;
use crate::vmm::Vmm;

/// How long an orderly end may take before the VMM is killed: containerd gives a shim's shutdown 3 s.
const ORDERLY_END: Duration = Duration::from_millis(1500);

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
    network: Arc<Network>,
    /// By name; `None` while one is being made.
    containers: Mutex<HashMap<String, Option<Arc<Container>>>>,
    /// The container that a restored machine was saved with, until it is taken over.
    adoptable: Mutex<Option<ContainerRecord>>,
    origin: Option<Origin>,
    /// Held by whoever saves the sandbox.
    saving: tokio::sync::Mutex<()>,
    spec: SandboxSpec,
    /// Taken by whoever destroys the sandbox.
    footprint: tokio::sync::Mutex<Option<Footprint>>,
}

impl Sandbox {
    /// Spawns a VMM, restores the guest from its template (or boots it) and claims it. On failure nothing
    /// is left behind but the template, which is the next one's too.
    pub async fn create(config: &Config, spec: SandboxSpec) -> Result<Self, CreateError> {
        let created = create::create(config, &spec).await?;
        let guest = created.guest;
        let Running {
            vmm,
            footprint,
            record,
        } = created.machine;
        let egress = Egress::new(&config.egress, spec.egress.clone());
        let servers = egress.has_policy().then(|| Servers::new(&config.egress));
        let network = Network::new(vmm.clone(), guest.clone(), record, egress, servers);
        Ok(Self {
            inner: Arc::new(Inner {
                vmm,
                guest,
                network: Arc::new(network),
                slots: Slots::default(),
                containers: Mutex::default(),
                adoptable: Mutex::new(created.container),
                origin: created.origin,
                saving: tokio::sync::Mutex::default(),
                spec,
                footprint: tokio::sync::Mutex::new(Some(footprint)),
            }),
        })
    }

    /// The VMM's process id: it lives in the sandbox's network namespace until the end.
    pub fn pid(&self) -> u32 {
        self.inner.vmm.pid()
    }

    /// Attaches the root file system, sets the container up in the guest and runs the create hooks. The first
    /// one of a sandbox that starts from a snapshot is the one that it was saved with.
    pub async fn create_container(&self, spec: ContainerSpec) -> Result<(), ContainerError> {
        let inner = self.inner.clone();
        finish(async move {
            let name = Reservation::new(&inner, spec.id.clone())?;
            let adoptable = inner.adoptable().take();
            let container = match adoptable {
                Some(saved) => Container::adopt(inner.machine(), spec, &saved).await?,
                None => Container::create(inner.machine(), spec).await?,
            };
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
        let (guest, network) = (self.inner.guest.clone(), self.inner.network.clone());
        finish(Process::create(guest, network, container, command))
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

    /// Replaces what the sandbox may send to, as a whole. Connections that others opened to it live on;
    /// those of its own that are forbidden now get no packet through any more.
    pub async fn set_egress(&self, policy: Policy) -> Result<(), NetworkError> {
        let network = self.inner.network.clone();
        finish(async move { network.set_egress(policy).await })
            .await
            .unwrap_or(Err(NetworkError::Abandoned))
    }

    /// A byte stream to a TCP port of the machine, its loopback's included, with or without a network.
    pub async fn open_port(&self, port: u16) -> Result<UnixStream, PortError> {
        ports::connect(self.inner.guest.vsock(), port).await
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

    /// Saves the sandbox with its container running; it goes on. Returns how long it stood.
    pub async fn snapshot(
        &self,
        config: &Config,
        name: &SnapshotName,
    ) -> Result<Duration, SnapshotError> {
        let (inner, snapshots, name) = (self.inner.clone(), Snapshots::of(config), name.clone());
        finish(async move { inner.snapshot(&snapshots, &name).await })
            .await
            .unwrap_or(Err(SnapshotError::Abandoned))
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
            servers: self.network.servers(),
        }
    }

    async fn snapshot(
        &self,
        snapshots: &Snapshots,
        name: &SnapshotName,
    ) -> Result<Duration, SnapshotError> {
        let _alone = self.saving.lock().await;
        let container = {
            let containers = self.containers();
            let all: Vec<_> = containers.values().flatten().cloned().collect();
            match &all[..] {
                [one] if containers.len() == 1 => one.clone(),
                _ => {
                    return Err(SnapshotError::Containers {
                        containers: containers.len(),
                    });
                }
            }
        };
        let (record, disk) = container.to_record().await?;
        let source = Source {
            vmm: &self.vmm,
            guest: &self.guest,
            hostname: &self.spec.hostname,
            name: format!("{}/{}", self.spec.key.namespace, self.spec.key.id),
            vcpus: self.spec.vcpus,
            memory_mib: self.spec.memory_mib,
            origin: self.origin.clone(),
            container: record,
            disk,
        };
        snapshots.save(name, source).await
    }

    fn adoptable(&self) -> std::sync::MutexGuard<'_, Option<ContainerRecord>> {
        self.adoptable
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
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
                .map_err(|failed| error::chain(&failed))
        } else {
            self.guest
                .shutdown()
                .await
                .map_err(|failed| error::chain(&failed))
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
