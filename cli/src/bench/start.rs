// SPDX-License-Identifier: Apache-2.0
//! `cube bench start`: one container that runs `true`.

use std::time::Instant;

use anyhow::ensure;

use super::Taken;
use super::lab::{Lab, Side, TRUE, within_limit};
use super::progress::Progress;
use super::report::{Extra, UntilExit};
use super::samples::{Sample, Stopwatch, in_turn};

/// Starts of every side in turn.
pub async fn measure(lab: &Lab, sides: &[Side], n: u32) -> anyhow::Result<Vec<Taken>> {
    let mut progress = Progress::new("start");
    let take = async |side: &Side| sample(lab, side).await;
    let taken = in_turn(sides, n, &mut progress, take).await;
    let with_exit = taken.into_iter().map(|series| {
        let until = UntilExit::of(&series.samples);
        (series, Some(Extra::Exit(until)))
    });
    Ok(with_exit.collect())
}

/// One start. What comes after Start's answer is a stage of the sample and not in its figure.
async fn sample(lab: &Lab, side: &Side) -> anyhow::Result<Sample> {
    let mut watch = Stopwatch::start();
    let created = lab.create(side, &TRUE, &mut watch).await?;
    match within_limit(run_and_remove(lab, side, &created.id, &mut watch)).await {
        Ok(ms) => Ok(watch.sample(ms)),
        Err(error) => Err(lab.removed_after(error, &created.id).await),
    }
}

async fn run_and_remove(
    lab: &Lab,
    side: &Side,
    id: &str,
    watch: &mut Stopwatch,
) -> anyhow::Result<f64> {
    let containerd = &lab.containerd;
    let start = async {
        containerd.start(id, "").await?;
        Ok(Instant::now())
    };
    // The wait is asked for first, as every client does.
    let (code, started) = tokio::try_join!(containerd.wait(id, ""), start)?;
    watch.lap_at("start", started);
    let ms = watch.elapsed_ms();
    watch.lap("exit");
    ensure!(code == 0, "`true` ended with code {code}");
    containerd.delete_task(id).await?;
    watch.lap("delete");
    containerd.delete_container(id).await?;
    containerd.remove_snapshot(&side.snapshotter, id).await?;
    watch.lap("remove");
    lab.struck_off(id);
    Ok(ms)
}
