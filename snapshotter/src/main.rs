// SPDX-License-Identifier: Apache-2.0
//! `cube-snapshotter`: parse, log to stderr, run.

use std::io::{IsTerminal, Write, stderr};
use std::process::ExitCode;

use clap::Parser;
use cube_snapshotter::args::{Args, LogLevel};
use cube_snapshotter::{chain, daemon};
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::prelude::*;

fn main() -> ExitCode {
    let args = Args::parse();
    log_to_stderr(args.log_level);
    match daemon::run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let text = chain(error.as_ref());
            // Nobody is left to tell if stderr is closed.
            drop(writeln!(stderr(), "cube-snapshotter: {text}"));
            ExitCode::FAILURE
        }
    }
}

/// Our own words at the level asked for; the libraries' only when everything is asked for.
fn log_to_stderr(level: LogLevel) {
    let own = LevelFilter::from(level);
    let libraries = match level {
        LogLevel::Trace => LevelFilter::TRACE,
        _ => own.min(LevelFilter::WARN),
    };
    let filter = Targets::new()
        .with_default(libraries)
        .with_target("cube_snapshotter", own);
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(stderr)
        .with_ansi(stderr().is_terminal())
        .with_target(false);
    tracing_subscriber::registry()
        .with(lines)
        .with(filter)
        .init();
}
