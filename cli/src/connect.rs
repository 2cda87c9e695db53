// SPDX-License-Identifier: Apache-2.0
//! `cube connect`: a TCP port of a sandbox on standard input and output, whether or not it has a network.

use std::process::ExitCode;

use anyhow::Context;
use cube_runtime::{Config, Layout, ports};
use tokio::io::{AsyncWriteExt, copy, stdin, stdout};

use crate::{output, sandbox};

#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// The container, as `cube ps` lists it: ID, or NAMESPACE/ID where several have the same
    sandbox: String,
    /// The TCP port; what listens on localhost alone is reached too
    port: u16,
}

pub fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let config = Config::load()?;
    let dir = sandbox::find(&Layout::new(config.run), &arguments.sandbox)?.dir;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(join(&dir, arguments.port))?;
    // A read of standard input cannot be given up: the thread in it is left behind.
    runtime.shutdown_background();
    Ok(ExitCode::SUCCESS)
}

/// Until the sandbox has sent all: whoever asks first half-closes when standard input ends.
async fn join(dir: &std::path::Path, port: u16) -> anyhow::Result<()> {
    let stream = ports::open(dir, port).await?;
    let (mut from, mut to) = stream.into_split();
    let input = tokio::spawn(async move {
        copy(&mut stdin(), &mut to).await?;
        to.shutdown().await
    });
    let mut out = stdout();
    let copied = async {
        copy(&mut from, &mut out).await?;
        out.flush().await
    };
    let result = copied.await;
    input.abort();
    output::unless_reader_left(result).context("the connection broke")
}
