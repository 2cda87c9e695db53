// SPDX-License-Identifier: Apache-2.0
//! `cube bench burst`: many containers at once.

use std::time::Instant;

use futures::future::join_all;
use serde::Serialize;

use super::Taken;
use super::lab::{Lab, Side};
use super::options::Burst;
use super::progress::Progress;
use super::report::Extra;
use super::samples::{Sample, Series, Stopwatch, milliseconds, rounded};

/// What a burst comes to, beside the times of its containers.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Bursts {
    /// Until the last start, for each round.
    pub wall_ms: Vec<f64>,
    /// Started containers a second.
    pub throughput_per_s: Option<f64>,
}

/// Rounds of containers on each side in turn, after one container of each as a warm-up.
pub async fn measure(lab: &Lab, sides: &[Side], options: &Burst) -> anyhow::Result<Vec<Taken>> {
    let (at_once, rounds) = (options.size.get(), options.rounds);
    let mut progress = Progress::new("burst");
    let mut all: Vec<(Series, Bursts)> = sides.iter().map(|_| Default::default()).collect();
    for (side, (series, _)) in sides.iter().zip(&mut all) {
        lab.warm_up(side, series).await?;
    }
    for round in 1..=rounds {
        for (side, (series, bursts)) in sides.iter().zip(&mut all) {
            progress.tick(|| format!("round {round} of {rounds}, {}", side.runtime));
            let wall_ms = one_round(lab, side, at_once, series).await?;
            bursts.wall_ms.push(rounded(wall_ms));
        }
    }
    let with_throughput = all.into_iter().map(|(series, mut bursts)| {
        bursts.throughput_per_s = throughput(series.samples.len(), &bursts.wall_ms);
        (series, Some(Extra::Bursts(bursts)))
    });
    Ok(with_throughput.collect())
}

async fn one_round(
    lab: &Lab,
    side: &Side,
    at_once: u32,
    series: &mut Series,
) -> anyhow::Result<f64> {
    let begun = Instant::now();
    let starts = (0..at_once).map(async |_| {
        let mut watch = Stopwatch::start();
        let created = lab.sleeper(side, &mut watch).await?;
        let ms = watch.elapsed_ms();
        anyhow::Ok((created.id, watch.sample(ms)))
    });
    let started: Vec<anyhow::Result<(String, Sample)>> = join_all(starts).await;
    let wall_ms = milliseconds(begun.elapsed());
    let mut ids = Vec::new();
    for result in started {
        match result {
            Ok((id, sample)) => {
                ids.push(id);
                series.samples.push(sample);
            }
            Err(error) => series.failures.push(format!("{error:#}")),
        }
    }
    match lab.remove_all(ids).await.into_iter().next() {
        Some(left) => Err(left),
        None => Ok(wall_ms),
    }
}

fn throughput(started: usize, wall_ms: &[f64]) -> Option<f64> {
    let seconds = wall_ms.iter().sum::<f64>() / 1e3;
    let started = f64::from(u32::try_from(started).ok()?);
    (seconds > 0.0).then(|| rounded(started / seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn throughput_is_over_all_rounds() {
        assert_eq!(throughput(20, &[1500.0, 2500.0]), Some(5.0));
        assert_eq!(throughput(0, &[1000.0]), Some(0.0));
        assert_eq!(throughput(5, &[]), None);
    }
}
