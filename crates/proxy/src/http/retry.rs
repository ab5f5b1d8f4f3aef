//! Whether an attempt is made again (Envoy `RetryPolicy`).

use std::rc::Rc;
use std::time::Duration;

use http::{HeaderMap, Method};

use crate::config::route::RetryPolicy;
use crate::upstream::connect::ConnectError;
use crate::upstream::rng::Rng;
use crate::upstream::{ClusterState, Held};

use super::grpc;
use super::stream::Broken;

/// What came of an attempt, as policies see it.
#[derive(Debug, Clone, Copy)]
pub enum Outcome<'a> {
    /// No connection.
    Connect(&'a ConnectError),
    /// A connection, no answer.
    Broken(&'a Broken),
    /// The answer took longer than one attempt may.
    PerTryTimeout,
    /// An answer.
    Answer(u16, &'a HeaderMap),
    /// The next proxy answered that the request never reached the application.
    NotDelivered,
}

/// The retries of one request.
#[derive(Debug)]
pub struct Retries<'a> {
    policy: Option<&'a RetryPolicy>,
    /// The method changes nothing (RFC 9110 9.2.1).
    safe: bool,
    made: u32,
    held: Option<Held>,
    /// A retry was wanted, but the policy's number or the cluster's limit is used up.
    pub exhausted: bool,
}

impl<'a> Retries<'a> {
    /// Under a policy, or none.
    pub fn new(policy: Option<&'a RetryPolicy>, method: &Method) -> Self {
        Self {
            policy,
            safe: method.is_safe(),
            made: 0,
            held: None,
            exhausted: false,
        }
    }

    /// Retries made so far.
    pub fn made(&self) -> u32 {
        self.made
    }

    /// The time of one attempt.
    pub fn per_try_timeout(&self) -> Option<Duration> {
        self.policy.and_then(|p| p.per_try_timeout)
    }

    /// Whether hosts tried before are avoided. Without a policy there is nothing to avoid.
    pub fn avoids_tried(&self) -> bool {
        self.policy.is_none_or(|p| p.avoid_previous_hosts)
    }

    /// Whether a body has to be remembered.
    pub fn may_happen(&self) -> bool {
        self.policy.is_some_and(|p| p.retries > 0)
    }

    /// Whether to try again, given that the request can be sent again.
    pub fn again(&mut self, outcome: Outcome<'_>, cluster: &Rc<ClusterState>) -> bool {
        let Some(policy) = self.policy else { return false };
        if !wanted(policy, outcome) && !self.harmless(policy, outcome, cluster) {
            return false;
        }
        if self.made >= policy.retries {
            self.exhausted = true;
            return false;
        }
        self.held = None;
        self.held = Held::take(cluster, |c| &c.retries, cluster.config.limits.retries.max(1));
        if self.held.is_none() {
            self.exhausted = true;
            return false;
        }
        self.made += 1;
        true
    }

    /// Whether a request whose connection falls silent may go elsewhere without waiting for its end.
    pub fn may_move(&self, cluster: &ClusterState) -> bool {
        let broken = Outcome::Broken(&Broken::Unacknowledged);
        self.policy
            .is_some_and(|p| self.made < p.retries && self.harmless(p, broken, cluster))
    }

    /// In clusters of our own control plane, a request that changes nothing is also sent again when its
    /// connection broke before the answer: the host may have died with it in its hands.
    fn harmless(&self, policy: &RetryPolicy, outcome: Outcome<'_>, cluster: &ClusterState) -> bool {
        let ours = &cluster.config.isthmus;
        let broke = matches!(
            outcome,
            Outcome::Broken(Broken::Terminated | Broken::Unacknowledged)
        );
        let asked = ours.connect_hedge.is_some() || ours.unacked_timeout.is_some();
        self.safe && broke && asked && policy.on.connect_failure
    }

    /// The pause before the next attempt: random below a bound that doubles (Envoy's jittered back-off).
    pub fn pause(&self, rng: &Rng) -> Duration {
        let Some(policy) = self.policy else {
            return Duration::ZERO;
        };
        let bound = policy
            .backoff_base
            .saturating_mul(1 << self.made.saturating_sub(1).min(16))
            .min(policy.backoff_max);
        bound.mul_f64(rng.fraction())
    }
}

fn wanted(policy: &RetryPolicy, outcome: Outcome<'_>) -> bool {
    let on = &policy.on;
    match outcome {
        Outcome::Connect(ConnectError::Io(_) | ConnectError::Timeout(_) | ConnectError::Tls(_))
        | Outcome::NotDelivered => {
            on.connect_failure || on.reset || on.server_error || on.gateway_error || on.reset_before_request
        }
        Outcome::Connect(_) => false,
        Outcome::Broken(Broken::NotSent) => {
            on.connect_failure || on.reset || on.server_error || on.gateway_error || on.reset_before_request
        }
        Outcome::Broken(Broken::Refused) => on.refused_stream || on.reset || on.server_error,
        Outcome::Broken(Broken::Terminated | Broken::Unacknowledged | Broken::Reset | Broken::Protocol) => {
            on.reset || on.server_error || on.gateway_error
        }
        Outcome::Broken(Broken::Downstream) => false,
        Outcome::PerTryTimeout => on.server_error || on.gateway_error || on.reset,
        Outcome::Answer(status, headers) => {
            let by_status = (on.server_error && status >= 500)
                || (on.gateway_error && matches!(status, 502..=504))
                || (on.retriable_4xx && status == 409)
                || (on.status_codes && policy.status_codes.contains(&status));
            let by_grpc = match grpc::status_in(headers) {
                Some(1) => on.grpc_cancelled,
                Some(4) => on.grpc_deadline_exceeded,
                Some(13) => on.grpc_internal,
                Some(8) => on.grpc_resource_exhausted,
                Some(14) => on.grpc_unavailable,
                _ => false,
            };
            by_status || by_grpc
        }
    }
}
