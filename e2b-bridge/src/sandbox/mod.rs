// SPDX-License-Identifier: Apache-2.0
//! Sandboxes: containers of containerd with a name, an owner and an end.
//!
//! ```text
//! Starting --ready--> Running --killed, expired, ended by itself--> Ending --all removed--> Gone
//!     \---------------------- a step failed ----------------------/
//! ```
//!
//! Who a sandbox is and how long it lives is its [`SandboxRecord`], which is kept in its container's record
//! and changed there first: containerd is the journal. One task, its keeper, watches over each that runs and
//! alone removes it; everybody else asks.

mod birth;
mod id;
mod keeper;
mod log;
mod record;
mod recover;
mod registry;
mod spec;
mod start;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use cube_containerd::{Containerd, Extension};
use cube_runtime::plane::Plane;
use tokio::sync::{Mutex, OnceCell, watch};

use crate::envd::Watchers;
use crate::error::ApiError;

pub use birth::own_environment;
pub use id::SandboxId;
pub use log::{Level, LogLine, SandboxLog};
pub use record::{EXTENSION, SandboxRecord};
pub use registry::{NewSandbox, Sandboxes};

/// Longest time for all that belongs to a sandbox to be removed, for those who wait for it.
const REMOVAL_LIMIT: Duration = Duration::from_secs(60);

/// Where a sandbox is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// It is being made.
    Starting,
    /// It can be used.
    Running,
    /// It is being removed.
    Ending,
    /// Nothing of it is left.
    Gone,
}

/// One sandbox.
#[derive(Debug)]
pub struct Sandbox {
    id: SandboxId,
    dir: PathBuf,
    record: watch::Sender<SandboxRecord>,
    phase: watch::Sender<Phase>,
    /// Held while the record is changed.
    changing: Mutex<()>,
    plane: OnceCell<Plane>,
    log: SandboxLog,
    watchers: Watchers,
}

impl Sandbox {
    fn new(id: SandboxId, dir: PathBuf, record: SandboxRecord, phase: Phase) -> Arc<Self> {
        Arc::new(Self {
            id,
            dir,
            record: watch::Sender::new(record),
            phase: watch::Sender::new(phase),
            changing: Mutex::default(),
            plane: OnceCell::new(),
            log: SandboxLog::default(),
            watchers: Watchers::default(),
        })
    }

    /// Its name, and its container's.
    pub fn id(&self) -> &SandboxId {
        &self.id
    }

    /// Where its files on this host are.
    pub fn dir(&self) -> &std::path::Path {
        &self.dir
    }

    /// What is known of it.
    pub fn record(&self) -> SandboxRecord {
        self.record.borrow().clone()
    }

    /// Where it is in its life.
    pub fn phase(&self) -> Phase {
        *self.phase.borrow()
    }

    /// What its processes said.
    pub fn log(&self) -> &SandboxLog {
        &self.log
    }

    /// Its directories that clients watch by polling.
    pub fn watchers(&self) -> &Watchers {
        &self.watchers
    }

    /// The way to its agent; opened when it is first needed.
    pub async fn plane(&self) -> Result<&Plane, cube_runtime::PlaneError> {
        let open = || Plane::open(&self.dir, self.id.as_str());
        self.plane.get_or_try_init(open).await
    }

    /// Changes what is known of it: in containerd first, so that a crash loses nothing that was answered.
    /// Goes on when the caller is dropped, so that both always say the same.
    async fn change(
        self: &Arc<Self>,
        containerd: &Containerd,
        change: impl FnOnce(&mut SandboxRecord) + Send + 'static,
    ) -> Result<(), ApiError> {
        let (sandbox, containerd) = (self.clone(), containerd.clone());
        let changing = tokio::spawn(async move {
            let _turn = sandbox.changing.lock().await;
            let mut record = sandbox.record();
            change(&mut record);
            let extension = Extension {
                name: EXTENSION,
                data: &record.to_json(),
            };
            let id = sandbox.id.as_str();
            containerd.update_extension(id, extension).await?;
            sandbox.record.send_replace(record);
            Ok(())
        });
        changing.await.unwrap_or(Err(ApiError::Abandoned))
    }

    /// Has the keeper remove it.
    fn ask_to_end(&self) {
        self.phase.send_if_modified(|phase| {
            let runs = *phase == Phase::Running;
            if runs {
                *phase = Phase::Ending;
            }
            runs
        });
    }

    /// Waits until it is in one of these phases, or past all of them.
    async fn reaches(&self, wanted: &[Phase]) {
        let mut phase = self.phase.subscribe();
        let there = phase.wait_for(|phase| *phase == Phase::Gone || wanted.contains(phase));
        // The sender is in self: it cannot be gone.
        there.await.ok();
    }

    /// Waits until nothing of it is left.
    async fn is_gone(&self) -> Result<(), ApiError> {
        let gone = self.reaches(&[Phase::Gone]);
        let late = |_| ApiError::Late {
            id: self.id.to_string(),
            what: "removed",
            seconds: REMOVAL_LIMIT.as_secs(),
        };
        tokio::time::timeout(REMOVAL_LIMIT, gone)
            .await
            .map_err(late)
    }
}
