//! One endpoint as a worker sees it: what is in flight, whether it may be picked, its connections.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use crate::config::endpoint::{Address, Endpoint, Health};

use super::pool::HostPool;

/// A gateway heard this long ago is there.
const RECENT: Duration = Duration::from_secs(1);

/// What makes two descriptions the same endpoint: a change of anything else keeps connections and history.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct HostKey {
    /// Where it is.
    pub address: Address,
    /// How it is spoken to.
    pub transport_labels: Vec<(String, String)>,
    /// Whether a gateway stands there.
    pub gateway: bool,
}

impl HostKey {
    /// The key of an endpoint.
    pub fn of(endpoint: &Endpoint) -> Self {
        Self {
            address: endpoint.address.clone(),
            transport_labels: endpoint.transport_labels.clone(),
            gateway: endpoint.gateway.is_some(),
        }
    }
}

/// An endpoint with its history on this worker.
pub struct Host {
    /// The newest description.
    endpoint: RefCell<Arc<Endpoint>>,
    /// Requests (HTTP) or connections (TCP) in flight.
    pub active: Cell<u32>,
    /// Connection attempts that already take longer than the cluster's hedge; while there is one, others
    /// are preferred.
    pub slow_connects: Cell<u32>,
    /// Why the last attempt to connect failed; `None` once one succeeds.
    pub last_failure: RefCell<Option<Rc<str>>>,
    /// When it was last heard: an answer, or a connection made.
    heard: Cell<Option<Instant>>,
    /// Since when it is silent, while one dial finds out whether it is still there.
    silent: Cell<Option<Instant>>,
    /// It is silent, and a dial was not answered either.
    lost: Cell<bool>,
    /// Tells requests in flight that one of its connections fell silent, or that it is lost.
    pub alarm: Notify,
    /// Round trip to it, as the last connection measured it, and when.
    rtt: Cell<Option<(Duration, Instant)>>,
    /// Passive health.
    pub outlier: super::outlier::History,
    /// Connections for HTTP.
    pub pool: HostPool,
    /// No longer in the cluster's list: what is in flight finishes, nothing new begins.
    pub removed: Cell<bool>,
    /// Totals for reports.
    pub totals: Totals,
}

/// Counters of one endpoint since it is known.
#[derive(Debug, Default)]
pub struct Totals {
    /// Connections made.
    pub connections: Cell<u64>,
    /// Connections open now.
    pub connections_active: Cell<u64>,
    /// Attempts that failed.
    pub connect_failures: Cell<u64>,
    /// Requests begun.
    pub requests: Cell<u64>,
    /// Answered below 500.
    pub success: Cell<u64>,
    /// Answered from 500 on, or not at all.
    pub error: Cell<u64>,
    /// Not answered in time.
    pub timeout: Cell<u64>,
}

/// Adds one to a counter.
pub fn bump(counter: &Cell<u64>) {
    counter.set(counter.get().wrapping_add(1));
}

impl Host {
    /// A host nothing is known of yet.
    pub fn new(endpoint: Arc<Endpoint>) -> Rc<Self> {
        Rc::new(Self {
            endpoint: RefCell::new(endpoint),
            active: Cell::new(0),
            slow_connects: Cell::new(0),
            last_failure: RefCell::default(),
            heard: Cell::new(None),
            silent: Cell::new(None),
            lost: Cell::new(false),
            alarm: Notify::new(),
            rtt: Cell::new(None),
            outlier: super::outlier::History::default(),
            pool: HostPool::default(),
            removed: Cell::new(false),
            totals: Totals::default(),
        })
    }

    /// The newest description.
    pub fn endpoint(&self) -> Arc<Endpoint> {
        self.endpoint.borrow().clone()
    }

    /// Takes a new description of the same key.
    pub fn describe(&self, endpoint: Arc<Endpoint>) {
        *self.endpoint.borrow_mut() = endpoint;
        self.removed.set(false);
    }

    /// Relative share of requests, at least 1.
    pub fn weight(&self) -> u32 {
        self.endpoint.borrow().weight.max(1)
    }

    /// Endpoints behind the gateway at this address; `None` for an ordinary endpoint.
    pub fn gateway(&self) -> Option<u32> {
        self.endpoint.borrow().gateway
    }

    /// Whether attempts begun at `started` that came to nothing say so of a gateway. They do not where replicas
    /// share its address and one of them was heard about then or since.
    pub fn is_blamed(&self, started: Instant) -> bool {
        let about = started.checked_sub(RECENT).unwrap_or(started);
        !self.heard_since(about)
    }

    /// It gave a sign of life; whether that ends a silence.
    pub fn hear(&self, now: Instant) -> bool {
        self.heard.set(Some(now));
        self.lost.set(false);
        self.silent.take().is_some()
    }

    /// Whether it was heard after `since`, on whichever connection.
    pub fn heard_since(&self, since: Instant) -> bool {
        self.heard.get().is_some_and(|at| at > since)
    }

    /// Whether it is silent: others are preferred.
    pub fn is_silent(&self) -> bool {
        self.silent.get().is_some()
    }

    /// Whether it is silent and does not answer a dial either.
    pub fn is_lost(&self) -> bool {
        self.lost.get()
    }

    /// A dial was not answered; counts while it is silent.
    pub fn lose(&self) {
        if self.is_silent() {
            self.lost.set(true);
            self.alarm.notify_waiters();
        }
    }

    /// Round trip to it, once a connection was made.
    pub fn rtt(&self) -> Option<Duration> {
        self.rtt.get().map(|(rtt, _)| rtt)
    }

    /// Its kernel took a connection, and measured the round trip on the way.
    pub fn measured(&self, rtt: Duration) {
        self.rtt.set(Some((rtt, Instant::now())));
    }

    /// Whether its kernel took a connection after `since`, be the handshake over or not.
    pub fn was_reached_since(&self, since: Instant) -> bool {
        self.rtt.get().is_some_and(|(_, at)| at > since)
    }

    /// The address, when it is an IP address.
    pub fn socket_address(&self) -> Option<SocketAddr> {
        match self.endpoint.borrow().address {
            Address::Socket(a) => Some(a),
            _ => None,
        }
    }

    /// Whether new work may go there at `now`.
    pub fn is_available(&self, now: Instant) -> bool {
        self.control_plane_health() == Health::Healthy
            && !self.outlier.is_ejected(now)
            && self.slow_connects.get() == 0
            && !self.is_silent()
    }

    /// Health as the control plane sees it.
    pub fn control_plane_health(&self) -> Health {
        self.endpoint.borrow().health
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.endpoint.borrow().address {
            Address::Socket(a) => a.fmt(f),
            Address::Name(n, p) => write!(f, "{n}:{p}"),
            Address::Unix(p) => f.write_str(p),
        }
    }
}

impl fmt::Debug for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Host({self})")
    }
}

/// Counts one piece of work at a host while it lives.
#[derive(Debug)]
pub struct Busy(Rc<Host>);

impl Busy {
    /// Begins a piece of work.
    pub fn at(host: &Rc<Host>) -> Self {
        host.active.set(host.active.get() + 1);
        bump(&host.totals.requests);
        Self(host.clone())
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.active.set(self.0.active.get().saturating_sub(1));
    }
}

/// Watches over one connection attempt and marks the host as slow once it takes longer than `hedge`.
#[derive(Debug)]
pub struct SlowMark(Rc<Host>);

impl SlowMark {
    /// Marks the host until this is dropped.
    pub fn on(host: &Rc<Host>) -> Self {
        host.slow_connects.set(host.slow_connects.get() + 1);
        Self(host.clone())
    }
}

impl Drop for SlowMark {
    fn drop(&mut self) {
        self.0
            .slow_connects
            .set(self.0.slow_connects.get().saturating_sub(1));
    }
}

/// Holds a host to be silent while it lives, or until the host is heard.
#[derive(Debug)]
pub struct SilentMark(Rc<Host>, Instant);

impl SilentMark {
    /// Marks a host that was not heard since; `None` when it was, or is marked already.
    pub fn on(host: &Rc<Host>, since: Instant) -> Option<Self> {
        if host.is_silent() || host.heard_since(since) {
            return None;
        }
        host.silent.set(Some(since));
        Some(Self(host.clone(), since))
    }
}

impl Drop for SilentMark {
    fn drop(&mut self) {
        if self.0.silent.get() == Some(self.1) {
            self.0.silent.set(None);
            self.0.lost.set(false);
        }
    }
}
