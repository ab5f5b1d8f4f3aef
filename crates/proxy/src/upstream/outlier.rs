//! Passive health (Envoy `OutlierDetection`), each worker on its own evidence.
//!
//! A failure of local origin (connect, handshake, reset, timeout before headers) and an answer are told
//! apart. What ejects is decided here; who is picked instead, in [`super::balance`].

use std::cell::Cell;
use std::time::{Duration, Instant};

use crate::config::cluster::OutlierDetection;

/// What came of one attempt at a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Evidence {
    /// An answer with this status.
    Status(u16),
    /// A connection was made (TCP), with nothing known about answers.
    Connected,
    /// No connection, no handshake, a reset or a timeout before the answer began.
    LocalFailure,
}

/// What the criteria are, besides the cluster's own settings.
#[derive(Debug, Clone, Copy)]
pub struct Criteria<'a> {
    /// The cluster's settings.
    pub settings: &'a OutlierDetection,
    /// A status never ejects.
    pub local_origin_only: bool,
}

/// One host's record.
#[derive(Debug, Default)]
pub struct History {
    consecutive_5xx: Cell<u32>,
    consecutive_gateway: Cell<u32>,
    consecutive_local: Cell<u32>,
    ejected_until: Cell<Option<Instant>>,
    /// The last ejection was for answers, which a connection does not make up for.
    for_answers: Cell<bool>,
    times: Cell<u32>,
}

impl History {
    /// Whether it is out at `now`.
    pub fn is_ejected(&self, now: Instant) -> bool {
        self.ejected_until.get().is_some_and(|until| now < until)
    }

    /// When it comes back, when it is out at `now`.
    pub fn returns_at(&self, now: Instant) -> Option<Instant> {
        self.ejected_until.get().filter(|until| now < *until)
    }

    /// What the ejection was for.
    pub fn ejected_by(&self, evidence: Evidence) {
        self.for_answers.set(matches!(evidence, Evidence::Status(_)));
    }

    /// A host that could not be reached was; whether that ends an ejection at `now`. Envoy does the same when
    /// an active health check succeeds (`successful_active_health_check_uneject_host`).
    pub fn reinstate(&self, now: Instant) -> bool {
        if self.for_answers.get() || !self.is_ejected(now) {
            return false;
        }
        self.ejected_until.set(Some(now));
        true
    }

    /// Takes a piece of evidence; `true` when it is enough for an ejection.
    pub fn add(&self, evidence: Evidence, criteria: Criteria<'_>) -> bool {
        let settings = criteria.settings;
        match evidence {
            Evidence::LocalFailure if settings.split_local_origin || criteria.local_origin_only => {
                let threshold = match settings.consecutive_local_origin_failure {
                    0 => settings.consecutive_5xx,
                    n => n,
                };
                count(&self.consecutive_local, threshold)
            }
            // Envoy charges a failure of local origin as a 503 unless the two are split.
            Evidence::LocalFailure => {
                let gateway = count(&self.consecutive_gateway, settings.consecutive_gateway_failure);
                count(&self.consecutive_5xx, settings.consecutive_5xx) || gateway
            }
            Evidence::Connected => {
                self.consecutive_local.set(0);
                if !settings.split_local_origin && !criteria.local_origin_only {
                    self.consecutive_5xx.set(0);
                    self.consecutive_gateway.set(0);
                }
                false
            }
            Evidence::Status(status) => {
                self.consecutive_local.set(0);
                if criteria.local_origin_only {
                    return false;
                }
                let gateway = if matches!(status, 502..=504) {
                    count(&self.consecutive_gateway, settings.consecutive_gateway_failure)
                } else {
                    self.consecutive_gateway.set(0);
                    false
                };
                let server = if status >= 500 {
                    count(&self.consecutive_5xx, settings.consecutive_5xx)
                } else {
                    self.consecutive_5xx.set(0);
                    false
                };
                gateway || server
            }
        }
    }

    /// Takes the host out: the n-th time n times as long. A time without ejection of `interval` each takes
    /// one off the multiplier, as Envoy's sweeps do. Returns when it comes back.
    pub fn eject(&self, settings: &OutlierDetection, now: Instant) -> Instant {
        let forgiven = match self.ejected_until.get() {
            Some(until) if now > until && !settings.interval.is_zero() => {
                ((now - until).as_millis() / settings.interval.as_millis().max(1)).min(u128::from(u32::MAX))
                    as u32
            }
            _ => 0,
        };
        let times = self.times.get().saturating_sub(forgiven) + 1;
        self.times.set(times);
        let longest = settings.max_ejection.max(settings.base_ejection);
        let duration = settings
            .base_ejection
            .saturating_mul(times)
            .clamp(Duration::from_millis(1), longest.max(Duration::from_millis(1)));
        let until = now + duration;
        self.ejected_until.set(Some(until));
        self.consecutive_5xx.set(0);
        self.consecutive_gateway.set(0);
        self.consecutive_local.set(0);
        until
    }
}

/// Adds one; whether the threshold (0: never) is reached.
fn count(counter: &Cell<u32>, threshold: u32) -> bool {
    let n = counter.get().saturating_add(1);
    counter.set(n);
    threshold > 0 && n >= threshold
}

/// Whether one more of `hosts` may be ejected when `ejected` already are: at least one always may.
pub fn may_eject(settings: &OutlierDetection, hosts: usize, ejected: usize) -> bool {
    ejected == 0 || (ejected + 1) * 100 <= hosts * settings.max_ejection_percent as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> OutlierDetection {
        OutlierDetection {
            consecutive_5xx: 3,
            consecutive_gateway_failure: 0,
            consecutive_local_origin_failure: 2,
            split_local_origin: false,
            interval: Duration::from_secs(10),
            base_ejection: Duration::from_secs(30),
            max_ejection: Duration::from_secs(70),
            max_ejection_percent: 50,
        }
    }

    #[test]
    fn only_an_unbroken_row_of_failures_ejects() {
        let settings = settings();
        let criteria = Criteria {
            settings: &settings,
            local_origin_only: false,
        };
        let history = History::default();
        for evidence in [
            Evidence::Status(500),
            Evidence::LocalFailure,
            Evidence::Status(200),
            Evidence::Status(503),
            Evidence::Status(503),
        ] {
            assert!(!history.add(evidence, criteria));
        }
        assert!(history.add(Evidence::Status(500), criteria));
    }

    #[test]
    fn a_status_ejects_nobody_when_only_local_failures_count() {
        let settings = settings();
        let criteria = Criteria {
            settings: &settings,
            local_origin_only: true,
        };
        let history = History::default();
        for _ in 0..100 {
            assert!(!history.add(Evidence::Status(500), criteria));
        }
        assert!(!history.add(Evidence::LocalFailure, criteria));
        assert!(history.add(Evidence::LocalFailure, criteria));
    }

    #[test]
    fn ejections_grow_are_capped_and_end() {
        let settings = settings();
        let history = History::default();
        let start = Instant::now();
        assert_eq!(history.eject(&settings, start), start + Duration::from_secs(30));
        assert!(history.is_ejected(start + Duration::from_secs(29)));
        assert!(!history.is_ejected(start + Duration::from_secs(30)));
        let again = start + Duration::from_secs(31);
        assert_eq!(history.eject(&settings, again), again + Duration::from_secs(60));
        let third = again + Duration::from_secs(61);
        assert_eq!(history.eject(&settings, third), third + Duration::from_secs(70));
        let much_later = third + Duration::from_secs(1000);
        assert_eq!(
            history.eject(&settings, much_later),
            much_later + Duration::from_secs(30)
        );
    }

    #[test]
    fn who_could_not_be_reached_is_let_back_once_it_can_be() {
        let settings = settings();
        let history = History::default();
        let start = Instant::now();
        assert!(!history.reinstate(start), "it is not out");
        history.eject(&settings, start);
        history.ejected_by(Evidence::Status(500));
        assert!(!history.reinstate(start) && history.is_ejected(start));
        let again = start + Duration::from_secs(31);
        history.eject(&settings, again);
        history.ejected_by(Evidence::LocalFailure);
        assert!(history.reinstate(again) && !history.is_ejected(again));
    }

    #[test]
    fn one_host_may_always_be_ejected_but_not_more_than_the_share() {
        let settings = settings();
        assert!(may_eject(&settings, 1, 0));
        assert!(!may_eject(&settings, 3, 1));
        assert!(may_eject(&settings, 4, 1));
        assert!(!may_eject(&settings, 4, 2));
    }
}
