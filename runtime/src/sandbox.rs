// SPDX-License-Identifier: Apache-2.0
//! The waist. A front door needs nothing else.

use thiserror::Error;

use crate::config::Config;
use crate::container::{ContainerError, ContainerSpec};
use crate::error::Kind;
use crate::exit::VmmExit;
use crate::guest::GuestError;
use crate::process::{Command, Process, SpawnError};
use crate::spec::SandboxSpec;

/// A running machine with a claimed guest in it.
///
/// All methods take `&self` and may be called at once from many tasks. When the machine ends, every
/// pending call fails at once with the reason, and [`Sandbox::exited`] resolves. Dropping a sandbox
/// that was not destroyed kills its VMM and removes its files.
#[derive(Debug)]
pub struct Sandbox {
    pid: u32,
}

impl Sandbox {
    /// Spawns a VMM, boots the guest and claims it. On failure nothing is left behind.
    pub async fn create(config: &Config, spec: SandboxSpec) -> Result<Self, CreateError> {
        let _unused = (config, spec);
        std::future::pending().await
    }

    /// The VMM's process id: it lives in the sandbox's network namespace until the end.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Attaches the root file system, runs the create hooks and sets the container up in the guest.
    pub async fn create_container(&self, spec: ContainerSpec) -> Result<(), ContainerError> {
        let _unused = spec;
        std::future::pending().await
    }

    /// Sets a process up to the point just before it runs, with its streams connected.
    pub async fn create_process(
        &self,
        container: &str,
        command: Command,
    ) -> Result<Process, SpawnError> {
        let _unused = (container, command);
        std::future::pending().await
    }

    /// Kills what still runs, takes the root file system away, runs the poststop hooks. Works after
    /// the end of the machine too; an unknown container is [`ContainerError::Unknown`].
    pub async fn delete_container(&self, container: &str) -> Result<(), ContainerError> {
        let _unused = container;
        std::future::pending().await
    }

    /// Freezes every process of a container.
    pub async fn pause(&self, container: &str) -> Result<(), GuestError> {
        let _unused = container;
        std::future::pending().await
    }

    /// Lets them go on.
    pub async fn resume(&self, container: &str) -> Result<(), GuestError> {
        let _unused = container;
        std::future::pending().await
    }

    /// Changes a container's limits: OCI `LinuxResources` as JSON.
    pub async fn update(&self, container: &str, resources_json: Vec<u8>) -> Result<(), GuestError> {
        let _unused = (container, resources_json);
        std::future::pending().await
    }

    /// A container's cgroup figures.
    pub async fn stats(&self, container: &str) -> Result<Stats, GuestError> {
        let _unused = container;
        std::future::pending().await
    }

    /// The processes of a container, by the guest's process ids.
    pub async fn pids(&self, container: &str) -> Result<Vec<GuestPid>, GuestError> {
        let _unused = container;
        std::future::pending().await
    }

    /// Answers when a process of the container was killed for want of memory; call it again for the next.
    pub async fn wait_oom(&self, container: &str) -> Result<(), GuestError> {
        let _unused = container;
        std::future::pending().await
    }

    /// Waits for the end of the machine. Any number of waiters, at any time.
    pub async fn exited(&self) -> VmmExit {
        std::future::pending().await
    }

    /// Ends the machine and removes everything of it from the host. Idempotent.
    pub async fn destroy(&self) -> Result<(), DestroyError> {
        std::future::pending().await
    }
}

/// A container's cgroup figures, by the names the guest's kernel gives them.
pub use cube_protocol::v1::agent::StatsResponse as Stats;

/// One process of a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GuestPid {
    /// In the guest's root pid namespace.
    pub pid: u32,
    /// Its name, if [`Sandbox::create_process`] made it with one.
    pub exec_id: String,
}

/// Why a sandbox could not be created.
#[derive(Debug, Error)]
pub enum CreateError {
    /// The guest's agent could not be reached or refused the claim.
    #[error("the guest could not be claimed")]
    Guest(#[source] GuestError),
}

impl CreateError {
    /// The class of this failure.
    pub fn kind(&self) -> Kind {
        match self {
            CreateError::Guest(source) => source.kind(),
        }
    }
}

/// Why a sandbox could not be removed completely.
#[derive(Debug, Error)]
pub enum DestroyError {
    /// The VMM did not die.
    #[error("cube-vmm {pid} did not end after SIGKILL")]
    Unkillable {
        /// Its process id.
        pid: u32,
    },
}

impl DestroyError {
    /// The class of this failure.
    pub fn kind(&self) -> Kind {
        match self {
            DestroyError::Unkillable { .. } => Kind::Internal,
        }
    }
}
