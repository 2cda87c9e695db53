// SPDX-License-Identifier: Apache-2.0
//! How long each stage of a start takes, one log line a stage. Off unless [`crate::Config::trace`].

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

static ENABLED: AtomicBool = AtomicBool::new(false);

/// Turns the lines on or off for the whole process.
pub(crate) fn enable(on: bool) {
    ENABLED.store(on, Ordering::Relaxed);
}

/// A stage that is under way; its line is written when it is dropped, also by an error.
#[must_use]
pub(crate) struct Stage {
    name: &'static str,
    since: Option<Instant>,
}

/// Begins a stage.
pub(crate) fn stage(name: &'static str) -> Stage {
    Stage {
        name,
        since: ENABLED.load(Ordering::Relaxed).then(Instant::now),
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if let Some(since) = self.since {
            let ms = format!("{:.2}", since.elapsed().as_secs_f64() * 1e3);
            tracing::info!(target: "cube::stage", stage = self.name, ms);
        }
    }
}
