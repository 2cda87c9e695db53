// SPDX-License-Identifier: Apache-2.0
//! Create: from a bundle to a process that only waits for Start.

use std::path::Path;
use std::sync::Arc;

use containerd_shim_protos::api::{CreateTaskRequest, Mount};
use containerd_shim_protos::events::task::TaskIO;
use cube_runtime::{
    Command, ContainerError, ContainerSpec, OciSpec, RootfsMount, SandboxSpec, StartFrom,
};

use super::{Container, Shim};
use crate::bundle;
use crate::error::TaskError;
use crate::events::{Event, TaskCreate};
use crate::guest::Machine;
use crate::io::{Opened, Owner, Stdio};
use crate::pod::namespaces;

impl Shim {
    /// Makes the machine if there is none, the container in it, and its first process up to the point
    /// where it runs. What fails is undone. Returns the pid.
    pub async fn do_create(&self, request: CreateTaskRequest) -> Result<u32, TaskError> {
        if !request.checkpoint.is_empty() {
            let what =
                "restoring a task from a checkpoint (but from a snapshot: see `cube snapshot`)";
            return Err(TaskError::Unsupported { what });
        }
        let reservation = self.reserve(&request.id)?;
        let bundle = Path::new(&request.bundle);
        let invalid = |source| TaskError::Payload {
            what: "OCI runtime spec (config.json)",
            source,
        };
        let mut spec_json = bundle::read_config(bundle)?;
        if self.is_held() {
            spec_json = namespaces::of_the_machine(&spec_json).map_err(invalid)?;
        }
        let spec = ContainerSpec {
            id: request.id.clone(),
            bundle: bundle.to_owned(),
            oci: OciSpec::parse(spec_json).map_err(invalid)?,
            rootfs: request.rootfs.iter().map(rootfs_mount).collect(),
        };
        let stdio = Stdio {
            stdin: request.stdin.clone(),
            stdout: request.stdout.clone(),
            stderr: request.stderr.clone(),
            terminal: request.terminal,
        };
        // Before the machine: it is quick, and the likeliest part of a request to be wrong.
        let opened = stdio.open(self.owner(&request.id)).await?;
        let oci = spec.oci.read();
        let wishes = || {
            let mut wishes = SandboxSpec::from_oci(self.key(), oci, self.config())?;
            let annotations = oci.annotations().iter().next();
            let snapshot = annotations.map(cube_runtime::spec::snapshot).transpose()?;
            wishes.from = snapshot.flatten().map(|snapshot| StartFrom {
                snapshot,
                rootfs: spec.rootfs.clone(),
            });
            Ok(wishes)
        };
        let (machine, own) = self.machine(wishes).await?;

        match self
            .create_in(&machine, &request, spec, stdio, opened)
            .await
        {
            Ok(container) => {
                let pid = machine.pid();
                reservation.fill(container);
                Ok(pid)
            }
            Err(error) => {
                self.undo_create(&machine, &request.id, own).await;
                Err(error)
            }
        }
    }

    async fn create_in(
        &self,
        machine: &Arc<dyn Machine>,
        request: &CreateTaskRequest,
        spec: ContainerSpec,
        stdio: Stdio,
        opened: Opened,
    ) -> Result<Arc<Container>, TaskError> {
        let bundle = Path::new(&request.bundle);
        machine.create_container(spec).await?;
        let (stdin, stdout, stderr) = opened.wanted();
        let command = Command {
            terminal: stdio.terminal,
            stdin,
            stdout,
            stderr,
            ..Command::default()
        };
        let spawned = machine.create_process(&request.id, command).await?;

        // Nothing fails from here on. The task is told before anything can be told about it.
        let pid = machine.pid();
        self.publisher.publish(created(request, pid));
        let publisher = self.publisher.clone();
        let container = Container::new(&request.id, bundle, machine.clone(), publisher, stdio);
        container.save(pid, None);
        container.attach("", spawned, opened);
        Ok(container)
    }

    /// A machine that was made for this container goes with it; a pod's stays.
    async fn undo_create(&self, machine: &Arc<dyn Machine>, id: &str, own: bool) {
        let undone = match own {
            true => self.end_machine().await,
            false => match machine.delete_container(id).await {
                Err(ContainerError::Unknown { .. }) | Ok(()) => Ok(()),
                Err(error) => Err(error.into()),
            },
        };
        if let Err(error) = undone {
            let error = cube_runtime::error::chain(&error);
            tracing::error!(id, error, "a failed Create could not be undone completely");
        }
    }

    /// Whose streams a container's are.
    pub(super) fn owner<'a>(&'a self, container: &'a str) -> Owner<'a> {
        Owner {
            namespace: &self.identity.namespace,
            container,
        }
    }
}

fn rootfs_mount(mount: &Mount) -> RootfsMount {
    RootfsMount {
        kind: mount.type_.clone(),
        source: mount.source.clone(),
        options: mount.options.clone(),
    }
}

fn created(request: &CreateTaskRequest, pid: u32) -> Event {
    let io = TaskIO {
        stdin: request.stdin.clone(),
        stdout: request.stdout.clone(),
        stderr: request.stderr.clone(),
        terminal: request.terminal,
        ..Default::default()
    };
    Event::Created(TaskCreate {
        container_id: request.id.clone(),
        bundle: request.bundle.clone(),
        rootfs: request.rootfs.clone(),
        io: Some(io).into(),
        pid,
        ..Default::default()
    })
}
