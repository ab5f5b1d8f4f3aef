//! Metrics that belong to one thread: plain cells there, snapshots by message on scrape.

use std::collections::HashMap;
use std::fmt::Write;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::join_all;
use tokio::sync::{mpsc, oneshot};

/// How long a scrape waits for a worker.
const PATIENCE: Duration = Duration::from_secs(1);

/// A metric's kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Only grows; merged by addition.
    Counter,
    /// Goes up and down; merged by addition.
    Gauge,
    /// Counts per bucket; merged bucket by bucket.
    Histogram,
}

/// Labels as they stand between the braces, `a="b",c="d"`. Made once per series and shared, so that a
/// scrape copies pointers. Two workers' series are one when their texts are equal: keep the order fixed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LabelText(Arc<str>);

impl LabelText {
    /// Writes labels, escaping the values.
    pub fn new<'a>(labels: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let mut text = String::new();
        for (name, value) in labels {
            if !text.is_empty() {
                text.push(',');
            }
            let _ = write!(text, "{name}=\"");
            for c in value.chars() {
                match c {
                    '\\' => text.push_str("\\\\"),
                    '"' => text.push_str("\\\""),
                    '\n' => text.push_str("\\n"),
                    c => text.push(c),
                }
            }
            text.push('"');
        }
        Self(text.into())
    }

    /// The text, empty for no labels.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A histogram's state.
#[derive(Debug, Clone, PartialEq)]
pub struct Distribution {
    /// Upper bounds, ascending, without `+Inf`; the same for every series of the family.
    pub bounds: Arc<[f64]>,
    /// Observations per bucket, not cumulative; one more than `bounds`, for those above the last.
    pub counts: Vec<u64>,
    /// Sum of the observations.
    pub sum: f64,
}

/// The value of a series.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// Of a [`Kind::Counter`].
    Counter(u64),
    /// Of a [`Kind::Gauge`].
    Gauge(f64),
    /// Of a [`Kind::Histogram`].
    Histogram(Distribution),
}

impl Value {
    fn add(&mut self, other: &Value) {
        match (self, other) {
            (Self::Counter(a), Self::Counter(b)) => *a = a.saturating_add(*b),
            (Self::Gauge(a), Self::Gauge(b)) => *a += b,
            (Self::Histogram(a), Self::Histogram(b)) => {
                a.sum += b.sum;
                a.counts
                    .iter_mut()
                    .zip(&b.counts)
                    .for_each(|(a, b)| *a = a.saturating_add(*b));
            }
            // A family has one kind; a worker that disagrees is not counted twice under a wrong one.
            _ => {}
        }
    }
}

/// One series of a family.
#[derive(Debug, Clone, PartialEq)]
pub struct Series {
    /// Its labels.
    pub labels: LabelText,
    /// Its value.
    pub value: Value,
}

/// A metric with its series, as one worker has it.
#[derive(Debug, Clone, PartialEq)]
pub struct Family {
    /// The name as exposed, `_total` included.
    pub name: &'static str,
    /// One line for people.
    pub help: &'static str,
    /// The kind of every value in `series`.
    pub kind: Kind,
    /// The series.
    pub series: Vec<Series>,
}

type Snapshot = Vec<Family>;

/// The worker's side: answers scrapes from the worker's own thread.
#[derive(Debug)]
pub struct WorkerScrapes(mpsc::Receiver<oneshot::Sender<Snapshot>>);

impl WorkerScrapes {
    /// Answers scrapes with `snapshot()` until the [`super::Metrics`] is gone. Run it on the worker's
    /// own runtime; the future is as `Send` as the closure is.
    pub async fn serve(mut self, mut snapshot: impl FnMut() -> Snapshot) {
        while let Some(reply) = self.0.recv().await {
            let _ = reply.send(snapshot());
        }
    }
}

#[derive(Default)]
pub(super) struct Workers(Mutex<Vec<Worker>>);

struct Worker {
    ask: mpsc::Sender<oneshot::Sender<Snapshot>>,
    last: Arc<Snapshot>,
}

impl Workers {
    pub(super) fn join(&self) -> WorkerScrapes {
        let (ask, asked) = mpsc::channel(1);
        let mut workers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        workers.push(Worker {
            ask,
            last: Arc::default(),
        });
        WorkerScrapes(asked)
    }

    /// Every worker's last snapshot, taken now where the worker answers, merged.
    pub(super) async fn scrape(&self) -> Vec<Family> {
        let asked: Vec<_> = {
            let workers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            workers.iter().map(|w| w.ask.clone()).collect()
        };
        let answers = join_all(asked.into_iter().map(|ask| async move {
            let (reply, answer) = oneshot::channel();
            let round = async move {
                ask.send(reply).await.ok()?;
                answer.await.ok()
            };
            tokio::time::timeout(PATIENCE, round).await.ok().flatten()
        }))
        .await;
        let snapshots: Vec<Arc<Snapshot>> = {
            let mut workers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            // Workers are only ever appended, so the answers still stand at their places.
            for (worker, answer) in workers.iter_mut().zip(answers) {
                if let Some(answer) = answer {
                    worker.last = Arc::new(answer);
                }
            }
            workers.iter().map(|w| w.last.clone()).collect()
        };
        merge(&snapshots)
    }
}

fn merge(snapshots: &[Arc<Snapshot>]) -> Vec<Family> {
    let mut families: Vec<Family> = Vec::new();
    let mut places: HashMap<(&'static str, LabelText), (usize, usize)> = HashMap::new();
    let mut family_at: HashMap<&'static str, usize> = HashMap::new();
    for family in snapshots.iter().flat_map(|s| s.iter()) {
        let f = *family_at.entry(family.name).or_insert_with(|| {
            families.push(Family {
                series: Vec::new(),
                ..family.clone()
            });
            families.len() - 1
        });
        for series in &family.series {
            match places.get(&(family.name, series.labels.clone())) {
                Some(&(f, s)) => families[f].series[s].value.add(&series.value),
                None => {
                    places.insert(
                        (family.name, series.labels.clone()),
                        (f, families[f].series.len()),
                    );
                    families[f].series.push(series.clone());
                }
            }
        }
    }
    families
}
