//! How much one caller, and all together, may ask of the authority.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Bounds of the CSR service.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Requests that one caller (a pod, or an account where the proof names no pod) may make at once.
    pub burst: u32,
    /// Requests a second that it may go on making.
    pub per_second: f64,
    /// Callers that are remembered; beyond that, new ones wait until others have been quiet.
    pub callers: usize,
    /// Signatures made at once.
    pub concurrency: usize,
    /// How long a request may wait for its turn.
    pub patience: Duration,
    /// Life of certificates whose requests name none; zero is the authority's default (24 h).
    pub default_ttl: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            burst: 50,
            per_second: 5.0,
            callers: 100_000,
            concurrency: 16,
            patience: Duration::from_secs(5),
            default_ttl: Duration::ZERO,
        }
    }
}

/// A token bucket per caller.
pub(super) struct Buckets {
    limits: Limits,
    by_caller: Mutex<HashMap<String, Bucket>>,
}

struct Bucket {
    tokens: f64,
    filled: Instant,
}

impl Buckets {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            limits,
            by_caller: Mutex::new(HashMap::new()),
        }
    }

    /// Whether `caller` may make one more request at `now`.
    pub(super) fn take(&self, caller: &str, now: Instant) -> bool {
        let Limits {
            burst,
            per_second,
            callers,
            ..
        } = self.limits;
        let full = f64::from(burst);
        let level = |b: &Bucket| {
            let gained = now.saturating_duration_since(b.filled).as_secs_f64() * per_second;
            (b.tokens + gained).min(full)
        };
        let mut by_caller = self.by_caller.lock().unwrap_or_else(PoisonError::into_inner);
        if !by_caller.contains_key(caller) && by_caller.len() >= callers {
            // A full bucket remembers nothing that matters.
            by_caller.retain(|_, bucket| level(bucket) < full);
            if by_caller.len() >= callers {
                return false;
            }
        }
        let bucket = by_caller.entry(caller.to_owned()).or_insert(Bucket {
            tokens: full,
            filled: now,
        });
        let tokens = level(bucket);
        bucket.filled = now;
        bucket.tokens = if tokens < 1.0 { tokens } else { tokens - 1.0 };
        tokens >= 1.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_let_through_and_then_the_rate() {
        let buckets = Buckets::new(Limits {
            burst: 2,
            per_second: 1.0,
            ..Limits::default()
        });
        let start = Instant::now();
        assert!(buckets.take("a", start));
        assert!(buckets.take("a", start));
        assert!(!buckets.take("a", start));
        assert!(
            buckets.take("b", start),
            "one caller does not use up another's share"
        );
        assert!(!buckets.take("a", start + Duration::from_millis(900)));
        assert!(buckets.take("a", start + Duration::from_millis(1900)));
    }

    #[test]
    fn the_table_of_callers_is_bounded_and_forgets_the_quiet() {
        let buckets = Buckets::new(Limits {
            burst: 1,
            per_second: 1.0,
            callers: 2,
            ..Limits::default()
        });
        let start = Instant::now();
        assert!(buckets.take("a", start));
        assert!(buckets.take("b", start));
        assert!(!buckets.take("c", start), "no room");
        assert!(
            buckets.take("c", start + Duration::from_secs(2)),
            "a and b have been quiet"
        );
    }
}
