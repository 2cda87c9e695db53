// SPDX-License-Identifier: Apache-2.0
//! Brings prepared snapshots to disk soon after they were answered, off the way of the requests.
//!
//! A killed process loses none of them in any case (`reconcile`). This bounds what a power cut can
//! take: snapshots of the last [`DELAY`], whose containers died in it too.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::catalog::Catalog;

/// Long enough to gather a burst into one write, short beside any container's life.
const DELAY: Duration = Duration::from_millis(500);
/// The thread only walks redb's shallow call tree.
const STACK_BYTES: usize = 256 << 10;

/// The thread that writes to disk; idle while nothing is prepared.
pub(crate) struct Flusher {
    bell: SyncSender<()>,
    thread: JoinHandle<()>,
}

impl Flusher {
    pub(crate) fn start(catalog: Arc<Catalog>) -> std::io::Result<Self> {
        let (bell, rung) = sync_channel(1);
        let thread = thread::Builder::new()
            .name("flush".into())
            .stack_size(STACK_BYTES)
            .spawn(move || run(&catalog, &rung))?;
        Ok(Self { bell, thread })
    }

    /// Something was prepared.
    pub(crate) fn wake(&self) {
        // Full means that it is about to run anyway.
        if let Err(TrySendError::Disconnected(())) = self.bell.try_send(()) {
            tracing::error!("the thread that writes to disk has died");
        }
    }

    /// Ends the thread. What is pending is the caller's to flush.
    pub(crate) fn stop(self) {
        drop(self.bell);
        if self.thread.join().is_err() {
            tracing::error!("the thread that writes to disk had died");
        }
    }
}

fn run(catalog: &Catalog, rung: &Receiver<()>) {
    while rung.recv().is_ok() {
        thread::sleep(DELAY);
        if let Err(error) = catalog.flush() {
            tracing::error!(
                error = crate::chain(&error),
                "prepared snapshots are not on disk"
            );
        }
    }
}
