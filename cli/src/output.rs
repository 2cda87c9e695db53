// SPDX-License-Identifier: Apache-2.0
//! How the commands print, and what `cube --help` ends with.

use std::io::{self, Write};
use std::process::ExitCode;

use serde::Serialize;

/// Shown below the help.
pub const EXAMPLES: &str = "\
Start a container in a microVM, through containerd:
  ctr run --rm --runtime io.cube.v1 --snapshotter cube docker.io/library/busybox:latest t1 uname -r

Is this host fit for it?
  cube doctor

Configuration: /etc/cube/config.toml (CUBE_CONFIG names another file). CUBE_TRACE=1 logs each stage of a start.";

/// Prints an error with its causes.
pub fn fail(error: &anyhow::Error) -> ExitCode {
    // With no standard error left there is nobody to tell.
    writeln!(io::stderr(), "cube: {error:#}").ok();
    ExitCode::FAILURE
}

/// Prints a value as JSON for programs.
pub fn print_json(value: &impl Serialize) -> io::Result<()> {
    let mut out = io::stdout().lock();
    serde_json::to_writer_pretty(&mut out, value)?;
    writeln!(out)
}

/// A reader that went away (`cube ps | head`) is no failure.
pub fn unless_reader_left(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other,
    }
}

/// Seconds in the unit that says enough.
pub fn short_age(seconds: u64) -> String {
    match seconds {
        0..=119 => format!("{seconds}s"),
        120..=7199 => format!("{}m", seconds / 60),
        7200..=172_799 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    }
}
