// SPDX-License-Identifier: Apache-2.0
//! A container that is set up and taken down once before anybody calls, so that what the kernel and the agent
//! make at a first use (caches, per-processor memory, a thread, superblocks' types, translated filters) is made
//! before a template is saved and not after each restore.
//!
//! It has the shape of the usual container, but a file system in memory for its root, with nothing in it but
//! this program, which says its version to nobody and ends. Nothing of it is left; no name, no secret and no random number
//! that outlives it is in it. One that fails costs time later and nothing else.
//!
//! The host asks for it once more in the first clone of a template, to record which pages a start touches.

use std::fs;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::mount::{MountFlags, UnmountFlags, mount, mount_bind, unmount};
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use super::{Layout, Parts};
use crate::cgroup::Cgroup;
use crate::error::AgentError;
use crate::process::{Process, Reaper, SpawnError, Surroundings, Wanted};

/// Of the container; one of a client can have it too, later.
const ID: &str = "rehearsal";

/// What containerd asks for when a client asks for nothing.
const SPEC: &[u8] = include_bytes!("rehearsal.json");

/// What is run, as [`SPEC`] names it.
const PROGRAM: &str = "program";

/// No streams: nobody would connect to them.
const WANTED: Wanted = Wanted {
    stdin: false,
    stdout: false,
    stderr: false,
};

/// The longest that it may take on the slowest host; what never ends must not keep the agent from serving.
const LIMIT: Duration = Duration::from_secs(20);

/// Holds it. `layout` is where later containers will be.
pub async fn rehearse(reaper: &Reaper, layout: &Layout) -> Result<(), AgentError> {
    match timeout(LIMIT, hold(reaper, layout)).await {
        Ok(result) => result,
        Err(_elapsed) => Err(AgentError::Broken),
    }
}

async fn hold(reaper: &Reaper, layout: &Layout) -> Result<(), AgentError> {
    let parts = Parts::of(SPEC, ID, layout, &[])?;
    let plan = parts.first_plan(ID, false)?;
    let cgroup = Arc::new(Cgroup::create(layout.cgroup.join(ID))?);
    cgroup.apply(&parts.limits)?;
    cgroup.restrict_devices(&parts.devices)?;
    let root = Root::mount(layout.rootfs(ID)).await?;
    let process = {
        let directory = cgroup.open()?;
        let surroundings = Surroundings {
            new: parts.namespaces.made(),
            pid_namespace: None,
            join: None,
            cgroup: directory.as_fd(),
        };
        Process::create(reaper, &plan, surroundings, &cgroup, WANTED).await
    };
    let result = run(process).await;
    drop(root);
    cgroup.remove().await?;
    result
}

async fn run(process: Result<Process, SpawnError>) -> Result<(), AgentError> {
    let process = process?;
    process.start().await?;
    process.wait().await;
    Ok(())
}

/// The root; gone when it is dropped.
struct Root(PathBuf);

impl Root {
    async fn mount(path: PathBuf) -> Result<Self, AgentError> {
        let place = path.clone();
        // On a thread, as every mount of a root: it is the one that stays for the first.
        let mounted = spawn_blocking(move || {
            fs::create_dir_all(&place)?;
            mount("tmpfs", &place, "tmpfs", MountFlags::empty(), None)?;
            let root = Self(place);
            let program = root.0.join(PROGRAM);
            fs::write(&program, "")?;
            mount_bind(std::env::current_exe()?, &program)?;
            Ok(root)
        });
        match mounted.await {
            Ok(Ok(root)) => Ok(root),
            Ok(Err(error)) => Err(not_mounted(&path, error)),
            Err(_) => Err(AgentError::Broken),
        }
    }
}

impl Drop for Root {
    fn drop(&mut self) {
        let gone = unmount(&self.0, UnmountFlags::DETACH)
            .map_err(std::io::Error::from)
            .and_then(|()| fs::remove_dir(&self.0));
        if let Err(error) = gone {
            tracing::warn!(path = %self.0.display(), %error, "left from the rehearsal");
        }
    }
}

fn not_mounted(path: &Path, error: std::io::Error) -> AgentError {
    AgentError::Rootfs(super::RootfsError::Directory {
        path: path.to_path_buf(),
        source: error.into(),
    })
}
