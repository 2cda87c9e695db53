// SPDX-License-Identifier: Apache-2.0
//! Snapshots: sandboxes with their container running, in files.
//!
//! ```text
//! <snapshots>/                  0700, root, on the file system of the containers' disks, which can clone files
//!     <name>/                   a snapshot, whole and never written to again
//!         snapshot.json  state.bin  memory.bin  disk.img
//!     .base.<template>.bin      the memory of a template, for snapshots of its clones to be clones of
//!     .new.<name>.<pid>/        being made, or left by a program that was killed: then nobody has it locked
//! ```
//!
//! Memory, devices and disk are of one instant: the guest's processes stand, its processors too, and what
//! differs from the memory that the machine was restored from is written while they do; the disk is cloned. A memory
//! file is a clone of its parent with the differing pages written over, so each is restored by one mapping, and any
//! of them may be removed without harm to another.
//!
//! A sandbox that starts from a snapshot is a new one: its own name, network, clock and random numbers, all acknowledged
//! before its processes go on where they were.
//!
//! | file | what |
//! |---|---|
//! | `name` | what a snapshot may be called |
//! | `record` | `snapshot.json` |
//! | `store` | the directory: opening, listing, removing |
//! | `save` | from a sandbox to a snapshot |
//! | `clone` | files that share their blocks |

mod clone;
mod error;
mod name;
mod record;
mod save;
mod store;

pub use error::SnapshotError;
pub use name::SnapshotName;
pub use record::SnapshotRecord;
pub use store::Snapshots;

pub(crate) use clone::clone_over;
pub(crate) use record::ContainerRecord;
pub(crate) use save::{Origin, Source};
pub(crate) use store::Snapshot;

/// Names of the files of a snapshot.
const RECORD: &str = "snapshot.json";
const STATE: &str = "state.bin";
const MEMORY: &str = "memory.bin";
const DISK: &str = "disk.img";
