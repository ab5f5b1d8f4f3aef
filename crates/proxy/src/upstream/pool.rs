//! HTTP connections to one host: HTTP/1.1 one request at a time, HTTP/2 many.
//!
//! A request takes a [`Lease`]; whoever waits gets the first connection that becomes free or stands. New
//! connections are dialled by tasks of their own, so a request that gives up costs nobody a connection.
//!
//! ```text
//!   acquire ─▶ idle or multiplexed? ─▶ Lease ─▶ send ─▶ answer ─▶ finished ─▶ back to the pool
//!        └─▶ wait ◀── connect task (dial) or a Lease given back
//! ```

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::sync::oneshot;

use crate::http::body::OutgoingBody;
use crate::http::executor::Local;
use crate::tls::TlsPeer;
use crate::tls::originate::{AlpnChoice, speaks_http2};
use crate::worker::Worker;

use super::cluster::{ClusterState, Held};
use super::connect::{ConnectError, Established, Purpose, dial};
use super::gateway::{self, Behind, Remote};
use super::host::Host;

/// Windows large enough for bulk over a long link.
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 4 << 20;

/// What a request wants to be carried by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wire {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2.
    Http2,
    /// What ALPN says, HTTP/1.1 when it says nothing.
    ByAlpn,
}

impl Wire {
    fn alpn(self) -> AlpnChoice {
        match self {
            Self::Http1 => AlpnChoice::Http1,
            Self::Http2 => AlpnChoice::Http2,
            Self::ByAlpn => AlpnChoice::All,
        }
    }

    fn takes(self, http2: bool) -> bool {
        match self {
            Self::Http1 => !http2,
            Self::Http2 => http2,
            Self::ByAlpn => true,
        }
    }
}

/// What is known of an HTTP connection.
#[derive(Debug)]
pub struct Link {
    /// Own address.
    pub local: Option<SocketAddr>,
    /// What the peer proved.
    pub tls: Option<Rc<TlsPeer>>,
    /// The pod at its end, when a gateway is between.
    pub remote: Remote,
    /// No new request.
    doomed: Cell<bool>,
    /// No new request after this time.
    until: Option<Instant>,
    served: Cell<u32>,
}

/// An HTTP/1.1 connection.
#[derive(Debug)]
struct Single {
    sender: http1::SendRequest<OutgoingBody>,
    link: Rc<Link>,
}

/// An HTTP/2 connection.
#[derive(Debug)]
struct Multiplexed {
    sender: http2::SendRequest<OutgoingBody>,
    link: Rc<Link>,
    streams: Cell<u32>,
    idle_since: Cell<Instant>,
}

/// Tells those who wait apart.
type Turn = u64;
type Waiter = oneshot::Sender<Result<Lease, ConnectError>>;

/// The connections of one host.
#[derive(Debug, Default)]
pub struct HostPool {
    idle: RefCell<VecDeque<(Single, Instant)>>,
    multiplexed: RefCell<Vec<Rc<Multiplexed>>>,
    waiting: RefCell<VecDeque<(Wire, Turn, Waiter)>>,
    turns: Cell<Turn>,
    /// HTTP/2 dials under way.
    dialling: Cell<u32>,
    /// Dials under way, by [`Wire`].
    opening: [Cell<u32>; 3],
    /// What is known of the pods behind a gateway.
    pub behind: Behind,
}

impl HostPool {
    /// Whether nothing is open and nobody waits.
    pub fn is_empty(&self) -> bool {
        self.idle.borrow().is_empty()
            && self.multiplexed.borrow().is_empty()
            && self.waiting.borrow().is_empty()
    }

    /// Nothing new goes over what is open; what is in flight finishes.
    pub fn drain(&self) {
        self.idle.borrow_mut().clear();
        for connection in self.multiplexed.borrow_mut().drain(..) {
            connection.link.doomed.set(true);
        }
    }

    /// Closes what has been idle for longer than `idle` or is past its time.
    pub fn sweep(&self, now: Instant, idle: Option<Duration>) {
        let stale = |since: Instant| idle.is_some_and(|d| !d.is_zero() && now.duration_since(since) >= d);
        self.idle
            .borrow_mut()
            .retain(|(c, since)| c.link.is_usable(now) && !c.sender.is_closed() && !stale(*since));
        self.multiplexed.borrow_mut().retain(|c| {
            let unused = c.streams.get() == 0 && stale(c.idle_since.get());
            !c.sender.is_closed() && c.link.is_usable(now) && !unused
        });
    }

    fn opening(&self, wire: Wire) -> &Cell<u32> {
        &self.opening[wire as usize]
    }

    fn take_idle(&self, gateway: bool, now: Instant) -> Option<Single> {
        let mut idle = self.idle.borrow_mut();
        loop {
            // The freshest connection is the likeliest to live; through a gateway all take turns.
            let (connection, _) = if gateway {
                idle.pop_front()
            } else {
                idle.pop_back()
            }?;
            if connection.link.is_usable(now) && !connection.sender.is_closed() {
                return Some(connection);
            }
        }
    }

    fn take_multiplexed(&self, most: u32, now: Instant) -> Option<Rc<Multiplexed>> {
        let mut all = self.multiplexed.borrow_mut();
        all.retain(|c| c.link.is_usable(now) && !c.sender.is_closed());
        let best = all
            .iter()
            .min_by_key(|c| (c.streams.get(), c.link.served.get()))?;
        (best.streams.get() < most).then(|| best.clone())
    }
}

impl Link {
    fn is_usable(&self, now: Instant) -> bool {
        !self.doomed.get() && self.until.is_none_or(|until| now < until)
    }
}

/// One request's right to a connection.
#[derive(Debug)]
pub struct Lease {
    carrier: Option<Carrier>,
    link: Rc<Link>,
    cluster: Rc<ClusterState>,
    host: Rc<Host>,
    finished: bool,
}

#[derive(Debug)]
enum Carrier {
    Single(Single),
    Multiplexed(Rc<Multiplexed>),
}

/// Why a request that had a connection has no answer.
#[derive(Debug)]
pub enum SendError {
    /// It was never sent: the connection had gone. Another may be taken without asking any policy.
    NotSent(Box<http::Request<OutgoingBody>>),
    /// The connection or the stream broke before the answer.
    Broken(hyper::Error),
}

impl Lease {
    /// What is known of the connection.
    pub fn link(&self) -> &Rc<Link> {
        &self.link
    }

    /// The host at its end.
    pub fn host(&self) -> &Rc<Host> {
        &self.host
    }

    /// Whether it is HTTP/2.
    pub fn is_http2(&self) -> bool {
        matches!(self.carrier, Some(Carrier::Multiplexed(_)))
    }

    /// Sends a request and waits for the head of the answer.
    pub async fn send(
        &mut self,
        request: http::Request<OutgoingBody>,
    ) -> Result<http::Response<hyper::body::Incoming>, SendError> {
        let mut sent = match &mut self.carrier {
            Some(Carrier::Single(single)) => {
                if single.sender.ready().await.is_err() {
                    return Err(SendError::NotSent(Box::new(request)));
                }
                single.sender.try_send_request(request).await
            }
            Some(Carrier::Multiplexed(connection)) => {
                let mut sender = connection.sender.clone();
                if sender.ready().await.is_err() {
                    connection.link.doomed.set(true);
                    return Err(SendError::NotSent(Box::new(request)));
                }
                sender.try_send_request(request).await
            }
            None => return Err(SendError::NotSent(Box::new(request))),
        };
        if let Err(error) = &mut sent
            && let Some(request) = error.take_message()
        {
            self.link.doomed.set(true);
            return Err(SendError::NotSent(Box::new(request)));
        }
        sent.map_err(|e| SendError::Broken(e.into_error()))
    }

    /// Request and answer are complete: the connection may serve another.
    pub fn finish(&mut self) {
        self.finished = true;
    }

    /// The connection takes no further request.
    pub fn doom(&self) {
        self.link.doomed.set(true);
    }

    /// Takes note of an answer's status: at the host, or at the connection when a gateway is between.
    pub fn note_status(&self, status: u16, pod: Option<&str>) {
        self.cluster.note(&self.host, super::Evidence::Status(status));
        let Some(settings) = &self.cluster.config.outlier else {
            return;
        };
        if self.host.gateway().is_none() || self.cluster.config.isthmus.local_origin_only {
            return;
        }
        if let Some(pod) = pod {
            self.link.remote.identify(pod);
        }
        let now = Instant::now();
        match self
            .link
            .remote
            .note(status, settings, &self.host.pool.behind, now)
        {
            gateway::Advice::Keep => {}
            gateway::Advice::Replace => self.doom(),
            gateway::Advice::Suspect => {
                self.doom();
                self.cluster.eject(&self.host, now);
            }
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let now = Instant::now();
        match self.carrier.take() {
            Some(Carrier::Single(single)) => {
                let limit = self.cluster.config.http.max_requests_per_connection;
                let worn = limit > 0 && self.link.served.get() >= limit;
                if self.finished && !worn && self.link.is_usable(now) && !self.host.removed.get() {
                    give(&self.cluster, &self.host, single);
                }
            }
            Some(Carrier::Multiplexed(connection)) => {
                connection.streams.set(connection.streams.get().saturating_sub(1));
                connection.idle_since.set(now);
                let limit = self.cluster.config.http.max_requests_per_connection;
                if limit > 0 && self.link.served.get() >= limit {
                    self.link.doomed.set(true);
                }
                serve_waiting(&self.cluster, &self.host, &connection);
            }
            None => {}
        }
    }
}

/// A connection to `host` for one request: pooled, or dialled within the cluster's limits.
pub async fn acquire(
    cx: &Rc<Worker>,
    cluster: &Rc<ClusterState>,
    host: &Rc<Host>,
    wire: Wire,
    authority: Option<Rc<str>>,
) -> Result<Lease, ConnectError> {
    let pool = &host.pool;
    let now = Instant::now();
    let most = cluster.config.http.max_concurrent_streams.max(1);
    if wire != Wire::Http1
        && let Some(connection) = pool.take_multiplexed(most, now)
    {
        share_gateway(cx, cluster, host, wire, authority);
        return Ok(lease_stream(cluster, host, connection));
    }
    if wire != Wire::Http2
        && let Some(single) = pool.take_idle(host.gateway().is_some(), now)
    {
        share_gateway(cx, cluster, host, wire, authority);
        return Ok(lease_single(cluster, host, single));
    }
    let limits = &cluster.config.limits;
    let pending = Held::take(cluster, |c| &c.pending, limits.pending.max(1)).ok_or(ConnectError::Overflow)?;
    let (waiter, answer) = oneshot::channel();
    let turn = pool.turns.get();
    pool.turns.set(turn.wrapping_add(1));
    pool.waiting.borrow_mut().push_back((wire, turn, waiter));
    let full = cluster.connections.get() >= limits.connections && host.totals.connections_active.get() > 0;
    let shared = wire == Wire::Http2 && pool.dialling.get() > 0;
    if !full && !shared {
        spawn_connect(cx, cluster, host, wire, authority, Some(turn));
    }
    let lease = answer.await.unwrap_or(Err(ConnectError::Ending));
    drop(pending);
    lease
}

/// One connection through a gateway is one remote pod: while there are fewer than wanted, another is opened
/// beside the request.
fn share_gateway(
    cx: &Rc<Worker>,
    cluster: &Rc<ClusterState>,
    host: &Rc<Host>,
    wire: Wire,
    authority: Option<Rc<str>>,
) {
    let Some(behind) = host.gateway() else { return };
    let opening: u32 = host.pool.opening.iter().map(Cell::get).sum();
    let open = host.totals.connections_active.get() + u64::from(opening);
    if open < u64::from(gateway::connections_wanted(behind)) {
        spawn_connect(cx, cluster, host, wire, authority, None);
    }
}

/// Another connection beside one that takes its time; whoever waits takes the first that stands.
pub fn redial(
    cx: &Rc<Worker>,
    cluster: &Rc<ClusterState>,
    host: &Rc<Host>,
    wire: Wire,
    authority: Option<Rc<str>>,
) {
    spawn_connect(cx, cluster, host, wire, authority, None);
}

/// Dials, for whoever has `turn` or for nobody in particular.
fn spawn_connect(
    cx: &Rc<Worker>,
    cluster: &Rc<ClusterState>,
    host: &Rc<Host>,
    wire: Wire,
    authority: Option<Rc<str>>,
    turn: Option<Turn>,
) {
    let (cx, cluster, host) = (cx.clone(), cluster.clone(), host.clone());
    let counted = wire != Wire::Http1;
    if counted {
        host.pool.dialling.set(host.pool.dialling.get() + 1);
    }
    let opening = host.pool.opening(wire);
    opening.set(opening.get() + 1);
    tokio::task::spawn_local(async move {
        let purpose = Purpose {
            alpn: wire.alpn(),
            authority: authority.clone(),
        };
        let result = match dial(&cx, &cluster, &host, &purpose).await {
            Ok(established) => begin_http(&cx, &cluster, &host, wire, established).await,
            Err(error) => Err(error),
        };
        let opening = host.pool.opening(wire);
        opening.set(opening.get().saturating_sub(1));
        if counted {
            host.pool.dialling.set(host.pool.dialling.get().saturating_sub(1));
        }
        match result {
            Ok(Carrier::Single(single)) => give(&cluster, &host, single),
            Ok(Carrier::Multiplexed(connection)) => {
                host.pool.multiplexed.borrow_mut().push(connection.clone());
                serve_waiting(&cluster, &host, &connection);
                // More are waiting than one connection takes.
                let left = host
                    .pool
                    .waiting
                    .borrow()
                    .iter()
                    .any(|(w, _, answer)| w.takes(true) && !answer.is_closed());
                if left && host.pool.dialling.get() == 0 {
                    spawn_connect(&cx, &cluster, &host, wire, authority, None);
                }
            }
            Err(error) => fail_waiting(&host, wire, turn, &error),
        }
    });
}

/// Speaks HTTP over a fresh connection; its driver task owns the socket.
async fn begin_http(
    cx: &Worker,
    cluster: &ClusterState,
    host: &Host,
    wire: Wire,
    established: Established,
) -> Result<Carrier, ConnectError> {
    let Established {
        stream,
        tls,
        local,
        held,
    } = established;
    let alpn = tls.as_ref().and_then(|t| t.alpn.as_deref());
    let http2 = speaks_http2(alpn).unwrap_or(wire == Wire::Http2);
    let mut longest = cluster.config.http.max_connection_duration;
    if host.gateway().is_some() {
        let lifetime = gateway::lifetime(cx.rng.fraction());
        longest = Some(longest.map_or(lifetime, |l| l.min(lifetime)));
    }
    let link = Rc::new(Link {
        local,
        tls,
        remote: Remote::default(),
        doomed: Cell::new(false),
        until: longest.map(|d| Instant::now() + d),
        served: Cell::new(0),
    });
    let words = |e: hyper::Error| ConnectError::Io(e.to_string());
    let io = TokioIo::new(stream);
    let ending = link.clone();
    if http2 {
        let (sender, connection) = http2::Builder::new(Local)
            .timer(TokioTimer::new())
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_header_list_size(256 * 1024)
            .handshake(io)
            .await
            .map_err(words)?;
        tokio::task::spawn_local(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "upstream HTTP/2 connection ended");
            }
            ending.doomed.set(true);
            drop(held);
        });
        return Ok(Carrier::Multiplexed(Rc::new(Multiplexed {
            sender,
            link,
            streams: Cell::new(0),
            idle_since: Cell::new(Instant::now()),
        })));
    }
    let (sender, connection) = http1::Builder::new()
        .max_headers(200)
        .handshake(io)
        .await
        .map_err(words)?;
    tokio::task::spawn_local(async move {
        if let Err(error) = connection.with_upgrades().await {
            tracing::debug!(%error, "upstream HTTP/1.1 connection ended");
        }
        ending.doomed.set(true);
        drop(held);
    });
    Ok(Carrier::Single(Single { sender, link }))
}

fn lease_single(cluster: &Rc<ClusterState>, host: &Rc<Host>, single: Single) -> Lease {
    let link = single.link.clone();
    link.served.set(link.served.get().saturating_add(1));
    Lease {
        carrier: Some(Carrier::Single(single)),
        link,
        cluster: cluster.clone(),
        host: host.clone(),
        finished: false,
    }
}

fn lease_stream(cluster: &Rc<ClusterState>, host: &Rc<Host>, connection: Rc<Multiplexed>) -> Lease {
    let link = connection.link.clone();
    link.served.set(link.served.get().saturating_add(1));
    connection.streams.set(connection.streams.get() + 1);
    Lease {
        carrier: Some(Carrier::Multiplexed(connection)),
        link,
        cluster: cluster.clone(),
        host: host.clone(),
        finished: false,
    }
}

/// Hands a free HTTP/1.1 connection to whoever waits first, else keeps it.
fn give(cluster: &Rc<ClusterState>, host: &Rc<Host>, single: Single) {
    let mut single = single;
    while let Some(waiter) = next_waiting(host, false) {
        match waiter.send(Ok(lease_single(cluster, host, single))) {
            Ok(()) => return,
            Err(Ok(mut lease)) => match lease.carrier.take() {
                // Nobody waits there any more.
                Some(Carrier::Single(back)) => single = back,
                _ => return,
            },
            Err(Err(_)) => return,
        }
    }
    if !host.removed.get() {
        host.pool.idle.borrow_mut().push_back((single, Instant::now()));
    }
}

/// Serves those who wait for a stream, as far as this connection has room.
fn serve_waiting(cluster: &Rc<ClusterState>, host: &Rc<Host>, connection: &Rc<Multiplexed>) {
    let most = cluster.config.http.max_concurrent_streams.max(1);
    while connection.streams.get() < most
        && connection.link.is_usable(Instant::now())
        && !connection.sender.is_closed()
    {
        let Some(waiter) = next_waiting(host, true) else {
            return;
        };
        if let Err(Ok(mut lease)) = waiter.send(Ok(lease_stream(cluster, host, connection.clone()))) {
            // Nobody waits there any more; given back by hand, since dropping it would come here again.
            lease.carrier = None;
            connection.streams.set(connection.streams.get().saturating_sub(1));
        }
    }
}

fn next_waiting(host: &Host, http2: bool) -> Option<Waiter> {
    let mut waiting = host.pool.waiting.borrow_mut();
    waiting.retain(|(_, _, answer)| !answer.is_closed());
    let at = waiting.iter().position(|(wire, ..)| wire.takes(http2))?;
    waiting.remove(at).map(|(_, _, answer)| answer)
}

/// A dial failed. Over HTTP/2 it fails all who share it, unless another is under way. Over HTTP/1.1 it fails
/// who asked for it, or whoever is left without a dial when that one was served by another's.
fn fail_waiting(host: &Host, wire: Wire, turn: Option<Turn>, error: &ConnectError) {
    let failed: Vec<Waiter> = {
        let mut waiting = host.pool.waiting.borrow_mut();
        waiting.retain(|(_, _, answer)| !answer.is_closed());
        let own = waiting.iter().position(|(_, t, _)| Some(*t) == turn);
        let mut failed: Vec<_> = own.and_then(|at| waiting.remove(at)).into_iter().collect();
        let under_way = host.pool.opening(wire).get() as usize;
        let left = waiting.iter().filter(|(w, ..)| *w == wire).count();
        let more = match wire {
            Wire::Http2 if under_way == 0 => left,
            Wire::Http1 | Wire::ByAlpn if own.is_none() && turn.is_some() && left > under_way => 1,
            _ => 0,
        };
        for _ in 0..more {
            let at = waiting.iter().position(|(w, ..)| *w == wire);
            failed.extend(at.and_then(|at| waiting.remove(at)));
        }
        failed.into_iter().map(|(_, _, answer)| answer).collect()
    };
    for waiter in failed {
        let _ = waiter.send(Err(error.clone()));
    }
}
