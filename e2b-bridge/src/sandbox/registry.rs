// SPDX-License-Identifier: Apache-2.0
//! All sandboxes of this server, and what can be done with them.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use cube_containerd::Containerd;
use cube_runtime::{Layout, SandboxKey};

use super::birth;
use super::{Phase, Sandbox, SandboxId, SandboxRecord, keeper};
use crate::config::BridgeConfig;
use crate::error::ApiError;
use crate::keys::Caller;
use crate::moment::Moment;
use crate::template::TemplateConfig;

/// A sandbox as it is asked for.
#[derive(Clone, Debug)]
pub struct NewSandbox {
    /// Who it is to be; times, tokens and team are filled in.
    pub record: SandboxRecord,
    /// What it is made of.
    pub template: TemplateConfig,
    /// How long it lives once it is ready.
    pub timeout: Duration,
}

/// See above.
#[derive(Debug)]
pub struct Sandboxes {
    containerd: Containerd,
    settings: BridgeConfig,
    layout: Layout,
    all: Mutex<BTreeMap<SandboxId, Arc<Sandbox>>>,
    /// Held while an image is unpacked.
    pub(super) unpacking: tokio::sync::Mutex<()>,
}

impl Sandboxes {
    /// None yet: see [`Sandboxes::recover`]. `layout` is where the runtime keeps its files.
    pub fn new(containerd: Containerd, settings: BridgeConfig, layout: Layout) -> Arc<Self> {
        Arc::new(Self {
            containerd,
            settings,
            layout,
            all: Mutex::default(),
            unpacking: tokio::sync::Mutex::default(),
        })
    }

    /// The daemon.
    pub fn containerd(&self) -> &Containerd {
        &self.containerd
    }

    /// What this server is to be.
    pub fn settings(&self) -> &BridgeConfig {
        &self.settings
    }

    /// Makes a sandbox, unless the caller's team has as many as it may. A repeated request with an
    /// idempotency key answers the sandbox of the first one.
    pub async fn create(
        self: &Arc<Self>,
        caller: &Caller,
        wanted: NewSandbox,
    ) -> Result<Arc<Sandbox>, ApiError> {
        let (sandbox, is_new) = self.reserve(caller, &wanted.record)?;
        if !is_new {
            sandbox.reaches(&[Phase::Running, Phase::Ending]).await;
            return self.get(&caller.team, sandbox.id().as_str());
        }
        // In a task of its own: a client that leaves must not leave half a sandbox.
        let (all, newborn) = (self.clone(), sandbox.clone());
        let birth = tokio::spawn(async move {
            let born = birth::give_birth(&all, &newborn, &wanted).await;
            if born.is_ok() {
                newborn.phase.send_replace(Phase::Running);
                tokio::spawn(keeper::keep(all, newborn));
            } else {
                newborn.phase.send_replace(Phase::Ending);
                keeper::remove(&all, &newborn).await;
            }
            born
        });
        birth.await.unwrap_or(Err(ApiError::Abandoned))?;
        Ok(sandbox)
    }

    /// One that runs, of this team.
    pub fn get(&self, team: &str, name: &str) -> Result<Arc<Sandbox>, ApiError> {
        let found = SandboxId::parse(name).and_then(|id| self.find(&id));
        let its_own = found.filter(|sandbox| sandbox.record.borrow().team == team);
        its_own.ok_or_else(|| ApiError::NoSandbox { id: name.into() })
    }

    /// One that runs, whoever has it.
    pub fn find(&self, id: &SandboxId) -> Option<Arc<Sandbox>> {
        let found = self.lock().get(id).cloned();
        found.filter(|sandbox| sandbox.phase() == Phase::Running)
    }

    /// Those that run, of one team or of all.
    pub fn list(&self, team: Option<&str>) -> Vec<Arc<Sandbox>> {
        let is_wanted = |sandbox: &&Arc<Sandbox>| {
            sandbox.phase() == Phase::Running
                && team.is_none_or(|team| sandbox.record.borrow().team == team)
        };
        self.lock().values().filter(is_wanted).cloned().collect()
    }

    /// Removes a sandbox; answers when nothing of it is left.
    pub async fn kill(&self, sandbox: &Sandbox) -> Result<(), ApiError> {
        sandbox.ask_to_end();
        sandbox.is_gone().await
    }

    /// Sets when a sandbox ends, from now on.
    pub async fn set_timeout(
        &self,
        sandbox: &Arc<Sandbox>,
        timeout: Duration,
    ) -> Result<(), ApiError> {
        let change = move |record: &mut SandboxRecord| record.end_after(Moment::now(), timeout);
        sandbox.change(&self.containerd, change).await
    }

    /// Has a sandbox live this long from now on at least.
    pub async fn extend(&self, sandbox: &Arc<Sandbox>, timeout: Duration) -> Result<(), ApiError> {
        let change = move |record: &mut SandboxRecord| record.extend(Moment::now(), timeout);
        sandbox.change(&self.containerd, change).await
    }

    pub(super) fn directory(&self, id: &SandboxId) -> PathBuf {
        self.layout.path(&SandboxKey {
            address: self.settings.containerd.display().to_string(),
            namespace: self.settings.namespace.clone(),
            id: id.to_string(),
        })
    }

    pub(super) fn insert(&self, sandbox: Arc<Sandbox>) {
        self.lock().insert(sandbox.id().clone(), sandbox);
    }

    pub(super) fn forget(&self, id: &SandboxId) {
        self.lock().remove(id);
    }

    /// A place among the team's sandboxes, or the one that the same request was given before.
    fn reserve(
        &self,
        caller: &Caller,
        record: &SandboxRecord,
    ) -> Result<(Arc<Sandbox>, bool), ApiError> {
        let id = SandboxId::random().map_err(ApiError::Random)?;
        let mut all = self.lock();
        let of_team: Vec<_> = all
            .values()
            .filter(|other| other.record.borrow().team == caller.team)
            .collect();
        let key = &record.idempotency_key;
        let is_same = |other: &&&Arc<Sandbox>| {
            key.is_some()
                && other.record.borrow().idempotency_key == *key
                && matches!(other.phase(), Phase::Starting | Phase::Running)
        };
        if let Some(same) = of_team.iter().find(is_same) {
            return Ok(((*same).clone(), false));
        }
        if of_team.len() >= caller.max_sandboxes {
            let limit = caller.max_sandboxes;
            return Err(ApiError::TooManySandboxes { limit });
        }
        let dir = self.directory(&id);
        let sandbox = Sandbox::new(id.clone(), dir, record.clone(), Phase::Starting);
        all.insert(id, sandbox.clone());
        Ok((sandbox, true))
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<SandboxId, Arc<Sandbox>>> {
        // A map is whole whenever the lock is let go.
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
