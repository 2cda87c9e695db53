// SPDX-License-Identifier: Apache-2.0
//! `cube bench ready`: a sandbox through the waist, without containerd and without a container.

use std::cell::Cell;
use std::io;

use anyhow::ensure;
use cube_runtime::{Config, Sandbox, SandboxKey, SandboxSpec};

use super::options::{Ready, Way};
use super::progress::Progress;
use super::report::SideReport;
use super::samples::{Sample, Stopwatch, in_turn};

/// Sandboxes one after the other, those of two ways in turn.
pub async fn measure(options: &Ready) -> anyhow::Result<Vec<SideReport>> {
    let (ways, maker) = (ways(options)?, Maker::new()?);
    if maker.config.trace {
        trace_to_stderr();
    }
    let mut progress = Progress::new("ready");
    let take = async |way: &Way| maker.sample(*way).await;
    let taken = in_turn(&ways, options.n, &mut progress, take).await;
    let reports = ways.iter().zip(taken);
    Ok(reports
        .map(|(way, series)| SideReport::new(way.name().to_owned(), series, None))
        .collect())
}

/// What makes sandboxes, and numbers them.
#[derive(Debug)]
struct Maker {
    config: Config,
    made: Cell<u32>,
}

impl Maker {
    /// With this host's configuration.
    fn new() -> anyhow::Result<Self> {
        Ok(Self {
            config: Config::load()?,
            made: Cell::new(0),
        })
    }

    /// One sandbox, from nothing until its guest is claimed. Dropped in the middle it leaves nothing.
    async fn sample(&self, _: Way) -> anyhow::Result<Sample> {
        self.made.set(self.made.get() + 1);
        let spec = self.spec(&format!("ready-{}-{}", std::process::id(), self.made.get()));
        let mut watch = Stopwatch::start();
        let sandbox = Sandbox::create(&self.config, spec).await?;
        watch.lap("create");
        let ms = watch.elapsed_ms();
        sandbox.destroy().await?;
        watch.lap("destroy");
        Ok(watch.sample(ms))
    }

    fn spec(&self, id: &str) -> SandboxSpec {
        SandboxSpec {
            key: SandboxKey {
                address: "/cube-bench".into(),
                namespace: "cube-bench".into(),
                id: id.into(),
            },
            netns: None,
            hostname: id.into(),
            vcpus: self.config.vcpus,
            memory_mib: self.config.memory_mib,
            cgroup: None,
        }
    }
}

/// For `cube trace`: here the stages are those of this process, not of a shim.
fn trace_to_stderr() {
    tracing_subscriber::fmt()
        .with_ansi(false)
        .with_writer(io::stderr)
        .init();
}

/// The ways to measure: the first is the one asked about.
fn ways(options: &Ready) -> anyhow::Result<Vec<Way>> {
    ensure!(
        options.against.is_none(),
        "nothing to compare with: without templates every sandbox boots cold"
    );
    Ok(vec![Way::Cold])
}

impl Way {
    /// In a report.
    fn name(self) -> &'static str {
        match self {
            Way::Cold => "cold boot",
        }
    }
}
