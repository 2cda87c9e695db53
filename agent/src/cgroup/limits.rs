// SPDX-License-Identifier: Apache-2.0
//! From `linux.resources`, which speaks cgroup v1, to the files of cgroup v2, with runc's conversions.
//! An absent or zero field leaves its file alone, as clients that always send every field expect.
//! What v2 or a guest cannot do is an error, never silence.

use thiserror::Error;

use super::Setting;
use crate::oci::{BlockIo, Cpu, HugepageLimit, Memory, Pids, Resources};

/// A limit that cannot be set here.
#[derive(Debug, Error, PartialEq)]
pub enum LimitError {
    /// There is no such thing in a guest or in cgroup v2.
    #[error("linux.resources.{field} is not supported")]
    Unsupported {
        /// Below `linux.resources`.
        field: &'static str,
    },
    /// The values contradict each other or are out of range.
    #[error("linux.resources.{field}: {reason}")]
    Invalid {
        /// Below `linux.resources`.
        field: &'static str,
        /// Why.
        reason: String,
    },
}

/// Which file gets which value, in the order in which to write them.
pub fn settings(resources: &Resources) -> Result<Vec<Setting>, LimitError> {
    let mut out = Settings(Vec::new());
    if let Some(cpu) = &resources.cpu {
        out.cpu(cpu)?;
    }
    if let Some(memory) = &resources.memory {
        out.memory(memory)?;
    }
    if let Some(pids) = &resources.pids {
        out.pids(pids);
    }
    if let Some(block_io) = &resources.block_io {
        out.block_io(block_io)?;
    }
    for limit in &resources.hugepage_limits {
        out.hugepages(limit)?;
    }
    if !resources.rdma.is_empty() {
        return Err(LimitError::Unsupported { field: "rdma" });
    }
    if let Some(network) = &resources.network
        && (network.class_id.unwrap_or(0) != 0 || !network.priorities.is_empty())
    {
        return Err(LimitError::Unsupported { field: "network" });
    }
    for (file, value) in &resources.unified {
        if file.is_empty() || file.contains('/') || file.starts_with("cgroup.") {
            return Err(LimitError::Invalid {
                field: "unified",
                reason: format!("{file:?} is not a limit"),
            });
        }
        out.set(file, value);
    }
    Ok(out.0)
}

struct Settings(Vec<Setting>);

impl Settings {
    fn set(&mut self, file: &str, value: impl ToString) {
        self.0.push(Setting {
            file: file.to_owned(),
            value: value.to_string(),
        });
    }

    fn cpu(&mut self, cpu: &Cpu) -> Result<(), LimitError> {
        if cpu.realtime_runtime.unwrap_or(0) != 0 || cpu.realtime_period.unwrap_or(0) != 0 {
            return Err(LimitError::Unsupported {
                field: "cpu.realtimeRuntime",
            });
        }
        if let Some(idle) = cpu.idle {
            self.set("cpu.idle", idle);
        }
        let shares = cpu.shares.filter(|shares| *shares != 0);
        // An idle cgroup has no weight.
        if let Some(shares) = shares
            && cpu.idle != Some(1)
        {
            self.set("cpu.weight", weight_of(shares));
        }
        let quota = cpu.quota.filter(|quota| *quota != 0);
        let period = cpu.period.filter(|period| *period != 0);
        if quota.is_some() || period.is_some() {
            let quota = match quota {
                Some(quota @ 1..) => quota.to_string(),
                _ => "max".to_owned(),
            };
            // The kernel's default period, which it does not let one leave out together with "max".
            self.set("cpu.max", format!("{quota} {}", period.unwrap_or(100_000)));
        }
        if let Some(burst) = cpu.burst {
            self.set("cpu.max.burst", burst);
        }
        if !cpu.cpus.is_empty() {
            self.set("cpuset.cpus", &cpu.cpus);
        }
        if !cpu.mems.is_empty() {
            self.set("cpuset.mems", &cpu.mems);
        }
        Ok(())
    }

    fn memory(&mut self, memory: &Memory) -> Result<(), LimitError> {
        if memory.disable_oom_killer == Some(true) {
            return Err(LimitError::Unsupported {
                field: "memory.disableOOMKiller",
            });
        }
        let limit = memory.limit.unwrap_or(0);
        if let Some(swap) = swap_max(limit, memory.swap.unwrap_or(0))? {
            self.set("memory.swap.max", swap);
        }
        if limit != 0 {
            self.set("memory.max", number_or_max(limit));
        }
        match memory.reservation {
            None | Some(0) => {}
            Some(reservation) => self.set("memory.low", number_or_max(reservation)),
        }
        Ok(())
    }

    fn pids(&mut self, pids: &Pids) {
        match pids.limit {
            None | Some(0) => {}
            Some(limit) => self.set("pids.max", number_or_max(limit)),
        }
    }

    fn block_io(&mut self, block_io: &BlockIo) -> Result<(), LimitError> {
        let devices = [
            &block_io.weight_device,
            &block_io.throttle_read_bps_device,
            &block_io.throttle_write_bps_device,
            &block_io.throttle_read_iops_device,
            &block_io.throttle_write_iops_device,
        ];
        // They name devices of the host.
        if devices.iter().any(|list| !list.is_empty()) {
            return Err(LimitError::Unsupported {
                field: "blockIO: limits per device",
            });
        }
        if block_io.weight.unwrap_or(0) != 0 {
            return Err(LimitError::Unsupported {
                field: "blockIO.weight",
            });
        }
        Ok(())
    }

    fn hugepages(&mut self, limit: &HugepageLimit) -> Result<(), LimitError> {
        let is_size = limit.page_size.ends_with("KB")
            || limit.page_size.ends_with("MB")
            || limit.page_size.ends_with("GB");
        if !is_size || !limit.page_size.chars().all(|c| c.is_ascii_alphanumeric()) {
            return Err(LimitError::Invalid {
                field: "hugepageLimits",
                reason: format!("{:?} is not a page size", limit.page_size),
            });
        }
        self.set(&format!("hugetlb.{}.max", limit.page_size), limit.limit);
        Ok(())
    }
}

/// From 2..=262144 with the default 1024 to 1..=10000 with the default 100 (runc,
/// `ConvertCPUSharesToCgroupV2Value`, before its 2025 change).
fn weight_of(shares: u64) -> u64 {
    let shares = shares.clamp(2, 262_144);
    1 + ((shares - 2) * 9999) / 262_142
}

/// v1's swap limit counts memory and swap together, v2's swap alone.
fn swap_max(limit: i64, swap: i64) -> Result<Option<String>, LimitError> {
    let invalid = |reason: &str| LimitError::Invalid {
        field: "memory.swap",
        reason: reason.to_owned(),
    };
    match (limit, swap) {
        // Memory without limit and nothing said about swap: runc lifts that limit too.
        (-1, 0) => Ok(Some("max".to_owned())),
        (_, 0) => Ok(None),
        (_, ..0) => Ok(Some("max".to_owned())),
        (..=0, _) => Err(invalid("a limit of swap needs a limit of memory")),
        (limit, swap) if swap < limit => Err(invalid("it is below the limit of memory")),
        (limit, swap) => Ok(Some((swap - limit).to_string())),
    }
}

fn number_or_max(limit: i64) -> String {
    if limit < 0 {
        "max".to_owned()
    } else {
        limit.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(json: &str, expected: &[(&str, &str)]) {
        let resources = serde_json::from_str(json).unwrap();
        let settings = settings(&resources).unwrap();
        let pairs: Vec<_> = settings
            .iter()
            .map(|setting| (setting.file.as_str(), setting.value.as_str()))
            .collect();
        assert_eq!(pairs, expected, "{json}");
    }

    #[test]
    fn limits_become_files() {
        check(r#"{"cpu":{"shares":1024}}"#, &[("cpu.weight", "39")]);
        check(r#"{"cpu":{"shares":2}}"#, &[("cpu.weight", "1")]);
        check(r#"{"cpu":{"shares":262144}}"#, &[("cpu.weight", "10000")]);
        check(
            r#"{"cpu":{"quota":50000,"period":200000,"cpus":"0-1"}}"#,
            &[("cpu.max", "50000 200000"), ("cpuset.cpus", "0-1")],
        );
        check(r#"{"cpu":{"quota":-1}}"#, &[("cpu.max", "max 100000")]);
        check(
            r#"{"memory":{"limit":1000,"swap":1500,"reservation":10}}"#,
            &[
                ("memory.swap.max", "500"),
                ("memory.max", "1000"),
                ("memory.low", "10"),
            ],
        );
        check(
            r#"{"memory":{"limit":-1}}"#,
            &[("memory.swap.max", "max"), ("memory.max", "max")],
        );
        check(r#"{"pids":{"limit":-1}}"#, &[("pids.max", "max")]);
        check(
            r#"{"unified":{"memory.high":"10M"},"hugepageLimits":[{"pageSize":"2MB","limit":0}]}"#,
            &[("hugetlb.2MB.max", "0"), ("memory.high", "10M")],
        );
    }

    #[test]
    fn what_clients_send_without_meaning_it_sets_nothing() {
        check(
            r#"{"devices":[{"allow":false,"access":"rwm"}],"memory":{"limit":0,"swap":0,"disableOOMKiller":false},
                "cpu":{"shares":0,"quota":0,"period":0,"realtimeRuntime":0},"pids":{"limit":0},
                "blockIO":{"weight":0,"weightDevice":null},"network":{}}"#,
            &[],
        );
    }

    #[test]
    fn what_cannot_be_done_is_an_error() {
        for json in [
            r#"{"memory":{"disableOOMKiller":true}}"#,
            r#"{"memory":{"limit":10,"swap":5}}"#,
            r#"{"memory":{"swap":5}}"#,
            r#"{"cpu":{"realtimePeriod":5}}"#,
            r#"{"blockIO":{"weight":100}}"#,
            r#"{"blockIO":{"throttleReadBpsDevice":[{}]}}"#,
            r#"{"rdma":{"mlx":{}}}"#,
            r#"{"network":{"classID":7}}"#,
            r#"{"unified":{"../memory.max":"1"}}"#,
            r#"{"unified":{"cgroup.procs":"1"}}"#,
            r#"{"hugepageLimits":[{"pageSize":"../x","limit":1}]}"#,
        ] {
            let resources = serde_json::from_str(json).unwrap();
            assert!(settings(&resources).is_err(), "{json}");
        }
    }
}
