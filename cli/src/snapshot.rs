// SPDX-License-Identifier: Apache-2.0
//! `cube snapshot`: sandboxes with their container running, saved and looked after.

use std::io::{self, Write};
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use clap::Subcommand;
use cube_runtime::{Config, Layout, SnapshotName, SnapshotRecord, Snapshots};

use crate::{output, sandbox};

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  cube snapshot create web before-upgrade
  ctr run --runtime io.cube.v1 --snapshotter cube --annotation io.cube.snapshot=before-upgrade IMAGE web2

A sandbox that starts from a snapshot is a new one; its processes go on where they were saved.")]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Save a running sandbox; it goes on
    Create {
        /// The container, as `cube ps` lists it: ID, or NAMESPACE/ID where several have the same
        sandbox: String,
        /// What the snapshot is to be called: a-z, 0-9, '-', '_' and '.'
        name: SnapshotName,
    },
    /// List the snapshots of this host
    Ls {
        /// Print the list as JSON
        #[arg(long)]
        json: bool,
    },
    /// Remove snapshots; what runs from them goes on
    Rm {
        /// Their names
        #[arg(required = true)]
        names: Vec<SnapshotName>,
    },
    /// Show which snapshot was made from which
    Tree,
}

pub fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let config = Config::load()?;
    let snapshots = Snapshots::of(&config);
    match &arguments.command {
        Command::Create { sandbox, name } => create(config, sandbox, name)?,
        Command::Ls { json: true } => {
            output::unless_reader_left(output::print_json(&snapshots.list()?))?;
        }
        Command::Ls { json: false } => output::unless_reader_left(list(&snapshots.list()?))?,
        Command::Rm { names } => names.iter().try_for_each(|name| snapshots.remove(name))?,
        Command::Tree => output::unless_reader_left(tree(&snapshots.list()?))?,
    }
    Ok(ExitCode::SUCCESS)
}

fn create(config: Config, wanted: &str, name: &SnapshotName) -> anyhow::Result<()> {
    let found = sandbox::find(&Layout::new(config.run), wanted)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let since = Instant::now();
    runtime.block_on(found.annotate(cube_runtime::spec::SNAPSHOT, name.as_str()))?;
    let seconds = since.elapsed().as_secs_f64();
    let written = writeln!(io::stdout(), "{wanted} is saved as {name} ({seconds:.1} s)");
    Ok(output::unless_reader_left(written)?)
}

fn list(records: &[SnapshotRecord]) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(
        out,
        "{:<24} {:<32} {:<24} {:>8} {:>7}",
        "NAME", "SANDBOX", "PARENT", "MEMORY", "AGE"
    )?;
    for record in records {
        let memory = format!("{}M", record.memory_mib);
        writeln!(
            out,
            "{:<24} {:<32} {:<24} {memory:>8} {:>7}",
            record.name,
            record.source,
            record.parent.as_deref().unwrap_or("-"),
            output::short_age(age_s(record)),
        )?;
    }
    Ok(())
}

fn age_s(record: &SnapshotRecord) -> u64 {
    let created = UNIX_EPOCH.checked_add(Duration::from_secs(record.created_s));
    let age = created.and_then(|created| SystemTime::now().duration_since(created).ok());
    age.map_or(0, |age| age.as_secs())
}

fn tree(records: &[SnapshotRecord]) -> io::Result<()> {
    let mut out = io::stdout().lock();
    branches(records)
        .iter()
        .try_for_each(|line| writeln!(out, "{line}"))
}

/// One line each, children below and to the right of their parents. One whose parent was removed is a root.
fn branches(records: &[SnapshotRecord]) -> Vec<String> {
    let is_there = |name: &String| records.iter().any(|record| record.name == *name);
    let roots = records
        .iter()
        .filter(|record| !record.parent.as_ref().is_some_and(is_there));
    let mut lines = Vec::new();
    // The last of them is the next one shown.
    let mut waiting: Vec<_> = roots.rev().map(|root| (0, root)).collect();
    while let Some((depth, record)) = waiting.pop() {
        lines.push(format!(
            "{}{}  {}",
            "  ".repeat(depth),
            record.name,
            record.source
        ));
        let children = records.iter().filter(|child| {
            child.parent.as_ref() == Some(&record.name) && child.name != record.name
        });
        waiting.extend(children.rev().map(|child| (depth + 1, child)));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(name: &str, parent: Option<&str>) -> SnapshotRecord {
        serde_json::from_value(serde_json::json!({
            "format": 1, "name": name, "created_s": 1, "source": "n/i", "parent": parent,
            "vcpus": 2, "memory_mib": 2048, "protocol": 1,
            "host": {"cpu": "c", "kvm": "k"},
            "container": {"id": "i", "slot": 0, "read_only": false},
        }))
        .unwrap()
    }

    #[test]
    fn children_are_below_their_parents_and_orphans_are_roots() {
        let records = [
            record("a", None),
            record("b", Some("a")),
            record("c", Some("gone")),
            record("d", Some("b")),
            record("e", Some("a")),
        ];
        let lines = branches(&records);
        let expect = ["a  n/i", "  b  n/i", "    d  n/i", "  e  n/i", "c  n/i"];
        assert_eq!(lines, expect);
    }
}
