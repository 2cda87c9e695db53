// SPDX-License-Identifier: Apache-2.0
//! `cube-e2b`: the E2B server, and its keys.

mod command;

use std::io::{self, Write as _};
use std::process::ExitCode;

use clap::Parser as _;
use tracing_subscriber::EnvFilter;

use command::Arguments;

fn main() -> ExitCode {
    let filter = EnvFilter::try_from_env("CUBE_LOG").unwrap_or_else(|_| "info".into());
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .init();
    match command::run(Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // With no standard error left there is nobody to tell.
            writeln!(io::stderr(), "cube-e2b: {error:#}").ok();
            ExitCode::FAILURE
        }
    }
}
