//! Metrics, under Istio's names.

use isthmus_runtime::metrics::Metrics;
use isthmus_runtime::metrics::prometheus_client::metrics::counter::Counter;
use isthmus_runtime::metrics::prometheus_client::metrics::family::Family;
use isthmus_runtime::metrics::prometheus_client::metrics::histogram::Histogram;

use super::review::Resource;

type Labels = [(&'static str, String); 3];

/// What is counted.
pub(super) struct Meters {
    pub requests: Counter,
    pub successes: Counter,
    pub failures: Counter,
    pub skips: Counter,
    pub time: Histogram,
    passed: Family<Labels, Counter>,
    failed: Family<Labels, Counter>,
    pub malformed: Counter,
}

impl Meters {
    pub fn new(metrics: &Metrics) -> Self {
        let counter = |name: &str, help: &str| metrics.register(name, help, Counter::default());
        Self {
            requests: counter(
                "sidecar_injection_requests_total",
                "Pods about which the API server asked",
            ),
            successes: counter("sidecar_injection_success_total", "Pods that got a sidecar"),
            failures: counter(
                "sidecar_injection_failure_total",
                "Pods that could not get theirs",
            ),
            skips: counter("sidecar_injection_skip_total", "Pods that were left alone"),
            time: metrics.register(
                "sidecar_injection_time_seconds",
                "Seconds that an injection took",
                Histogram::new([0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0]),
            ),
            passed: metrics.register(
                "galley_validation_passed",
                "Objects that were valid, by resource",
                Family::default(),
            ),
            failed: metrics.register(
                "galley_validation_failed",
                "Objects that were refused, by resource",
                Family::default(),
            ),
            malformed: counter(
                "galley_validation_http_error",
                "Requests for validation that were none",
            ),
        }
    }

    pub fn passed(&self, resource: &Resource) {
        self.passed.get_or_create(&labels(resource)).inc();
    }

    pub fn refused(&self, resource: &Resource) {
        self.failed.get_or_create(&labels(resource)).inc();
    }
}

fn labels(resource: &Resource) -> Labels {
    // The API server asks about what it was told to ask about; anyone else who gets here makes no new series.
    let known = isthmus_api::Kind::ALL
        .iter()
        .map(|k| k.info())
        .find(|info| info.group == resource.group && info.plural == resource.resource);
    let (group, plural) = known.map_or(("", "other"), |info| (info.group, info.plural));
    let version = known
        .and_then(|info| info.versions.iter().find(|v| **v == resource.version))
        .copied();
    [
        ("group", group.to_owned()),
        ("version", version.unwrap_or_default().to_owned()),
        ("resource", plural.to_owned()),
    ]
}
