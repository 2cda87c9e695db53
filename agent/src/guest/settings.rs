// SPDX-License-Identifier: Apache-2.0
//! Settings of the kernel that make a machine start a container sooner, and cost its host less while it idles:
//! an idle machine should neither wake up nor write to memory that it shares with others of its template.

use std::fs;

/// File, value.
const SETTINGS: [(&str, &str); 8] = [
    // Modules, mounts, namespaces and cgroups wait for grace periods of the kernel's RCU, each some ticks
    // long. Expedited ones interrupt the other processors instead, of which there are few here
    // (Documentation/ABI/testing/sysfs-kernel-rcu, `rcu_expedited`).
    ("/sys/kernel/rcu_expedited", "1"),
    // Devices interrupt the processor that the agent runs on ([`super::processor`]), which then wakes no other
    // (Documentation/core-api/irq/irq-affinity.rst). Their drivers are loaded after this.
    ("/proc/irq/default_smp_affinity", "1"),
    // A huge page is two megabytes of the host's memory at the first byte written. A program that wants
    // them still gets them (Documentation/admin-guide/mm/transhuge.rst).
    ("/sys/kernel/mm/transparent_hugepage/enabled", "madvise"),
    // A timer on every processor, every four seconds, to find a lock-up that nobody would read about
    // (Documentation/admin-guide/lockup-watchdogs.rst). The host judges a machine by what its agent answers.
    ("/proc/sys/kernel/watchdog", "0"),
    // Folding per-processor counters of memory into those that are shown; once a second otherwise
    // (Documentation/admin-guide/sysctl/vm.rst, `stat_interval`).
    ("/proc/sys/vm/stat_interval", "30"),
    // Looking twice a second whether pages should be moved together for huge ones to come, and moving them
    // (ibid., `compaction_proactiveness`): each that moves is another page written to.
    ("/proc/sys/vm/compaction_proactiveness", "0"),
    // Asking neighbours that are kept fresh, of which there are none; every five seconds otherwise
    // (Documentation/networking/ip-sysctl.rst, `interval_probe_time_ms`).
    (
        "/proc/sys/net/ipv4/neigh/default/interval_probe_time_ms",
        "3600000",
    ),
    (
        "/proc/sys/net/ipv6/neigh/default/interval_probe_time_ms",
        "3600000",
    ),
];

/// Applies all of them. A kernel without one is a little slower or busier, and no worse.
pub fn apply() {
    for (file, value) in SETTINGS {
        if let Err(error) = fs::write(file, value) {
            tracing::warn!(file, %error, "a setting of the kernel stays as it is");
        }
    }
}
