// SPDX-License-Identifier: Apache-2.0
//! A containerd snapshotter in which every snapshot is one ext4 image file, cloned by reflink.
//!
//! ```text
//! containerd --gRPC--> service --> Snapshotter --> catalog (redb: keys, parents, kinds, labels)
//!                                      |
//!                                      +--------> images  (<root>/store/images/<id>.img)
//!                                                    on XFS or Btrfs: storage, pool
//! ```
//!
//! containerd mounts the images on the host to unpack layers into them; the shim hands them to a
//! microVM as disks. Start reading in `snapshotter`; `reconcile` is what a crash is survived by.
//!
//! It is *not* a runtime: it never mounts an image and knows no container. It never copies an image
//! either: without a file system that clones, it makes one (`pool`) or refuses to start.

pub mod args;
pub mod catalog;
pub mod daemon;
pub mod filter;
pub mod record;
pub mod size;
pub mod snapshotter;
pub mod storage;
pub mod wire;

mod error;
mod ext4;
mod flush;
mod images;
mod lock;
mod pool;
mod reconcile;
mod service;
mod socket;
mod status;
mod tool;
mod young;

pub use error::{SnapshotError, chain};
pub use ext4::MakeError;
pub use images::{ImageError, OpenError as ImagesError, Usage};
pub use lock::LockError;
pub use pool::PoolError;
pub use reconcile::ReconcileError;
pub use service::Service;
pub use snapshotter::Snapshotter;
pub use socket::SocketError;
pub use tool::ToolError;
