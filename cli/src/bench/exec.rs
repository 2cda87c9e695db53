// SPDX-License-Identifier: Apache-2.0
//! `cube bench exec`: one more process in a container that runs.

use std::cell::Cell;
use std::time::Instant;

use anyhow::ensure;

use super::Taken;
use super::lab::{Lab, Side, TRUE, within_limit};
use super::progress::Progress;
use super::samples::{Sample, Stopwatch, in_turn};
use super::spec;

/// Processes in a container of every side in turn.
pub async fn measure(lab: &Lab, sides: &[Side], n: u32) -> anyhow::Result<Vec<Taken>> {
    let mut progress = Progress::new("exec");
    let mut containers = Vec::new();
    for side in sides {
        containers.push(Container::start(lab, side).await?);
    }
    let take = async |container: &Container| container.sample(lab).await;
    let taken = in_turn(&containers, n, &mut progress, take).await;
    Ok(taken.into_iter().map(|series| (series, None)).collect())
}

/// A running container, and how many processes it was given.
#[derive(Debug)]
struct Container {
    id: String,
    execs: Cell<u32>,
}

impl Container {
    /// Starts the container; the lab removes it.
    async fn start(lab: &Lab, side: &Side) -> anyhow::Result<Self> {
        let created = lab.sleeper(side, &mut Stopwatch::start()).await?;
        Ok(Self {
            id: created.id,
            execs: Cell::new(0),
        })
    }

    /// One process, from its request until its end is told.
    async fn sample(&self, lab: &Lab) -> anyhow::Result<Sample> {
        self.execs.set(self.execs.get() + 1);
        let exec_id = format!("exec-{}", self.execs.get());
        within_limit(self.run(lab, &exec_id)).await
    }

    async fn run(&self, lab: &Lab, exec_id: &str) -> anyhow::Result<Sample> {
        let (containerd, id) = (&lab.containerd, &self.id);
        let process = spec::process(&TRUE);
        let mut watch = Stopwatch::start();
        containerd.exec(id, exec_id, &process).await?;
        watch.lap("exec");
        let start = async {
            containerd.start(id, exec_id).await?;
            Ok(Instant::now())
        };
        let (code, started) = tokio::try_join!(containerd.wait(id, exec_id), start)?;
        watch.lap_at("start", started);
        watch.lap("exit");
        let ms = watch.elapsed_ms();
        containerd.delete_process(id, exec_id).await?;
        watch.lap("delete");
        ensure!(code == 0, "`true` ended with code {code}");
        Ok(watch.sample(ms))
    }
}
