// SPDX-License-Identifier: Apache-2.0
//! A container's counters, read from the files that the kernel keeps them in. A file of a controller that is
//! not there counts as zero, as its metrics would with any other runtime.

use std::collections::HashMap;
use std::path::Path;

use super::{Cgroup, CgroupError, pairs, read};

/// What one look at a cgroup gives.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Stats {
    /// cpu.stat.
    pub cpu: HashMap<String, u64>,
    /// memory.current.
    pub memory: u64,
    /// memory.max; 0: no limit.
    pub memory_max: u64,
    /// memory.swap.current.
    pub swap: u64,
    /// memory.swap.max; 0: no limit.
    pub swap_max: u64,
    /// memory.stat.
    pub memory_stat: HashMap<String, u64>,
    /// memory.events.
    pub memory_events: HashMap<String, u64>,
    /// pids.current.
    pub pids: u64,
    /// pids.max; 0: no limit.
    pub pids_max: u64,
    /// io.stat, per device.
    pub io: Vec<DeviceIo>,
}

/// A line of io.stat.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct DeviceIo {
    /// Of the block device.
    pub major: u64,
    /// Of the block device.
    pub minor: u64,
    /// rbytes, wbytes, rios, wios and what else the kernel counts.
    pub counters: HashMap<String, u64>,
}

impl Cgroup {
    /// Reads them all. Fails only if the cgroup is gone.
    pub fn stats(&self) -> Result<Stats, CgroupError> {
        // Every cgroup has cpu.stat, even without the controller.
        let cpu = table(&read(&self.path.join("cpu.stat"))?);
        Ok(gather(&self.path, cpu))
    }
}

fn gather(path: &Path, cpu: HashMap<String, u64>) -> Stats {
    let text = |file: &str| read(&path.join(file)).unwrap_or_default();
    let number = |file: &str| text(file).trim().parse().unwrap_or(0);
    Stats {
        cpu,
        memory: number("memory.current"),
        memory_max: number("memory.max"),
        swap: number("memory.swap.current"),
        swap_max: number("memory.swap.max"),
        memory_stat: table(&text("memory.stat")),
        memory_events: table(&text("memory.events")),
        pids: number("pids.current"),
        pids_max: number("pids.max"),
        io: text("io.stat").lines().filter_map(device).collect(),
    }
}

fn table(text: &str) -> HashMap<String, u64> {
    pairs(text)
        .filter_map(|(key, value)| Some((key.to_owned(), value.parse().ok()?)))
        .collect()
}

/// `254:0 rbytes=4096 wbytes=0 rios=1 wios=0 dbytes=0 dios=0`
fn device(line: &str) -> Option<DeviceIo> {
    let (numbers, counters) = line.split_once(' ')?;
    let (major, minor) = numbers.split_once(':')?;
    Some(DeviceIo {
        major: major.parse().ok()?,
        minor: minor.parse().ok()?,
        counters: counters
            .split(' ')
            .filter_map(|pair| pair.split_once('='))
            .filter_map(|(key, value)| Some((key.to_owned(), value.parse().ok()?)))
            .collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_become_numbers_and_max_no_limit() {
        let dir = tempfile::tempdir().unwrap();
        for (file, text) in [
            ("memory.current", "4096\n"),
            ("memory.max", "max\n"),
            ("pids.max", "7\n"),
            ("memory.stat", "anon 1\nfile 2\n"),
            (
                "io.stat",
                "254:0 rbytes=4096 wbytes=8 rios=1 wios=2 dbytes=0 dios=0\n8:1 \n",
            ),
        ] {
            std::fs::write(dir.path().join(file), text).unwrap();
        }
        let stats = gather(dir.path(), table("usage_usec 5\nuser_usec x\n"));
        assert_eq!(stats.cpu, HashMap::from([("usage_usec".to_owned(), 5)]));
        assert_eq!(
            (stats.memory, stats.memory_max, stats.pids_max),
            (4096, 0, 7)
        );
        assert_eq!(stats.memory_stat["file"], 2);
        assert_eq!(stats.io[0].counters["wios"], 2);
        assert_eq!((stats.io.len(), stats.io[1].major), (2, 8));
    }
}
