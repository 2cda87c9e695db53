// SPDX-License-Identifier: Apache-2.0
//! Samples, and the loop that takes them: one of each side in turn, the first of each discarded.

use std::time::{Duration, Instant};

use serde::{Serialize, Serializer};

use super::progress::Progress;

/// One measurement, with what it is made of.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Sample {
    /// The figure itself.
    #[serde(serialize_with = "to_microseconds")]
    pub ms: f64,
    /// Its stages and those after it, in their order.
    #[serde(skip_serializing_if = "Vec::is_empty", serialize_with = "as_map")]
    pub stages: Vec<(&'static str, f64)>,
}

impl Sample {
    /// From the beginning until the end of a stage, if there is such a stage.
    pub fn until(&self, stage: &str) -> Option<f64> {
        let place = self.stages.iter().position(|(name, _)| *name == stage)?;
        Some(self.stages[..=place].iter().map(|(_, ms)| ms).sum())
    }
}

/// All samples of one side.
#[derive(Clone, Debug, Default)]
pub struct Series {
    /// Those that were taken.
    pub samples: Vec<Sample>,
    /// What went wrong, once for each that was not.
    pub failures: Vec<String>,
}

/// Times the stages of a sample.
#[derive(Debug)]
pub struct Stopwatch {
    begun: Instant,
    last: Instant,
    stages: Vec<(&'static str, f64)>,
}

impl Stopwatch {
    /// Begins now.
    pub fn start() -> Self {
        let now = Instant::now();
        Self {
            begun: now,
            last: now,
            stages: Vec::new(),
        }
    }

    /// The stage since the last one has ended.
    pub fn lap(&mut self, stage: &'static str) {
        self.lap_at(stage, Instant::now());
    }

    /// It ended at a moment that was noted.
    pub fn lap_at(&mut self, stage: &'static str, at: Instant) {
        let took = at.saturating_duration_since(self.last);
        self.stages.push((stage, milliseconds(took)));
        self.last = at;
    }

    /// Until the end of the last stage.
    pub fn elapsed_ms(&self) -> f64 {
        milliseconds(self.last.duration_since(self.begun))
    }

    /// The sample whose figure is this.
    pub fn sample(self, ms: f64) -> Sample {
        Sample {
            ms,
            stages: self.stages,
        }
    }
}

/// Takes `n` samples of each side, A B A B, after one of each that does not count: caches are warm and
/// whatever is made on first need has been made. A failure counts, also of that one.
pub async fn in_turn<Side>(
    sides: &[Side],
    n: u32,
    progress: &mut Progress,
    take: impl AsyncFn(&Side) -> anyhow::Result<Sample>,
) -> Vec<Series> {
    let mut series: Vec<Series> = sides.iter().map(|_| Series::default()).collect();
    for turn in 0..=n {
        for (side, series) in sides.iter().zip(&mut series) {
            match take(side).await {
                Ok(_) if turn == 0 => progress.tick(|| "warm-up".to_owned()),
                Ok(sample) => {
                    progress.tick(|| format!("{turn} of {n}, {:.1} ms", sample.ms));
                    series.samples.push(sample);
                }
                Err(error) => {
                    progress.note(&format!("failed: {error:#}"));
                    series.failures.push(format!("{error:#}"));
                }
            }
        }
    }
    series
}

/// A duration as the figures have it.
pub fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

/// To three digits: what is below a microsecond is noise.
pub fn rounded(ms: f64) -> f64 {
    (ms * 1e3).round() / 1e3
}

fn to_microseconds<S: Serializer>(ms: &f64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(rounded(*ms))
}

fn as_map<S: Serializer>(stages: &[(&'static str, f64)], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(stages.iter().map(|(name, ms)| (name, rounded(*ms))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;

    fn sample(ms: f64) -> Sample {
        Sample {
            ms,
            stages: Vec::new(),
        }
    }

    #[tokio::test]
    async fn sides_take_turns_and_their_first_does_not_count() {
        let taken = RefCell::new(String::new());
        let series = in_turn(&['a', 'b'], 2, &mut Progress::silent(), async |side| {
            taken.borrow_mut().push(*side);
            Ok(sample(f64::from(u32::try_from(taken.borrow().len())?)))
        })
        .await;
        assert_eq!(taken.into_inner(), "ababab");
        assert_eq!(series[0].samples, [sample(3.0), sample(5.0)]);
        assert_eq!(series[1].samples, [sample(4.0), sample(6.0)]);
    }

    #[tokio::test]
    async fn failures_are_counted_and_not_dropped() {
        let turn = RefCell::new(0);
        let series = in_turn(&[()], 3, &mut Progress::silent(), async |()| {
            *turn.borrow_mut() += 1;
            match *turn.borrow() {
                1 | 3 => anyhow::bail!("no {}", turn.borrow()),
                _ => Ok(sample(1.0)),
            }
        })
        .await;
        assert_eq!(series[0].failures, ["no 1", "no 3"]);
        assert_eq!(series[0].samples.len(), 2);
    }

    #[test]
    fn stages_add_up_to_the_whole() {
        let mut watch = Stopwatch::start();
        watch.lap("one");
        watch.lap_at("two", Instant::now() + Duration::from_millis(5));
        let whole = watch.elapsed_ms();
        let sample = watch.sample(whole);
        let sum: f64 = sample.stages.iter().map(|(_, ms)| ms).sum();
        assert!((sum - sample.ms).abs() < 1e-6, "{sample:?}");
        assert!((sample.until("two").unwrap() - sample.ms).abs() < 1e-6);
        assert!(sample.until("one").unwrap() < sample.ms);
        assert_eq!(sample.until("three"), None);
        assert!(sample.ms >= 5.0);
    }
}
