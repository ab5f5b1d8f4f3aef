//! Counters of the DNS server and forwarder, under the names that Istio's agent uses where it has them.

use isthmus_runtime::metrics::Metrics;
use isthmus_runtime::metrics::prometheus_client::metrics::counter::Counter;

/// The counters. Cheap to clone; all clones count together.
#[derive(Debug, Clone, Default)]
pub struct DnsMetrics {
    /// `dns_requests_total`: questions taken.
    pub requests: Counter,
    /// `dns_answered_total`: questions answered from our own names.
    pub answered: Counter,
    /// `dns_upstream_requests_total`: questions passed on.
    pub forwarded: Counter,
    /// `dns_upstream_failures_total`: tries at one upstream that failed.
    pub upstream_failures: Counter,
    /// `dns_cache_hits_total`: questions answered from the forwarder's cache.
    pub cache_hits: Counter,
    /// `dns_malformed_total`: messages that were no question we answer.
    pub malformed: Counter,
    /// `dns_overload_total`: questions and connections refused because too many were under way.
    pub overload: Counter,
}

impl DnsMetrics {
    /// Registers the counters.
    pub fn register(metrics: &Metrics) -> Self {
        let counter = |name: &str, help: &str| metrics.register(name, help, Counter::default());
        Self {
            requests: counter("dns_requests_total", "DNS questions taken"),
            answered: counter(
                "dns_answered_total",
                "DNS questions answered from the mesh's own names",
            ),
            forwarded: counter(
                "dns_upstream_requests_total",
                "DNS questions passed on to upstream resolvers",
            ),
            upstream_failures: counter(
                "dns_upstream_failures_total",
                "Failed tries at an upstream resolver",
            ),
            cache_hits: counter("dns_cache_hits_total", "DNS questions answered from the cache"),
            malformed: counter("dns_malformed_total", "DNS messages that were refused or ignored"),
            overload: counter(
                "dns_overload_total",
                "DNS questions and connections refused for too many",
            ),
        }
    }
}
