// SPDX-License-Identifier: Apache-2.0
//! The `cube` command: what an operator of a host types. Containers themselves are started by
//! containerd's clients (`ctr`, `nerdctl`, `kubectl`).

mod bench;
mod connect;
mod doctor;
mod e2b;
mod egress;
mod output;
mod ps;
mod reap;
mod sandbox;
mod snapshot;
mod template;
mod trace;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Containers in microVMs of their own: look at this host and at what runs on it.
#[derive(Debug, Parser)]
#[command(name = "cube", version, after_help = output::EXAMPLES)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Measure what starts, processes and idle containers cost on this host
    Bench(Box<bench::Arguments>),
    /// Talk to a TCP port of a sandbox on standard input and output
    Connect(connect::Arguments),
    /// Say what this host can and cannot do, and how to mend it
    Doctor(doctor::Arguments),
    /// Serve E2B's SDKs, and look after their API keys
    E2b(e2b::Arguments),
    /// Show or replace what a running sandbox may send to
    Egress(egress::Arguments),
    /// List the sandboxes of this host
    Ps(ps::Arguments),
    /// Remove what sandboxes left behind whose owner died
    Reap(reap::Arguments),
    /// Save running sandboxes, and look after what was saved
    Snapshot(snapshot::Arguments),
    /// Show where the time of a start goes, from a log with stages
    Trace(trace::Arguments),
    /// Look after the booted guests that sandboxes are restored from
    Template(template::Arguments),
}

fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::Bench(arguments) => bench::run(&arguments),
        Command::Connect(arguments) => connect::run(&arguments),
        Command::Doctor(arguments) => doctor::run(&arguments),
        Command::E2b(arguments) => e2b::run(&arguments),
        Command::Egress(arguments) => egress::run(&arguments),
        Command::Ps(arguments) => ps::run(&arguments),
        Command::Reap(arguments) => reap::run(&arguments),
        Command::Snapshot(arguments) => snapshot::run(&arguments),
        Command::Trace(arguments) => trace::run(&arguments),
        Command::Template(arguments) => template::run(&arguments),
    };
    result.unwrap_or_else(|error| output::fail(&error))
}
