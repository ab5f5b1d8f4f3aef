//! Endpoints that are gateways: one connection through a passthrough gateway is one remote pod.
//!
//! So a failing answer is charged to the connection it came over, which is drained and dialled anew; the
//! gateway itself is only ejected when it cannot be reached, or when failures spread over its connections.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::time::{Duration, Instant};

use crate::config::cluster::OutlierDetection;

/// Most connections kept to one gateway for one service.
const MOST_CONNECTIONS: u32 = 4;
/// A connection is replaced after this time, give or take a quarter, so that remote pods share the load.
const LIFETIME: Duration = Duration::from_secs(60);
/// Connections in a row that had to be replaced before the gateway itself is suspected.
const SPREAD: u32 = 8;
/// Dials beside or after one that is slow or fails, to the same address: behind it may be several replicas.
pub const MOST_REDIALS: u32 = 4;
/// Pods remembered as failing.
const REMEMBERED: usize = 64;

/// How many connections are kept to a gateway with this many endpoints behind it.
pub fn connections_wanted(behind: u32) -> u32 {
    behind.clamp(1, MOST_CONNECTIONS)
}

/// How long a connection is used; `fraction` is random in `[0, 1)`.
pub fn lifetime(fraction: f64) -> Duration {
    LIFETIME.mul_f64(0.75 + fraction / 2.0)
}

/// What is known of the pods behind a gateway.
#[derive(Debug, Default)]
pub struct Behind {
    /// Pods that failed, by node id, and until when that is held against them.
    failing: RefCell<HashMap<Rc<str>, Instant>>,
    /// Connections given up in a row.
    given_up: Cell<u32>,
}

impl Behind {
    /// Whether a pod is held to be failing at `now`.
    pub fn is_failing(&self, now: Instant) -> bool {
        self.failing.borrow().values().any(|until| now < *until)
    }

    /// Whether a pod was let back since this was asked last. Connections made meanwhile all lead elsewhere, so
    /// it needs a fresh one to be seen again.
    pub fn let_back(&self, now: Instant) -> bool {
        let mut failing = self.failing.borrow_mut();
        if failing.is_empty() {
            return false;
        }
        let before = failing.len();
        failing.retain(|_, until| now < *until);
        failing.len() < before
    }
}

/// One connection through a gateway.
#[derive(Debug, Default)]
pub struct Remote {
    /// Failing answers in a row.
    failures: Cell<u32>,
    /// Node id of the pod at its end, once an answer told.
    pod: RefCell<Option<Rc<str>>>,
}

/// What to do after an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Advice {
    /// Go on.
    Keep,
    /// Drain this connection.
    Replace,
    /// Drain this connection, and suspect the gateway.
    Suspect,
}

impl Remote {
    /// Remembers which pod answers here.
    pub fn identify(&self, pod: &str) {
        let mut known = self.pod.borrow_mut();
        if known.as_deref() != Some(pod) && pod.len() <= 512 {
            *known = Some(pod.into());
        }
    }

    /// Takes note of an answer.
    pub fn note(&self, status: u16, settings: &OutlierDetection, behind: &Behind, now: Instant) -> Advice {
        let threshold = match status {
            502..=504 if settings.consecutive_gateway_failure > 0 => {
                match (settings.consecutive_gateway_failure, settings.consecutive_5xx) {
                    (gateway, 0) => gateway,
                    (gateway, any) => gateway.min(any),
                }
            }
            500.. => settings.consecutive_5xx,
            _ => {
                self.failures.set(0);
                behind.given_up.set(0);
                return Advice::Keep;
            }
        };
        if threshold == 0 {
            return Advice::Keep;
        }
        let failures = self.failures.get() + 1;
        self.failures.set(failures);
        let pod = self.pod.borrow().clone();
        // A pod known to fail gets no second chance on a fresh connection.
        let known_bad = pod
            .as_ref()
            .is_some_and(|p| behind.failing.borrow().get(p).is_some_and(|until| now < *until));
        if failures < threshold && !known_bad {
            return Advice::Keep;
        }
        if let Some(pod) = pod {
            let mut failing = behind.failing.borrow_mut();
            if failing.len() < REMEMBERED || failing.contains_key(&pod) {
                failing.insert(pod, now + settings.base_ejection);
            }
        }
        // What one pod answers again and again says nothing new of the gateway.
        let given_up = behind.given_up.get() + u32::from(!known_bad);
        behind.given_up.set(given_up);
        if given_up >= SPREAD {
            behind.given_up.set(0);
            Advice::Suspect
        } else {
            Advice::Replace
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> OutlierDetection {
        OutlierDetection {
            consecutive_5xx: 3,
            consecutive_gateway_failure: 0,
            consecutive_local_origin_failure: 5,
            split_local_origin: false,
            interval: Duration::from_secs(10),
            base_ejection: Duration::from_secs(30),
            max_ejection: Duration::from_secs(300),
            max_ejection_percent: 100,
        }
    }

    #[test]
    fn the_connection_is_charged_and_a_known_pod_at_once() {
        let (settings, behind, now) = (settings(), Behind::default(), Instant::now());
        let first = Remote::default();
        first.identify("sidecar~10.1.0.9~reviews-2.default");
        assert_eq!(first.note(500, &settings, &behind, now), Advice::Keep);
        assert_eq!(first.note(500, &settings, &behind, now), Advice::Keep);
        assert_eq!(first.note(500, &settings, &behind, now), Advice::Replace);

        let healthy = Remote::default();
        healthy.identify("sidecar~10.1.0.8~reviews-1.default");
        assert_eq!(healthy.note(200, &settings, &behind, now), Advice::Keep);
        assert_eq!(healthy.note(503, &settings, &behind, now), Advice::Keep);

        let again = Remote::default();
        again.identify("sidecar~10.1.0.9~reviews-2.default");
        assert_eq!(again.note(500, &settings, &behind, now), Advice::Replace);
        assert!(behind.is_failing(now));
        let later = now + Duration::from_secs(31);
        assert!(!behind.is_failing(later));
        assert!(!behind.let_back(now));
        assert!(behind.let_back(later) && !behind.let_back(later), "told once");
        assert_eq!(
            Remote::default().note(500, &settings, &behind, later),
            Advice::Keep
        );
    }

    #[test]
    fn one_failing_pod_is_never_held_against_the_gateway() {
        let (settings, behind, now) = (settings(), Behind::default(), Instant::now());
        let mut replaced = 0;
        for _ in 0..10 * SPREAD {
            let connection = Remote::default();
            connection.identify("sidecar~10.1.0.9~httpbin-1.bar");
            for _ in 0..3 {
                match connection.note(500, &settings, &behind, now) {
                    Advice::Suspect => panic!("the gateway is suspected for one pod"),
                    Advice::Replace => replaced += 1,
                    Advice::Keep => {}
                }
            }
        }
        assert!(replaced > 0);
    }

    #[test]
    fn failures_on_every_connection_fall_on_the_gateway() {
        let (settings, behind, now) = (settings(), Behind::default(), Instant::now());
        let mut suspected = 0;
        for _ in 0..SPREAD {
            let connection = Remote::default();
            for _ in 0..3 {
                if connection.note(503, &settings, &behind, now) == Advice::Suspect {
                    suspected += 1;
                }
            }
        }
        assert_eq!(suspected, 1);
    }
}
