// SPDX-License-Identifier: Apache-2.0
//! `cube doctor`: the report of [`cube_runtime::doctor`], for people or for programs.

use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use cube_runtime::Config;
use cube_runtime::doctor::{self, Check, Finding, Status};

use crate::output;

#[derive(Debug, clap::Args)]
#[command(after_help = "Exit code: 0 if containers can run here (warnings included), 1 if not.")]
pub struct Arguments {
    /// Print the findings as JSON
    #[arg(long)]
    json: bool,
    /// Print nothing: only the exit code
    #[arg(long, conflicts_with = "json")]
    quiet: bool,
    /// Make only these checks
    #[arg(long, value_name = "CHECK", value_delimiter = ',', value_parser = checks())]
    only: Vec<Check>,
}

pub fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let config = Config::load()?;
    let checks = match arguments.only.as_slice() {
        [] => &Check::ALL[..],
        only => only,
    };
    let findings = doctor::examine(&config, checks);
    let worst = findings.iter().map(|finding| finding.status).max();
    let printed = if arguments.json {
        output::print_json(&findings)
    } else if arguments.quiet {
        Ok(())
    } else {
        print(&findings)
    };
    output::unless_reader_left(printed)?;
    Ok(match worst {
        Some(Status::Bad) => ExitCode::FAILURE,
        Some(Status::Good | Status::Warning) | None => ExitCode::SUCCESS,
    })
}

fn checks() -> impl TypedValueParser<Value = Check> {
    PossibleValuesParser::new(Check::ALL.map(Check::name)).try_map(|name| {
        let named = Check::ALL.into_iter().find(|check| check.name() == name);
        named.ok_or("no such check")
    })
}

fn print(findings: &[Finding]) -> io::Result<()> {
    let mut out = io::stdout().lock();
    let colour = out.is_terminal() && std::env::var_os("NO_COLOR").is_none();
    for finding in findings {
        let (word, code) = match finding.status {
            Status::Good => ("good", 32),
            Status::Warning => ("warn", 33),
            Status::Bad => ("BAD ", 31),
        };
        let word = if colour {
            format!("\x1b[{code}m{word}\x1b[0m")
        } else {
            word.to_owned()
        };
        writeln!(
            out,
            "{word}  {:<10}  {}",
            finding.check.name(),
            finding.found
        )?;
        if let Some(mend) = &finding.mend {
            writeln!(out, "{:18}-> {mend}", "")?;
        }
    }
    Ok(())
}
