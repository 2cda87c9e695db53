// SPDX-License-Identifier: Apache-2.0
//! From the guest's cgroup figures to containerd's `io.containerd.cgroups.v2.Metrics`.

use std::collections::HashMap;

use containerd_shim_protos::cgroups_v2::metrics::{
    CPUStat, IOEntry, IOStat, MemoryEvents, MemoryStat, Metrics, PidsStat,
};
use cube_runtime::Stats;
use protobuf::well_known_types::any::Any;
use protobuf::{Message, MessageFull};

/// Block devices reported at most: a guest has eight slots, and it is the guest that counts.
const MAX_DEVICES: usize = 64;

/// The message in its envelope.
pub fn encode(stats: &Stats) -> Any {
    let metrics = Metrics {
        pids: Some(pids(stats)).into(),
        cpu: Some(cpu(stats)).into(),
        memory: Some(memory(stats)).into(),
        io: Some(io(stats)).into(),
        memory_events: Some(events(stats)).into(),
        ..Default::default()
    };
    Any {
        type_url: Metrics::descriptor().full_name().to_owned(),
        value: metrics
            .write_to_bytes()
            .expect("a bounded message of numbers can be encoded"),
        ..Default::default()
    }
}

fn pids(stats: &Stats) -> PidsStat {
    PidsStat {
        current: stats.pids.current,
        limit: limit(stats.pids.max),
        ..Default::default()
    }
}

fn cpu(stats: &Stats) -> CPUStat {
    CPUStat {
        usage_usec: stats.cpu.usage_usec,
        user_usec: stats.cpu.user_usec,
        system_usec: stats.cpu.system_usec,
        nr_periods: stats.cpu.nr_periods,
        nr_throttled: stats.cpu.nr_throttled,
        throttled_usec: stats.cpu.throttled_usec,
        ..Default::default()
    }
}

/// The keys of `memory.stat` (cgroup-v2.rst, "Memory Interface Files").
fn memory(stats: &Stats) -> MemoryStat {
    let stat = |key| value(&stats.memory.stat, key);
    // Linux 5.9 split this key in two; the message has one.
    let refault = [
        "workingset_refault",
        "workingset_refault_anon",
        "workingset_refault_file",
    ];
    MemoryStat {
        anon: stat("anon"),
        file: stat("file"),
        kernel_stack: stat("kernel_stack"),
        slab: stat("slab"),
        sock: stat("sock"),
        shmem: stat("shmem"),
        file_mapped: stat("file_mapped"),
        file_dirty: stat("file_dirty"),
        file_writeback: stat("file_writeback"),
        anon_thp: stat("anon_thp"),
        inactive_anon: stat("inactive_anon"),
        active_anon: stat("active_anon"),
        inactive_file: stat("inactive_file"),
        active_file: stat("active_file"),
        unevictable: stat("unevictable"),
        slab_reclaimable: stat("slab_reclaimable"),
        slab_unreclaimable: stat("slab_unreclaimable"),
        pgfault: stat("pgfault"),
        pgmajfault: stat("pgmajfault"),
        workingset_refault: refault.map(stat).into_iter().fold(0, u64::saturating_add),
        workingset_activate: stat("workingset_activate"),
        workingset_nodereclaim: stat("workingset_nodereclaim"),
        pgrefill: stat("pgrefill"),
        pgscan: stat("pgscan"),
        pgsteal: stat("pgsteal"),
        pgactivate: stat("pgactivate"),
        pgdeactivate: stat("pgdeactivate"),
        pglazyfree: stat("pglazyfree"),
        pglazyfreed: stat("pglazyfreed"),
        thp_fault_alloc: stat("thp_fault_alloc"),
        thp_collapse_alloc: stat("thp_collapse_alloc"),
        usage: stats.memory.current,
        usage_limit: limit(stats.memory.max),
        swap_usage: stats.memory.swap_current,
        swap_limit: limit(stats.memory.swap_max),
        ..Default::default()
    }
}

fn events(stats: &Stats) -> MemoryEvents {
    let event = |key| value(&stats.memory.events, key);
    MemoryEvents {
        low: event("low"),
        high: event("high"),
        max: event("max"),
        oom: event("oom"),
        oom_kill: event("oom_kill"),
        oom_group_kill: event("oom_group_kill"),
        ..Default::default()
    }
}

fn io(stats: &Stats) -> IOStat {
    let entries = stats.io.iter().take(MAX_DEVICES).map(|entry| IOEntry {
        major: entry.major,
        minor: entry.minor,
        rbytes: entry.rbytes,
        wbytes: entry.wbytes,
        rios: entry.rios,
        wios: entry.wios,
        ..Default::default()
    });
    IOStat {
        usage: entries.collect(),
        ..Default::default()
    }
}

fn value(map: &HashMap<String, u64>, key: &str) -> u64 {
    map.get(key).copied().unwrap_or_default()
}

/// The guest says 0 where its kernel says `max`; containerd's own shims say the largest number.
fn limit(max: u64) -> u64 {
    match max {
        0 => u64::MAX,
        max => max,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_arrive_under_containerds_names() {
        let mut stats = Stats::default();
        stats.cpu.mut_or_insert_default().usage_usec = 5;
        stats.pids.mut_or_insert_default().current = 2;
        let memory = stats.memory.mut_or_insert_default();
        memory.current = 4096;
        memory.max = 8192;
        memory.stat.insert("anon".into(), 1024);
        memory.stat.insert("workingset_refault_anon".into(), 3);
        memory
            .stat
            .insert("workingset_refault_file".into(), u64::MAX);
        memory.events.insert("oom_kill".into(), 1);
        let any = encode(&stats);
        assert_eq!(any.type_url, "io.containerd.cgroups.v2.Metrics");
        let metrics = Metrics::parse_from_bytes(&any.value).unwrap();
        assert_eq!(metrics.cpu.usage_usec, 5);
        assert_eq!((metrics.pids.current, metrics.pids.limit), (2, u64::MAX));
        let memory = metrics.memory.unwrap();
        assert_eq!(
            (memory.usage, memory.usage_limit, memory.anon),
            (4096, 8192, 1024)
        );
        assert_eq!(memory.workingset_refault, u64::MAX);
        assert_eq!(metrics.memory_events.oom_kill, 1);
    }

    #[test]
    fn a_guest_that_reports_nothing_is_no_reason_to_fail() {
        let any = encode(&Stats::default());
        assert!(Metrics::parse_from_bytes(&any.value).is_ok());
    }
}
