// SPDX-License-Identifier: Apache-2.0
//! What samples come to. Pure arithmetic, no clock.

use serde::Serialize;

use super::samples::rounded;

/// The middle and the upper end of some samples, in milliseconds; nothing where there are no samples.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Quantiles {
    /// Half of the samples are not above it.
    pub p50_ms: Option<f64>,
    /// Nine of ten are not.
    pub p90_ms: Option<f64>,
    /// 99 of a hundred are not; with fewer than a hundred samples it is the greatest.
    pub p99_ms: Option<f64>,
}

impl Quantiles {
    /// Of samples in any order.
    pub fn of(samples: impl IntoIterator<Item = f64>) -> Self {
        let mut sorted: Vec<f64> = samples.into_iter().collect();
        sorted.sort_by(f64::total_cmp);
        Self {
            p50_ms: percentile(&sorted, 50).map(rounded),
            p90_ms: percentile(&sorted, 90).map(rounded),
            p99_ms: percentile(&sorted, 99).map(rounded),
        }
    }
}

/// The nearest rank: always a value that was measured.
fn percentile(sorted: &[f64], percent: usize) -> Option<f64> {
    let rank = (sorted.len() * percent).div_ceil(100);
    sorted.get(rank.checked_sub(1)?).copied()
}

/// One figure as a share of another.
pub fn ratio(mine: Option<f64>, other: Option<f64>) -> Option<f64> {
    let ratio = mine? / other?;
    ratio.is_finite().then_some(ratio)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(samples: &[f64], p50: f64, p90: f64, p99: f64) {
        let found = Quantiles::of(samples.iter().copied());
        let expect = Quantiles {
            p50_ms: Some(p50),
            p90_ms: Some(p90),
            p99_ms: Some(p99),
        };
        assert_eq!(found, expect, "{samples:?}");
    }

    #[test]
    fn a_percentile_is_the_sample_of_the_nearest_rank() {
        check(&[7.0], 7.0, 7.0, 7.0);
        check(&[2.0, 1.0], 1.0, 2.0, 2.0);
        check(&[3.0, 1.0, 2.0], 2.0, 3.0, 3.0);
        let hundred: Vec<f64> = (1..=100).rev().map(f64::from).collect();
        check(&hundred, 50.0, 90.0, 99.0);
        check(&hundred[..20], 90.0, 98.0, 100.0);
    }

    #[test]
    fn no_samples_have_no_percentiles() {
        assert_eq!(Quantiles::of([]).p50_ms, None);
    }

    #[test]
    fn a_ratio_needs_both_and_a_divisor() {
        assert_eq!(ratio(Some(3.0), Some(4.0)), Some(0.75));
        assert_eq!(ratio(Some(3.0), Some(0.0)), None);
        assert_eq!(ratio(None, Some(4.0)), None);
        assert_eq!(ratio(Some(3.0), None), None);
    }
}
