// SPDX-License-Identifier: Apache-2.0
//! A block slot, saved and restored.
//!
//! The file is not part of the state, only what the guest has seen of it. A slot that had a disk
//! waits for it: until it is attached its size stays what the guest knows, and every request that
//! needs the disk fails with an I/O error, a flush included, because what the guest wants on the
//! medium is in a file that is not here. Requests that were in the queue when it was saved come
//! as soon as the transport is polled, so the disk is to be attached before.

use serde::{Deserialize, Serialize};

use super::disk::Disk;
use super::{AttachError, Block};

/// What is saved of a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockState {
    /// The disk in it.
    pub disk: Option<DiskState>,
}

/// What the guest has seen of a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskState {
    /// Its capacity, in sectors of 512 bytes.
    pub sectors: u64,
    /// Whether writes are refused.
    pub read_only: bool,
}

impl Block {
    /// A stopped slot that goes on where `state` was saved, without its disk.
    pub fn restore(slot: u8, state: &BlockState) -> Self {
        let mut block = Self::new(slot);
        block.awaited = state.disk;
        block
    }

    pub(super) fn to_state(&self) -> BlockState {
        BlockState { disk: self.seen() }
    }

    /// The disk as the guest sees it, here or not.
    pub(super) fn seen(&self) -> Option<DiskState> {
        self.disk.as_ref().map(DiskState::of).or(self.awaited)
    }
}

impl DiskState {
    fn of(disk: &Disk) -> Self {
        Self {
            sectors: disk.sectors(),
            read_only: disk.is_read_only(),
        }
    }

    /// Whether `disk` can be the one that was saved.
    pub(super) fn check(self, slot: u8, disk: &Disk) -> Result<(), AttachError> {
        let have = Self::of(disk);
        if have == self {
            return Ok(());
        }
        Err(AttachError::Different {
            slot,
            want: self.sectors,
            want_read_only: self.read_only,
            have: have.sectors,
            have_read_only: have.read_only,
        })
    }
}
