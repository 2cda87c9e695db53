// SPDX-License-Identifier: Apache-2.0
//! What a sandbox occupies on the host, and the guard that gives it back.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use crate::cgroup::{self, HostCgroup};
use crate::layout::{SandboxDir, SandboxState};
use crate::network;
use crate::reap::{self, ReapError};
use crate::template::Lease;

/// The directory, the process and the cgroup of one sandbox. Dropping it removes all three and what the
/// directory says of its network, in the same order as [`mod@crate::reap`] does from the files.
#[derive(Debug)]
pub(crate) struct Footprint {
    pub(crate) dir: SandboxDir,
    pub(crate) cgroup: Option<HostCgroup>,
    pub(crate) process: Option<Arc<OwnedFd>>,
    /// Keeps the template that the machine was restored from, and goes last.
    pub(crate) template: Option<Lease>,
    cleared: bool,
}

impl Footprint {
    pub(crate) fn new(dir: SandboxDir) -> Self {
        Self {
            dir,
            cgroup: None,
            process: None,
            template: None,
            cleared: false,
        }
    }

    /// Removes everything. Blocking: the process may take a moment to die.
    pub(crate) fn clear(mut self) -> Result<(), ReapError> {
        self.clear_now()
    }

    fn clear_now(&mut self) -> Result<(), ReapError> {
        self.cleared = true;
        if let Some(process) = &self.process {
            reap::end_process(process)?;
        }
        if let Some(cgroup) = &self.cgroup {
            cgroup::remove(cgroup.made());
        }
        if let Ok(Some(state)) = SandboxState::read(self.dir.path()) {
            network::undo(&state.network).map_err(ReapError::network)?;
        }
        reap::remove_dir(self.dir.path())
    }
}

impl Drop for Footprint {
    fn drop(&mut self) {
        if !self.cleared
            && let Err(error) = self.clear_now()
        {
            tracing::error!(error = %crate::error::chain(&error), "a sandbox was not removed completely");
        }
    }
}
