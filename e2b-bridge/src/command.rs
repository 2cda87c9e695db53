// SPDX-License-Identifier: Apache-2.0
//! What can be typed, and what it does.

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, ensure};
use clap::{Parser, Subcommand};
use cube_containerd::Containerd;
use cube_e2b::api::Api;
use cube_e2b::config::BridgeConfig;
use cube_e2b::keys::{KeyFile, Keys};
use cube_e2b::sandbox::Sandboxes;
use cube_e2b::server::Door;
use cube_runtime::{Config, Layout};
use tokio::net::TcpListener;

const DEFAULT_CONFIG: &str = "/etc/cube/e2b.toml";

/// An E2B server on this host: sandboxes for unmodified E2B SDKs, as containers of containerd.
#[derive(Debug, Parser)]
#[command(name = "cube-e2b", version)]
pub struct Arguments {
    /// The configuration file [default: /etc/cube/e2b.toml, if it is there]
    #[arg(long, global = true, env = "CUBE_E2B_CONFIG")]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve until killed; sandboxes go on without
    Serve,
    /// Make, list and remove API keys
    #[command(subcommand)]
    Key(KeyCommand),
}

#[derive(Debug, Subcommand)]
enum KeyCommand {
    /// Make a key and print it: it cannot be shown again
    Add {
        /// What to call it
        name: String,
        /// Whose sandboxes it is for; keys of one team see the same ones
        #[arg(long, default_value = "default")]
        team: String,
        /// Sandboxes that its team may have at a time
        #[arg(long, default_value_t = 100)]
        max_sandboxes: usize,
        /// Requests a second, on average
        #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..))]
        requests_per_second: u32,
    },
    /// List keys: id, team, name
    #[command(visible_alias = "ls")]
    List,
    /// Remove a key, at once also for a running server
    #[command(visible_alias = "rm")]
    Remove {
        /// Its id
        id: String,
    },
}

/// Does it.
pub fn run(arguments: Arguments) -> anyhow::Result<()> {
    let config = read_config(arguments.config.as_deref())?;
    match arguments.command {
        Command::Serve => serve(config),
        Command::Key(command) => key(&config.keys(), command),
    }
}

fn read_config(path: Option<&Path>) -> anyhow::Result<BridgeConfig> {
    let default = Path::new(DEFAULT_CONFIG);
    match path {
        Some(path) => Ok(BridgeConfig::read(path)?),
        None if default.exists() => Ok(BridgeConfig::read(default)?),
        None => Ok(BridgeConfig::default()),
    }
}

fn serve(config: BridgeConfig) -> anyhow::Result<()> {
    let layout = Layout::new(Config::load()?.run);
    let keys = Arc::new(Keys::open(config.keys())?);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("cannot start the event loop")?;
    runtime.block_on(async {
        let containerd = Containerd::connect(&config.containerd, &config.namespace).await?;
        let listen = config.listen;
        let listener = TcpListener::bind(listen)
            .await
            .with_context(|| format!("cannot listen on {listen}"))?;
        let sandboxes = Sandboxes::new(containerd, config, layout);
        sandboxes.recover().await?;
        tracing::info!(%listen, "serving");
        match Door::new(Api { sandboxes, keys }).serve(listener).await {}
    })
}

fn key(path: &Path, command: KeyCommand) -> anyhow::Result<()> {
    let mut file = KeyFile::read(path)?;
    match command {
        KeyCommand::Add {
            name,
            team,
            max_sandboxes,
            requests_per_second,
        } => {
            let (_, key) = file.add(&name, &team, max_sandboxes, requests_per_second)?;
            file.write(path)?;
            writeln!(io::stdout(), "{key}")?;
        }
        KeyCommand::List => {
            for key in &file.keys {
                writeln!(io::stdout(), "{}  {}  {}", key.id, key.team, key.name)?;
            }
        }
        KeyCommand::Remove { id } => {
            ensure!(file.remove(&id), "there is no key {id}");
            file.write(path)?;
        }
    }
    Ok(())
}
