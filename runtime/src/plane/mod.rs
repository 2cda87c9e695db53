// SPDX-License-Identifier: Apache-2.0
//! A sandbox's agent as somebody beside its shim sees it: jobs, files, watches, users and figures of a
//! container, for any image.
//!
//! ```text
//! the sandbox's directory --Plane::open--> Plane --> start, attach --> JobOutput
//!                                            |-----> read, write, list --> FileReader, FileWriter, Listing
//!                                            |-----> watch --> Watch
//!                                            \-----> short calls
//! ```
//!
//! A plane claims nothing and owns nothing: it can come and go at any time, several at once, and the machine
//! and its jobs go on. Short calls share one connection, which is dialled anew when it is lost; whatever
//! moves bytes has a connection of its own and ends with it. The E2B bridge is the caller.
//!
//! As everywhere, the guest is an adversary: frames, lists and texts that come from it are bounded.

mod channel;
mod connection;
mod error;
mod files;
mod jobs;
mod machine;
mod place;
mod watch;

use std::path::Path;
use std::sync::Arc;

pub use error::{Fault, PlaneError};
pub use files::{FileReader, FileWriter, Listing};
pub use jobs::{Job, JobEnd, JobEvent, JobOutput, JobRef, StartJob, TerminalSize};
pub use machine::{Metrics, User};
pub use place::{Entry, EntryKind, Place};
pub use watch::{Watch, WatchEvent, WatchKind};

use connection::Connection;

/// The way to one container of a sandbox that runs. Clones share a connection.
#[derive(Clone, Debug)]
pub struct Plane {
    connection: Arc<Connection>,
    container: Arc<str>,
}

impl Plane {
    /// Opens a container of the sandbox in this directory ([`crate::Layout::path`]): dials its agent and
    /// checks that it speaks our protocol. Whether there is such a container is told by the first call.
    pub async fn open(dir: &Path, container: &str) -> Result<Self, PlaneError> {
        let connection = Connection::open(dir).await?;
        Ok(Self {
            connection: Arc::new(connection),
            container: container.into(),
        })
    }

    fn container_id(&self) -> String {
        self.container.as_ref().to_owned()
    }
}

#[cfg(test)]
mod tests;
