// SPDX-License-Identifier: Apache-2.0
//! Where the agent runs: on the first processor, where the interrupts of devices arrive ([`super::settings`]).
//!
//! The agent and a stage take turns. Spread over two processors, each turn interrupts one that sleeps, which
//! is two exits of a virtual machine; and in a restored machine every processor that runs touches its own
//! part of the kernel's memory. User programs run wherever they like.

use rustix::thread::{CpuSet, sched_setaffinity};

/// Keeps the agent to one processor, and with it what it starts.
pub fn keep_to_one() {
    let mut first = CpuSet::new();
    first.set(0);
    if let Err(errno) = sched_setaffinity(None, &first) {
        tracing::warn!(%errno, "the agent runs on any processor");
    }
}

/// Lets this process use all processors: those of its cgroup, as the kernel cuts the set down to them
/// (cpuset(7)).
pub fn use_all() -> rustix::io::Result<()> {
    let mut all = CpuSet::new();
    (0..CpuSet::MAX_CPU).for_each(|processor| all.set(processor));
    sched_setaffinity(None, &all)
}
