// SPDX-License-Identifier: Apache-2.0
//! The `cube` command: what an operator of a host types. Containers themselves are started by
//! containerd's clients (`ctr`, `nerdctl`, `kubectl`).

mod cli;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Containers in microVMs of their own: look at this host and at what runs on it.
#[derive(Debug, Parser)]
#[command(name = "cube", version, after_help = cli::EXAMPLES)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Say what this host can and cannot do, and how to mend it
    Doctor(cli::doctor::Arguments),
    /// List the sandboxes of this host
    Ps(cli::ps::Arguments),
    /// Remove what sandboxes left behind whose owner died
    Reap(cli::reap::Arguments),
}

fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::Doctor(arguments) => cli::doctor::run(&arguments),
        Command::Ps(arguments) => cli::ps::run(&arguments),
        Command::Reap(arguments) => cli::reap::run(&arguments),
    };
    result.unwrap_or_else(|error| cli::fail(&error))
}
