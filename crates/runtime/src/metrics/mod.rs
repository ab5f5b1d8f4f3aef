//! Metrics and their Prometheus text form (exposition format 0.0.4).
//!
//! Two kinds of source meet in one page:
//!
//! ```text
//!   shared atomics   prometheus-client registry ─┐
//!                                                ├─ Metrics::render ──> text
//!   a worker's cells ── snapshot on request ─────┘   (merged over workers by name and labels)
//! ```
//!
//! A metric is exposed under exactly the name it is registered with: `istio_requests_total` keeps its
//! suffix and `pilot_xds_pushes` gets none, as Istio's dashboards expect.

mod exposition;
mod workers;

use std::collections::BTreeSet;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use prometheus_client::collector::Collector;
use prometheus_client::registry::{Metric, Registry};

pub use prometheus_client;
pub use workers::{Distribution, Family, Kind, LabelText, Series, Value, WorkerScrapes};

/// `Content-Type` of the page.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The metrics of a process. Cheap to clone; all clones are one registry.
#[derive(Clone, Default)]
pub struct Metrics(Arc<Inner>);

#[derive(Default)]
struct Inner {
    registered: Mutex<Registered>,
    workers: workers::Workers,
}

#[derive(Default)]
struct Registered {
    registry: Registry,
    /// Counters that are exposed without the `_total` that the registry appends.
    bare: BTreeSet<String>,
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Metrics")
    }
}

impl Metrics {
    /// An empty registry.
    pub fn new() -> Self {
        Self::default()
    }

    /// Registers a metric under exactly `name` and returns it for use.
    pub fn register<M: Metric + Clone>(&self, name: &str, help: &str, metric: M) -> M {
        let mut registered = self.0.registered.lock().unwrap_or_else(PoisonError::into_inner);
        let stem = name.strip_suffix("_total").unwrap_or(name);
        if stem == name {
            registered.bare.insert(name.to_owned());
        }
        registered
            .registry
            .register(stem, help.trim_end_matches('.'), metric.clone());
        metric
    }

    /// Registers a collector, which is asked on each scrape. Its counters get `_total`.
    pub fn collector(&self, collector: impl Collector) {
        let mut registered = self.0.registered.lock().unwrap_or_else(PoisonError::into_inner);
        registered.registry.register_collector(Box::new(collector));
    }

    /// Joins a worker whose metrics nobody else may touch: it answers each scrape with a snapshot.
    pub fn worker(&self) -> WorkerScrapes {
        self.0.workers.join()
    }

    /// The page. Waits at most one second for workers; one that does not answer in time is shown as it
    /// was at its last answer, so that no counter ever goes back.
    pub async fn render(&self) -> String {
        let families = self.0.workers.scrape().await;
        let mut page = String::new();
        {
            let registered = self.0.registered.lock().unwrap_or_else(PoisonError::into_inner);
            let mut open_metrics = String::new();
            // Writing to a String fails only if a metric's own encoder does.
            if prometheus_client::encoding::text::encode(&mut open_metrics, &registered.registry).is_err() {
                tracing::error!("a metric could not be written; the page ends before it");
            }
            exposition::from_open_metrics(&open_metrics, &registered.bare, &mut page);
        }
        exposition::families(&families, &mut page);
        page
    }
}

#[cfg(test)]
mod tests;
