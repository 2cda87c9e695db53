// SPDX-License-Identifier: Apache-2.0
//! PID 1 of the guest: sets up containers and runs their processes.
//!
//! ```text
//! host -- vsock --> transport -+- control: service -> agent -> container -+-> cgroup
//!                              |                                          +-> process -> stage
//!                              +- streams: process::streams               +-> rootfs, slots
//! ```
//! - [`guest`]: the machine: boot, identity, end. [`transport`], [`service`]: how the host reaches it.
//! - [`agent`], [`container`], [`process`]: what there is, one level each.
//! - [`oci`]: from a spec to a plan; [`stage`]: from a plan to a process, in the process itself.
//! - [`plane`]: jobs, files, watches: what others than containerd want of a container.
//! - [`network`]: interfaces in the place of a client's own.
//! - [`cgroup`], [`seccomp`]: limits of resources and of system calls. [`sys`]: the unsafe room.
//!
//! Not here: images, anything of the host. One thread; whatever may block for long has another.
//! The host is trusted, containers are not: whatever they control (paths, files, cgroups, bytes) is resolved
//! within their root and read within a bound. When the agent dies its kernel dies, and the machine with it.

pub mod agent;
pub mod cause;
pub mod cgroup;
pub mod container;
pub mod error;
pub mod guest;
pub mod log;
pub mod network;
pub mod oci;
pub mod phase;
pub mod plane;
pub mod ports;
pub mod process;
pub mod seccomp;
pub mod service;
pub mod stage;
pub mod sys;
pub mod transport;
