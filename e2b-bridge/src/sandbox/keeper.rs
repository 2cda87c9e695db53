// SPDX-License-Identifier: Apache-2.0
//! Watching over a sandbox that runs, and removing it: the one task that does.

use std::sync::Arc;
use std::time::Duration;

use cube_containerd::{Containerd, ContainerdError};
use tokio::time::{sleep, timeout};

use super::{Phase, Sandbox, SandboxId, Sandboxes};
use crate::moment::Moment;

/// Between attempts while containerd does not answer.
const RETRY: Duration = Duration::from_secs(1);
/// Longest sleep before the wall clock is looked at again: it may have been set.
const LOOK_AGAIN: Duration = Duration::from_secs(60);
/// Longest time for killed processes to be gone.
const DEATH_LIMIT: Duration = Duration::from_secs(20);

/// Waits for the end of a sandbox, whatever brings it, and removes all of it.
pub async fn keep(sandboxes: Arc<Sandboxes>, sandbox: Arc<Sandbox>) {
    let why = tokio::select! {
        () = is_over(&sandbox) => "its time is over",
        () = sandbox.reaches(&[Phase::Ending]) => "it was killed",
        () = ended(sandboxes.containerd(), sandbox.id()) => "it ended by itself",
    };
    tracing::info!(sandbox = %sandbox.id(), why, "a sandbox ends");
    sandbox.phase.send_replace(Phase::Ending);
    remove(&sandboxes, &sandbox).await;
}

/// Removes all of a sandbox and forgets it; tries until it is done.
pub async fn remove(sandboxes: &Sandboxes, sandbox: &Sandbox) {
    let settings = sandboxes.settings();
    let snapshotter = &settings.snapshotter;
    while let Err(error) =
        remove_container(sandboxes.containerd(), snapshotter, sandbox.id().as_str()).await
    {
        tracing::warn!(sandbox = %sandbox.id(), %error, "a sandbox is not removed yet");
        sleep(RETRY).await;
    }
    sandboxes.forget(sandbox.id());
    sandbox.phase.send_replace(Phase::Gone);
}

async fn is_over(sandbox: &Sandbox) {
    let mut record = sandbox.record.subscribe();
    loop {
        let rest = Moment::now().until(record.borrow_and_update().end);
        if rest.is_zero() {
            return;
        }
        // Either is a reason to look again.
        timeout(rest.min(LOOK_AGAIN), record.changed()).await.ok();
    }
}

async fn ended(containerd: &Containerd, id: &SandboxId) {
    loop {
        match containerd.wait(id.as_str(), "").await {
            Ok(_) => return,
            Err(error) if error.is_not_found() => return,
            Err(_) => sleep(RETRY).await,
        }
    }
}

/// In any state, also half made. The record goes last: while it is there, the rest can be found.
pub async fn remove_container(
    containerd: &Containerd,
    snapshotter: &str,
    id: &str,
) -> Result<(), ContainerdError> {
    // It may have ended, or not have begun; Delete is what decides.
    if containerd.kill(id).await.is_ok() {
        // What comes of it Delete says.
        timeout(DEATH_LIMIT, containerd.wait(id, "")).await.ok();
    }
    unless_gone(containerd.delete_task(id).await)?;
    unless_gone(containerd.remove_snapshot(snapshotter, id).await)?;
    unless_gone(containerd.delete_container(id).await)
}

fn unless_gone(result: Result<(), ContainerdError>) -> Result<(), ContainerdError> {
    match result {
        Err(error) if error.is_not_found() => Ok(()),
        other => other,
    }
}
