// SPDX-License-Identifier: Apache-2.0
//! `cube trace`: where the time of a start goes, from the lines that `CUBE_TRACE=1` (or `trace = true`)
//! puts into a log.
//!
//! A line is written when its stage ends and says how long that took, so its begin is known. Whatever
//! else is in the log is passed over; the lines of many sandboxes may be mixed.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, ensure};

use crate::bench::Quantiles;
use cube_containerd::rfc3339;

use crate::output;

/// The last stage of a start: what follows belongs to later processes.
const LAST_STAGE: &str = "start";
/// The only stage after a sandbox's life.
const END_STAGE: &str = "destroy";
/// Width of the picture.
const COLUMNS: u32 = 50;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
  cube trace /var/log/containerd.log
  CUBE_TRACE=1 cube bench ready -n 1 2>&1 | cube trace

In containerd's environment CUBE_TRACE=1 makes every shim write these lines; in /etc/cube/config.toml it is
`trace = true`.")]
pub struct Arguments {
    /// A log with lines of stages [default: standard input]
    log: Option<PathBuf>,
    /// The sandbox whose start is shown, as the lines name it [default: the last one]
    #[arg(long, value_name = "NAMESPACE/ID")]
    sandbox: Option<String>,
}

pub fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let stages = match &arguments.log {
        Some(path) => read(BufReader::new(open(path)?)),
        None => read(io::stdin().lock()),
    }
    .context("cannot read the log")?;
    ensure!(
        !stages.is_empty(),
        "there are no stages in this log: is trace = true?"
    );
    let shown = match &arguments.sandbox {
        Some(sandbox) => sandbox.clone(),
        None => last_sandbox(&stages),
    };
    let start = start_of(&stages, &shown);
    ensure!(
        !start.is_empty(),
        "there is no start of {shown} in this log"
    );
    output::unless_reader_left(print(&stages, &shown, &start))?;
    Ok(ExitCode::SUCCESS)
}

/// One line.
#[derive(Clone, Debug, PartialEq)]
struct Stage {
    sandbox: String,
    name: String,
    end: Duration,
    ms: f64,
}

impl Stage {
    fn begin(&self) -> Duration {
        self.end
            .saturating_sub(Duration::from_secs_f64(self.ms / 1e3))
    }

    /// `TIME LEVEL cube NAMESPACE/ID: stage="NAME" ms="NUMBER"`, in whatever quotes; other programs of
    /// ours name no sandbox.
    fn parse(line: &str) -> Option<Self> {
        let line = line.replace(['"', '\\'], " ");
        let words: Vec<&str> = line.split_whitespace().collect();
        let after = |key: &str| {
            let mut places = words.iter().enumerate();
            let (place, word) = places.find(|(_, word)| word.starts_with(key))?;
            let value = word.strip_prefix(key)?;
            if value.is_empty() {
                words.get(place + 1).copied()
            } else {
                Some(value)
            }
        };
        let ms: f64 = after("ms=")?.parse().ok()?;
        let sandbox = words
            .iter()
            .filter_map(|word| word.strip_suffix(':'))
            .find(|word| word.contains('/'));
        Some(Self {
            sandbox: sandbox.unwrap_or("-").to_owned(),
            name: after("stage=")?.to_owned(),
            end: words.iter().find_map(|word| rfc3339::parse(word))?,
            // A longer one than a year is no stage, and no duration.
            ms: (0.0..3e10).contains(&ms).then_some(ms)?,
        })
    }
}

fn open(path: &Path) -> anyhow::Result<File> {
    File::open(path).with_context(|| format!("cannot open {}", path.display()))
}

fn read(log: impl BufRead) -> io::Result<Vec<Stage>> {
    let mut stages = Vec::new();
    for line in log.split(b'\n') {
        stages.extend(Stage::parse(&String::from_utf8_lossy(&line?)));
    }
    Ok(stages)
}

fn last_sandbox(stages: &[Stage]) -> String {
    let last = stages.iter().rfind(|stage| stage.name == LAST_STAGE);
    let last = last.or(stages.last());
    last.map_or_else(|| "-".to_owned(), |stage| stage.sandbox.clone())
}

/// The stages of a sandbox until its first process ran, in the order of their begins; of two that begin
/// together the longer first. Of sandboxes of one name, the last.
fn start_of(stages: &[Stage], sandbox: &str) -> Vec<Stage> {
    let its = stages.iter().filter(|stage| stage.sandbox == sandbox);
    let its: Vec<Stage> = its.cloned().collect();
    let mut lives = its.split(|stage| stage.name == END_STAGE);
    let life = lives.rfind(|life| !life.is_empty()).unwrap_or_default();
    let last = life.iter().position(|stage| stage.name == LAST_STAGE);
    let mut start = life[..last.map_or(life.len(), |last| last + 1)].to_vec();
    start.sort_by(|a, b| {
        a.begin()
            .cmp(&b.begin())
            .then_with(|| b.ms.total_cmp(&a.ms))
    });
    start
}

fn print(stages: &[Stage], shown: &str, start: &[Stage]) -> io::Result<()> {
    let mut out = io::stdout().lock();
    medians(&mut out, stages)?;
    writeln!(out, "\nthe start of {shown}, in ms")?;
    waterfall(&mut out, start)
}

fn medians(out: &mut impl Write, stages: &[Stage]) -> io::Result<()> {
    let mut by_name: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    for stage in stages {
        by_name.entry(&stage.name).or_default().push(stage.ms);
    }
    writeln!(
        out,
        "{:<12} {:>6} {:>10} {:>10}",
        "stage, in ms", "count", "p50", "p99"
    )?;
    let mut rows: Vec<_> = by_name
        .into_iter()
        .map(|(name, times)| (name, times.len(), Quantiles::of(times)))
        .collect();
    rows.sort_by(|(_, _, a), (_, _, b)| {
        b.p50_ms
            .partial_cmp(&a.p50_ms)
            .unwrap_or(std::cmp::Ordering::Equal)
    });
    for (name, count, quantiles) in rows {
        let (p50, p99) = (
            quantiles.p50_ms.unwrap_or_default(),
            quantiles.p99_ms.unwrap_or_default(),
        );
        writeln!(out, "{name:<12} {count:>6} {p50:>10.2} {p99:>10.2}")?;
    }
    Ok(())
}

fn waterfall(out: &mut impl Write, start: &[Stage]) -> io::Result<()> {
    let begin = start.iter().map(Stage::begin).min().unwrap_or_default();
    let end = start
        .iter()
        .map(|stage| stage.end)
        .max()
        .unwrap_or_default();
    let whole = end.saturating_sub(begin).as_secs_f64().max(1e-6);
    for stage in start {
        let offset = stage.begin().saturating_sub(begin).as_secs_f64();
        let (name, ms) = (&stage.name, stage.ms);
        let bar = bar(offset / whole, ms / 1e3 / whole);
        writeln!(out, "{name:<12} {:>10.2} {ms:>10.2}  {bar}", offset * 1e3)?;
    }
    Ok(())
}

/// A line from one share of the whole, this long; short ones are seen too.
fn bar(from: f64, share: f64) -> String {
    let columns = |share: f64| {
        let at = (share.clamp(0.0, 1.0) * f64::from(COLUMNS)).round();
        (0..COLUMNS)
            .filter(|&column| f64::from(column) < at)
            .count()
    };
    let long = columns(share).max(1);
    let space = columns(from).min(columns(1.0).saturating_sub(long));
    " ".repeat(space) + &"=".repeat(long)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = r#"
time="2026-01-31T12:00:00Z" level=info msg="starting"
2026-01-31T12:00:00.010000Z INFO cube default/a: stage="prepare" ms="10.00"
2026-01-31T12:00:00.500000Z INFO cube default/b: stage="prepare" ms="20.00"
2026-01-31T12:00:00.110000Z INFO cube default/a: stage="boot" ms="100.00"
2026-01-31T12:00:00.110100Z INFO cube default/a: stage="create" ms="110.10"
2026-01-31T12:00:00.200000Z INFO cube default/a: stage="start" ms="50.00"
2026-01-31T12:00:09.000000Z INFO cube default/a: stage="destroy" ms="30.00"
"#;

    fn stages() -> Vec<Stage> {
        read(LOG.as_bytes()).unwrap()
    }

    #[test]
    fn lines_of_stages_are_found_in_a_log() {
        let stages = stages();
        assert_eq!(stages.len(), 6);
        assert_eq!(
            (&*stages[1].sandbox, &*stages[1].name),
            ("default/b", "prepare")
        );
        let unnamed =
            Stage::parse(r#"2026-01-31T12:00:00.5Z  INFO cube::stage: stage="spawn" ms="1.5""#);
        assert_eq!(
            unnamed.map(|stage| (stage.sandbox, stage.ms)),
            Some(("-".into(), 1.5))
        );
        for line in [
            r#"2026-01-31T12:00:00.5Z INFO cube a/b: stage="spawn" ms="inf""#,
            r#"2026-01-31T12:00:00.5Z INFO cube a/b: stage="spawn""#,
            r#"yesterday INFO cube a/b: stage="spawn" ms="1""#,
            r#"2026-01-31T12:00:00.5Z stage="" ms=""#,
        ] {
            assert_eq!(Stage::parse(line), None, "{line}");
        }
    }

    #[test]
    fn a_start_is_in_the_order_of_its_begins_and_ends_with_its_process() {
        let stages = stages();
        assert_eq!(last_sandbox(&stages), "default/a");
        let start = start_of(&stages, "default/a");
        let names: Vec<_> = start.iter().map(|stage| &*stage.name).collect();
        assert_eq!(names, ["create", "prepare", "boot", "start"]);
        assert_eq!(start_of(&stages, "default/c"), []);
    }

    #[test]
    fn of_two_lives_of_one_name_the_last_is_shown() {
        let again = LOG.replace("12:00:0", "13:00:0").replace("boot", "restore");
        let stages = read([LOG, &again].concat().as_bytes()).unwrap();
        let start = start_of(&stages, "default/a");
        let names: Vec<_> = start.iter().map(|stage| &*stage.name).collect();
        assert_eq!(names, ["create", "prepare", "restore", "start"]);
    }

    #[test]
    fn the_picture_shows_what_waits_for_what() {
        let mut out = Vec::new();
        waterfall(&mut out, &start_of(&stages(), "default/a")).unwrap();
        let text = String::from_utf8(out).unwrap();
        let bars: Vec<_> = text.lines().map(|line| &line[36..]).collect();
        assert_eq!(bars[0].trim_end().len(), 28, "{text}");
        assert_eq!(bars[1].trim_end().len(), 3, "{text}");
        assert!(bars[3].starts_with(&" ".repeat(37)), "{text}");
        assert_eq!(bars[3].len(), 50, "{text}");
    }

    #[test]
    fn medians_are_of_all_sandboxes() {
        let mut out = Vec::new();
        medians(&mut out, &stages()).unwrap();
        let text = String::from_utf8(out).unwrap();
        let prepare = text
            .lines()
            .find(|line| line.starts_with("prepare"))
            .unwrap();
        let words: Vec<_> = prepare.split_whitespace().collect();
        assert_eq!(words, ["prepare", "2", "10.00", "20.00"]);
    }
}
