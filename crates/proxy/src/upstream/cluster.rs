//! A cluster's state on one worker: its hosts, what is in use, who may be picked.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use crate::config::cluster::{Cluster, Discovery};
use crate::config::endpoint::{Address, Endpoint, Endpoints, Health};

use super::balance::{HostSet, LocalityHosts, PickContext, View};
use super::host::{Host, HostKey, bump};
use super::outlier::{self, Criteria, Evidence};
use super::rng::Rng;

/// How long a host of an original-destination cluster is remembered without work.
const ORIGINAL_KEPT: Duration = Duration::from_secs(30);

/// Least time between two probes of ejected hosts.
const PROBE_INTERVAL: Duration = Duration::from_secs(1);

/// Why no host can be picked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PickError {
    /// The control plane named none.
    #[error("the cluster has no endpoint")]
    NoEndpoint,
    /// All are unhealthy, draining or ejected.
    #[error("no endpoint of the cluster is healthy")]
    NoHealthy,
    /// The cluster goes to the original destination, and there is none.
    #[error("the connection has no original destination")]
    NoDestination,
    /// `drop_overloads` fell on this one.
    #[error("dropped by the cluster's drop policy")]
    Dropped,
}

/// One cluster on one worker.
#[derive(Debug)]
pub struct ClusterState {
    /// What it was told to do.
    pub config: Arc<Cluster>,
    hosts: RefCell<HostSet>,
    /// What `hosts` was made of, so that an unchanged list is recognised.
    endpoints: RefCell<Option<Arc<Endpoints>>>,
    /// Who is usable; dropped when health or membership changes.
    view: RefCell<Option<Rc<View>>>,
    /// Hosts of an original-destination cluster, made on demand, with the time of the last use.
    originals: RefCell<HashMap<SocketAddr, (Rc<Host>, Instant)>>,
    /// Upstream connections open.
    pub connections: Cell<u32>,
    /// Requests waiting for a connection.
    pub pending: Cell<u32>,
    /// Requests in flight.
    pub requests: Cell<u32>,
    /// Retries in flight.
    pub retries: Cell<u32>,
    /// When an ejected host was last dialled to see whether it can be reached.
    probed: Cell<Option<Instant>>,
    /// Probes of ejected hosts under way.
    pub probes: Cell<u32>,
    /// Tells those who wait for a probe that one has ended.
    pub probe_ended: Notify,
}

impl ClusterState {
    /// A cluster nothing was sent to yet.
    pub fn new(config: Arc<Cluster>) -> Rc<Self> {
        Rc::new(Self {
            config,
            hosts: RefCell::default(),
            endpoints: RefCell::default(),
            view: RefCell::default(),
            originals: RefCell::default(),
            connections: Cell::new(0),
            pending: Cell::new(0),
            requests: Cell::new(0),
            retries: Cell::new(0),
            probed: Cell::new(None),
            probes: Cell::new(0),
            probe_ended: Notify::new(),
        })
    }

    /// Why a host could not be connected to, of those that have not been reached since: what an answer says
    /// besides that nobody is healthy.
    pub fn last_failure(&self) -> Option<Rc<str>> {
        self.hosts
            .borrow()
            .iter()
            .find_map(|host| host.last_failure.borrow().clone())
    }

    /// Takes a new list of endpoints. Hosts that stay keep their connections and history; those that go
    /// finish what they have.
    pub fn update(&self, endpoints: Option<&Arc<Endpoints>>) {
        let same = match (&*self.endpoints.borrow(), endpoints) {
            (Some(a), Some(b)) => Arc::ptr_eq(a, b),
            (None, None) => true,
            _ => false,
        };
        if same {
            return;
        }
        let mut known: HashMap<HostKey, Rc<Host>> = self
            .hosts
            .borrow()
            .iter()
            .map(|h| (HostKey::of(&h.endpoint()), h.clone()))
            .collect();
        let mut priorities: BTreeMap<u32, Vec<LocalityHosts>> = BTreeMap::new();
        for locality in endpoints.iter().flat_map(|e| &e.localities) {
            let hosts = locality
                .endpoints
                .iter()
                .map(|endpoint| match known.remove(&HostKey::of(endpoint)) {
                    Some(host) => {
                        host.describe(endpoint.clone());
                        host
                    }
                    None => Host::new(endpoint.clone()),
                })
                .collect();
            priorities
                .entry(locality.priority)
                .or_default()
                .push(LocalityHosts {
                    weight: locality.weight,
                    hosts,
                });
        }
        for gone in known.values() {
            gone.removed.set(true);
            gone.pool.drain();
        }
        *self.hosts.borrow_mut() = HostSet {
            // Priorities without a gap: a missing one would count as one without health, as in Envoy.
            priorities: priorities.into_values().collect(),
            overprovisioning: endpoints.map_or(140, |e| e.overprovisioning),
        };
        *self.endpoints.borrow_mut() = endpoints.cloned();
        self.invalidate();
    }

    /// The hosts' health changed.
    pub fn invalidate(&self) {
        self.view.take();
    }

    /// A host gave a sign of life.
    pub fn heard(&self, host: &Host, now: Instant) {
        if host.hear(now) {
            self.invalidate();
        }
    }

    /// Picks a host for one attempt.
    pub fn pick(&self, context: &PickContext<'_>, rng: &Rng) -> Result<Rc<Host>, PickError> {
        if let Discovery::OriginalDst { port_override } = self.config.discovery {
            let mut to = context.original.ok_or(PickError::NoDestination)?;
            if let Some(port) = port_override {
                to.set_port(port);
            }
            return Ok(self.original(to));
        }
        let drop = self.endpoints.borrow().as_ref().map_or(0, |e| e.drop);
        if drop > 0 && context.tried.is_empty() && rng.happens(drop) {
            return Err(PickError::Dropped);
        }
        let picked = self.view(rng).pick(&self.config, context, rng);
        picked.ok_or_else(|| {
            if self.hosts.borrow().is_empty() {
                PickError::NoEndpoint
            } else {
                PickError::NoHealthy
            }
        })
    }

    /// Takes note of what came of an attempt.
    pub fn note(&self, host: &Rc<Host>, evidence: Evidence) {
        match evidence {
            Evidence::Status(s) if s < 500 => bump(&host.totals.success),
            Evidence::Status(_) | Evidence::LocalFailure => bump(&host.totals.error),
            Evidence::Connected => {}
        }
        let Some(settings) = &self.config.outlier else {
            return;
        };
        if matches!(self.config.discovery, Discovery::OriginalDst { .. }) {
            return;
        }
        let criteria = Criteria {
            settings,
            // A status tells of the endpoint behind a gateway, not of the gateway.
            local_origin_only: self.config.isthmus.local_origin_only || host.gateway().is_some(),
        };
        let now = Instant::now();
        if host.outlier.is_ejected(now) || !host.outlier.add(evidence, criteria) {
            return;
        }
        if self.eject(host, now) {
            host.outlier.ejected_by(evidence);
        }
    }

    /// An ejected host that could not be reached, when it is time to see whether it can be now.
    pub fn due_for_probe(&self, now: Instant, rng: &Rng) -> Option<Rc<Host>> {
        if self.probed.get().is_some_and(|last| now - last < PROBE_INTERVAL) {
            return None;
        }
        let hosts = self.hosts.borrow();
        let unreached = |h: &&Rc<Host>| h.outlier.is_ejected(now) && h.last_failure.borrow().is_some();
        let number = hosts.iter().filter(unreached).count();
        let host = hosts
            .iter()
            .filter(unreached)
            .nth(rng.below(number.max(1) as u64) as usize)?;
        self.probed.set(Some(now));
        Some(host.clone())
    }

    /// Takes a host out when the cluster's share allows it; whether it did.
    pub fn eject(&self, host: &Rc<Host>, now: Instant) -> bool {
        let Some(settings) = &self.config.outlier else {
            return false;
        };
        let (total, ejected) = {
            let hosts = self.hosts.borrow();
            let ejected = hosts.iter().filter(|h| h.outlier.is_ejected(now)).count();
            (hosts.len(), ejected)
        };
        if !outlier::may_eject(settings, total, ejected) {
            return false;
        }
        let until = host.outlier.eject(settings, now);
        tracing::info!(
            cluster = %self.config.name,
            endpoint = %host,
            seconds = (until - now).as_secs_f64(),
            "endpoint ejected: too many failures in a row"
        );
        self.invalidate();
        true
    }

    /// Runs `visit` over every host known.
    pub fn each_host(&self, mut visit: impl FnMut(&Rc<Host>)) {
        for host in self.hosts.borrow().iter() {
            visit(host);
        }
        for (host, _) in self.originals.borrow().values() {
            visit(host);
        }
    }

    /// Closes idle connections that have waited too long and forgets unused original destinations.
    pub fn sweep(&self, now: Instant) {
        let idle = self.config.http.idle_timeout;
        self.each_host(|host| host.pool.sweep(now, idle));
        self.originals.borrow_mut().retain(|_, (host, used)| {
            host.active.get() > 0 || !host.pool.is_empty() || now.duration_since(*used) < ORIGINAL_KEPT
        });
    }

    /// The cluster is gone: nothing new begins.
    pub fn retire(&self) {
        self.each_host(|host| {
            host.removed.set(true);
            host.pool.drain();
        });
    }

    fn view(&self, rng: &Rng) -> Rc<View> {
        let now = Instant::now();
        if let Some(view) = &*self.view.borrow()
            && view.valid_until.is_none_or(|until| now < until)
        {
            return view.clone();
        }
        let view = Rc::new(View::new(&self.hosts.borrow(), &self.config, now, rng));
        *self.view.borrow_mut() = Some(view.clone());
        view
    }

    fn original(&self, to: SocketAddr) -> Rc<Host> {
        let now = Instant::now();
        let mut originals = self.originals.borrow_mut();
        let (host, used) = originals.entry(to).or_insert_with(|| {
            let endpoint = Endpoint {
                address: Address::Socket(to),
                hostname: None,
                weight: 1,
                health: Health::Healthy,
                transport_labels: Vec::new(),
                workload: None,
                gateway: None,
            };
            (Host::new(Arc::new(endpoint)), now)
        });
        *used = now;
        host.clone()
    }

    /// The address sockets to `to` are bound to, when the cluster says so and the family fits.
    pub fn source_address(&self, to: IpAddr) -> Option<IpAddr> {
        self.config
            .source_address
            .filter(|from| from.is_ipv4() == to.is_ipv4() && !from.is_unspecified())
    }
}

/// Holds one unit of a cluster's counter while it lives.
#[derive(Debug)]
pub struct Held {
    cluster: Rc<ClusterState>,
    counter: fn(&ClusterState) -> &Cell<u32>,
}

impl Held {
    /// Takes a unit when fewer than `limit` are taken.
    pub fn take(
        cluster: &Rc<ClusterState>,
        counter: fn(&ClusterState) -> &Cell<u32>,
        limit: u32,
    ) -> Option<Self> {
        let cell = counter(cluster);
        if cell.get() >= limit {
            return None;
        }
        cell.set(cell.get() + 1);
        Some(Self {
            cluster: cluster.clone(),
            counter,
        })
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let cell = (self.counter)(&self.cluster);
        cell.set(cell.get().saturating_sub(1));
    }
}
