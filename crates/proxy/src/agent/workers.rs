//! The workers as the agent sees them: started, asked, told to end.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};

use super::config::Config;
use crate::orders::{Event, Metric, MetricValue, Order, Report, WorkerSettings};
use crate::state::Live;

/// Starts a worker on a thread of its own.
pub type Spawn = fn(WorkerSettings) -> io::Result<JoinHandle<()>>;

/// Orders that wait for a worker at most; it takes one a turn.
const ORDERS: usize = 16;
/// How long a worker may take to report.
const PATIENCE: Duration = Duration::from_secs(1);

/// All workers.
#[derive(Debug)]
pub struct Workers {
    orders: Orders,
    threads: Vec<JoinHandle<()>>,
    /// Version of the configuration that each works by.
    applied: Vec<u64>,
    /// Listeners whose socket could not be opened, with the reason, by worker.
    failed: Vec<HashMap<Arc<str>, String>>,
}

/// A way to the workers that may be given away.
#[derive(Debug, Clone)]
pub struct Orders(Arc<[mpsc::Sender<Order>]>);

impl Workers {
    /// Starts as many as `config` says.
    pub fn start(
        config: &Config,
        live: &watch::Sender<Arc<Live>>,
        events: &mpsc::Sender<Event>,
        spawn: Spawn,
    ) -> io::Result<Self> {
        let node = Arc::new(config.node.clone());
        let mut senders = Vec::new();
        let mut threads = Vec::new();
        for index in 0..config.concurrency {
            let (sender, orders) = mpsc::channel(ORDERS);
            senders.push(sender);
            threads.push(spawn(WorkerSettings {
                index,
                live: live.subscribe(),
                orders,
                events: events.clone(),
                node: node.clone(),
                mark: config.mark,
            })?);
        }
        Ok(Self {
            orders: Orders(senders.into()),
            applied: vec![0; threads.len()],
            failed: vec![HashMap::new(); threads.len()],
            threads,
        })
    }

    /// A way to give orders.
    pub fn orders(&self) -> Orders {
        self.orders.clone()
    }

    /// Notes what a worker says. The failures that are new are returned.
    pub fn note(&mut self, event: Event) -> Vec<(Arc<str>, String)> {
        match event {
            Event::Applied {
                worker,
                version,
                failed,
            } if worker < self.applied.len() => {
                self.applied[worker] = version;
                let now: HashMap<_, _> = failed.into_iter().collect();
                let before = std::mem::replace(&mut self.failed[worker], now.clone());
                let mut new: Vec<_> = now
                    .into_iter()
                    .filter(|(name, why)| before.get(name) != Some(why))
                    .collect();
                new.sort();
                new
            }
            Event::Applied { .. } => Vec::new(),
            Event::Ended { worker } => {
                tracing::info!(worker, "worker ended");
                Vec::new()
            }
        }
    }

    /// Whether every worker works by `version` or a later one, with all its sockets open.
    pub fn serve(&self, version: u64) -> bool {
        self.applied.iter().all(|a| *a >= version) && self.failed.iter().all(HashMap::is_empty)
    }

    /// Waits for the threads to end, which they do after [`Order::Stop`].
    pub fn join(self) {
        for thread in self.threads {
            if thread.join().is_err() {
                tracing::error!("a worker ended by a panic");
            }
        }
    }
}

impl Orders {
    /// Gives every worker the same order.
    pub async fn all(&self, order: impl Fn() -> Order) {
        for worker in self.0.iter() {
            let _ = worker.send(order()).await;
        }
    }

    /// Asks every worker and adds up what they answer. One that does not answer in time is left out.
    pub async fn report(&self) -> Report {
        let mut total = Report::default();
        let mut waiting = Vec::new();
        for worker in self.0.iter() {
            let (reply, answer) = oneshot::channel();
            if worker.try_send(Order::Report(reply)).is_ok() {
                waiting.push(answer);
            }
        }
        for answer in waiting {
            if let Ok(Ok(report)) = tokio::time::timeout(PATIENCE, answer).await {
                add(&mut total, report);
            }
        }
        total
    }
}

fn add(total: &mut Report, more: Report) {
    total.connections += more.connections;
    total.requests += more.requests;
    for e in more.endpoints {
        let known = total
            .endpoints
            .iter_mut()
            .find(|t| t.address == e.address && t.cluster == e.cluster);
        match known {
            None => total.endpoints.push(e),
            Some(t) => {
                t.connections_total += e.connections_total;
                t.connections_active += e.connections_active;
                t.connect_failures += e.connect_failures;
                t.requests_total += e.requests_total;
                t.requests_active += e.requests_active;
                t.requests_success += e.requests_success;
                t.requests_error += e.requests_error;
                t.requests_timeout += e.requests_timeout;
                t.ejected |= e.ejected;
            }
        }
    }
    merge(&mut total.metrics, more.metrics);
}

/// Adds up series of the same name and labels.
fn merge(total: &mut Vec<Metric>, more: Vec<Metric>) {
    let mut at: HashMap<_, usize> = total
        .iter()
        .enumerate()
        .map(|(i, m)| ((m.name.clone(), m.labels.clone()), i))
        .collect();
    for metric in more {
        let key = (metric.name.clone(), metric.labels.clone());
        match at.get(&key) {
            Some(i) => sum(&mut total[*i].value, metric.value),
            None => {
                at.insert(key, total.len());
                total.push(metric);
            }
        }
    }
}

fn sum(total: &mut MetricValue, more: MetricValue) {
    match (total, more) {
        (MetricValue::Counter(a), MetricValue::Counter(b)) => *a += b,
        (MetricValue::Gauge(a), MetricValue::Gauge(b)) => *a += b,
        (
            MetricValue::Histogram { counts, sum, .. },
            MetricValue::Histogram {
                counts: more,
                sum: added,
                ..
            },
        ) => {
            counts.iter_mut().zip(more).for_each(|(a, b)| *a += b);
            *sum += added;
        }
        // One name has one kind; a worker that says otherwise is not added to what it is not.
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counter(name: &str, label: &str, value: u64) -> Metric {
        Metric {
            name: name.into(),
            labels: Arc::new([("reporter".into(), label.into())]),
            value: MetricValue::Counter(value),
        }
    }

    #[test]
    fn reports_of_workers_add_up_by_name_and_labels() {
        let mut total = Report::default();
        for _ in 0..2 {
            add(
                &mut total,
                Report {
                    metrics: vec![
                        counter("istio_requests_total", "source", 3),
                        counter("istio_requests_total", "destination", 1),
                    ],
                    connections: 2,
                    ..Report::default()
                },
            );
        }
        assert_eq!(total.connections, 4);
        assert_eq!(
            total.metrics,
            vec![
                counter("istio_requests_total", "source", 6),
                counter("istio_requests_total", "destination", 2)
            ]
        );
    }
}
