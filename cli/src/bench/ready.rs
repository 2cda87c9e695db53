// SPDX-License-Identifier: Apache-2.0
//! `cube bench ready`: a sandbox through the waist, without containerd and without a container.

use std::cell::Cell;
use std::io;

use anyhow::{Context as _, ensure};
use cube_runtime::layout::SandboxState;
use cube_runtime::{Config, Layout, Sandbox, SandboxKey, SandboxSpec, template};
use tracing_subscriber::filter::LevelFilter;

use super::options::{Ready, Way};
use super::progress::Progress;
use super::report::SideReport;
use super::samples::{Sample, Stopwatch, in_turn};

/// Sandboxes one after the other, those of two ways in turn.
pub async fn measure(options: &Ready) -> anyhow::Result<Vec<SideReport>> {
    let (ways, config) = (options.ways(), Config::load()?);
    log_to_stderr(config.trace);
    let mut progress = Progress::new("ready");
    if ways.iter().any(|way| way.has_template()) {
        let made = template::build(&config, config.vcpus, config.memory_mib).await;
        made.context("the template could not be made")?;
        progress.tick(|| "the template is there".to_owned());
    }
    let made = Cell::new(0);
    let makers: Vec<Maker> = ways
        .iter()
        .map(|way| Maker::new(&config, *way, &made))
        .collect();
    let take = async |maker: &Maker| maker.sample().await;
    let taken = in_turn(&makers, options.n, &mut progress, take).await;
    let reports = ways.iter().zip(taken);
    Ok(reports
        .map(|(way, series)| SideReport::new(way.name().to_owned(), series, None))
        .collect())
}

/// What makes sandboxes in one way, and numbers them.
#[derive(Debug)]
struct Maker<'a> {
    way: Way,
    config: Config,
    /// Shared by all, so that no two sandboxes have one name.
    made: &'a Cell<u32>,
}

impl<'a> Maker<'a> {
    /// With this host's configuration, but for what makes the way.
    fn new(config: &Config, way: Way, made: &'a Cell<u32>) -> Self {
        let config = Config {
            cold: !way.has_template(),
            prefault: way == Way::Warm,
            ..config.clone()
        };
        Self { way, config, made }
    }

    /// One sandbox, from nothing until its guest is claimed. Dropped in the middle it leaves nothing.
    async fn sample(&self) -> anyhow::Result<Sample> {
        self.made.set(self.made.get() + 1);
        let spec = self.spec(&format!("ready-{}-{}", std::process::id(), self.made.get()));
        let directory = Layout::new(&self.config.run).path(&spec.key);
        let mut watch = Stopwatch::start();
        let sandbox = Sandbox::create(&self.config, spec).await?;
        watch.lap("create");
        let ms = watch.elapsed_ms();
        let state = SandboxState::read(&directory);
        sandbox.destroy().await?;
        watch.lap("destroy");
        self.check(state?.as_ref())?;
        Ok(watch.sample(ms))
    }

    /// Where a template is of no use the guest is booted: a good sandbox, and another way's sample.
    fn check(&self, state: Option<&SandboxState>) -> anyhow::Result<()> {
        let restored = state.is_some_and(|state| state.template.is_some());
        ensure!(
            restored == self.way.has_template(),
            "not a sample of {}: the guest was {}",
            self.way.name(),
            if restored { "restored" } else { "booted" }
        );
        Ok(())
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
            egress: None,
            from: None,
        }
    }
}

/// Why a guest was booted after all; and for `cube trace`, as here the stages are those of this process,
/// not of a shim.
fn log_to_stderr(trace: bool) {
    tracing_subscriber::fmt()
        .with_ansi(false)
        .with_max_level(if trace {
            LevelFilter::INFO
        } else {
            LevelFilter::WARN
        })
        .with_writer(io::stderr)
        .init();
}

impl Way {
    /// In a report.
    fn name(self) -> &'static str {
        match self {
            Way::Warm => "template",
            Way::NoPrefault => "template, no prefault",
            Way::Cold => "cold boot",
        }
    }

    fn has_template(self) -> bool {
        match self {
            Way::Warm | Way::NoPrefault => true,
            Way::Cold => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_way_is_the_configuration_but_for_its_own_switch() {
        let (usual, made) = (Config::default(), Cell::new(0));
        let switches = |way| {
            let config = Maker::new(&usual, way, &made).config;
            (config.cold, config.prefault)
        };
        assert_eq!(switches(Way::Warm), (false, true));
        assert_eq!(switches(Way::NoPrefault), (false, false));
        assert!(switches(Way::Cold).0);
    }

    #[test]
    fn a_sandbox_of_another_way_is_no_sample() {
        let state = |template: Option<&str>| -> SandboxState {
            serde_json::from_value(serde_json::json!({
                "version": 1,
                "key": {"address": "/a", "namespace": "n", "id": "i"},
                "vcpus": 1,
                "memory_mib": 128,
                "created_s": 0,
                "vmm": {"pid": 1, "start_ticks": 0},
                "cgroups": [],
                "template": template,
            }))
            .unwrap()
        };
        let (restored, booted) = (state(Some("0123456789abcdef")), state(None));
        let made = Cell::new(0);
        let check = |way, state| Maker::new(&Config::default(), way, &made).check(state);
        for way in [Way::Warm, Way::NoPrefault] {
            check(way, Some(&restored)).unwrap();
            check(way, Some(&booted)).unwrap_err();
            check(way, None).unwrap_err();
        }
        check(Way::Cold, Some(&booted)).unwrap();
        check(Way::Cold, Some(&restored)).unwrap_err();
    }
}
