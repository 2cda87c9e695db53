// SPDX-License-Identifier: Apache-2.0
//! The snapshotter against real file systems, real kills and a real containerd.
//!
//! They need root and loop devices. A host without says so in one line for each test and skips it.
//! Every test has a directory, mounts and processes of its own, so they run beside each other and
//! beside a second run of the same.

#![allow(
    clippy::expect_used,
    clippy::print_stderr,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "all of it is test code, helpers included"
)]

mod containerd;
mod crash;
mod full;
mod host;
mod instances;
mod latency;
mod model;
mod pool;
mod power;
mod semantics;
mod world;
