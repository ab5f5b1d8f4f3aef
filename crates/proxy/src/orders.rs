//! What passes between the agent and a worker besides the configuration.
//!
//! Workers share no counter with anyone: they are asked, and answer with a copy.
//!
//! ```text
//!   agent ──Order──▶ worker      drain, stop, report
//!   agent ◀──Event── worker      which listeners are open
//! ```

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};

use crate::node::Node;
use crate::state::Live;

/// Everything a worker is started with.
#[derive(Debug)]
pub struct WorkerSettings {
    /// 0 for the first.
    pub index: usize,
    /// The configuration, now and later.
    pub live: watch::Receiver<Arc<Live>>,
    /// What it is told. A closed channel means [`Order::Stop`].
    pub orders: mpsc::Receiver<Order>,
    /// What it says.
    pub events: mpsc::Sender<Event>,
    /// Whose proxy it is.
    pub node: Arc<Node>,
    /// `SO_MARK` of every upstream socket, so that capture skips it; `None` when the process may not set it.
    pub mark: Option<u32>,
}

/// What a worker is told.
#[derive(Debug)]
pub enum Order {
    /// Open no new connection's request path: HTTP/1.1 answers carry `connection: close`, HTTP/2 sends
    /// GOAWAY; listening sockets stay open until [`Order::Close`].
    Drain,
    /// Close the listening sockets; connections finish what they have.
    Close,
    /// End within this time; connections still open then are dropped.
    Stop(Duration),
    /// Answer with a copy of all counters.
    Report(oneshot::Sender<Report>),
}

/// What a worker says of itself.
#[derive(Debug)]
pub enum Event {
    /// It works by this version of [`Live`].
    Applied {
        /// Worker index.
        worker: usize,
        /// [`Live::version`].
        version: u64,
        /// Listeners whose socket could not be opened, with the reason.
        failed: Vec<(Arc<str>, String)>,
    },
    /// It has ended.
    Ended {
        /// Worker index.
        worker: usize,
    },
}

/// A worker's counters at one moment.
#[derive(Debug, Default)]
pub struct Report {
    /// Metrics in no particular order.
    pub metrics: Vec<Metric>,
    /// Per-endpoint figures for `/clusters`.
    pub endpoints: Vec<EndpointReport>,
    /// Downstream connections open now.
    pub connections: u64,
    /// Requests in flight now.
    pub requests: u64,
}

/// One time series. Series of the same name and labels are added up over workers.
#[derive(Debug, Clone, PartialEq)]
pub struct Metric {
    /// Prometheus name, as in `istio_requests_total`.
    pub name: Arc<str>,
    /// Labels in the order they are written.
    pub labels: Arc<[(Arc<str>, Arc<str>)]>,
    /// Its value.
    pub value: MetricValue,
}

/// A value.
#[derive(Debug, Clone, PartialEq)]
pub enum MetricValue {
    /// Only grows.
    Counter(u64),
    /// Goes up and down.
    Gauge(i64),
    /// Observations in buckets.
    Histogram {
        /// Upper bounds, ascending, without `+Inf`.
        bounds: Arc<[f64]>,
        /// Observations per bucket, not cumulated; one more than `bounds`.
        counts: Vec<u64>,
        /// Sum of all observations.
        sum: f64,
    },
}

/// One endpoint of one cluster, as `/clusters` shows it.
#[derive(Debug, Clone, PartialEq)]
pub struct EndpointReport {
    /// Cluster name.
    pub cluster: Arc<str>,
    /// Its address.
    pub address: SocketAddr,
    /// Connections ever.
    pub connections_total: u64,
    /// Connections now.
    pub connections_active: u64,
    /// Connections that could not be made.
    pub connect_failures: u64,
    /// Requests ever.
    pub requests_total: u64,
    /// Requests now.
    pub requests_active: u64,
    /// Answered, with a status below 500.
    pub requests_success: u64,
    /// Answered with a status from 500 on, or not at all.
    pub requests_error: u64,
    /// Not answered in time.
    pub requests_timeout: u64,
    /// Ejected by outlier detection.
    pub ejected: bool,
}
