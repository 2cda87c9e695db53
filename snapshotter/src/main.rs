// SPDX-License-Identifier: Apache-2.0
//! `cube-snapshotter`: parse, log to stderr, run.

use std::io::{IsTerminal, Write};
use std::process::ExitCode;

use clap::Parser;
use cube_snapshotter::args::Args;
use cube_snapshotter::{chain, daemon};
use tracing::level_filters::LevelFilter;

fn main() -> ExitCode {
    let args = Args::parse();
    tracing_subscriber::fmt()
        .with_max_level(LevelFilter::from(args.log_level))
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        .init();
    match daemon::run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let text = chain(error.as_ref());
            // Nobody is left to tell if stderr is closed.
            drop(writeln!(std::io::stderr(), "cube-snapshotter: {text}"));
            ExitCode::FAILURE
        }
    }
}
