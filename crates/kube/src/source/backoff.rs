//! How long to wait before the next try.

use std::time::Duration;

use rand::Rng as _;

const FIRST: Duration = Duration::from_millis(200);

/// Doubles up to a bound; every wait is cut by up to a half at random, so that many do not return together.
#[derive(Debug)]
pub struct Backoff {
    next: Duration,
    /// Tries that failed in a row.
    pub failures: u32,
}

impl Default for Backoff {
    fn default() -> Self {
        Self {
            next: FIRST,
            failures: 0,
        }
    }
}

impl Backoff {
    /// A try has failed; how long to wait, at most `bound`.
    pub fn failed(&mut self, bound: Duration) -> Duration {
        let whole = self.next.min(bound);
        self.next = (whole * 2).min(bound);
        self.failures = self.failures.saturating_add(1);
        whole.mul_f64(rand::rng().random_range(0.5..=1.0))
    }

    /// A try has succeeded.
    pub fn reset(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_the_bound_and_begin_anew() {
        let mut backoff = Backoff::default();
        let bound = Duration::from_secs(5);
        let waits: Vec<Duration> = (0..12).map(|_| backoff.failed(bound)).collect();
        assert!(waits[0] <= FIRST && waits[0] >= FIRST / 2, "{waits:?}");
        assert!(waits[11] <= bound && waits[11] >= bound / 2, "{waits:?}");
        assert_eq!(backoff.failures, 12);
        backoff.reset();
        assert!(backoff.failed(bound) <= FIRST);
    }
}
