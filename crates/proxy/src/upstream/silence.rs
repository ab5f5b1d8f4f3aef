//! Peers that have gone silent: how soon that is noticed, and what follows.
//!
//! An address whose packets are dropped refuses nothing and resets nothing. What tells it from an
//! application that thinks for long is the kernel at its end: a living one acknowledges what it is sent
//! within a round trip, however slow the application above it. So silence is *bytes that were sent and are
//! not acknowledged*, and how long that may last is measured on each connection (`TCP_INFO`), since a
//! minute's walk to the next rack and an ocean have little in common. With `reply` = smoothed round trip +
//! 4 deviations (RFC 6298's estimate without its floor):
//!
//! | what | after | what follows |
//! |---|---|---|
//! | a dial takes its time | `connect_hedge` (250 ms), at least 3 round trips | the host is avoided while it lasts; another endpoint, or another replica behind a gateway's address, is dialled beside it. Nothing was sent, so this is safe for every method |
//! | a connection is in doubt | 50 ms + 2 replies | a request that may be sent once only (POST) takes no pooled connection that was not heard since, but a fresh one: it comes to stand or is raced, before anything is sent |
//! | it is silent | 50 ms + 200 ms + 3 replies | the host is avoided and dialled once to see whether it is there; pooled connections that were not heard since are dropped, so that no new request takes one; a request that changes nothing is moved to another host |
//! | the host is lost | half a second more, and 8 round trips, without an answer to the dial | requests that change nothing are moved from its other connections as well: they were acknowledged, and will not be answered |
//! | the connection is dead | 50 ms + `unacked_timeout` (500 ms) + 8 replies | it is closed, what is in flight on it fails, unsent bytes are discarded so that they cannot arrive later |
//! | nobody can be reached | 1 s after the last was dialled, at least 8 round trips | what was raced is given up: 503 UF. A single endpoint that is no gateway has 3 s the first time, and where a kernel answered but no handshake came to its end it is 5 s |
//! | an idle connection's peer is gone | TCP keep-alive, 4 s | it is closed. A lost probe or two are forgiven |
//!
//! Within a data centre a request is moved after a quarter of a second; over 300 ms of ocean after 1.2 s,
//! by when the kernel has sent a lost packet again and heard of it (tail loss probe: 2 round trips + 200 ms).
//! A request that may have had its effect (POST) is never sent twice: what was in flight when the peer was
//! first doubted shares the fate of its connection. A process that is stopped acknowledges everything and answers
//! nothing. That is no silence: as in Envoy, requests in its hands wait for the route's `timeout` or
//! `perTryTimeout`, which are failures of local origin and eject it; meanwhile LEAST_REQUEST sends new ones
//! to those with less in flight, and where even the handshake is not answered the hedge does.
//!
//! ```text
//!   Lease::send ─ ask ─▶ Pulse ◀─ hear ─ answer
//!                          ▲ asked, and nothing heard for a while?
//!   connection's task ─ Watch ─ TCP_INFO ─▶ doubted ─▶ no POST on what was not heard since
//!                                       ├─▶ silent ──▶ host avoided, pool distrusted, request moved
//!                                       └─▶ dead ────▶ socket shut down
//! ```

use std::cell::Cell;
use std::convert::Infallible;
use std::future::{Future, pending, poll_fn};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::task::Poll;
use std::time::{Duration, Instant};

use socket2::SockRef;

use super::host::Host;
use super::tcp_info::TcpInfo;

/// A request unanswered for this long is looked at more closely; most are answered by then, and cost
/// nothing. Delayed acknowledgements take 40 ms.
const GRACE: Duration = Duration::from_millis(50);
/// How long bytes may lie unacknowledged after that on a link without delay: by then the kernel has sent a
/// lost packet again.
const SILENT: Duration = Duration::from_millis(200);
/// How long a dial may go unanswered on a link without delay, once there was silence.
const LOST: Duration = Duration::from_millis(500);
/// Between two looks at a silent connection.
const RECHECK: Duration = Duration::from_millis(50);
/// Until the first packet of a connection is answered; the kernel repeats it after one second.
pub const SYN_PATIENCE: Duration = Duration::from_secs(3);
/// Until whatever was raced is given up, when not even a kernel answered.
const REACH: Duration = Duration::from_secs(1);
/// The same when one did: somebody is there, and is busy.
const HANDSHAKE: Duration = Duration::from_secs(5);

impl TcpInfo {
    /// By when an acknowledgement should be here (RFC 6298, 2.3, without the lower bound).
    fn reply(&self) -> Duration {
        self.rtt + self.deviation * 4
    }

    fn doubted_after(&self) -> Duration {
        self.reply() * 2
    }

    fn silent_after(&self) -> Duration {
        SILENT + self.reply() * 3
    }

    fn dead_after(&self, unacked_timeout: Duration) -> Duration {
        unacked_timeout + self.reply() * 8
    }
}

/// How long a dial may take before it is raced, when the host's round trip is known to be `rtt`: a TCP and
/// a TLS handshake take two.
pub fn hedge_after(hedge: Duration, rtt: Option<Duration>) -> Duration {
    hedge.max(rtt.unwrap_or_default() * 3)
}

/// How long a dial to a silent host may go unanswered before the host is lost.
pub fn lost_after(rtt: Option<Duration>) -> Duration {
    LOST + rtt.unwrap_or_default() * 8
}

/// Waits for those raced, begun at `started`, as long as it makes sense when nobody else is to come since the
/// last one joined at `joined`, and never beyond `connect_timeout`.
///
/// # Errors
/// How long it was.
pub async fn be_patient<T>(
    race: impl Future<Output = T>,
    raced: &[Rc<Host>],
    started: Instant,
    joined: Instant,
    connect_timeout: Duration,
) -> Result<T, Duration> {
    let mut race = std::pin::pin!(race);
    let mut patience = Duration::ZERO;
    // Whoever joined last has the whole of it: on a busy machine the others may have used up all of the time.
    let before = joined.saturating_duration_since(started);
    loop {
        let now = (before + patience_with(raced, started)).min(connect_timeout);
        if now <= patience {
            return Err(patience);
        }
        patience = now;
        let left = patience.saturating_sub(started.elapsed());
        if let Ok(result) = tokio::time::timeout(left, race.as_mut()).await {
            return Ok(result);
        }
    }
}

fn patience_with(raced: &[Rc<Host>], started: Instant) -> Duration {
    if raced.iter().any(|host| host.was_reached_since(started)) {
        return HANDSHAKE;
    }
    match raced {
        [one] if one.gateway().is_none() && one.last_failure.borrow().is_none() => SYN_PATIENCE,
        all => {
            let rtt = all.iter().filter_map(|host| host.rtt()).max();
            REACH.max(rtt.unwrap_or_default() * 8)
        }
    }
}

/// Signs of life of one connection.
#[derive(Debug)]
pub struct Pulse {
    /// When the first request was sent of which nothing was heard yet.
    asked: Cell<Option<Instant>>,
    /// When the peer was last heard.
    heard: Cell<Instant>,
    /// Sent, and not acknowledged for too long.
    silent: Cell<bool>,
    /// Given up.
    dead: Cell<bool>,
}

impl Default for Pulse {
    /// Of a connection that was just made.
    fn default() -> Self {
        Self {
            asked: Cell::new(None),
            heard: Cell::new(Instant::now()),
            silent: Cell::new(false),
            dead: Cell::new(false),
        }
    }
}

impl Pulse {
    /// A request is sent.
    pub fn ask(&self, now: Instant) {
        if self.asked.get().is_none() {
            self.asked.set(Some(now));
        }
    }

    /// The peer answered, or acknowledged everything.
    pub fn hear(&self, now: Instant) {
        self.asked.set(None);
        self.heard.set(now);
        self.silent.set(false);
    }

    /// When the peer was last heard.
    pub fn heard(&self) -> Instant {
        self.heard.get()
    }

    /// Whether the peer is silent now.
    pub fn is_silent(&self) -> bool {
        self.silent.get()
    }

    /// Whether the connection was given up for its silence.
    pub fn is_dead(&self) -> bool {
        self.dead.get()
    }
}

/// Looks after one connection while somebody waits for an answer on it.
#[derive(Debug)]
pub struct Watch {
    /// A second descriptor of the socket, since the first is buried in TLS and HTTP.
    socket: OwnedFd,
    unacked_timeout: Duration,
}

impl Watch {
    /// Over a connected socket.
    ///
    /// # Errors
    /// No descriptor is left, or the kernel does not tell.
    pub fn over(socket: impl AsFd, unacked_timeout: Duration) -> io::Result<Self> {
        let socket = socket.as_fd().try_clone_to_owned()?;
        TcpInfo::of(&socket)?;
        Ok(Self {
            socket,
            unacked_timeout,
        })
    }

    /// Never ends. It has to be polled by the task that drives the connection, after it: whoever sends a
    /// request wakes that task, so that a watch with nothing to do needs no timer and no waker.
    ///
    /// Both are told since when the peer has not been heard; what `doubted` gives lives as long as the doubt.
    pub async fn over_requests<Doubt>(
        &self,
        pulse: &Pulse,
        doubted: impl Fn(Instant) -> Doubt,
        fell_silent: impl Fn(Instant),
    ) -> Infallible {
        loop {
            let asked = poll_fn(|_| pulse.asked.get().map_or(Poll::Pending, Poll::Ready)).await;
            tokio::time::sleep_until((asked + GRACE).into()).await;
            let heard = || pulse.asked.get() != Some(asked);
            if heard() {
                continue;
            }
            let Some(mut stall) = Stall::of(&self.socket) else {
                return pending().await;
            };
            let mut doubt = None;
            let mut silent = stall.lasts(TcpInfo::doubted_after, heard).await;
            if silent {
                doubt = Some(doubted(asked));
                silent = stall.lasts(TcpInfo::silent_after, heard).await;
            }
            if !silent {
                // Everything sent has arrived; whatever is sent next starts the clock again.
                if !heard() {
                    pulse.hear(Instant::now());
                }
                continue;
            }
            pulse.silent.set(true);
            fell_silent(asked);
            let dead = |info: &TcpInfo| info.dead_after(self.unacked_timeout);
            if stall.lasts(dead, || !pulse.silent.get()).await {
                pulse.dead.set(true);
                self.shut_down();
                return pending().await;
            }
            pulse.hear(Instant::now());
            drop(doubt);
        }
    }

    /// Ends when the peer of a byte stream is dead. `moved` gives the bytes that went to it and came from
    /// it; as above, it has to be polled with the copy.
    pub async fn over_bytes(&self, moved: impl Fn() -> (u64, u64)) {
        let mut sent = 0;
        loop {
            poll_fn(|_| match moved().0 {
                now if now == sent => Poll::Pending,
                now => {
                    sent = now;
                    Poll::Ready(())
                }
            })
            .await;
            let before = moved().1;
            tokio::time::sleep(GRACE).await;
            let heard = || moved().1 != before;
            let Some(mut stall) = Stall::of(&self.socket) else {
                return pending().await;
            };
            let dead = |info: &TcpInfo| info.dead_after(self.unacked_timeout);
            if !heard() && stall.lasts(dead, heard).await {
                return self.shut_down();
            }
        }
    }

    /// Ends the connection for both directions and discards what was not acknowledged: were the peer to come
    /// back, it must not find a request that somebody was told has failed.
    fn shut_down(&self) {
        let socket = SockRef::from(&self.socket);
        // A socket that has ended already refuses both.
        let _ = socket.set_linger(Some(Duration::ZERO));
        let _ = socket.shutdown(std::net::Shutdown::Both);
    }
}

/// A time without an acknowledgement.
struct Stall<'a> {
    socket: &'a OwnedFd,
    info: TcpInfo,
    since: Instant,
}

impl<'a> Stall<'a> {
    /// Begins now, whether or not bytes are outstanding; `None` when the kernel does not tell.
    fn of(socket: &'a OwnedFd) -> Option<Self> {
        Some(Self {
            socket,
            info: TcpInfo::of(socket).ok()?,
            since: Instant::now(),
        })
    }

    /// Whether bytes lie unacknowledged, and none of them is acknowledged, for as long as `limit` says;
    /// `false` as soon as all are, or as soon as the peer was `heard` otherwise.
    async fn lasts(&mut self, limit: impl Fn(&TcpInfo) -> Duration, heard: impl Fn() -> bool) -> bool {
        while self.info.unacked > 0 && !heard() {
            let left = limit(&self.info).saturating_sub(self.since.elapsed());
            if left.is_zero() {
                return true;
            }
            tokio::time::sleep(left.min(RECHECK)).await;
            match TcpInfo::of(self.socket) {
                Ok(info) if info.acked == self.info.acked => self.info = info,
                Ok(info) => {
                    self.info = info;
                    self.since = Instant::now();
                }
                Err(_) => return false,
            }
        }
        false
    }
}
