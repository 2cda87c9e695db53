// SPDX-License-Identifier: Apache-2.0
//! How fast requests of one key may come: a bucket that fills at the key's rate.

use std::time::Instant;

/// Seconds' worth of requests that may come at once.
pub const BURST_S: u32 = 5;

/// What is left of one key's requests.
#[derive(Clone, Copy, Debug)]
pub struct Bucket {
    tokens: f64,
    at: Instant,
}

impl Bucket {
    /// That of a key that was not used for a while.
    pub fn full(per_second: u32, now: Instant) -> Self {
        Self {
            tokens: capacity(per_second),
            at: now,
        }
    }

    /// Takes one request out, if there is one.
    pub fn take(&mut self, per_second: u32, now: Instant) -> bool {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        self.tokens = (self.tokens + passed * f64::from(per_second)).min(capacity(per_second));
        self.at = now;
        let is_there = self.tokens >= 1.0;
        if is_there {
            self.tokens -= 1.0;
        }
        is_there
    }
}

fn capacity(per_second: u32) -> f64 {
    f64::from(per_second) * f64::from(BURST_S)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_burst_is_allowed_and_then_the_rate() {
        let begin = Instant::now();
        let mut bucket = Bucket::full(2, begin);
        for _ in 0..2 * BURST_S {
            assert!(bucket.take(2, begin));
        }
        assert!(!bucket.take(2, begin));
        let later = begin + Duration::from_millis(500);
        assert!(bucket.take(2, later));
        assert!(!bucket.take(2, later));
    }

    #[test]
    fn a_long_rest_gives_no_more_than_a_burst() {
        let begin = Instant::now();
        let mut bucket = Bucket::full(1, begin);
        let later = begin + Duration::from_secs(3600);
        let taken = (0..100).filter(|_| bucket.take(1, later)).count();
        assert_eq!(taken, BURST_S as usize);
    }
}
