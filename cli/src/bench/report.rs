// SPDX-License-Identifier: Apache-2.0
//! The report of a measurement, as programs read it. Its form is a promise: see `report.golden.json`.

use serde::Serialize;

use super::burst::Bursts;
use super::figures::{Quantiles, ratio};
use super::host::Host;
use super::idle::CostAt;
use super::samples::{Sample, Series, rounded};

/// All of it. What was asked about comes first; the two sides follow with everything that is known.
#[derive(Debug, Serialize)]
pub struct Report {
    /// The mark: `start` and so on.
    pub what: &'static str,
    /// Samples asked for; with `burst` and `idle`, containers at once.
    pub n: u32,
    /// Samples that could not be taken.
    pub failures: usize,
    /// Of the side asked about.
    #[serde(flatten)]
    pub quantiles: Quantiles,
    /// Its shares of the other side's, where there is one.
    #[serde(flatten)]
    pub ratios: Option<Ratios>,
    /// Of the side asked about.
    #[serde(flatten)]
    pub extra: Option<Extra>,
    /// The side asked about.
    pub measured: SideReport,
    /// The other.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub against: Option<SideReport>,
    /// Where this was.
    pub host: Host,
}

/// The measured side's figures divided by the other's.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Ratios {
    /// Of the medians.
    pub ratio_p50: Option<f64>,
    /// Of the 99th percentiles.
    pub ratio_p99: Option<f64>,
    /// Of the medians until the end of the process was told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ratio_exit_p50: Option<f64>,
    /// Of the throughputs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ratio_throughput: Option<f64>,
    /// Of the bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ratio_bytes: Option<f64>,
}

/// What a mark has besides times.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Extra {
    /// Of `start`.
    Exit(UntilExit),
    /// Of `burst`.
    Bursts(Bursts),
    /// Of `idle`.
    Idle(Costs),
}

/// From the beginning until the end of the process was told. When Start answers is the runtime's to say;
/// that the process has run is plain to see here.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct UntilExit {
    /// The median.
    pub exit_p50_ms: Option<f64>,
    /// The 90th percentile.
    pub exit_p90_ms: Option<f64>,
    /// The 99th.
    pub exit_p99_ms: Option<f64>,
}

/// The cost at the last time, and at all times.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Costs {
    /// The last.
    #[serde(flatten)]
    pub last: CostAt,
    /// All.
    pub costs: Vec<CostAt>,
}

/// One side: a runtime, or a way to come to life.
#[derive(Debug, Serialize)]
pub struct SideReport {
    /// Its name.
    pub name: String,
    /// Where its disks come from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub snapshotter: Option<String>,
    /// Where they lie.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub filesystem: Option<String>,
    /// How many could not be taken.
    pub failures: usize,
    /// Why, one by one.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<String>,
    /// Of its samples.
    #[serde(flatten)]
    pub quantiles: Quantiles,
    /// Of each of their stages, in their order.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub stages: Vec<Stage>,
    /// What it has besides.
    #[serde(flatten)]
    pub extra: Option<Extra>,
    /// As they were taken.
    pub samples: Vec<Sample>,
}

/// A stage of all samples of a side.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Stage {
    /// Its name.
    pub stage: &'static str,
    /// Of its times.
    #[serde(flatten)]
    pub quantiles: Quantiles,
}

impl Report {
    /// Of one side or two.
    pub fn new(what: &'static str, n: u32, sides: Vec<SideReport>, host: Host) -> Option<Self> {
        let mut sides = sides.into_iter();
        let measured = sides.next()?;
        let against = sides.next();
        Some(Self {
            what,
            n,
            failures: measured.failures,
            quantiles: measured.quantiles,
            ratios: against.as_ref().map(|other| Ratios::of(&measured, other)),
            extra: measured.extra.clone(),
            measured,
            against,
            host,
        })
    }

    /// Whether every sample of both sides was taken.
    pub fn is_complete(&self) -> bool {
        let mut sides = [&self.measured].into_iter().chain(&self.against);
        sides.all(|side| side.failures == 0)
    }
}

impl Ratios {
    fn of(measured: &SideReport, other: &SideReport) -> Self {
        let of = |figure: fn(&SideReport) -> Option<f64>| {
            ratio(figure(measured), figure(other)).map(rounded)
        };
        Self {
            ratio_p50: of(|side| side.quantiles.p50_ms),
            ratio_p99: of(|side| side.quantiles.p99_ms),
            ratio_exit_p50: of(SideReport::exit_p50_ms),
            ratio_throughput: of(SideReport::throughput),
            ratio_bytes: of(SideReport::bytes),
        }
    }
}

impl SideReport {
    /// Of a side's samples.
    pub fn new(name: String, series: Series, extra: Option<Extra>) -> Self {
        Self {
            name,
            snapshotter: None,
            filesystem: None,
            failures: series.failures.len(),
            errors: series.failures,
            quantiles: Quantiles::of(series.samples.iter().map(|sample| sample.ms)),
            stages: stages(&series.samples),
            extra,
            samples: series.samples,
        }
    }

    fn exit_p50_ms(&self) -> Option<f64> {
        match self.extra.as_ref()? {
            Extra::Exit(until) => until.exit_p50_ms,
            Extra::Bursts(_) | Extra::Idle(_) => None,
        }
    }

    fn throughput(&self) -> Option<f64> {
        match self.extra.as_ref()? {
            Extra::Bursts(bursts) => bursts.throughput_per_s,
            Extra::Exit(_) | Extra::Idle(_) => None,
        }
    }

    #[allow(
        clippy::cast_precision_loss,
        reason = "no container has 2^52 bytes of memory"
    )]
    fn bytes(&self) -> Option<f64> {
        match self.extra.as_ref()? {
            Extra::Idle(costs) => Some(costs.last.cost.bytes_per_sandbox as f64),
            Extra::Exit(_) | Extra::Bursts(_) => None,
        }
    }
}

impl UntilExit {
    /// Of samples with a stage `exit`.
    pub fn of(samples: &[Sample]) -> Self {
        let until = samples.iter().filter_map(|sample| sample.until("exit"));
        let Quantiles {
            p50_ms,
            p90_ms,
            p99_ms,
        } = Quantiles::of(until);
        Self {
            exit_p50_ms: p50_ms,
            exit_p90_ms: p90_ms,
            exit_p99_ms: p99_ms,
        }
    }
}

impl Costs {
    /// Nothing, if there was no container to look at.
    pub fn new(costs: Vec<CostAt>) -> Option<Self> {
        let last = costs.last()?.clone();
        Some(Self { last, costs })
    }
}

/// The samples of a side all have the same stages.
fn stages(samples: &[Sample]) -> Vec<Stage> {
    let names = samples.first().map(|sample| &sample.stages[..]);
    let names = names.unwrap_or_default().iter().map(|(stage, _)| *stage);
    let of = |stage| {
        let all = samples.iter().flat_map(|sample| &sample.stages);
        let its = all.filter(move |(name, _)| *name == stage);
        Quantiles::of(its.map(|(_, ms)| *ms))
    };
    names
        .map(|stage| Stage {
            stage,
            quantiles: of(stage),
        })
        .collect()
}

#[cfg(test)]
mod tests;
