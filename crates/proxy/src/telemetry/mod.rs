//! What happened: Istio's metrics with all their labels, and access logs.
//!
//! Counters are plain cells of one worker; a series is resolved once and kept. Whoever wants them asks the
//! worker for a copy. Access log lines go through a bounded channel to one writer thread, and are dropped
//! and counted rather than waited for.
//!
//! ```text
//!   http::request, tcp::proxy ─▶ Story ─▶ metrics::Table ──Order::Report──▶ admin
//!                                   └──▶ format ─▶ access_log ─▶ writer thread ─▶ file
//! ```

pub mod access_log;
pub mod flags;
pub mod format;
pub mod http;
pub mod metrics;
pub mod peer;
pub mod story;
pub mod tcp;
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use crate::node::Node;
use crate::orders::{Metric, MetricValue};

use access_log::Formats;
use metrics::Table;
use peer::Peers;

/// A worker's telemetry.
#[derive(Debug)]
pub struct Telemetry {
    /// Istio's series.
    pub table: Table,
    /// Who the peers are.
    pub peers: Peers,
    /// Parsed log formats.
    pub formats: Formats,
    refused: RefCell<HashMap<Arc<str>, Rc<Cell<u64>>>>,
}

impl Telemetry {
    /// Nothing has happened yet.
    pub fn new(node: &Arc<Node>) -> Self {
        Self {
            table: Table::default(),
            peers: Peers::new(node),
            formats: Formats::default(),
            refused: RefCell::default(),
        }
    }

    /// A connection that no chain took, or that was refused before a filter had it.
    pub fn count_refused(&self, listener: &Arc<str>) {
        let mut refused = self.refused.borrow_mut();
        let counter = refused.entry(listener.clone()).or_default();
        counter.set(counter.get() + 1);
    }

    /// A copy of every series.
    pub fn metrics(&self) -> Vec<Metric> {
        let mut out = self.table.metrics();
        let name: Arc<str> = "isthmus_connections_refused_total".into();
        let label: Arc<str> = "listener".into();
        for (listener, count) in self.refused.borrow().iter() {
            out.push(Metric {
                name: name.clone(),
                labels: [(label.clone(), listener.clone())].into(),
                value: MetricValue::Counter(count.get()),
            });
        }
        let dropped = access_log::dropped();
        if dropped > 0 {
            out.push(Metric {
                name: "isthmus_access_log_lines_dropped_total".into(),
                labels: [].into(),
                value: MetricValue::Counter(dropped),
            });
        }
        out
    }
}
