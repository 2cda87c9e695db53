// SPDX-License-Identifier: Apache-2.0
//! One container of a sandbox: from its bundle and mounts to a container in the guest, and back.

use std::path::PathBuf;
use std::sync::Arc;

use cube_protocol::v1::agent::{AdoptContainerResponse, BlockRoot, HostFile};
use thiserror::Error;
use tokio::sync::Mutex;

use crate::error::Kind;
use crate::guest::{Guest, GuestError};
use crate::hooks::{HookError, Hooks, Point};
use crate::host_files::{self, Following, HostFileError, HostFiles, Relayed};
use crate::network::Servers;
use crate::rootfs::{DiskSpec, RootfsError, RootfsMount};
use crate::slots::{SlotLease, Slots};
use crate::snapshot::{ContainerRecord, SnapshotError};
use crate::spec::{self, OciSpec, SpecError};
use crate::trace;
use crate::vmm::{Vmm, VmmError};

/// What a container is made of.
#[derive(Clone, Debug)]
pub struct ContainerSpec {
    /// Its name; the first container of a sandbox usually has the sandbox's.
    pub id: String,
    /// The OCI bundle directory on the host (for hooks and their state).
    pub bundle: PathBuf,
    /// The bundle's `config.json`: the agent reads what the client wrote.
    pub oci: OciSpec,
    /// The root file system as containerd passed it.
    pub rootfs: Vec<RootfsMount>,
}

/// A container in the guest.
#[derive(Debug)]
pub(crate) struct Container {
    id: String,
    hooks: Hooks,
    /// Taken by whoever deletes the container, so that it is deleted once.
    slot: Mutex<Option<SlotLease>>,
    /// Until the container is deleted.
    following: Mutex<Option<Following>>,
    /// Where its disk is on the host.
    disk: PathBuf,
    read_only: bool,
    /// Of a container that a restored machine was saved with: how its first process was made.
    first: Option<AdoptContainerResponse>,
}

/// The machine that a container is made in.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Machine<'a> {
    pub(crate) vmm: &'a Vmm,
    pub(crate) guest: &'a Guest,
    pub(crate) slots: &'a Slots,
    /// Who is asked for its names, if they are relayed.
    pub(crate) servers: Option<&'a Servers>,
}

impl Container {
    /// Checks the spec, puts the disk into a slot, has the guest set the container up, runs the create
    /// hooks. On failure the guest, the slot and the hooks are as before.
    pub(crate) async fn create(
        machine: Machine<'_>,
        asked: ContainerSpec,
    ) -> Result<Arc<Self>, ContainerError> {
        let oci = asked.oci.read();
        spec::check_container(oci).map_err(ContainerError::Spec)?;
        let disk = DiskSpec::from_mounts(&asked.rootfs).map_err(ContainerError::Rootfs)?;
        let disk_path = disk.path().to_owned();
        let mut files = read_files(machine, &asked).await?;
        let attaching = trace::stage("attach");
        let (disk, slot) = {
            // It waits for other holders of the disk, if there are any.
            let opening = tokio::task::spawn_blocking(|| disk.open()).await;
            let disk = opening
                .map_err(|_| ContainerError::Abandoned)?
                .map_err(ContainerError::Rootfs)?;
            let mut slot = machine.slots.take().ok_or(ContainerError::NoSlot)?;
            slot.occupy();
            (disk, slot)
        };
        let root = BlockRoot {
            slot: slot.number().into(),
            fs_type: disk.fs_type.name().into(),
            read_only: disk.read_only,
            ..Default::default()
        };
        let attached = machine
            .vmm
            .attach(slot.number(), disk.file, disk.read_only)
            .await;
        let container = Self {
            hooks: Hooks::of(oci, &asked.id, machine.vmm.pid(), &asked.bundle),
            id: asked.id,
            slot: Mutex::new(Some(slot)),
            following: Mutex::default(),
            disk: disk_path,
            read_only: disk.read_only,
            first: None,
        };
        if let Err(source) = attached {
            container.vacate().await;
            return Err(ContainerError::Attach { source });
        }
        drop(attaching);

        let messages = files.messages();
        if let Err(error) = container
            .set_up(machine, asked.oci.into_json(), root, messages)
            .await
        {
            container.undo(machine).await;
            return Err(error);
        }
        // Hooks write such files: what they wrote is there before the first process runs.
        files.send_changes(machine.guest, &container.id).await;
        container.follow(machine, files).await;
        Ok(Arc::new(container))
    }

    /// Takes over the container that a restored machine was saved with. Its processes stand until
    /// [`Process::start`](crate::Process::start); what the spec says of them is what they were made with.
    pub(crate) async fn adopt(
        machine: Machine<'_>,
        asked: ContainerSpec,
        saved: &ContainerRecord,
    ) -> Result<Arc<Self>, ContainerError> {
        let oci = asked.oci.read();
        spec::check_container(oci).map_err(ContainerError::Spec)?;
        let disk = DiskSpec::from_mounts(&asked.rootfs).map_err(ContainerError::Rootfs)?;
        let mut files = read_files(machine, &asked).await?;
        let slot = machine.slots.take_occupied(saved.slot);
        let slot = slot.ok_or(ContainerError::NoSlot)?;
        let adopted = machine.guest.adopt_container(&saved.id, &asked.id).await;
        let first = adopted.map_err(ContainerError::Guest)?;
        let container = Self {
            hooks: Hooks::of(oci, &asked.id, machine.vmm.pid(), &asked.bundle),
            id: asked.id,
            slot: Mutex::new(Some(slot)),
            following: Mutex::default(),
            disk: disk.path().to_owned(),
            read_only: saved.read_only,
            first: Some(first),
        };
        // Those that it was saved with were its source's.
        files.send_all(machine.guest, &container.id).await;
        if let Err(error) = container.run_create_hooks().await {
            container.undo(machine).await;
            return Err(error);
        }
        files.send_changes(machine.guest, &container.id).await;
        container.follow(machine, files).await;
        Ok(Arc::new(container))
    }

    async fn follow(&self, machine: Machine<'_>, files: HostFiles) {
        if let Some(following) = files.follow(machine.guest.clone(), &self.id) {
            *self.following.lock().await = Some(following);
        }
    }

    /// What has to be known of it to take it over, and where its disk is.
    pub(crate) async fn to_record(&self) -> Result<(ContainerRecord, PathBuf), SnapshotError> {
        let slot = self.slot.lock().await;
        let lease = slot.as_ref();
        let lease = lease.ok_or(SnapshotError::Containers { containers: 0 })?;
        let record = ContainerRecord {
            id: self.id.clone(),
            slot: lease.number(),
            read_only: self.read_only,
        };
        Ok((record, self.disk.clone()))
    }

    /// How its first process was made, if that was before the machine was restored.
    pub(crate) fn first(&self) -> Option<&AdoptContainerResponse> {
        self.first.as_ref()
    }

    /// The first error is what the caller has to know; what the way back meets is for the log.
    async fn undo(&self, machine: Machine<'_>) {
        if let Err(undo) = self.delete(machine).await {
            tracing::warn!(
                container = self.id,
                error = %crate::error::chain(&undo),
                "a container that could not be created could not be removed either"
            );
        }
    }

    async fn set_up(
        &self,
        machine: Machine<'_>,
        spec_json: Vec<u8>,
        root: BlockRoot,
        files: Vec<HostFile>,
    ) -> Result<(), ContainerError> {
        {
            let _stage = trace::stage("container");
            machine
                .guest
                .create_container(&self.id, spec_json, root, files)
                .await
                .map_err(ContainerError::Guest)?;
        }
        self.run_create_hooks().await
    }

    async fn run_create_hooks(&self) -> Result<(), ContainerError> {
        let _stage = trace::stage("hooks");
        for point in [
            Point::Prestart,
            Point::CreateRuntime,
            Point::CreateContainer,
        ] {
            self.hooks.run(point).await.map_err(ContainerError::Hook)?;
        }
        Ok(())
    }

    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    /// To be called once the first process runs.
    pub(crate) async fn started(&self) {
        self.hooks.run_all(Point::Poststart).await;
    }

    /// Ends the container in the guest, takes its disk out, runs the poststop hooks. It can be tried
    /// again after a failure, and does nothing after a success. With the machine gone only the hooks
    /// are left to do.
    pub(crate) async fn delete(&self, machine: Machine<'_>) -> Result<(), ContainerError> {
        let mut slot = self.slot.lock().await;
        let Some(lease) = slot.as_mut() else {
            return Ok(());
        };
        *self.following.lock().await = None;
        match machine.guest.delete_container(&self.id).await {
            Ok(()) => match machine.vmm.detach(lease.number()).await {
                Ok(()) => lease.vacate(),
                Err(VmmError::Ended(_)) => {}
                Err(source) => return Err(ContainerError::Detach { source }),
            },
            Err(GuestError::Ended { .. }) => {}
            Err(source) => return Err(ContainerError::Guest(source)),
        }
        *slot = None;
        self.hooks.run_all(Point::Poststop).await;
        Ok(())
    }

    /// Gives back a slot whose disk never came in.
    async fn vacate(&self) {
        if let Some(mut lease) = self.slot.lock().await.take() {
            lease.vacate();
        }
    }
}

/// Reads the files of the host that a container binds.
async fn read_files(
    machine: Machine<'_>,
    asked: &ContainerSpec,
) -> Result<HostFiles, ContainerError> {
    let wanted = host_files::wanted(asked.oci.read());
    let relayed = machine.servers.map(|servers| Relayed {
        container: asked.id.clone(),
        servers: servers.clone(),
    });
    let reading = tokio::task::spawn_blocking(move || HostFiles::read(&wanted, relayed)).await;
    reading
        .map_err(|_| ContainerError::Abandoned)?
        .map_err(ContainerError::HostFile)
}

/// What can go wrong with a container.
#[derive(Debug, Error)]
pub enum ContainerError {
    /// The name is taken.
    #[error("the sandbox has a container {id:?} already")]
    Exists {
        /// The name.
        id: String,
    },
    /// No such container.
    #[error("the sandbox has no container {id:?}")]
    Unknown {
        /// The name.
        id: String,
    },
    /// The spec asks for something that a container here cannot have.
    #[error("the container's spec cannot be met")]
    Spec(#[source] SpecError),
    /// The root file system cannot be used.
    #[error("the container's root file system cannot be used")]
    Rootfs(#[source] RootfsError),
    /// A file of the host cannot be copied.
    #[error("a file of the host cannot be given to the container")]
    HostFile(#[source] HostFileError),
    /// All slots are taken.
    #[error(
        "the sandbox has no block slot left: it can hold {} containers",
        cube_vmm::config::BLOCK_SLOTS
    )]
    NoSlot,
    /// The disk could not be put in.
    #[error("the container's disk could not be attached")]
    Attach {
        /// Why.
        source: VmmError,
    },
    /// The disk could not be taken out.
    #[error("the container's disk could not be detached")]
    Detach {
        /// Why.
        source: VmmError,
    },
    /// The guest could not do its part.
    #[error("the container could not be handled in the guest")]
    Guest(#[source] GuestError),
    /// A hook of the client failed.
    #[error("a hook of the container failed")]
    Hook(#[source] HookError),
    /// This program is shutting down.
    #[error("the container was given up because this program is ending")]
    Abandoned,
}

impl ContainerError {
    /// The class of this failure.
    pub fn kind(&self) -> Kind {
        match self {
            ContainerError::Exists { .. } => Kind::AlreadyExists,
            ContainerError::Unknown { .. } => Kind::NotFound,
            ContainerError::Spec(source) => source.kind(),
            ContainerError::Rootfs(source) => source.kind(),
            ContainerError::HostFile(_) => Kind::InvalidArgument,
            ContainerError::NoSlot => Kind::ResourceExhausted,
            ContainerError::Attach { source } | ContainerError::Detach { source } => source.kind(),
            ContainerError::Guest(source) => source.kind(),
            ContainerError::Hook(_) => Kind::Internal,
            ContainerError::Abandoned => Kind::Unavailable,
        }
    }
}
