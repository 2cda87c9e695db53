// SPDX-License-Identifier: Apache-2.0
//! What a container is made of, translated from its spec before anything is made, so that most mistakes in a
//! spec cost nothing to undo.

use std::path::PathBuf;

use super::Slots;
use super::files::{self, HostFile};
use crate::cgroup::{self, DeviceRule, Setting};
use crate::error::AgentError;
use crate::oci::{self, Namespaces, Places, Spec};
use crate::seccomp::{self, Filter};
use crate::stage::{ContainerPlan, Plan, ProcessPlan};

/// Where things are in this machine.
#[derive(Clone, Debug)]
pub struct Layout {
    /// For mount points.
    pub run: PathBuf,
    /// Mount point of the cgroup hierarchy.
    pub cgroup_root: PathBuf,
    /// Parent of the containers' cgroups.
    pub cgroup: PathBuf,
    /// Disks.
    pub slots: Slots,
}

impl Layout {
    /// Mount point of a container's root file system.
    pub fn rootfs(&self, id: &str) -> PathBuf {
        self.run.join("containers").join(id)
    }

    /// The machine's id, if its claim gave it one; in place of an empty one in an image (machine-id(5)).
    pub fn machine_id(&self) -> PathBuf {
        self.run.join("machine-id")
    }

    /// Where a container's files of the host are kept.
    pub fn files(&self, id: &str) -> PathBuf {
        self.run.join("files").join(id)
    }

    /// Where the pod's /dev/shm is.
    pub fn shared_memory(&self) -> PathBuf {
        self.run.join("shm")
    }

    fn places(&self, id: &str, host_files: &[HostFile]) -> Places {
        let place = |number| files::place(&self.files(id), number);
        let destinations = host_files.iter().map(|file| file.destination.clone());
        Places {
            rootfs: self.rootfs(id),
            machine_id: self.machine_id(),
            shared_memory: self.shared_memory(),
            files: destinations.zip((0..).map(place)).collect(),
        }
    }
}

/// A spec, translated.
pub struct Parts {
    pub(super) namespaces: Namespaces,
    pub(super) container: ContainerPlan,
    /// Whether /dev/shm is to be the pod's.
    pub(super) shares_memory: bool,
    pub(super) process: Option<ProcessPlan>,
    pub(super) seccomp: Option<Filter>,
    pub(super) limits: Vec<Setting>,
    pub(super) devices: Vec<DeviceRule>,
}

impl Parts {
    /// From config.json, for a container of that name with these files of the host.
    pub fn of(
        spec_json: &[u8],
        id: &str,
        layout: &Layout,
        host_files: &[HostFile],
    ) -> Result<Self, AgentError> {
        let spec: Spec = oci::parse("runtime spec", spec_json)?;
        let seccomp = match &spec.linux.seccomp {
            Some(profile) => Some(seccomp::compile(profile).map_err(oci::SpecError::from)?),
            None => None,
        };
        let resources = spec.linux.resources.clone().unwrap_or_default();
        let places = layout.places(id, host_files);
        let container = oci::container_plan(&spec, &places)?;
        Ok(Self {
            namespaces: oci::namespaces(&spec)?,
            shares_memory: container.binds(&places.shared_memory),
            container,
            process: spec
                .process
                .as_ref()
                .map(|process| oci::process_plan(process, None))
                .transpose()?,
            seccomp,
            limits: cgroup::settings(&resources)?,
            devices: cgroup::device_rules(&resources.devices)?,
        })
    }

    /// What the first process of the container is told to do.
    pub(super) fn first_plan(&self, id: &str, terminal: bool) -> Result<Plan, AgentError> {
        let process = self
            .process
            .clone()
            .ok_or_else(|| AgentError::Spec(oci::SpecError::invalid("process", "is missing")))?;
        Ok(Plan {
            container_id: id.to_owned(),
            container: Some(self.container.clone()),
            join: self.namespaces.joined(),
            terminal,
            process,
            seccomp: self.seccomp.clone(),
        })
    }
}
