// SPDX-License-Identifier: Apache-2.0
//! What the shim asks of the waist, as traits: the one seam of this crate. The other implementation
//! is the tests' fake, with which every call and event order is tried without a machine.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use cube_runtime::{
    Command, Config, ContainerError, ContainerSpec, CreateError, DestroyError, Exit, GuestError,
    NetworkError, Policy, Process, Sandbox, SandboxSpec, SnapshotError, SnapshotName, SpawnError,
    StartError, Stats, VmmExit,
};

use crate::io::Streams;

#[cfg(test)]
pub mod fake;

/// Makes machines.
#[async_trait]
pub trait Boot: Send + Sync {
    /// See [`Sandbox::create`].
    async fn boot(
        &self,
        config: &Config,
        spec: SandboxSpec,
    ) -> Result<Arc<dyn Machine>, CreateError>;
}

/// A running machine: [`Sandbox`], method by method.
#[async_trait]
pub trait Machine: Send + Sync {
    /// See [`Sandbox::pid`].
    fn pid(&self) -> u32;
    /// See [`Sandbox::create_container`].
    async fn create_container(&self, spec: ContainerSpec) -> Result<(), ContainerError>;
    /// See [`Sandbox::create_process`].
    async fn create_process(
        &self,
        container: &str,
        command: Command,
    ) -> Result<Spawned, SpawnError>;
    /// See [`Sandbox::delete_container`].
    async fn delete_container(&self, container: &str) -> Result<(), ContainerError>;
    /// See [`Sandbox::pause`].
    async fn pause(&self, container: &str) -> Result<(), GuestError>;
    /// See [`Sandbox::resume`].
    async fn resume(&self, container: &str) -> Result<(), GuestError>;
    /// See [`Sandbox::update`].
    async fn update(&self, container: &str, resources_json: Vec<u8>) -> Result<(), GuestError>;
    /// See [`Sandbox::set_egress`].
    async fn set_egress(&self, policy: Policy) -> Result<(), NetworkError>;
    /// See [`Sandbox::snapshot`].
    async fn snapshot(
        &self,
        config: &Config,
        name: &SnapshotName,
    ) -> Result<Duration, SnapshotError>;
    /// See [`Sandbox::stats`].
    async fn stats(&self, container: &str) -> Result<Stats, GuestError>;
    /// Whether the guest answers a question about a container: [`Sandbox::pids`], which changes nothing.
    async fn answers(&self, container: &str) -> bool;
    /// See [`Sandbox::wait_oom`].
    async fn wait_oom(&self, container: &str) -> Result<(), GuestError>;
    /// See [`Sandbox::exited`].
    async fn exited(&self) -> VmmExit;
    /// See [`Sandbox::destroy`].
    async fn destroy(&self) -> Result<(), DestroyError>;
}

/// A process that is set up, and its streams.
pub struct Spawned {
    /// The process.
    pub process: Arc<dyn GuestProcess>,
    /// Connected, in and out of it.
    pub streams: Streams,
}

/// A process: [`Process`], method by method.
#[async_trait]
pub trait GuestProcess: Send + Sync {
    /// See [`Process::start`].
    async fn start(&self) -> Result<(), StartError>;
    /// See [`Process::signal`].
    async fn signal(&self, signal: u32, all: bool) -> Result<(), GuestError>;
    /// See [`Process::resize`].
    async fn resize(&self, columns: u16, rows: u16) -> Result<(), GuestError>;
    /// See [`Process::wait`].
    async fn wait(&self) -> Exit;
    /// See [`Process::delete`].
    async fn delete(&self) -> Result<(), GuestError>;
}

/// The real thing.
pub struct Cube;

#[async_trait]
impl Boot for Cube {
    async fn boot(
        &self,
        config: &Config,
        spec: SandboxSpec,
    ) -> Result<Arc<dyn Machine>, CreateError> {
        Ok(Arc::new(Sandbox::create(config, spec).await?))
    }
}

#[async_trait]
impl Machine for Sandbox {
    fn pid(&self) -> u32 {
        Sandbox::pid(self)
    }

    async fn create_container(&self, spec: ContainerSpec) -> Result<(), ContainerError> {
        Sandbox::create_container(self, spec).await
    }

    async fn create_process(
        &self,
        container: &str,
        command: Command,
    ) -> Result<Spawned, SpawnError> {
        let mut process = Sandbox::create_process(self, container, command).await?;
        let streams = Streams {
            stdin: process.take_stdin(),
            stdout: process.take_stdout(),
            stderr: process.take_stderr(),
        };
        let process = Arc::new(process);
        Ok(Spawned { process, streams })
    }

    async fn delete_container(&self, container: &str) -> Result<(), ContainerError> {
        Sandbox::delete_container(self, container).await
    }

    async fn pause(&self, container: &str) -> Result<(), GuestError> {
        Sandbox::pause(self, container).await
    }

    async fn resume(&self, container: &str) -> Result<(), GuestError> {
        Sandbox::resume(self, container).await
    }

    async fn update(&self, container: &str, resources_json: Vec<u8>) -> Result<(), GuestError> {
        Sandbox::update(self, container, resources_json).await
    }

    async fn set_egress(&self, policy: Policy) -> Result<(), NetworkError> {
        Sandbox::set_egress(self, policy).await
    }

    async fn snapshot(
        &self,
        config: &Config,
        name: &SnapshotName,
    ) -> Result<Duration, SnapshotError> {
        Sandbox::snapshot(self, config, name).await
    }

    async fn stats(&self, container: &str) -> Result<Stats, GuestError> {
        Sandbox::stats(self, container).await
    }

    async fn answers(&self, container: &str) -> bool {
        Sandbox::pids(self, container).await.is_ok()
    }

    async fn wait_oom(&self, container: &str) -> Result<(), GuestError> {
        Sandbox::wait_oom(self, container).await
    }

    async fn exited(&self) -> VmmExit {
        Sandbox::exited(self).await
    }

    async fn destroy(&self) -> Result<(), DestroyError> {
        Sandbox::destroy(self).await
    }
}

#[async_trait]
impl GuestProcess for Process {
    async fn start(&self) -> Result<(), StartError> {
        Process::start(self).await
    }

    async fn signal(&self, signal: u32, all: bool) -> Result<(), GuestError> {
        Process::signal(self, signal, all).await
    }

    async fn resize(&self, columns: u16, rows: u16) -> Result<(), GuestError> {
        Process::resize(self, columns, rows).await
    }

    async fn wait(&self) -> Exit {
        Process::wait(self).await
    }

    async fn delete(&self) -> Result<(), GuestError> {
        Process::delete(self).await
    }
}
