// SPDX-License-Identifier: Apache-2.0
//! What a container is made of, translated from its spec before anything is made, so that most mistakes in a
//! spec cost nothing to undo.

use std::path::{Path, PathBuf};

use super::Slots;
use crate::cgroup::{self, DeviceRule, Setting};
use crate::error::AgentError;
use crate::oci::{self, Namespaces, Spec};
use crate::seccomp::{self, Filter};
use crate::stage::{ContainerPlan, ProcessPlan};

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
}

/// A spec, translated.
pub struct Parts {
    pub(super) namespaces: Namespaces,
    pub(super) container: ContainerPlan,
    pub(super) process: Option<ProcessPlan>,
    pub(super) seccomp: Option<Filter>,
    pub(super) limits: Vec<Setting>,
    pub(super) devices: Vec<DeviceRule>,
}

impl Parts {
    /// From config.json, for a root file system that will be mounted at `rootfs`.
    pub fn of(spec_json: &[u8], rootfs: &Path) -> Result<Self, AgentError> {
        let spec: Spec = oci::parse("runtime spec", spec_json)?;
        let seccomp = match &spec.linux.seccomp {
            Some(profile) => Some(seccomp::compile(profile).map_err(oci::SpecError::from)?),
            None => None,
        };
        let resources = spec.linux.resources.clone().unwrap_or_default();
        Ok(Self {
            namespaces: oci::namespaces(&spec)?,
            container: oci::container_plan(&spec, rootfs)?,
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
}
