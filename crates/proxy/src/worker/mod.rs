//! One worker: a thread, a `current_thread` runtime, its own listening sockets, connections and counters.
//!
//! Workers share nothing but the configuration they read; what others want to know of one, they ask for by
//! [`Order`].
//!
//! ```text
//!   watch<Arc<Live>> ─▶ apply: upstreams, sockets, index ─▶ connections are told ─▶ Event::Applied
//!   Order            ─▶ drain, close, stop, report
//! ```

mod report;
mod sockets;

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::Deref;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::task::LocalSet;

use crate::config::Listener;
use crate::config::listener::TrafficDirection;
use crate::node::Node;
use crate::orders::{Event, Order, WorkerSettings};
use crate::state::Live;
use crate::telemetry::Telemetry;
use crate::tls::cache::TlsCache;
use crate::upstream::Upstreams;
use crate::upstream::rng::Rng;

/// Time between rounds of housekeeping: idle connections, forgotten destinations.
const SWEEP: Duration = Duration::from_secs(1);

/// Everything the tasks of one worker share. Lives on its thread alone.
#[derive(Debug)]
pub struct Worker {
    /// 0 for the first.
    pub index: usize,
    /// Whose proxy it is.
    pub node: Arc<Node>,
    /// `SO_MARK` of upstream sockets.
    pub mark: Option<u32>,
    /// Clusters.
    pub upstreams: Upstreams,
    /// TLS configurations.
    pub tls: TlsCache,
    /// Counters.
    pub telemetry: Telemetry,
    /// Randomness.
    pub rng: Rng,
    /// Downstream connections open now.
    pub connections: Cell<u64>,
    /// Requests in flight now.
    pub requests: Cell<u64>,
    live: RefCell<Rc<Current>>,
    /// Listeners without a socket, by the destination they stand for and their direction.
    destinations: RefCell<HashMap<(SocketAddr, u8), Arc<Listener>>>,
    changed: watch::Sender<Change>,
    connection_ids: Cell<u64>,
}

/// A worker's hold on the configuration: requests count references to this within the worker, and leave
/// the count that all workers share alone.
#[derive(Debug, Default)]
pub struct Current(Arc<Live>);

impl Deref for Current {
    type Target = Live;

    fn deref(&self) -> &Live {
        &self.0
    }
}

/// What connections are told.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Change {
    /// Version of the configuration.
    pub version: u64,
    /// Finish what you have.
    pub draining: bool,
    /// What is still open then is cut.
    pub cut: Option<Instant>,
}

impl Worker {
    /// A worker's state under a first configuration, without sockets.
    pub fn new(index: usize, node: Arc<Node>, mark: Option<u32>) -> Rc<Self> {
        Rc::new(Self {
            index,
            mark,
            upstreams: Upstreams::default(),
            tls: TlsCache::default(),
            telemetry: Telemetry::new(&node),
            rng: Rng::default(),
            connections: Cell::new(0),
            requests: Cell::new(0),
            live: RefCell::default(),
            destinations: RefCell::default(),
            changed: watch::Sender::default(),
            connection_ids: Cell::new(0),
            node,
        })
    }

    /// The configuration now.
    pub fn live(&self) -> Rc<Current> {
        self.live.borrow().clone()
    }

    /// Whether the worker drains.
    pub fn is_draining(&self) -> bool {
        self.changed.borrow().draining
    }

    /// Tells of changes of configuration and of the drain.
    pub fn watch(&self) -> watch::Receiver<Change> {
        self.changed.subscribe()
    }

    /// The next connection's number.
    pub fn next_connection_id(&self) -> u64 {
        let id = self.connection_ids.get() + 1;
        self.connection_ids.set(id);
        id
    }

    /// The listener that stands for a destination: exact, else for any address with that port.
    pub fn listener_for(&self, to: SocketAddr, direction: TrafficDirection) -> Option<Arc<Listener>> {
        let destinations = self.destinations.borrow();
        let any: IpAddr = match to {
            SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        let any = SocketAddr::new(any, to.port());
        // A configuration that does not say which way a listener's traffic flows means either.
        [
            (to, direction),
            (any, direction),
            (to, TrafficDirection::Unspecified),
            (any, TrafficDirection::Unspecified),
        ]
        .iter()
        .find_map(|(address, direction)| destinations.get(&(*address, *direction as u8)))
        .cloned()
    }

    /// The listener of this name.
    pub fn listener(&self, name: &str) -> Option<Arc<Listener>> {
        let live = self.live.borrow();
        let at = live.listeners.binary_search_by(|l| (*l.name).cmp(name)).ok();
        match at {
            Some(at) => Some(live.listeners[at].clone()),
            None => live.listeners.iter().find(|l| *l.name == *name).cloned(),
        }
    }

    /// Works by `live` from now on.
    pub fn apply(&self, live: Arc<Live>) {
        self.upstreams.apply(&live);
        *self.destinations.borrow_mut() = live
            .listeners
            .iter()
            .filter(|l| !l.bind)
            .map(|l| ((l.address, l.direction as u8), l.clone()))
            .collect();
        let version = live.version;
        drop(self.live.replace(Rc::new(Current(live))));
        self.tls.prune();
        self.changed.send_modify(|c| c.version = version);
    }

    fn drain(&self) {
        self.changed.send_modify(|c| c.draining = true);
    }
}

/// Starts a worker on a thread of its own.
pub fn spawn(settings: WorkerSettings) -> io::Result<std::thread::JoinHandle<()>> {
    std::thread::Builder::new()
        .name(format!("worker-{}", settings.index))
        .spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            match runtime {
                Ok(runtime) => LocalSet::new().block_on(&runtime, run(settings)),
                Err(error) => tracing::error!(worker = settings.index, %error, "the worker has no runtime"),
            }
        })
}

/// A worker from its first configuration to its end. Must run on a [`LocalSet`].
pub async fn run(mut settings: WorkerSettings) {
    let cx = Worker::new(settings.index, settings.node.clone(), settings.mark);
    let mut sockets = sockets::Sockets::default();
    let mut sweep = tokio::time::interval(SWEEP);
    sweep.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    let mut configured = true;
    settings.live.mark_changed();
    let patience = loop {
        tokio::select! {
            changed = settings.live.changed(), if configured => {
                if changed.is_err() {
                    // Nobody changes the configuration any more; what stands is served.
                    configured = false;
                    continue;
                }
                let live = settings.live.borrow_and_update().clone();
                let version = live.version;
                let wanted = live.clone();
                cx.apply(live);
                let failed = sockets.reconcile(&cx, &wanted);
                let applied = Event::Applied { worker: settings.index, version, failed };
                let _ = settings.events.send(applied).await;
            }
            order = settings.orders.recv() => match order {
                Some(Order::Drain) => cx.drain(),
                Some(Order::Close) => sockets.close(),
                Some(Order::Report(reply)) => {
                    let _ = reply.send(report::report(&cx));
                }
                Some(Order::Stop(patience)) => break patience,
                None => break Duration::ZERO,
            },
            _ = sweep.tick() => cx.upstreams.sweep(Instant::now()),
        }
    };
    cx.drain();
    cx.changed
        .send_modify(|c| c.cut = Some(Instant::now() + patience));
    sockets.close();
    let _ = tokio::time::timeout(patience, idle(&cx)).await;
    let _ = settings
        .events
        .send(Event::Ended {
            worker: settings.index,
        })
        .await;
}

/// Waits until no connection is left.
fn idle(cx: &Rc<Worker>) -> impl Future<Output = ()> + use<> {
    let cx = cx.clone();
    async move {
        while cx.connections.get() > 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}
