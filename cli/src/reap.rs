// SPDX-License-Identifier: Apache-2.0
//! `cube reap`: what containerd's cleanup missed, for instance because the host lost power.

use std::io::{self, Write};
use std::process::ExitCode;

use cube_runtime::layout;
use cube_runtime::reap::reap_dir;
use cube_runtime::{Config, Layout};

use crate::output;

#[derive(Debug, clap::Args)]
#[command(after_help = "A sandbox whose shim lives is never touched.")]
pub struct Arguments {
    /// Only say what would be removed
    #[arg(long)]
    dry_run: bool,
}

pub fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let config = Config::load()?;
    let mut out = io::stdout().lock();
    let mut failures = false;
    for dir in Layout::new(config.run).list()? {
        if layout::is_held(&dir) {
            continue;
        }
        let line = if arguments.dry_run {
            format!("would remove {}", dir.display())
        } else {
            match reap_dir(&dir) {
                Ok(reaped) if reaped.killed => format!("removed {} and its VMM", dir.display()),
                Ok(_) => format!("removed {}", dir.display()),
                Err(error) => {
                    failures = true;
                    format!("kept {}: {:#}", dir.display(), anyhow::Error::new(error))
                }
            }
        };
        output::unless_reader_left(writeln!(out, "{line}"))?;
    }
    Ok(if failures {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}
