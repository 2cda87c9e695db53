// SPDX-License-Identifier: Apache-2.0
//! /dev/shm of a pod: Kubernetes mounts one directory of the host there in every container of a pod. A machine
//! holds one pod, so here it is one file system in memory of the machine.

use std::sync::{Arc, Mutex, PoisonError, Weak};

use thiserror::Error;

use super::Layout;
use super::tmpfs::Tmpfs;
use crate::cause::Cause;

/// As CRI makes it: 64 MiB, for everybody.
const FILE_SYSTEM: &std::ffi::CStr = c"size=65536k,mode=1777";

/// It is there from the first container that asks for it to the last.
#[derive(Debug, Default)]
pub struct SharedMemory(Mutex<Weak<Tmpfs>>);

impl SharedMemory {
    /// The one that others have already, or a new one.
    pub fn lend(&self, layout: &Layout) -> Result<Arc<Tmpfs>, SharedMemoryError> {
        let mut lent = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(tmpfs) = lent.upgrade() {
            return Ok(tmpfs);
        }
        let tmpfs = Tmpfs::mount(layout.shared_memory(), FILE_SYSTEM)
            .map_err(|error| SharedMemoryError(error.into()))?;
        let tmpfs = Arc::new(tmpfs);
        *lent = Arc::downgrade(&tmpfs);
        Ok(tmpfs)
    }
}

/// It cannot be made.
#[derive(Debug, Error)]
#[error("cannot mount the pod's shared memory")]
pub struct SharedMemoryError(#[source] Cause);
