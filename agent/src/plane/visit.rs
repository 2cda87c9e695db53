// SPDX-License-Identifier: Apache-2.0
//! Visits: somebody looks at the tree of a container. One that is to be deleted asks its visitors to leave
//! and waits for them, because its disk cannot be unmounted under them.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedRwLockReadGuard, RwLock, watch};
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use super::fault::PlaneFault;
use super::view::View;
use crate::error::AgentError;

/// How long visitors may take to leave: they are in the middle of one read or write of a disk.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(10);

/// Who is there.
#[derive(Debug)]
pub struct Visitors {
    inside: Arc<RwLock<()>>,
    is_closing: watch::Sender<bool>,
}

/// One that was let in.
#[derive(Debug)]
pub struct Inside {
    _guard: OwnedRwLockReadGuard<()>,
    is_closing: watch::Receiver<bool>,
}

/// One that looks around, until the last clone is dropped.
#[derive(Clone, Debug)]
pub struct Visit {
    // In this order: the tree is let go of first.
    view: Arc<View>,
    inside: Arc<Inside>,
}

impl Default for Visitors {
    fn default() -> Self {
        Self {
            inside: Arc::default(),
            is_closing: watch::Sender::new(false),
        }
    }
}

impl Visitors {
    /// Lets somebody in, unless it is closing.
    pub fn enter(&self) -> Option<Inside> {
        let guard = Arc::clone(&self.inside).try_read_owned().ok()?;
        let is_closing = self.is_closing.subscribe();
        let may_enter = !*is_closing.borrow();
        may_enter.then_some(Inside {
            _guard: guard,
            is_closing,
        })
    }

    /// Lets nobody in any more, and waits until all have left; false if some would not.
    pub async fn leave(&self) -> bool {
        self.is_closing.send_replace(true);
        timeout(LEAVE_TIMEOUT, self.inside.write()).await.is_ok()
    }
}

impl Visit {
    /// Of the tree that one was let into.
    pub fn new(inside: Inside, view: View) -> Self {
        Self {
            view: Arc::new(view),
            inside: Arc::new(inside),
        }
    }

    /// The container's tree.
    pub fn view(&self) -> &View {
        &self.view
    }

    /// Does what may wait for a disk, on a thread that may.
    pub async fn block<T: Send + 'static>(
        &self,
        work: impl FnOnce(&View) -> Result<T, PlaneFault> + Send + 'static,
    ) -> Result<T, PlaneFault> {
        // Whoever asked may go away; the work is still inside until it is done.
        let visit = self.clone();
        let done = spawn_blocking(move || work(visit.view())).await;
        done.unwrap_or(Err(PlaneFault::Agent(AgentError::Broken)))
    }

    /// Resolves when all are to leave.
    pub async fn closing(&self) {
        let mut is_closing = self.inside.is_closing.clone();
        // A sender that is gone is a container that is gone.
        if let Err(gone) = is_closing.wait_for(|closing| *closing).await {
            tracing::debug!(%gone, "the container of a visit is gone");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stage::Root;

    fn enter(visitors: &Visitors) -> Option<Visit> {
        let view = View::of(Root::open(std::path::Path::new("/")).unwrap()).unwrap();
        Some(Visit::new(visitors.enter()?, view))
    }

    #[tokio::test]
    async fn all_leave_before_it_is_closed_and_nobody_enters_after() {
        let visitors = Arc::new(Visitors::default());
        let visit = enter(&visitors).unwrap();
        let second = visit.clone();
        let closing = Arc::clone(&visitors);
        let left = tokio::spawn(async move { closing.leave().await });
        visit.closing().await;
        drop(visit);
        assert!(!left.is_finished());
        assert!(enter(&visitors).is_none());
        drop(second);
        assert!(left.await.unwrap());
        assert!(enter(&visitors).is_none());
    }
}
