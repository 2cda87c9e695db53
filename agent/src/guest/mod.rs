// SPDX-License-Identifier: Apache-2.0
//! The machine around the containers: what PID 1 does before anybody calls, when the machine is claimed, and
//! at its end.
//!
//! The agent can also run outside of a machine, as an ordinary process of some system, so that everything
//! about containers can be tried without a hypervisor; it then leaves that system's identity alone.

mod identity;
mod modules;
mod mounts;
pub mod processor;
mod settings;

use std::path::{Path, PathBuf};
use std::time::Instant;

use rustix::process::{Resource, Rlimit, setrlimit};
use rustix::system::{RebootCommand, reboot};
use thiserror::Error;

pub use identity::Claim;
pub use modules::ModuleError;

use crate::cause::Cause;
use crate::cgroup::{self, CgroupError};
use crate::container::{Layout, Slots};
use crate::error::AgentError;

/// Open files that the agent, and a process without a limit of its own, may have. A process costs the agent
/// six; containers under other runtimes get about as many from the service manager.
const OPEN_FILES: u64 = 1 << 20;

/// A machine that does not come up.
#[derive(Debug, Error)]
pub enum BootError {
    /// One of the file systems of the machine itself.
    #[error("cannot mount {what}")]
    Mount {
        /// Which.
        what: &'static str,
        /// The kernel's answer.
        #[source]
        source: Cause,
    },
    /// One of the kernel modules.
    #[error(transparent)]
    Module(#[from] ModuleError),
    /// The loopback interface.
    #[error("cannot bring up the loopback interface")]
    Loopback(#[source] Cause),
    /// The block slots.
    #[error("cannot look for the machine's block slots")]
    Slots(#[source] Cause),
    /// Controllers for containers.
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
}

/// What the agent runs on.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Machine {
    /// A machine of its own: it is PID 1.
    Own,
    /// Somebody else's system.
    Borrowed,
}

impl Machine {
    /// Gives it an identity: all of it, or an error that names what is missing. A borrowed one keeps its own
    /// clock, name and `boot_id`. `greeted_at` is when the host's last greeting came, `machine_id` where that
    /// is kept.
    pub fn claim(
        self,
        claim: &Claim,
        greeted_at: Option<Instant>,
        machine_id: &Path,
    ) -> Result<(), AgentError> {
        identity::check(claim)?;
        if self == Self::Own {
            identity::set_clock(claim, greeted_at)?;
        }
        identity::add_entropy(claim)?;
        if self == Self::Own {
            identity::make_boot_id()?;
            identity::set_hostname(claim)?;
        }
        identity::write_machine_id(claim, machine_id)
    }

    /// Ends it; for a borrowed one only the agent.
    pub fn power_off(self) {
        match self {
            Self::Own => {
                rustix::fs::sync();
                // Where the machine has no way to power itself off, the kernel panics at the end of its
                // PID 1, and its reboot ends the machine too.
                if let Err(errno) = reboot(RebootCommand::PowerOff) {
                    tracing::error!(%errno, "cannot power off");
                    crate::sys::exit_now(1);
                }
            }
            Self::Borrowed => crate::sys::exit_now(0),
        }
    }
}

/// Makes a freshly booted kernel a place for containers.
pub fn boot() -> Result<Layout, BootError> {
    mounts::make()?;
    settings::apply();
    raise_limits();
    processor::keep_to_one();
    modules::load_boot_modules()?;
    crate::network::load()?;
    crate::network::raise_loopback().map_err(|error| BootError::Loopback(error.into()))?;
    let cgroup = PathBuf::from(mounts::CGROUP);
    cgroup::delegate(&cgroup)?;
    Ok(Layout {
        run: PathBuf::from("/run/cube"),
        cgroup_root: cgroup.clone(),
        cgroup,
        slots: Slots::of_machine().map_err(|error| BootError::Slots(error.into()))?,
    })
}

fn raise_limits() {
    let limit = Rlimit {
        current: Some(OPEN_FILES),
        maximum: Some(OPEN_FILES),
    };
    if let Err(errno) = setrlimit(Resource::Nofile, limit) {
        tracing::warn!(%errno, "the limit of open files stays as it is");
    }
}

/// The kernel's usermode helper: see [`modules`].
pub use modules::modprobe;
