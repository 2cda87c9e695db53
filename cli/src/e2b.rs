// SPDX-License-Identifier: Apache-2.0
//! `cube e2b`: the E2B server's own command, under the name that operators know.

use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitCode};

use anyhow::Context as _;

const PROGRAM: &str = "cube-e2b";

/// Runs `cube-e2b` with the same arguments.
#[derive(Debug, clap::Args)]
#[command(disable_help_flag = true)]
pub struct Arguments {
    /// What `cube-e2b --help` says
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    rest: Vec<OsString>,
}

/// Becomes the program, which is beside this one, else on the PATH.
pub fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let beside = std::env::current_exe()
        .ok()
        .map(|own| own.with_file_name(PROGRAM))
        .filter(|path| path.exists());
    let program = beside.unwrap_or_else(|| PROGRAM.into());
    let error = Command::new(&program).args(&arguments.rest).exec();
    Err(error).with_context(|| format!("cannot execute {}", program.display()))
}
