// SPDX-License-Identifier: Apache-2.0
//! `cube bench idle`: what containers cost that do nothing.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use serde::Serialize;
use tokio::time::sleep;

use super::Taken;
use super::lab::{Lab, Side};
use super::memory::{self, Footprint};
use super::options::Idle;
use super::progress::Progress;
use super::report::{Costs, Extra};
use super::samples::{Series, Stopwatch};

/// What the kernel frees a little later than it says.
const SETTLE: Duration = Duration::from_secs(3);

/// Host memory of one idle container.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Cost {
    /// All of it. Less than nothing is possible where something else gave memory back meanwhile.
    pub bytes_per_sandbox: i64,
    /// Where it is.
    pub split: Split,
}

/// The parts of a cost, in bytes for each container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Split {
    /// The shim's proportional set size.
    pub shim: i64,
    /// The VMM's, without the guest's memory.
    pub vmm: i64,
    /// What of the guest's memory the guest wrote to.
    pub guest: i64,
    /// The rest: page tables, KVM's structures, sockets, cgroups. Below zero where programs are large: their
    /// files' pages are in a set size, and are available all the same.
    pub kernel: i64,
}

/// A cost at one time after the last start.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CostAt {
    /// When.
    pub after_s: u64,
    /// How much.
    #[serde(flatten)]
    pub cost: Cost,
}

/// One side after the other: two at once would be in each other's figures.
pub async fn measure(lab: &Lab, sides: &[Side], options: &Idle) -> anyhow::Result<Vec<Taken>> {
    let mut progress = Progress::new("idle");
    let mut taken = Vec::new();
    for side in sides {
        taken.push(one_side(lab, side, options, &mut progress).await?);
    }
    Ok(taken)
}

async fn one_side(
    lab: &Lab,
    side: &Side,
    options: &Idle,
    progress: &mut Progress,
) -> anyhow::Result<Taken> {
    let n = options.size.get();
    let mut series = Series::default();
    lab.warm_up(side, &mut series).await?;
    sleep(SETTLE).await;
    let before = memory::available()?;
    let (mut ids, mut pids) = (Vec::new(), Vec::new());
    for number in 1..=n {
        let mut watch = Stopwatch::start();
        match lab.sleeper(side, &mut watch).await {
            Ok(created) => {
                ids.push(created.id);
                pids.push(created.pid);
                let ms = watch.elapsed_ms();
                series.samples.push(watch.sample(ms));
            }
            Err(error) => series.failures.push(format!("{error:#}")),
        }
        progress.tick(|| format!("{} {number} of {n}", side.runtime));
    }
    let costs = look(before, &pids, &options.after, progress).await;
    match lab.remove_all(ids).await.into_iter().next() {
        Some(left) => Err(left),
        None => Ok((series, Costs::new(costs?).map(Extra::Idle))),
    }
}

/// At each of these times after the last start, which was just now.
async fn look(
    before: u64,
    pids: &[u32],
    after_s: &[u64],
    progress: &mut Progress,
) -> anyhow::Result<Vec<CostAt>> {
    let last_start = Instant::now();
    let mut after_s = after_s.to_vec();
    after_s.sort_unstable();
    let mut costs = Vec::new();
    for after_s in after_s {
        while last_start.elapsed() < Duration::from_secs(after_s) {
            let left = Duration::from_secs(after_s).saturating_sub(last_start.elapsed());
            sleep(left.min(Duration::from_secs(1))).await;
            progress.tick(|| format!("idle until {after_s} s after the last start"));
        }
        // The available memory first: looking at processes takes time and memory.
        let fell = bytes(before) - bytes(memory::available()?);
        if let Some(cost) = cost(fell, &footprints(pids)?) {
            costs.push(CostAt { after_s, cost });
        }
    }
    Ok(costs)
}

/// Shim and VMM of each container: containerd knows the VMM's process, and the shim is its parent.
fn footprints(pids: &[u32]) -> anyhow::Result<Vec<(Footprint, Footprint)>> {
    let of = |pid: &u32| {
        let shim = Footprint::of_process(memory::parent(*pid)?)?;
        Ok((shim, Footprint::of_process(*pid)?))
    };
    let footprints: std::io::Result<Vec<_>> = pids.iter().map(of).collect();
    footprints.context("cannot look at the processes of the containers")
}

fn cost(fell: i64, footprints: &[(Footprint, Footprint)]) -> Option<Cost> {
    let n = i64::try_from(footprints.len()).ok().filter(|n| *n > 0)?;
    let sum = |of: fn(&(Footprint, Footprint)) -> u64| bytes(footprints.iter().map(of).sum());
    let shim = sum(|(shim, _)| shim.own_pss);
    let vmm = sum(|(_, vmm)| vmm.own_pss);
    let guest = sum(|(_, vmm)| vmm.guest_dirty);
    Some(Cost {
        bytes_per_sandbox: fell / n,
        split: Split {
            shim: shim / n,
            vmm: vmm / n,
            guest: guest / n,
            kernel: (fell - shim - vmm - guest) / n,
        },
    })
}

fn bytes(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rest_is_the_kernels_and_all_is_for_each() {
        let of = |own_pss, guest_dirty| Footprint {
            own_pss,
            guest_dirty,
        };
        let two = [(of(10, 0), of(30, 100)), (of(20, 0), of(30, 300))];
        let cost = cost(1000, &two).unwrap();
        assert_eq!(cost.bytes_per_sandbox, 500);
        let Split {
            shim,
            vmm,
            guest,
            kernel,
        } = cost.split;
        assert_eq!((shim, vmm, guest, kernel), (15, 30, 200, 255));
    }

    #[test]
    fn no_container_has_no_cost() {
        assert_eq!(cost(1000, &[]), None);
    }
}
