// SPDX-License-Identifier: Apache-2.0
//! Containers on the kernel at hand, without a machine of their own: the agent as an ordinary process behind
//! a Unix socket, a disk image on a loop device in place of a slot. Needs root, cgroup v2 with controllers,
//! loop devices and a static busybox: the development VM has them (`dev/vm`). Elsewhere every test says in
//! one line what is missing and is skipped, unless `CUBE_REQUIRE_KVM=1` makes that a failure.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on should say where"
)]
#![allow(clippy::print_stderr, reason = "a skipped test says so")]

mod failures;
mod isolation;
mod life;
mod limits;
mod processes;
mod spec;
mod streams;
mod terminals;
mod world;
