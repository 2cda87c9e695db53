// SPDX-License-Identifier: Apache-2.0
//! Brings prepared snapshots to disk soon after they were answered, off the way of the requests.
//!
//! A killed process loses none of them in any case (`reconcile`). This bounds what a power cut can
//! take: snapshots of the last [`DELAY`], whose containers died in it too.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::catalog::Catalog;

/// Long enough to gather a burst into one write, short beside any container's life.
const DELAY: Duration = Duration::from_millis(500);
/// The thread only walks redb's shallow call tree.
const STACK_BYTES: usize = 256 << 10;

/// The thread that writes to disk, idle while nothing is prepared. Dropping it ends the thread; what
/// is pending then is its owner's to flush.
pub(crate) struct Flusher {
    /// Some until dropped: its end is the thread's sign to end.
    bell: Option<SyncSender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Flusher {
    pub(crate) fn start(catalog: Arc<Catalog>) -> std::io::Result<Self> {
        let (bell, rung) = sync_channel(1);
        let thread = thread::Builder::new()
            .name("flush".into())
            .stack_size(STACK_BYTES)
            .spawn(move || run(&catalog, &rung))?;
        Ok(Self {
            bell: Some(bell),
            thread: Some(thread),
        })
    }

    /// Something was prepared.
    pub(crate) fn wake(&self) {
        // Full means that it is about to run anyway.
        let rung = self.bell.as_ref().map(|bell| bell.try_send(()));
        if let Some(Err(TrySendError::Disconnected(()))) = rung {
            tracing::error!("the thread that writes to disk has died");
        }
    }
}

impl Drop for Flusher {
    fn drop(&mut self) {
        self.bell = None;
        if let Some(Err(_)) = self.thread.take().map(JoinHandle::join) {
            tracing::error!("the thread that writes to disk had died");
        }
    }
}

fn run(catalog: &Catalog, rung: &Receiver<()>) {
    while rung.recv().is_ok() {
        if !wait(rung) {
            return;
        }
        if let Err(error) = catalog.flush() {
            tracing::error!(
                error = crate::chain(&error),
                "prepared snapshots are not on disk"
            );
        }
    }
}

/// Lets [`DELAY`] pass, whoever rings meanwhile. False if the owner is gone.
fn wait(rung: &Receiver<()>) -> bool {
    let until = Instant::now() + DELAY;
    loop {
        match rung.recv_timeout(until.saturating_duration_since(Instant::now())) {
            Ok(()) => {}
            Err(RecvTimeoutError::Timeout) => return true,
            Err(RecvTimeoutError::Disconnected) => return false,
        }
    }
}
