// SPDX-License-Identifier: Apache-2.0
//! `cube ps`: the sandboxes of this host, from their files. containerd is not asked.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use cube_runtime::layout::{self, SandboxState};
use cube_runtime::{Config, Layout, Policy, Verdict};
use serde::Serialize;

use crate::output;

#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Print the list as JSON
    #[arg(long)]
    json: bool,
}

/// One line of the list.
#[derive(Debug, Serialize)]
struct Row {
    namespace: String,
    id: String,
    state: &'static str,
    pid: Option<u32>,
    vcpus: Option<u8>,
    memory_mib: Option<u32>,
    age_s: Option<u64>,
    /// With their prefix, of all its interfaces.
    addresses: Vec<String>,
    /// What it may send to; none: anybody.
    egress: Option<Policy>,
    directory: PathBuf,
}

pub fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let config = Config::load()?;
    let directories = Layout::new(config.run).list()?;
    let rows: Vec<Row> = directories.iter().map(|dir| Row::of(dir)).collect();
    let printed = if arguments.json {
        output::print_json(&rows)
    } else {
        print(&rows)
    };
    output::unless_reader_left(printed)?;
    Ok(ExitCode::SUCCESS)
}

impl Row {
    fn of(dir: &Path) -> Self {
        let held = layout::is_held(dir);
        // A state that cannot be read is that of a sandbox in the making, or a left-over.
        let state = SandboxState::read(dir).ok().flatten();
        let alive = state.as_ref().is_some_and(|state| state.vmm.is_alive());
        let text = |of: fn(&SandboxState) -> &String| {
            state
                .as_ref()
                .map_or_else(|| "-".to_owned(), |state| of(state).clone())
        };
        Self {
            namespace: text(|state| &state.key.namespace),
            id: text(|state| &state.key.id),
            state: match (held, alive) {
                (true, true) => "running",
                (true, false) => "changing",
                (false, _) => "left-over",
            },
            pid: state.as_ref().filter(|_| alive).map(|state| state.vmm.pid),
            vcpus: state.as_ref().map(|state| state.vcpus),
            memory_mib: state.as_ref().map(|state| state.memory_mib),
            age_s: state.as_ref().and_then(|state| age(state.created_s)),
            addresses: state.as_ref().map_or_else(Vec::new, addresses),
            egress: state.and_then(|state| state.network.egress),
            directory: dir.into(),
        }
    }
}

fn age(created_s: u64) -> Option<u64> {
    let created = UNIX_EPOCH.checked_add(Duration::from_secs(created_s))?;
    Some(SystemTime::now().duration_since(created).ok()?.as_secs())
}

fn print(rows: &[Row]) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(
        out,
        "{:<12} {:<24} {:<10} {:>8} {:>5} {:>8} {:>7}  {:<7} ADDRESSES",
        "NAMESPACE", "ID", "STATE", "PID", "VCPUS", "MEMORY", "AGE", "EGRESS"
    )?;
    for row in rows {
        let or_dash = |value: Option<String>| value.unwrap_or_else(|| "-".to_owned());
        writeln!(
            out,
            "{:<12} {:<24} {:<10} {:>8} {:>5} {:>8} {:>7}  {:<7} {}",
            row.namespace,
            row.id,
            row.state,
            or_dash(row.pid.map(|pid| pid.to_string())),
            or_dash(row.vcpus.map(|vcpus| vcpus.to_string())),
            or_dash(row.memory_mib.map(|mib| format!("{mib}M"))),
            or_dash(row.age_s.map(output::short_age)),
            short_egress(row.egress.as_ref()),
            or_dash(short_addresses(&row.addresses)),
        )?;
    }
    Ok(())
}

fn addresses(state: &SandboxState) -> Vec<String> {
    let interfaces = state.network.interfaces.iter();
    interfaces
        .flat_map(|interface| interface.addresses.clone())
        .collect()
}

/// Whether there is a policy, and what becomes of what it does not name.
fn short_egress(policy: Option<&Policy>) -> &'static str {
    match policy.map(|policy| policy.default) {
        None => "open",
        Some(Verdict::Allow) => "allow+",
        Some(Verdict::Deny) => "deny+",
    }
}

/// Without the prefixes, and without those that only their link knows (RFC 4291, section 2.5.6).
fn short_addresses(addresses: &[String]) -> Option<String> {
    let bare = addresses
        .iter()
        .map(|address| address.split('/').next().unwrap_or(address))
        .filter(|address| !address.starts_with("fe80:"));
    let line = bare.collect::<Vec<_>>().join(",");
    (!line.is_empty()).then_some(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_have_one_unit() {
        let check = |seconds, expect| assert_eq!(output::short_age(seconds), expect);
        check(0, "0s");
        check(119, "119s");
        check(120, "2m");
        check(7200, "2h");
        check(172_800, "2d");
    }

    #[test]
    fn addresses_are_listed_without_prefixes_and_link_local_ones() {
        let check = |addresses: &[&str], expect: Option<&str>| {
            let addresses: Vec<_> = addresses.iter().map(ToString::to_string).collect();
            assert_eq!(short_addresses(&addresses).as_deref(), expect);
        };
        check(
            &["10.4.0.2/24", "fe80::1/64", "fd00::2/64"],
            Some("10.4.0.2,fd00::2"),
        );
        check(&["fe80::1/64"], None);
        check(&[], None);
    }

    #[test]
    fn a_directory_without_a_state_is_a_left_over() {
        let dir = tempfile::tempdir().unwrap();
        let row = Row::of(dir.path());
        assert_eq!((row.state, row.id.as_str()), ("left-over", "-"));
    }
}
