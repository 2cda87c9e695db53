// SPDX-License-Identifier: Apache-2.0
//! `cube bench`: the one harness that measures, on every kind of host and for every runtime alike.
//!
//! Every mark is defined once, in [`options`], where `--help` shows it. Samples of two sides are taken in
//! turn, the first of each is discarded, failures are counted and never dropped, and the raw samples go
//! with the report, as does the host's fingerprint. Absolute times of two hosts say little; ratios of one
//! run are what promises are made of (SPECIFICATION.md).
//!
//! ```text
//! options ──> shell, ready        (KVM; the waist)      ──┐
//!        └──> lab ──> start, exec, burst, idle            ├──> samples ──> figures ──> report, table
//!             (containerd's API, and a ledger)          ──┘
//! ```

mod burst;
mod exec;
mod figures;
mod host;
mod idle;
mod lab;
mod memory;
mod options;
mod progress;
mod ready;
mod report;
mod samples;
mod shell;
mod spec;
mod start;
mod table;

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use tokio::signal::unix::{SignalKind, signal};

use crate::output;
pub use figures::Quantiles;
use host::Host;
use lab::{Lab, Side};
use options::{Containers, Output, What};
use report::{Extra, Report, SideReport};
use samples::Series;

/// Signals that come within this time are one.
const SAME_SIGNAL: Duration = Duration::from_secs(1);

/// What one side of a measurement came to.
type Taken = (Series, Option<Extra>);

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Report: a table; with --json then one line of JSON with what, n, failures, p50_ms, p90_ms and p99_ms, with
--against also ratio_p50 and ratio_p99 (ours over the other's), then both sides with all samples, and the host.
A percentile is the sample of the nearest rank. Exit code: 0 if every sample was taken, 1 if not.
All that was made is removed, also on Ctrl-C.

  cube bench ready --against cold
  cube bench start -n 20 --against runc --json
  cube bench burst 10 --against runc
  cube bench idle 50")]
pub struct Arguments {
    #[command(subcommand)]
    what: What,
}

pub fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    // One thread: the client's work is waiting, and what it measures needs the processors.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let output = arguments.what.output();
    let samples = output.samples.as_deref().map(create).transpose()?;
    let report = match runtime.block_on(measure(&arguments.what)) {
        Ok(report) => report,
        Err(error) => match error.downcast_ref::<Interrupted>() {
            Some(interrupted) => {
                output::fail(&error);
                return Ok(ExitCode::from(interrupted.code));
            }
            None => return Err(error),
        },
    };
    output::unless_reader_left(print(&report, output))?;
    if let Some(mut file) = samples {
        let text = serde_json::to_vec_pretty(&report)?;
        file.write_all(&text).context("cannot write the samples")?;
    }
    Ok(if report.is_complete() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Before anything is measured, because it may fail.
fn create(path: &Path) -> anyhow::Result<File> {
    File::create(path).with_context(|| format!("cannot create {}", path.display()))
}

fn print(report: &Report, output: &Output) -> io::Result<()> {
    let mut out = io::stdout().lock();
    table::write(&mut out, report)?;
    if output.json {
        serde_json::to_writer(&mut out, report)?;
        writeln!(out)?;
    }
    out.flush()
}

async fn measure(what: &What) -> anyhow::Result<Report> {
    let (sides, containerd) = match what {
        What::Shell(options) => (unless_interrupted(shell::measure(options)).await?, None),
        What::Ready(options) => (unless_interrupted(ready::measure(options)).await?, None),
        What::Start(options) => {
            let measure =
                async |lab: &Lab, sides: &[Side]| start::measure(lab, sides, options.n).await;
            in_lab(&options.containers, measure).await?
        }
        What::Exec(options) => {
            let measure =
                async |lab: &Lab, sides: &[Side]| exec::measure(lab, sides, options.n).await;
            in_lab(&options.containers, measure).await?
        }
        What::Burst(options) => {
            let measure =
                async |lab: &Lab, sides: &[Side]| burst::measure(lab, sides, options).await;
            in_lab(&options.containers, measure).await?
        }
        What::Idle(options) => {
            let measure =
                async |lab: &Lab, sides: &[Side]| idle::measure(lab, sides, options).await;
            in_lab(&options.containers, measure).await?
        }
    };
    let report = Report::new(what.name(), what.n(), sides, Host::look(containerd));
    report.context("nothing was measured")
}

/// Measures runtimes through containerd, and removes whatever there is afterwards, however it went.
async fn in_lab(
    options: &Containers,
    measure: impl AsyncFnOnce(&Lab, &[Side]) -> anyhow::Result<Vec<Taken>>,
) -> anyhow::Result<(Vec<SideReport>, Option<String>)> {
    let sides = options.sides();
    let lab = Lab::open(options).await?;
    let taken = unless_interrupted(async {
        for side in &sides {
            lab.unpack(&side.snapshotter).await?;
        }
        measure(&lab, &sides).await
    })
    .await;
    let closed = unless_interrupted_again(lab.close()).await;
    let taken = match (taken, closed) {
        (Ok(taken), Ok(())) => taken,
        (Err(error), Ok(())) | (Ok(_), Err(error)) => return Err(error),
        (Err(error), Err(left)) => {
            return Err(error.context(format!("not all was removed ({left:#}) after this")));
        }
    };
    let reports = sides
        .iter()
        .zip(taken)
        .map(|(side, (series, extra))| SideReport {
            snapshotter: Some(side.snapshotter.clone()),
            filesystem: lab.store(&side.snapshotter),
            ..SideReport::new(side.runtime.clone(), series, extra)
        });
    Ok((reports.collect(), Some(lab.version.clone())))
}

/// Somebody does not want to wait any longer.
#[derive(Debug, thiserror::Error)]
#[error("interrupted by {name}")]
struct Interrupted {
    name: &'static str,
    /// What a shell makes of it.
    code: u8,
}

/// Drops what is under way when a signal comes.
async fn unless_interrupted<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    tokio::select! {
        done = work => done,
        interrupted = interrupted() => Err(interrupted?.into()),
    }
}

/// Who asks once more does not want to wait for the removal either. Programs that pass signals on often
/// send one twice, which asks for nothing.
async fn unless_interrupted_again<T>(
    work: impl Future<Output = anyhow::Result<T>>,
) -> anyhow::Result<T> {
    let again = async {
        tokio::time::sleep(SAME_SIGNAL).await;
        interrupted().await
    };
    tokio::select! {
        done = work => done,
        interrupted = again => Err(interrupted?.into()),
    }
}

async fn interrupted() -> io::Result<Interrupted> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let (name, code) = tokio::select! {
        _ = interrupt.recv() => ("SIGINT", 130),
        _ = terminate.recv() => ("SIGTERM", 143),
    };
    Ok(Interrupted { name, code })
}
