// SPDX-License-Identifier: Apache-2.0
//! What is used of a machine, and of a container's disk and memory.

use std::fs;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use cube_protocol::v1::plane as wire;
use rustix::fs::{OFlags, fstatvfs};

use super::fault::PlaneFault;
use super::view::View;
use crate::cgroup::Stats;

/// How long processors are watched for one figure, at least: many ticks of the kernel's accounting.
const INTERVAL: Duration = Duration::from_millis(500);

/// Time of all processors together, in ticks since the boot.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Ticks {
    busy: u64,
    all: u64,
}

/// How busy the processors were between two questions.
#[derive(Debug, Default)]
pub struct Processors(Mutex<Option<Sample>>);

#[derive(Clone, Copy, Debug)]
struct Sample {
    at: Instant,
    ticks: Ticks,
    percent: f64,
}

impl Processors {
    /// In percent of all of them, since somebody asked last; the first time, since the boot. Nobody waits.
    pub fn percent(&self) -> Result<f64, PlaneFault> {
        Ok(self.percent_at(Instant::now(), Ticks::now()?))
    }

    fn percent_at(&self, at: Instant, ticks: Ticks) -> f64 {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let before = match *last {
            // Too soon for a figure of its own.
            Some(sample) if at.saturating_duration_since(sample.at) < INTERVAL => {
                return sample.percent;
            }
            Some(sample) => sample.ticks,
            None => Ticks::default(),
        };
        let percent = ticks.percent_since(before);
        *last = Some(Sample { at, ticks, percent });
        percent
    }
}

/// Everything else.
pub fn gather(view: &View, stats: &Stats) -> Result<wire::MetricsResponse, PlaneFault> {
    let mut metrics = wire::MetricsResponse::new();
    let processors = std::thread::available_parallelism();
    metrics.cpu_count = online().unwrap_or_else(|| {
        processors.map_or(1, |count| u32::try_from(count.get()).unwrap_or(u32::MAX))
    });
    let memory = read("/proc/meminfo")?;
    let machine = Memory::of_machine(&memory);
    let memory = machine.within(stats);
    metrics.memory_total = memory.total;
    metrics.memory_used = memory.used;
    metrics.memory_cache = memory.cache;
    let root = Path::new("/");
    let failed = |error| PlaneFault::file("look at", root)(error);
    let fd = view.root.find(root, OFlags::PATH).map_err(failed)?;
    let disk = fstatvfs(fd).map_err(|errno| failed(errno.into()))?;
    metrics.disk_total = disk.f_blocks.saturating_mul(disk.f_frsize);
    metrics.disk_used = (disk.f_blocks.saturating_sub(disk.f_bfree)).saturating_mul(disk.f_frsize);
    Ok(metrics)
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Memory {
    total: u64,
    used: u64,
    cache: u64,
}

impl Memory {
    /// From /proc/meminfo.
    fn of_machine(meminfo: &str) -> Self {
        let bytes = |key: &str| {
            let line = meminfo.lines().find_map(|line| line.strip_prefix(key));
            let number = line.and_then(|line| line.split_ascii_whitespace().next());
            number.and_then(|n| n.parse::<u64>().ok()).unwrap_or(0) * 1024
        };
        let total = bytes("MemTotal:");
        Self {
            total,
            used: total.saturating_sub(bytes("MemAvailable:")),
            cache: bytes("Cached:") + bytes("Buffers:"),
        }
    }

    /// The container's own figures, where it has less than the machine.
    fn within(self, stats: &Stats) -> Self {
        if stats.memory_max == 0 || stats.memory_max >= self.total {
            return self;
        }
        let cache = stats.memory_stat.get("file").copied().unwrap_or(0);
        Self {
            total: stats.memory_max,
            used: stats.memory.saturating_sub(cache),
            cache,
        }
    }
}

impl Ticks {
    fn now() -> Result<Self, PlaneFault> {
        Ok(Self::of(&read("/proc/stat")?))
    }

    /// From the first line of /proc/stat: user nice system idle iowait irq softirq steal (proc_stat(5)).
    fn of(stat: &str) -> Self {
        let line = stat.lines().next().unwrap_or_default();
        let numbers = line.split_ascii_whitespace().skip(1).take(8);
        let ticks: Vec<u64> = numbers.filter_map(|n| n.parse().ok()).collect();
        let all: u64 = ticks.iter().sum();
        let idle: u64 = ticks.iter().skip(3).take(2).sum();
        Self {
            busy: all - idle,
            all,
        }
    }

    fn percent_since(self, before: Self) -> f64 {
        let all = self.all.saturating_sub(before.all);
        let busy = self.busy.saturating_sub(before.busy);
        // A share of thousands is exact enough, and an integer that every float holds.
        let mille = busy.saturating_mul(1000).checked_div(all).unwrap_or(0);
        f64::from(u32::try_from(mille).unwrap_or(1000)) / 10.0
    }
}

/// Processors of the machine; the agent itself is kept to one of them.
fn online() -> Option<u32> {
    let list = fs::read_to_string("/sys/devices/system/cpu/online").ok()?;
    count(&list)
}

/// Of a list such as `0-3,5`.
fn count(list: &str) -> Option<u32> {
    let mut count = 0;
    for range in list.trim().split(',') {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last): (u32, u32) = (first.parse().ok()?, last.parse().ok()?);
        count += last.checked_sub(first)? + 1;
    }
    Some(count)
}

fn read(path: &'static str) -> Result<String, PlaneFault> {
    fs::read_to_string(path).map_err(PlaneFault::file("read", Path::new(path)))
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    #[test]
    fn processors_are_busy_for_what_is_neither_idle_nor_waiting() {
        let before = Ticks::of("cpu  10 0 10 80 0 0 0 0 9 9\ncpu0 1 1");
        let after = Ticks::of("cpu  20 0 15 95 10 5 5 0 9 9\n");
        assert_eq!((before.busy, before.all), (20, 100));
        assert_eq!(after.percent_since(before), 50.0);
        assert_eq!(before.percent_since(before), 0.0);
        assert_eq!(Ticks::of(""), Ticks::default());
    }

    #[test]
    fn a_figure_is_of_the_time_since_the_last_one_unless_that_was_just_now() {
        let processors = Processors::default();
        let start = Instant::now();
        let ask = |ms, busy, all| {
            processors.percent_at(start + Duration::from_millis(ms), Ticks { busy, all })
        };
        assert_eq!(ask(0, 10, 100), 10.0);
        assert_eq!(ask(499, 100, 200), 10.0);
        assert_eq!(ask(500, 100, 200), 90.0);
        assert_eq!(ask(1500, 100, 300), 0.0);
    }

    #[test]
    fn processors_are_counted_in_ranges() {
        for (list, expected) in [
            ("0-3,5\n", Some(5)),
            ("0", Some(1)),
            ("3-1", None),
            ("", None),
        ] {
            assert_eq!(count(list), expected, "{list:?}");
        }
    }

    #[test]
    fn memory_is_the_containers_where_that_is_less() {
        let machine = Memory::of_machine(
            "MemTotal: 1000 kB\nMemAvailable: 600 kB\nBuffers: 1 kB\nCached: 99 kB\n",
        );
        assert_eq!(machine.used, 400 * 1024);
        assert_eq!(machine.cache, 100 * 1024);
        let mut stats = Stats {
            memory: 500,
            memory_stat: HashMap::from([("file".to_owned(), 200)]),
            ..Stats::default()
        };
        assert_eq!(machine.within(&stats), machine);
        stats.memory_max = 800;
        let limited = machine.within(&stats);
        assert_eq!(
            (limited.total, limited.used, limited.cache),
            (800, 300, 200)
        );
    }
}
