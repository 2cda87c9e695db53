// SPDX-License-Identifier: Apache-2.0
//! `cube egress`: what a running sandbox may send to, shown or replaced.

use std::process::ExitCode;

use cube_runtime::{Config, Layout, Policy};

use crate::{output, sandbox};

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  cube egress web                                  show it
  cube egress web '{\"default\":\"deny\",\"allow\":[\"10.0.0.0/8 tcp:443\",\"*.debian.org\"]}'

An entry is ADDRESS, ADDRESS/PREFIX, either with ' tcp:PORTS' or ' udp:PORTS' behind, or a name.
Connections that others opened to the sandbox live on.")]
pub struct Arguments {
    /// The container, as `cube ps` lists it: ID, or NAMESPACE/ID where several have the same
    sandbox: String,
    /// The policy that takes the place of the one it has, as JSON
    policy: Option<String>,
}

pub fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let found = sandbox::find(&Layout::new(Config::load()?.run), &arguments.sandbox)?;
    match &arguments.policy {
        Some(text) => {
            // A mistake is told without the way round by containerd.
            Policy::parse(text)?;
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?;
            runtime.block_on(found.annotate(cube_runtime::spec::EGRESS, text))?;
        }
        None => output::unless_reader_left(output::print_json(&found.state.network.egress))?,
    }
    Ok(ExitCode::SUCCESS)
}
