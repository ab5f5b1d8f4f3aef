//! Where a pool's connections come from: tasks that dial, speak HTTP over what they get, drive it to its end
//! and look after it meanwhile.

use std::cell::Cell;
use std::future::Future;
use std::rc::Rc;
use std::time::{Duration, Instant};

use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::task::JoinHandle;

use crate::http::executor::Local;
use crate::tls::originate::speaks_http2;
use crate::upstream::cluster::ClusterState;
use crate::upstream::connect::{ConnectError, Established, Purpose, dial};
use crate::upstream::gateway::{self, Remote};
use crate::upstream::host::{Host, SilentMark};
use crate::upstream::silence::{Pulse, Watch, lost_after};
use crate::worker::Worker;

use super::{Carrier, Link, Multiplexed, Single, Turn, Waiter, Wire, give, serve_waiting};

/// Windows large enough for bulk over a long link.
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 4 << 20;

/// Another connection beside one that takes its time, unless somebody had one dialled less than `apart` ago:
/// whoever waits takes the first that stands, and a crowd of handshakes is what takes the time.
pub fn redial(
    cx: &Rc<Worker>,
    cluster: &Rc<ClusterState>,
    host: &Rc<Host>,
    wire: Wire,
    authority: &Option<Rc<str>>,
    apart: Duration,
) {
    let now = Instant::now();
    let redialled = &host.pool.redialled;
    if redialled.get().is_none_or(|last| now - last >= apart) {
        redialled.set(Some(now));
        spawn_connect(cx, cluster, host, wire, authority.clone(), None);
    }
}

/// A request on `link`, sent at `since`, is met with silence. The connection is left alone for now, its like
/// are distrusted, and a host that was not heard otherwise is avoided until one dial has told what it is.
fn fell_silent(
    cx: &Rc<Worker>,
    cluster: &Rc<ClusterState>,
    host: &Rc<Host>,
    wire: Wire,
    authority: Option<Rc<str>>,
    since: Instant,
) {
    host.pool.distrust(since);
    host.alarm.notify_waiters();
    let Some(mark) = SilentMark::on(host, since) else {
        return;
    };
    tracing::debug!(cluster = %cluster.config.name, endpoint = %host, "silent: nothing sent to it is acknowledged");
    cluster.invalidate();
    let began = Instant::now();
    let mut probe = spawn_connect(cx, cluster, host, wire, authority, None);
    let (cluster, host) = (cluster.clone(), host.clone());
    tokio::task::spawn_local(async move {
        let patience = lost_after(host.rtt());
        if tokio::time::timeout(patience, &mut probe).await.is_err() {
            if !host.was_reached_since(began) {
                host.lose();
            }
            // However it ends: a failed dial tells outlier detection.
            let _ = probe.await;
        }
        drop(mark);
        cluster.invalidate();
    });
}

/// Keeps a host's pool in doubt while it lives.
struct DoubtMark(Rc<Host>);

impl DoubtMark {
    /// A request sent at `since` is not acknowledged in time.
    fn on(host: &Rc<Host>, since: Instant) -> Self {
        let pool = &host.pool;
        pool.doubts.set(pool.doubts.get() + 1);
        pool.doubted
            .set(Some(pool.doubted.get().map_or(since, |at| at.max(since))));
        Self(host.clone())
    }
}

impl Drop for DoubtMark {
    fn drop(&mut self) {
        let doubts = &self.0.pool.doubts;
        doubts.set(doubts.get().saturating_sub(1));
    }
}

/// Dials, for whoever has `turn` or for nobody in particular.
pub(super) fn spawn_connect(
    cx: &Rc<Worker>,
    cluster: &Rc<ClusterState>,
    host: &Rc<Host>,
    wire: Wire,
    authority: Option<Rc<str>>,
    turn: Option<Turn>,
) -> JoinHandle<()> {
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
            Ok(established) => begin_http(&cx, &cluster, &host, wire, &authority, established).await,
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
                    .any(|w| w.wire.takes(true) && !w.answer.is_closed());
                if left && host.pool.dialling.get() == 0 {
                    spawn_connect(&cx, &cluster, &host, wire, authority, None);
                }
            }
            Err(error) => fail_waiting(&host, wire, turn, &error),
        }
    })
}

/// Speaks HTTP over a fresh connection; its driver task owns the socket.
async fn begin_http(
    cx: &Rc<Worker>,
    cluster: &Rc<ClusterState>,
    host: &Rc<Host>,
    wire: Wire,
    authority: &Option<Rc<str>>,
    established: Established,
) -> Result<Carrier, ConnectError> {
    let Established {
        stream,
        tls,
        local,
        watch,
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
        pulse: Pulse::default(),
        doomed: Cell::new(false),
        until: longest.map(|d| Instant::now() + d),
        served: Cell::new(0),
    });
    let words = |e: hyper::Error| ConnectError::Io(e.to_string());
    let io = TokioIo::new(stream);
    let ending = link.clone();
    let doubted = {
        let host = host.clone();
        move |since| DoubtMark::on(&host, since)
    };
    let silent = {
        let (cx, cluster, host) = (cx.clone(), cluster.clone(), host.clone());
        let authority = authority.clone();
        move |since| fell_silent(&cx, &cluster, &host, wire, authority.clone(), since)
    };
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
            if let Err(error) = drive(connection, watch, &ending.pulse, doubted, silent).await {
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
        if let Err(error) = drive(connection.with_upgrades(), watch, &ending.pulse, doubted, silent).await {
            tracing::debug!(%error, "upstream HTTP/1.1 connection ended");
        }
        ending.doomed.set(true);
        drop(held);
    });
    Ok(Carrier::Single(Single { sender, link }))
}

/// Drives a connection to its end, and looks after it meanwhile.
async fn drive(
    connection: impl Future<Output = Result<(), hyper::Error>>,
    watch: Option<Watch>,
    pulse: &Pulse,
    doubted: impl Fn(Instant) -> DoubtMark,
    fell_silent: impl Fn(Instant),
) -> Result<(), hyper::Error> {
    let Some(watch) = watch else {
        return connection.await;
    };
    tokio::select! {
        biased;
        ended = connection => ended,
        never = watch.over_requests(pulse, doubted, fell_silent) => match never {},
    }
}

/// A dial failed. Over HTTP/2 it fails all who share it, unless another is under way. Over HTTP/1.1 it fails
/// who asked for it, or whoever is left without a dial when that one was served by another's.
fn fail_waiting(host: &Host, wire: Wire, turn: Option<Turn>, error: &ConnectError) {
    let failed: Vec<Waiter> = {
        let mut waiting = host.pool.waiting.borrow_mut();
        waiting.retain(|w| !w.answer.is_closed());
        let own = waiting.iter().position(|w| Some(w.turn) == turn);
        let mut failed: Vec<_> = own.and_then(|at| waiting.remove(at)).into_iter().collect();
        let under_way = host.pool.opening(wire).get() as usize;
        let left = waiting.iter().filter(|w| w.wire == wire).count();
        let more = match wire {
            Wire::Http2 if under_way == 0 => left,
            Wire::Http1 | Wire::ByAlpn if own.is_none() && turn.is_some() && left > under_way => 1,
            _ => 0,
        };
        for _ in 0..more {
            let at = waiting.iter().position(|w| w.wire == wire);
            failed.extend(at.and_then(|at| waiting.remove(at)));
        }
        failed.into_iter().map(|w| w.answer).collect()
    };
    for waiter in failed {
        let _ = waiter.send(Err(error.clone()));
    }
}
