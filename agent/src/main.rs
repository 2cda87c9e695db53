// SPDX-License-Identifier: Apache-2.0
//! `cube-agent`: the program behind every role in the guest. Which one it plays depends on how it was
//! started: by the kernel as PID 1 or for a module, by itself for a new process, or by hand.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use cube_agent::agent::Agent;
use cube_agent::cause::chain;
use cube_agent::container::{Layout, Slots};
use cube_agent::guest::{self, Machine};
use cube_agent::process::Reaper;
use cube_agent::transport::{self, Address};
use cube_agent::{cgroup, container, log, stage, sys};

const USAGE: &str = "usage: cube-agent serve --listen unix:PATH --slots DIR --run DIR --cgroup DIR
       cube-agent --version
In a guest it is /init. `serve` runs it on this system, with block slots that are links in DIR.";

/// What may wait for a disk at the same time: a mount or unmount for each of the eight slots, and as many
/// looks at files. Each thread is made when all others are busy.
const BLOCKING_THREADS: usize = 16;

/// How long a thread for them waits for its next task: for ever, so that one made before a snapshot is there
/// in whatever is restored from it.
const THREAD_KEEP_ALIVE: Duration = Duration::from_secs(u32::MAX as u64);

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    if words.first() == Some(&sys::STAGE_NAME) {
        stage::main();
    }
    log::start();
    let result = match words.as_slice() {
        _ if std::process::id() == 1 => be_init(),
        [_, "-q", "--", alias] => guest::modprobe(alias).map_err(Into::into),
        [_, "--version"] => print_version(),
        [_, "serve", options @ ..] => serve(options),
        _ => Err(anyhow::anyhow!(USAGE)),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{}", chain(error.as_ref()));
            ExitCode::FAILURE
        }
    }
}

fn be_init() -> anyhow::Result<()> {
    let begun = Instant::now();
    let layout = guest::boot()?;
    tracing::info!(elapsed = ?begun.elapsed(), "machine is up");
    run(layout, Machine::Own, Address::Vsock)
}

fn serve(options: &[&str]) -> anyhow::Result<()> {
    let option = |name: &str| {
        let at = options.iter().position(|option| *option == name);
        at.and_then(|at| options.get(at + 1))
            .with_context(|| format!("{name} is missing\n{USAGE}"))
    };
    let Some(socket) = option("--listen")?.strip_prefix("unix:") else {
        bail!("--listen takes unix:PATH");
    };
    let cgroup = PathBuf::from(option("--cgroup")?);
    cgroup::delegate(&cgroup)?;
    let layout = Layout {
        run: option("--run")?.into(),
        cgroup_root: "/sys/fs/cgroup".into(),
        cgroup,
        slots: Slots::Directory(option("--slots")?.into()),
    };
    run(layout, Machine::Borrowed, Address::Unix(socket.into()))
}

fn run(layout: Layout, machine: Machine, address: Address) -> anyhow::Result<()> {
    sys::share_heap();
    let directory = layout.run.join("containers");
    std::fs::create_dir_all(&directory)
        .with_context(|| format!("cannot make {}", directory.display()))?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(BLOCKING_THREADS)
        .thread_keep_alive(THREAD_KEEP_ALIVE)
        .build()
        .context("cannot start the event loop")?;
    runtime.block_on(async {
        let reaper = Reaper::start().context("cannot watch for children")?;
        if let Err(error) = container::rehearse(&reaper, &layout).await {
            tracing::warn!(error = %chain(&error), "the rehearsal failed: clones start slower");
        }
        let agent = Arc::new(Agent::new(layout, machine, reaper));
        match transport::serve(agent, address).await? {}
    })
}

fn print_version() -> anyhow::Result<()> {
    use std::io::Write;
    writeln!(
        std::io::stdout(),
        "cube-agent {}",
        env!("CARGO_PKG_VERSION")
    )?;
    Ok(())
}
