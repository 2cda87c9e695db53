// SPDX-License-Identifier: Apache-2.0
//! The report of a measurement, as people read it.

use std::io::{self, Write};

use super::host::Host;
use super::idle::{Cost, CostAt};
use super::report::{Extra, Report, SideReport};

/// Writes the table.
pub fn write(out: &mut impl Write, report: &Report) -> io::Result<()> {
    let sides: Vec<&SideReport> = [&report.measured]
        .into_iter()
        .chain(&report.against)
        .collect();
    writeln!(
        out,
        "{:<44} {:>6} {:>6} {:>10} {:>10} {:>10}",
        format!("{}, in ms", report.what),
        "taken",
        "failed",
        "p50",
        "p90",
        "p99"
    )?;
    for side in &sides {
        let quantiles = side.quantiles;
        writeln!(
            out,
            "{:<44} {:>6} {:>6} {:>10} {:>10} {:>10}",
            full_name(side),
            side.samples.len(),
            side.failures,
            number(quantiles.p50_ms),
            number(quantiles.p90_ms),
            number(quantiles.p99_ms)
        )?;
    }
    if let Some(ratios) = &report.ratios {
        let (p50, p99) = (share(ratios.ratio_p50), share(ratios.ratio_p99));
        writeln!(out, "{:<58} {p50:>10} {:>10} {p99:>10}", "ratio", "")?;
    }
    stages(out, &sides)?;
    for side in &sides {
        extra(out, side)?;
    }
    if let Some(ratios) = &report.ratios {
        for (name, ratio) in [
            ("until the end is told", ratios.ratio_exit_p50),
            ("throughput", ratios.ratio_throughput),
            ("memory", ratios.ratio_bytes),
        ] {
            if ratio.is_some() {
                writeln!(out, "ratio, {name}: {}", share(ratio))?;
            }
        }
    }
    for side in &sides {
        for error in &side.errors {
            writeln!(out, "failed: {}: {error}", side.name)?;
        }
    }
    host(out, &report.host)
}

/// A line a stage, a column a side: medians.
fn stages(out: &mut impl Write, sides: &[&SideReport]) -> io::Result<()> {
    let Some(longest) = sides.iter().max_by_key(|side| side.stages.len()) else {
        return Ok(());
    };
    if longest.stages.is_empty() {
        return Ok(());
    }
    write!(out, "  {:<12}", "stage, p50")?;
    for side in sides {
        write!(out, " {:>22}", side.name)?;
    }
    writeln!(out)?;
    for stage in &longest.stages {
        write!(out, "  {:<12}", stage.stage)?;
        for side in sides {
            let mut its = side.stages.iter();
            let its = its.find(|other| other.stage == stage.stage);
            let p50 = its.and_then(|its| its.quantiles.p50_ms);
            write!(out, " {:>22}", number(p50))?;
        }
        writeln!(out)?;
    }
    Ok(())
}

fn extra(out: &mut impl Write, side: &SideReport) -> io::Result<()> {
    match &side.extra {
        None => Ok(()),
        Some(Extra::Exit(until)) => {
            let p50 = number(until.exit_p50_ms);
            writeln!(out, "{}: its end is told after {p50} (p50)", side.name)
        }
        Some(Extra::Bursts(bursts)) => {
            let walls: Vec<String> = bursts
                .wall_ms
                .iter()
                .map(|ms| format!("{ms:.0} ms"))
                .collect();
            let throughput = number(bursts.throughput_per_s);
            let (name, walls) = (&side.name, walls.join(", "));
            writeln!(out, "{name}: all up after {walls}; {throughput} a second")
        }
        Some(Extra::Idle(costs)) => costs.costs.iter().try_for_each(|CostAt { after_s, cost }| {
            let Cost {
                bytes_per_sandbox,
                split,
            } = cost;
            writeln!(
                out,
                "{}: {} each after {after_s} s: shim {}, vmm {}, guest {}, kernel {}",
                side.name,
                mebibytes(*bytes_per_sandbox),
                mebibytes(split.shim),
                mebibytes(split.vmm),
                mebibytes(split.guest),
                mebibytes(split.kernel)
            )
        }),
    }
}

fn host(out: &mut impl Write, host: &Host) -> io::Result<()> {
    let or_unknown = |value: &Option<String>| value.clone().unwrap_or_else(|| "unknown".into());
    let kvm = host.kvm.as_ref().map_or_else(
        || "no KVM".to_owned(),
        |kvm| format!("KVM {} ({} us an exit)", kvm.grade, kvm.exit_us),
    );
    let where_it_is = match (host.dev_vm, host.virtual_machine) {
        (true, _) => ", development VM",
        (false, true) => ", virtual machine",
        (false, false) => "",
    };
    writeln!(
        out,
        "host: {} x {}{where_it_is}, {kvm}, Linux {}, cgroup v{}, huge pages {}; commit {}",
        host.cpus,
        or_unknown(&host.cpu),
        host.kernel,
        host.cgroup,
        or_unknown(&host.huge_pages),
        or_unknown(&host.commit)
    )
}

fn full_name(side: &SideReport) -> String {
    let name = &side.name;
    match (&side.snapshotter, &side.filesystem) {
        (Some(snapshotter), Some(filesystem)) => format!("{name} on {snapshotter} ({filesystem})"),
        (Some(snapshotter), None) => format!("{name} on {snapshotter}"),
        (None, _) => name.clone(),
    }
}

fn number(value: Option<f64>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| format!("{value:.2}"))
}

fn share(value: Option<f64>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| format!("{value:.3}"))
}

#[allow(
    clippy::cast_precision_loss,
    reason = "no container has 2^52 bytes of memory"
)]
fn mebibytes(bytes: i64) -> String {
    format!("{:.2} MiB", bytes as f64 / f64::from(1 << 20))
}
