// SPDX-License-Identifier: Apache-2.0
//! The waist of Cube: one sandbox, its microVM, its containers and processes.
//!
//! Doors (the containerd shim; later the E2B bridge) translate into [`Sandbox`] and do nothing else;
//! below it are the VMM's control socket and the guest agent's ttrpc service. This crate emulates no
//! hardware, speaks no containerd API and owns no long-lived daemon: everything that must survive
//! its process is in the files of [`layout`].
//!
//! ```text
//! Config, SandboxSpec --> Sandbox::create --> create_container --> create_process --> Process::start
//!                            |                     |                    |                 |
//!                  layout, cgroup, vmm,       rootfs, slots,         stream          wait, signal,
//!                  guest (greet, claim)          hooks                               resize, delete
//! ```
//!
//! | module | what |
//! |---|---|
//! | [`config`] | the configuration file |
//! | [`layout`] | the directory of each sandbox and what is in it |
//! | [`spec`] | from an OCI spec to the size and identity of a machine |
//! | [`sandbox`] | the waist itself |
//! | [`container`] | one container of a sandbox |
//! | [`process`] | one process: streams, signals, exit |
//! | [`plane`] | a container beside its shim: jobs, files, watches |
//! | [`template`] | the booted guests on disk that sandboxes are restored from |
//! | [`rootfs`] | from containerd's mounts to a disk for a block slot |
//! | [`mod@reap`] | removing a sandbox from its files alone |
//! | [`doctor`] | what the host can and cannot do |

mod cgroup;
pub mod config;
pub mod container;
pub mod doctor;
pub mod error;
pub mod exit;
mod footprint;
mod guest;
mod guest_text;
mod hooks;
mod host_files;
mod image;
mod launch;
pub mod layout;
mod network;
pub mod plane;
pub mod ports;
pub mod process;
pub mod reap;
mod resolv_conf;
pub mod rootfs;
pub mod sandbox;
mod slots;
pub mod snapshot;
pub mod spec;
pub mod template;
mod trace;
mod vmm;
mod vsock;

pub use cgroup::CgroupError;
pub use config::Config;
pub use container::{ContainerError, ContainerSpec};
pub use cube_net::policy::{Policy, PolicyError, Verdict};
pub use error::Kind;
pub use exit::VmmExit;
pub use guest::{ClaimError, GuestError, StreamError};
pub use hooks::HookError;
pub use image::ImageError;
pub use layout::{Layout, SandboxKey};
pub use network::{NameServer, NameServerError, NetworkError, UndoError};
pub use plane::{Plane, PlaneError};
pub use ports::PortError;
pub use process::{Command, Exit, Process, SpawnError, StartError};
pub use reap::reap;
pub use rootfs::RootfsMount;
pub use sandbox::{CreateError, DestroyError, GuestPid, Sandbox, Stats};
pub use snapshot::{SnapshotError, SnapshotName, SnapshotRecord, Snapshots};
pub use spec::{OciSpec, SandboxSpec, SpecError, StartFrom};
pub use vmm::VmmError;
pub use vsock::DialError;
