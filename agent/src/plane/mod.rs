// SPDX-License-Identifier: Apache-2.0
//! What people and programs outside want of a container, for any image: jobs, files, watches, users, figures.
//!
//! ```text
//! control port --> service --+--> jobs -> job          ports' opening --> channel --+--> start (job)
//!                            +--> files, ensure, metrics                            +--> transfer, listing, watch
//!                                    \----------- visit -> view -> the container's tree ----------/
//! ```
//! - [`service`], [`channel`]: short calls, and connections that move bytes. [`fault`]: how either fails.
//! - [`job`], [`jobs`], [`start`]: processes that outlive whoever started them.
//! - [`visit`], [`view`], [`accounts`], [`entry`]: a container's tree, its users, what is at a path.
//! - [`files`], [`transfer`], [`listing`], [`watch`], [`ensure`], [`metrics`]: what is done there.
//!
//! Not here: containers themselves, whose processes and trees this uses; HTTP, names and rights of clients,
//! which are the host's. Everything is done as root, because the host decides who may ask.

pub mod accounts;
pub mod channel;
pub mod ensure;
pub mod entry;
pub mod fault;
pub mod files;
pub mod job;
pub mod jobs;
pub mod listing;
pub mod metrics;
pub mod service;
pub mod start;
pub mod transfer;
pub mod view;
pub mod visit;
pub mod watch;

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

pub use jobs::Jobs;
pub use view::View;
pub use visit::{Visit, Visitors};

use fault::PlaneFault;
use metrics::Processors;

/// Connections that move bytes at once. Each costs a buffer or two of up to 128 KiB while it is busy.
const MAX_CHANNELS: usize = 1024;

/// What the plane has of its own, besides containers.
#[derive(Debug)]
pub struct Plane {
    channels: Arc<Semaphore>,
    processors: Processors,
}

impl Default for Plane {
    fn default() -> Self {
        Self {
            channels: Arc::new(Semaphore::new(MAX_CHANNELS)),
            processors: Processors::default(),
        }
    }
}

impl Plane {
    /// How busy they are.
    pub fn processors(&self) -> &Processors {
        &self.processors
    }

    /// A place for one more connection, until it is dropped.
    pub fn take_place(&self) -> Result<OwnedSemaphorePermit, PlaneFault> {
        let place = Arc::clone(&self.channels).try_acquire_owned();
        place.map_err(|_| PlaneFault::TooMany {
            what: "connections at once",
            most: MAX_CHANNELS,
        })
    }
}

#[cfg(test)]
mod tests;
