//! HTTP connections to one host: HTTP/1.1 one request at a time, HTTP/2 many.
//!
//! A request takes a [`Lease`]; whoever waits gets the first connection that becomes free or stands. New
//! connections are dialled by tasks of their own, so a request that gives up costs nobody a connection.
//!
//! ```text
//!   acquire ─▶ idle or multiplexed? ─▶ Lease ─▶ send ─▶ answer ─▶ finished ─▶ back to the pool
//!        └─▶ wait ◀── connect task (dial) or a Lease given back
//! ```

mod open;

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use hyper::client::conn::{http1, http2};
use tokio::sync::oneshot;

use crate::http::body::OutgoingBody;
use crate::tls::TlsPeer;
use crate::tls::originate::AlpnChoice;
use crate::worker::Worker;

use super::cluster::{ClusterState, Held};
use super::connect::ConnectError;
use super::gateway::{self, Behind, Remote};
use super::host::Host;
use super::silence::Pulse;

pub use open::redial;
use open::spawn_connect;

/// How long a plaintext HTTP/1.1 connection may lie idle to be still fit for a request that can be sent once
/// only. An application closes idle connections when it likes (Node.js after 5 s) and says so to nobody; a
/// request that crosses the close is lost. Proxies of the mesh are told apart by their TLS: they announce the end.
const FRESH: Duration = Duration::from_secs(1);

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
    /// What is offered in the handshake.
    pub fn alpn(self) -> AlpnChoice {
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
    /// Whether its peer is heard.
    pub pulse: Pulse,
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

/// A request without a connection yet.
#[derive(Debug)]
struct Waiting {
    wire: Wire,
    turn: Turn,
    /// It may be sent once only, so a connection in doubt is none for it.
    once: bool,
    answer: Waiter,
}

/// The connections of one host.
#[derive(Debug, Default)]
pub struct HostPool {
    idle: RefCell<VecDeque<(Single, Instant)>>,
    multiplexed: RefCell<Vec<Rc<Multiplexed>>>,
    waiting: RefCell<VecDeque<Waiting>>,
    turns: Cell<Turn>,
    /// HTTP/2 dials under way.
    dialling: Cell<u32>,
    /// Dials under way, by [`Wire`].
    opening: [Cell<u32>; 3],
    /// What is known of the pods behind a gateway.
    pub behind: Behind,
    /// When a connection was last dialled beside one that took its time.
    redialled: Cell<Option<Instant>>,
    /// Connections in doubt.
    doubts: Cell<u32>,
    /// When the request was sent for which the last of them came into doubt.
    doubted: Cell<Option<Instant>>,
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

    /// Something sent at `since` came to silence: what was not heard after that may lead into the same, and
    /// takes no new request.
    fn distrust(&self, since: Instant) {
        let heard = |link: &Link| link.pulse.heard() > since;
        self.idle.borrow_mut().retain(|(c, _)| heard(&c.link));
        self.multiplexed.borrow_mut().retain(|c| {
            // Silence itself may pass; until it does the connection is not usable.
            let kept = heard(&c.link) || c.link.pulse.is_silent();
            if !kept {
                c.link.doomed.set(true);
            }
            kept
        });
    }

    /// Closes what has been idle for longer than `idle` or is past its time.
    pub fn sweep(&self, now: Instant, idle: Option<Duration>) {
        let stale = |since: Instant| idle.is_some_and(|d| !d.is_zero() && now.duration_since(since) >= d);
        self.idle
            .borrow_mut()
            .retain(|(c, since)| c.link.is_usable(now) && !c.sender.is_closed() && !stale(*since));
        self.multiplexed.borrow_mut().retain(|c| {
            let unused = c.streams.get() == 0 && stale(c.idle_since.get());
            !c.sender.is_closed() && !c.link.is_over(now) && !unused
        });
    }

    /// Dials under way.
    fn dials(&self) -> u32 {
        self.opening.iter().map(Cell::get).sum()
    }

    fn opening(&self, wire: Wire) -> &Cell<u32> {
        &self.opening[wire as usize]
    }

    /// Whether a request may be sent on a connection: one that can be sent `once` only is not, when others
    /// like it are met with silence and this one was not heard since.
    fn trusts(&self, link: &Link, once: bool) -> bool {
        !once || self.doubts.get() == 0 || self.doubted.get().is_none_or(|since| link.pulse.heard() > since)
    }

    fn take_idle(&self, gateway: bool, once: bool, now: Instant) -> Option<Single> {
        let mut idle = self.idle.borrow_mut();
        let mut distrusted = VecDeque::new();
        let taken = loop {
            // The freshest connection is the likeliest to live; through a gateway all take turns.
            let next = if gateway {
                idle.pop_front()
            } else {
                idle.pop_back()
            };
            match next {
                Some((c, _)) if !c.link.is_usable(now) || c.sender.is_closed() => {}
                Some((c, since)) if !self.trusts(&c.link, once) || (once && c.link.is_stale(since, now)) => {
                    distrusted.push_back((c, since));
                }
                other => break other.map(|(connection, _)| connection),
            }
        };
        // Those not trusted with this one wait at the end that is tried last.
        if gateway {
            idle.append(&mut distrusted);
        } else {
            distrusted.drain(..).for_each(|c| idle.push_front(c));
        }
        taken
    }

    fn take_multiplexed(&self, most: u32, once: bool, now: Instant) -> Option<Rc<Multiplexed>> {
        let mut all = self.multiplexed.borrow_mut();
        all.retain(|c| !c.link.is_over(now) && !c.sender.is_closed());
        let best = all
            .iter()
            .filter(|c| c.link.is_usable(now) && self.trusts(&c.link, once))
            .min_by_key(|c| (c.streams.get(), c.link.served.get()))?;
        (best.streams.get() < most).then(|| best.clone())
    }
}

impl Link {
    /// No new request, ever.
    fn is_over(&self, now: Instant) -> bool {
        self.doomed.get() || self.until.is_some_and(|until| now >= until)
    }

    /// Idle `since` for so long that its peer may be closing it just now.
    fn is_stale(&self, since: Instant, now: Instant) -> bool {
        self.tls.is_none() && now.duration_since(since) >= FRESH
    }

    /// A new request may be sent now.
    fn is_usable(&self, now: Instant) -> bool {
        !self.is_over(now) && !self.pulse.is_silent()
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
    /// The connection was given up, since nothing sent on it was acknowledged.
    Silent,
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
        self.link.pulse.ask(Instant::now());
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
        match sent {
            Ok(answer) => {
                let now = Instant::now();
                self.link.pulse.hear(now);
                self.cluster.heard(&self.host, now);
                Ok(answer)
            }
            Err(_) if self.link.pulse.is_dead() => Err(SendError::Silent),
            Err(error) => Err(SendError::Broken(error.into_error())),
        }
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
                if self.cluster.eject(&self.host, now) {
                    self.host.outlier.ejected_by(super::Evidence::Status(status));
                }
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

/// A connection to `host` for one request, which may be sent `once` only or again: pooled, or dialled within
/// the cluster's limits.
pub async fn acquire(
    cx: &Rc<Worker>,
    cluster: &Rc<ClusterState>,
    host: &Rc<Host>,
    wire: Wire,
    authority: Option<Rc<str>>,
    once: bool,
) -> Result<Lease, ConnectError> {
    let pool = &host.pool;
    let now = Instant::now();
    let most = cluster.config.http.max_concurrent_streams.max(1);
    if wire != Wire::Http1
        && let Some(connection) = pool.take_multiplexed(most, once, now)
    {
        let lease = lease_stream(cluster, host, connection);
        share_gateway(cx, &lease, wire, authority);
        return Ok(lease);
    }
    if wire != Wire::Http2
        && let Some(single) = pool.take_idle(host.gateway().is_some(), once, now)
    {
        let lease = lease_single(cluster, host, single);
        share_gateway(cx, &lease, wire, authority);
        return Ok(lease);
    }
    let limits = &cluster.config.limits;
    let full = cluster.connections.get() >= limits.connections && host.totals.connections_active.get() > 0;
    if full
        && wire != Wire::Http2
        && let Some(single) = pool.take_idle(host.gateway().is_some(), false, now)
    {
        // There will be no better one.
        return Ok(lease_single(cluster, host, single));
    }
    let pending = Held::take(cluster, |c| &c.pending, limits.pending.max(1)).ok_or(ConnectError::Overflow)?;
    let (waiter, answer) = oneshot::channel();
    let turn = pool.turns.get();
    pool.turns.set(turn.wrapping_add(1));
    pool.waiting.borrow_mut().push_back(Waiting {
        wire,
        turn,
        once,
        answer: waiter,
    });
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
fn share_gateway(cx: &Rc<Worker>, lease: &Lease, wire: Wire, authority: Option<Rc<str>>) {
    let (cluster, host) = (&lease.cluster, &lease.host);
    let Some(behind) = host.gateway() else { return };
    let (pods, now) = (&host.pool.behind, Instant::now());
    if pods.let_back(now) {
        // Its turn comes with a connection that replaces this one.
        lease.doom();
    } else if pods.is_failing(now) {
        // Where a fresh connection leads is not known before the first answer: those known to lead elsewhere
        // are enough while a pod behind it fails.
        return;
    } else {
        let open = host.totals.connections_active.get() + u64::from(host.pool.dials());
        if open >= u64::from(gateway::connections_wanted(behind)) {
            return;
        }
    }
    spawn_connect(cx, cluster, host, wire, authority, None);
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
    while let Some(waiter) = next_waiting(host, &single.link, false) {
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
        let Some(waiter) = next_waiting(host, &connection.link, true) else {
            return;
        };
        if let Err(Ok(mut lease)) = waiter.send(Ok(lease_stream(cluster, host, connection.clone()))) {
            // Nobody waits there any more; given back by hand, since dropping it would come here again.
            lease.carrier = None;
            connection.streams.set(connection.streams.get().saturating_sub(1));
        }
    }
}

/// Who waits first for a connection like this one.
fn next_waiting(host: &Host, link: &Link, http2: bool) -> Option<Waiter> {
    let mut waiting = host.pool.waiting.borrow_mut();
    waiting.retain(|w| !w.answer.is_closed());
    let at = waiting
        .iter()
        .position(|w| w.wire.takes(http2) && host.pool.trusts(link, w.once))?;
    waiting.remove(at).map(|w| w.answer)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::cluster::Balancer;
    use crate::upstream::tests::{UP, cluster, endpoints};

    fn link() -> Link {
        Link {
            local: None,
            tls: None,
            remote: Remote::default(),
            pulse: Pulse::default(),
            doomed: Cell::new(false),
            until: None,
            served: Cell::new(0),
        }
    }

    #[test]
    fn who_waits_with_a_post_is_handed_no_connection_in_doubt() {
        let c = cluster(Balancer::RoundRobin, false);
        c.update(Some(&endpoints(&[(0, 0, &[(1, 1, UP)])])));
        let mut hosts = Vec::new();
        c.each_host(|host| hosts.push(host.clone()));
        let host = &hosts[0];
        let (unheard, begins) = (link(), Instant::now());
        let wait = |once| {
            let (answer, waits) = oneshot::channel();
            host.pool.waiting.borrow_mut().push_back(Waiting {
                wire: Wire::Http1,
                turn: 0,
                once,
                answer,
            });
            waits
        };
        let _post = wait(true);
        assert!(
            next_waiting(host, &unheard, true).is_none(),
            "it speaks another HTTP"
        );
        host.pool.doubts.set(1);
        host.pool.doubted.set(Some(begins));
        assert!(
            next_waiting(host, &unheard, false).is_none(),
            "not heard since the doubt began"
        );
        let _get = wait(false);
        assert!(
            next_waiting(host, &unheard, false).is_some(),
            "a GET can be sent again"
        );
        assert!(next_waiting(host, &unheard, false).is_none());
        let heard = link();
        heard.pulse.hear(begins + Duration::from_millis(1));
        assert!(next_waiting(host, &heard, false).is_some());
        let _late = wait(true);
        host.pool.doubts.set(0);
        assert!(
            next_waiting(host, &unheard, false).is_some(),
            "the doubt has passed"
        );
    }
}
