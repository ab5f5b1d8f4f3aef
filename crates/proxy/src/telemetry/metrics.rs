//! Istio's series, in plain cells. A series is found by a key of small numbers and labelled once.

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::{Arc, LazyLock};

use crate::orders::{Metric, MetricValue};

use super::flags::Flags;
use super::peer::Peer;

/// Upper bounds of Envoy's default histograms (milliseconds and bytes alike).
const BOUNDS: [f64; 19] = [
    0.5,
    1.0,
    5.0,
    10.0,
    25.0,
    50.0,
    100.0,
    250.0,
    500.0,
    1000.0,
    2500.0,
    5000.0,
    10_000.0,
    30_000.0,
    60_000.0,
    300_000.0,
    600_000.0,
    1_800_000.0,
    3_600_000.0,
];
/// Distinct series a worker keeps; peers decide how many there are, so there is an end.
const MOST_SERIES: usize = 20_000;

type Labels = Arc<[(Arc<str>, Arc<str>)]>;

/// Who reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reporter {
    /// The client's proxy, or a gateway.
    Source,
    /// The server's proxy.
    Destination,
}

/// What a series is about.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Key {
    /// Who reports.
    pub reporter: Reporter,
    /// Client.
    pub source: Rc<Peer>,
    /// Server.
    pub destination: Rc<Peer>,
    /// The client's SPIFFE id.
    pub source_principal: Option<Rc<str>>,
    /// The server's SPIFFE id.
    pub destination_principal: Option<Rc<str>>,
    /// Host of the service.
    pub service: Arc<str>,
    /// Short name of the service.
    pub service_name: Arc<str>,
    /// Namespace of the service.
    pub service_namespace: Arc<str>,
    /// `http`, `grpc`, `tcp`.
    pub protocol: &'static str,
    /// Status; 0 for TCP.
    pub code: u16,
    /// gRPC status.
    pub grpc_status: Option<u32>,
    /// Response flags.
    pub flags: Flags,
    /// `mutual_tls`, `none`, `unknown`.
    pub security: &'static str,
}

/// A histogram.
#[derive(Debug, Default)]
pub struct Histogram {
    counts: [Cell<u64>; BOUNDS.len() + 1],
    sum: Cell<f64>,
}

impl Histogram {
    /// Adds an observation.
    pub fn observe(&self, value: f64) {
        let at = BOUNDS.partition_point(|b| *b < value);
        self.counts[at].set(self.counts[at].get() + 1);
        self.sum.set(self.sum.get() + value);
    }

    fn value(&self) -> MetricValue {
        static SHARED: LazyLock<Arc<[f64]>> = LazyLock::new(|| BOUNDS.into());
        MetricValue::Histogram {
            bounds: SHARED.clone(),
            counts: self.counts.iter().map(Cell::get).collect(),
            sum: self.sum.get(),
        }
    }
}

/// Counters of one key.
#[derive(Debug, Default)]
pub struct Series {
    /// `istio_requests_total`.
    pub requests: Cell<u64>,
    /// `istio_request_duration_milliseconds`.
    pub duration: Histogram,
    /// `istio_request_bytes`.
    pub request_bytes: Histogram,
    /// `istio_response_bytes`.
    pub response_bytes: Histogram,
    /// `istio_request_messages_total`.
    pub request_messages: Cell<u64>,
    /// `istio_response_messages_total`.
    pub response_messages: Cell<u64>,
    /// `istio_tcp_connections_opened_total`.
    pub opened: Cell<u64>,
    /// `istio_tcp_connections_closed_total`.
    pub closed: Cell<u64>,
    /// `istio_tcp_sent_bytes_total`: from the client to the server is received, the rest is sent.
    pub sent: Cell<u64>,
    /// `istio_tcp_received_bytes_total`.
    pub received: Cell<u64>,
    labels: OnceCell<Labels>,
}

/// Every series of a worker.
#[derive(Debug, Default)]
pub struct Table {
    series: RefCell<HashMap<Key, Rc<Series>>>,
    overflow: OnceCell<Rc<Series>>,
}

impl Table {
    /// The series of a key. Beyond the bound, one that is shown nowhere.
    pub fn series(&self, key: Key) -> Rc<Series> {
        let mut all = self.series.borrow_mut();
        if let Some(series) = all.get(&key) {
            return series.clone();
        }
        if all.len() >= MOST_SERIES {
            return self.overflow.get_or_init(Rc::default).clone();
        }
        all.entry(key).or_default().clone()
    }

    /// A copy of every value.
    pub fn metrics(&self) -> Vec<Metric> {
        let mut out = Vec::new();
        for (key, series) in self.series.borrow().iter() {
            let labels = series.labels.get_or_init(|| labels(key));
            let mut push = |name: &str, value: MetricValue| {
                out.push(Metric {
                    name: name.into(),
                    labels: labels.clone(),
                    value,
                });
            };
            if key.protocol == "tcp" {
                for (name, cell) in [
                    ("istio_tcp_connections_opened_total", &series.opened),
                    ("istio_tcp_connections_closed_total", &series.closed),
                    ("istio_tcp_sent_bytes_total", &series.sent),
                    ("istio_tcp_received_bytes_total", &series.received),
                ] {
                    push(name, MetricValue::Counter(cell.get()));
                }
                continue;
            }
            push(
                "istio_requests_total",
                MetricValue::Counter(series.requests.get()),
            );
            push("istio_request_duration_milliseconds", series.duration.value());
            push("istio_request_bytes", series.request_bytes.value());
            push("istio_response_bytes", series.response_bytes.value());
            if key.protocol == "grpc" {
                push(
                    "istio_request_messages_total",
                    MetricValue::Counter(series.request_messages.get()),
                );
                push(
                    "istio_response_messages_total",
                    MetricValue::Counter(series.response_messages.get()),
                );
            }
        }
        out
    }
}

/// Labels in Istio's order.
fn labels(key: &Key) -> Labels {
    let text = |s: &str| -> Arc<str> { s.into() };
    let principal = |p: &Option<Rc<str>>| -> Arc<str> { p.as_deref().map_or_else(|| text("unknown"), text) };
    let mut out: Vec<(&str, Arc<str>)> = vec![(
        "reporter",
        text(match key.reporter {
            Reporter::Source => "source",
            Reporter::Destination => "destination",
        }),
    )];
    let (s, d) = (&key.source, &key.destination);
    out.extend([
        ("source_workload", s.workload.clone()),
        ("source_canonical_service", s.canonical_service.clone()),
        ("source_canonical_revision", s.canonical_revision.clone()),
        ("source_workload_namespace", s.namespace.clone()),
        ("source_principal", principal(&key.source_principal)),
        ("source_app", s.app.clone()),
        ("source_version", s.version.clone()),
        ("source_cluster", s.cluster.clone()),
        ("destination_workload", d.workload.clone()),
        ("destination_workload_namespace", d.namespace.clone()),
        ("destination_principal", principal(&key.destination_principal)),
        ("destination_app", d.app.clone()),
        ("destination_version", d.version.clone()),
        ("destination_service", key.service.clone()),
        ("destination_canonical_service", d.canonical_service.clone()),
        ("destination_canonical_revision", d.canonical_revision.clone()),
        ("destination_service_name", key.service_name.clone()),
        ("destination_service_namespace", key.service_namespace.clone()),
        ("destination_cluster", d.cluster.clone()),
        ("request_protocol", text(key.protocol)),
    ]);
    if key.protocol != "tcp" {
        out.push(("response_code", text(&key.code.to_string())));
        let grpc = key.grpc_status.map(|s| s.to_string()).unwrap_or_default();
        out.push(("grpc_response_status", text(&grpc)));
    }
    out.push(("response_flags", text(&key.flags.to_string())));
    out.push(("connection_security_policy", text(key.security)));
    out.into_iter().map(|(n, v)| (text(n), v)).collect()
}
