//! Opening a connection to a host: socket options, TLS, timeout, and the race against a slow one.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use futures_util::future::{Either, select};
use nix::sys::socket::{setsockopt, sockopt::IpBindAddressNoPort};
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use tokio::net::{TcpSocket, TcpStream, UnixStream};
use tokio::sync::oneshot;

use crate::config::cluster::TransportSocket;
use crate::config::endpoint::{Address, Endpoint};
use crate::config::tls::UpstreamTls;
use crate::tcp::stream::Stream;
use crate::tls::TlsPeer;
use crate::tls::originate::{self, AlpnChoice};
use crate::worker::Worker;

use super::cluster::{ClusterState, Held, PickError};
use super::host::{Host, SlowMark, bump};
use super::outlier::Evidence;
use super::silence::{SYN_PATIENCE, Watch, be_patient, hedge_after};
use super::tcp_info::TcpInfo;

/// Why a connection could not be made. The words go to the log and into the answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConnectError {
    /// Nobody to connect to.
    #[error(transparent)]
    Pick(#[from] PickError),
    /// The system refused, or the peer.
    #[error("{0}")]
    Io(String),
    /// Nothing within the cluster's `connect_timeout`.
    #[error("no connection within {0:?}")]
    Timeout(Duration),
    /// The handshake failed, with its reason.
    #[error("TLS: {0}")]
    Tls(String),
    /// The cluster's `max_connections` or `max_pending_requests` is reached.
    #[error("the cluster's limit on connections or pending requests is reached")]
    Overflow,
    /// The worker is ending.
    #[error("the proxy is ending")]
    Ending,
}

impl ConnectError {
    /// Whether the endpoint is to blame.
    pub fn is_local_failure(&self) -> bool {
        matches!(self, Self::Io(_) | Self::Timeout(_) | Self::Tls(_))
    }

    /// `%UPSTREAM_TRANSPORT_FAILURE_REASON%`, which has no spaces.
    pub fn transport_failure(&self) -> String {
        let text = match self {
            Self::Io(why) => format!("delayed connect error: {why}"),
            other => other.to_string(),
        };
        text.replace(' ', "_")
    }
}

/// A connection, ready for use.
#[derive(Debug)]
pub struct Established {
    /// The bytes.
    pub stream: Stream,
    /// What the peer proved, over TLS.
    pub tls: Option<Rc<TlsPeer>>,
    /// Own address.
    pub local: Option<SocketAddr>,
    /// Notices when the peer falls silent, where the cluster asks for it.
    pub watch: Option<Watch>,
    /// Counts against the cluster's `max_connections`.
    pub held: Open,
}

/// An open connection of a cluster and host.
#[derive(Debug)]
pub struct Open {
    _held: Held,
    host: Rc<Host>,
}

impl Drop for Open {
    fn drop(&mut self) {
        let active = &self.host.totals.connections_active;
        active.set(active.get().saturating_sub(1));
    }
}

/// What a connection is for.
#[derive(Debug, Clone)]
pub struct Purpose {
    /// Which of the cluster's ALPN names are offered.
    pub alpn: AlpnChoice,
    /// Host of the request, for clusters that take the SNI from it.
    pub authority: Option<Rc<str>>,
}

/// Opens a connection to `host` within the cluster's timeout, and tells the cluster what came of it.
pub async fn dial(
    cx: &Rc<Worker>,
    cluster: &Rc<ClusterState>,
    host: &Rc<Host>,
    purpose: &Purpose,
) -> Result<Established, ConnectError> {
    // Envoy lets a host that has none open one connection even above the limit.
    let limit = match host.totals.connections_active.get() {
        0 => u32::MAX,
        _ => cluster.config.limits.connections,
    };
    let held = Held::take(cluster, |c| &c.connections, limit).ok_or(ConnectError::Overflow)?;
    let attempt = async {
        let endpoint = host.endpoint();
        let transport = transport_of(&cluster.config.transport, &endpoint);
        let (stream, local) = open(cx, cluster, &endpoint).await?;
        let watch = stream.as_plain().and_then(|tcp| watch(tcp, cluster, host));
        match (transport, stream) {
            (None, stream) => Ok((stream, None, local, watch)),
            (Some(tls), Stream::Tcp(tcp)) => {
                let (stream, peer) =
                    originate::handshake(cx, tls, tcp, purpose, endpoint.hostname.as_deref()).await?;
                Ok((stream, Some(peer), local, watch))
            }
            (Some(_), _) => Err(ConnectError::Tls(
                "TLS over a Unix socket is not supported".to_owned(),
            )),
        }
    };
    let timeout = cluster.config.connect_timeout;
    let started = Instant::now();
    let result = {
        let timed = async {
            tokio::time::timeout(timeout, attempt)
                .await
                .unwrap_or(Err(ConnectError::Timeout(timeout)))
        };
        marked_when_slow(timed, cluster, host).await
    };
    match result {
        Ok((stream, tls, local, watch)) => {
            let now = Instant::now();
            bump(&host.totals.connections);
            bump(&host.totals.connections_active);
            if host.last_failure.take().is_some() && host.outlier.reinstate(now) {
                tracing::info!(cluster = %cluster.config.name, endpoint = %host, "endpoint let back: it can be reached again");
                cluster.invalidate();
            }
            cluster.heard(host, now);
            cluster.note(host, Evidence::Connected);
            let held = Open {
                _held: held,
                host: host.clone(),
            };
            Ok(Established {
                stream,
                tls,
                local,
                watch,
                held,
            })
        }
        Err(error) => {
            bump(&host.totals.connect_failures);
            if error.is_local_failure() {
                let why = format!("{host}: {error}");
                host.last_failure.replace(Some(why.into()));
            }
            // One dial says nothing of all replicas of a gateway: whoever gives up says it.
            if error.is_local_failure() && host.gateway().is_none() {
                cluster.note(host, Evidence::LocalFailure);
            }
            tracing::debug!(
                cluster = %cluster.config.name, endpoint = %host, %error,
                millis = started.elapsed().as_millis() as u64, "no upstream connection"
            );
            Err(error)
        }
    }
}

/// What is measured on a fresh connection, and who looks after it from now on.
fn watch(tcp: &TcpStream, cluster: &ClusterState, host: &Host) -> Option<Watch> {
    if let Ok(info) = TcpInfo::of(tcp) {
        host.measured(info.rtt);
    }
    let unacked_timeout = cluster.config.isthmus.unacked_timeout?;
    // From here on the watch knows better; the kernel's own limit leaves keep-alive its probes.
    let patience = cluster.config.keepalive.map(|(time, interval, probes)| {
        let all = time + interval * probes;
        all.saturating_sub(interval / 2)
    });
    if let Err(error) = SockRef::from(tcp).set_tcp_user_timeout(patience) {
        tracing::debug!(%error, endpoint = %host, "the kernel's limit on silence stays as it was");
    }
    match Watch::over(tcp, unacked_timeout) {
        Ok(watch) => Some(watch),
        Err(error) => {
            tracing::debug!(%error, endpoint = %host, "silence will not be noticed on this connection");
            None
        }
    }
}

/// Runs an attempt; when it takes longer than the cluster's hedge, the host is avoided until it ends.
async fn marked_when_slow<T>(
    attempt: impl Future<Output = T>,
    cluster: &Rc<ClusterState>,
    host: &Rc<Host>,
) -> T {
    let Some(hedge) = cluster.config.isthmus.connect_hedge else {
        return attempt.await;
    };
    let after = hedge_after(hedge, host.rtt());
    let mut attempt = std::pin::pin!(attempt);
    if let Ok(result) = tokio::time::timeout(after, attempt.as_mut()).await {
        return result;
    }
    let mark = SlowMark::on(host);
    cluster.invalidate();
    let result = attempt.await;
    drop(mark);
    cluster.invalidate();
    result
}

/// Like [`dial`] for a host picked by `pick`, in a task of its own; when it takes longer than the
/// cluster's hedge, a second host is tried beside it and the first connection wins. `pick` is given the
/// hosts already tried.
pub async fn dial_hedged(
    cx: &Rc<Worker>,
    cluster: &Rc<ClusterState>,
    purpose: &Purpose,
    tried: &mut Vec<Rc<Host>>,
    pick: impl Fn(&[Rc<Host>]) -> Result<Rc<Host>, PickError>,
) -> Result<(Rc<Host>, Established), ConnectError> {
    let (started, before) = (Instant::now(), tried.len());
    let result = race(cx, cluster, purpose, tried, pick).await;
    if let Err(error) = &result {
        gave_up(cluster, &tried[before..], started, error);
    }
    result
}

async fn race(
    cx: &Rc<Worker>,
    cluster: &Rc<ClusterState>,
    purpose: &Purpose,
    tried: &mut Vec<Rc<Host>>,
    pick: impl Fn(&[Rc<Host>]) -> Result<Rc<Host>, PickError>,
) -> Result<(Rc<Host>, Established), ConnectError> {
    let started = Instant::now();
    let first = match pick(tried) {
        Err(PickError::NoHealthy) if probe_ejected(cx, cluster, purpose).await => pick(tried)?,
        picked => picked?,
    };
    tried.push(first.clone());
    let mut racing = Box::pin(spawn_dial(cx, cluster, &first, purpose));
    let Some(hedge) = cluster.config.isthmus.connect_hedge else {
        return racing.await.map(|e| (first, e));
    };
    if let Ok(result) = tokio::time::timeout(hedge_after(hedge, first.rtt()), racing.as_mut()).await {
        return result.map(|e| (first, e));
    }
    let (mut raced, mut joined) = (vec![first.clone()], started);
    if let Ok(other) = pick(tried)
        && !tried.iter().any(|t| Rc::ptr_eq(t, &other))
    {
        tried.push(other.clone());
        raced.push(other);
        joined = Instant::now();
    }
    let race = async {
        let Some(other) = raced.get(1).cloned() else {
            return racing.await.map(|e| (first, e));
        };
        let rival = Box::pin(spawn_dial(cx, cluster, &other, purpose));
        match select(racing, rival).await {
            Either::Left((Ok(e), _)) => Ok((first, e)),
            Either::Right((Ok(e), _)) => Ok((other, e)),
            Either::Left((Err(_), rival)) => rival.await.map(|e| (other, e)),
            Either::Right((Err(_), racing)) => racing.await.map(|e| (first, e)),
        }
    };
    be_patient(race, &raced, started, joined, cluster.config.connect_timeout)
        .await
        .unwrap_or_else(|patience| Err(ConnectError::Timeout(patience)))
}

/// Somebody is about to be turned away since all are ejected: one of those that could not be reached is dialled
/// to see whether it can be now, at most one a second in a cluster. Waits for the end of such a probe for as
/// long as a dial may take without being raced; whether one has ended.
pub async fn probe_ejected(cx: &Rc<Worker>, cluster: &Rc<ClusterState>, purpose: &Purpose) -> bool {
    let Some(hedge) = cluster.config.isthmus.connect_hedge else {
        return false;
    };
    if let Some(host) = cluster.due_for_probe(Instant::now(), &cx.rng) {
        let probe = spawn_dial(cx, cluster, &host, purpose);
        let cluster = cluster.clone();
        cluster.probes.set(cluster.probes.get() + 1);
        tokio::task::spawn_local(async move {
            // What it brought is known at the host; the connection was for nobody.
            drop(probe.await);
            cluster.probes.set(cluster.probes.get().saturating_sub(1));
            cluster.probe_ended.notify_waiters();
        });
    }
    let ended = cluster.probe_ended.notified();
    cluster.probes.get() > 0 && tokio::time::timeout(hedge, ended).await.is_ok()
}

/// Those raced since `started` brought no connection. A failed dial has told of itself, but not of a gateway,
/// whose replicas share an address; and one that was given up before it ended has told nothing yet.
pub fn gave_up(cluster: &ClusterState, raced: &[Rc<Host>], started: Instant, error: &ConnectError) {
    let unanswered = matches!(error, ConnectError::Timeout(t) if *t < cluster.config.connect_timeout);
    let whole = |host: &&Rc<Host>| match host.gateway() {
        Some(_) => host.is_blamed(started),
        None => unanswered,
    };
    if !error.is_local_failure() {
        return;
    }
    for host in raced.iter().filter(whole) {
        host.last_failure.replace(Some(format!("{host}: {error}").into()));
        cluster.note(host, Evidence::LocalFailure);
    }
}

/// The attempt goes on when nobody waits any more, so that a host known to be slow stays known.
fn spawn_dial(
    cx: &Rc<Worker>,
    cluster: &Rc<ClusterState>,
    host: &Rc<Host>,
    purpose: &Purpose,
) -> impl Future<Output = Result<Established, ConnectError>> + use<> {
    let (done, result) = oneshot::channel();
    let (cx, cluster, host, purpose) = (cx.clone(), cluster.clone(), host.clone(), purpose.clone());
    tokio::task::spawn_local(async move {
        let _ = done.send(dial(&cx, &cluster, &host, &purpose).await);
    });
    async move { result.await.unwrap_or(Err(ConnectError::Ending)) }
}

/// What carries the bytes to this endpoint.
pub fn transport_of<'a>(
    socket: &'a TransportSocket,
    endpoint: &Endpoint,
) -> Option<&'a std::sync::Arc<UpstreamTls>> {
    match socket {
        TransportSocket::Raw => None,
        TransportSocket::Tls(tls) => Some(tls),
        TransportSocket::Matches(matches) => matches
            .iter()
            .find(|m| m.labels.iter().all(|l| endpoint.transport_labels.contains(l)))
            .and_then(|m| m.tls.as_ref()),
    }
}

async fn open(
    cx: &Rc<Worker>,
    cluster: &Rc<ClusterState>,
    endpoint: &Endpoint,
) -> Result<(Stream, Option<SocketAddr>), ConnectError> {
    let words = |e: io::Error| ConnectError::Io(describe(&e));
    match &endpoint.address {
        Address::Socket(to) => {
            let tcp = connect_tcp(cx, cluster, *to).await.map_err(words)?;
            let local = tcp.local_addr().ok();
            Ok((Stream::Tcp(tcp), local))
        }
        Address::Unix(path) => {
            let unix = UnixStream::connect(&**path).await.map_err(words)?;
            Ok((Stream::Unix(unix), None))
        }
        Address::Name(name, _) => Err(ConnectError::Io(format!("{name} has not been resolved"))),
    }
}

async fn connect_tcp(cx: &Worker, cluster: &ClusterState, to: SocketAddr) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    socket.set_tcp_nodelay(true)?;
    if let Some(mark) = cx.mark {
        socket
            .set_mark(mark)
            .map_err(|e| io::Error::new(e.kind(), format!("cannot mark the socket (CAP_NET_ADMIN): {e}")))?;
    }
    if let Some((time, interval, probes)) = cluster.config.keepalive {
        let keepalive = TcpKeepalive::new()
            .with_time(time)
            .with_interval(interval)
            .with_retries(probes);
        socket.set_tcp_keepalive(&keepalive)?;
    }
    if cluster.config.isthmus.unacked_timeout.is_some() {
        socket.set_tcp_user_timeout(Some(SYN_PATIENCE))?;
    }
    if let Some(from) = cluster.source_address(to.ip()) {
        setsockopt(&socket, IpBindAddressNoPort, &true).map_err(io::Error::from)?;
        socket
            .bind(&SocketAddr::new(from, 0).into())
            .map_err(|e| io::Error::new(e.kind(), format!("cannot bind to {from}: {e}")))?;
    }
    TcpSocket::from_std_stream(socket.into()).connect(to).await
}

/// Acknowledgement time-outs say so; the rest in the system's words.
pub fn describe(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(code) => match nix::errno::Errno::from_raw(code) {
            nix::errno::Errno::UnknownErrno => error.to_string(),
            e => e.desc().to_owned(),
        },
        None => error.to_string(),
    }
}

/// Options of an accepted socket.
pub fn tune_accepted(stream: &TcpStream) {
    // A socket that is already gone refuses options; the next read says why.
    let _ = SockRef::from(stream).set_tcp_nodelay(true);
}
