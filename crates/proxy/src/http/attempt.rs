//! One attempt of a request, and what is shared by all of them: a host, a connection, the request as the
//! upstream sees it, the head of the answer.

use std::rc::Rc;
use std::time::{Duration, Instant};

use futures_util::future::LocalBoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use http::StatusCode;

use crate::config::cluster::Discovery;
use crate::telemetry::flags::Flags;
use crate::telemetry::http::Record;
use crate::telemetry::peer;
use crate::upstream::connect::{ConnectError, Purpose, gave_up, probe_ejected};
use crate::upstream::gateway;
use crate::upstream::pool::{Lease, Wire, acquire, redial};
use crate::upstream::silence::{be_patient, hedge_after};
use crate::upstream::{Busy, ClusterState, Evidence, Host, PickContext, PickError};
use crate::worker::Worker;

use super::body::OutgoingBody;
use super::grpc;
use super::headers::{self, ATTEMPT_COUNT, EXPECTED_TIMEOUT, NOT_DELIVERED, ORIGINAL_HOST};
use super::limits::Late;
use super::local_reply::LocalReply;
use super::outgoing::{ask_upgrade, outgoing};
use super::retry::{Outcome, Retries};
use super::stream::{Broken, Downstream, Upstream};

/// How often a request that was never sent, since its pooled connection had gone, moves to another one.
const MOST_STALE: u32 = 8;

/// Why an attempt brought no answer.
#[derive(Debug)]
pub enum Failure {
    /// No connection.
    Connect(ConnectError),
    /// Everybody was tried side by side and nobody answered: another round would be the same.
    Unreachable(ConnectError),
    /// A connection, but no answer.
    Broken(Broken),
    /// A clock ran out.
    Late(Late),
    /// Authority or path cannot be sent.
    Unsendable,
}

impl Failure {
    /// As retry policies see it; `None` is never retried.
    pub fn outcome(&self) -> Option<Outcome<'_>> {
        match self {
            Self::Connect(error) => Some(Outcome::Connect(error)),
            Self::Broken(broken) => Some(Outcome::Broken(broken)),
            Self::Late(Late::PerTry) => Some(Outcome::PerTryTimeout),
            Self::Unreachable(_) | Self::Late(_) | Self::Unsendable => None,
        }
    }

    /// The answer the downstream gets.
    pub fn reply(&self, retried: bool) -> LocalReply {
        match self {
            Self::Connect(error) | Self::Unreachable(error) => LocalReply::no_connection(error, retried),
            Self::Broken(broken) => LocalReply::broken(broken, retried),
            Self::Late(Late::PerTry) => LocalReply::timeout("upstream_per_try_timeout"),
            Self::Late(Late::Whole) => LocalReply::timeout("response_timeout"),
            Self::Late(Late::Idle) => LocalReply::new(
                StatusCode::REQUEST_TIMEOUT,
                "stream timeout",
                "stream_idle_timeout",
                Flags::SI,
            ),
            Self::Unsendable => LocalReply::new(
                StatusCode::BAD_REQUEST,
                "",
                "invalid_authority_or_path",
                Flags::DPE,
            ),
        }
    }
}

/// Whether the application answered.
pub enum Verdict {
    /// It did.
    Answered,
    /// The proxy in front of it says that it never got the request.
    NotDelivered,
    /// The proxy in front of it says that it died with the request in its hands.
    Died,
}

/// Takes note of an answer for outlier detection.
pub fn judge(cluster: &Rc<ClusterState>, upstream: &Upstream) -> Verdict {
    let lease = upstream.lease();
    let proved = lease
        .link()
        .tls
        .as_ref()
        .is_some_and(|t| t.verified && !t.uris.is_empty());
    let fate = upstream.head.headers.get(&NOT_DELIVERED).filter(|_| proved);
    if let Some(fate) = fate {
        match lease.host().gateway() {
            // The pod behind this connection is dead, the gateway is not.
            Some(_) => lease.doom(),
            None => cluster.note(lease.host(), Evidence::LocalFailure),
        }
        return match *fate == headers::NEVER {
            true => Verdict::NotDelivered,
            false => Verdict::Died,
        };
    }
    let pod = upstream
        .head
        .headers
        .get(&peer::METADATA_ID)
        .and_then(|v| v.to_str().ok());
    // gRPC failures that mean the server is unwell count as Envoy maps them.
    let status = match grpc::status_in(&upstream.head.headers) {
        Some(14) => 503,
        Some(2 | 13 | 15) => 500,
        _ => upstream.head.status.as_u16(),
    };
    lease.note_status(status, pod);
    Verdict::Answered
}

/// Waits before another attempt.
pub async fn pause(retries: &Retries<'_>, cx: &Worker, attempts: &mut Attempts<'_>) {
    if !retries.avoids_tried() {
        attempts.tried.clear();
    }
    tokio::time::sleep(retries.pause(&cx.rng)).await;
}

/// What every attempt of one request shares.
pub struct Attempts<'a> {
    /// The worker.
    pub cx: &'a Rc<Worker>,
    /// The cluster.
    pub cluster: &'a Rc<ClusterState>,
    /// For consistent balancing.
    pub hash: Option<u64>,
    /// Original destination.
    pub original: Option<std::net::SocketAddr>,
    /// What carries it.
    pub wire: Wire,
    /// The authority becomes the endpoint's host name.
    pub auto_host: bool,
    /// Tell peers of the mesh who we are.
    pub announce: bool,
    /// The protocol to switch to.
    pub upgrade: Option<&'a str>,
    /// Send `x-envoy-attempt-count`.
    pub include_count: bool,
    /// How long the upstream has for an answer, which it is told.
    pub expected: Option<Duration>,
    /// Hosts tried so far.
    pub tried: Vec<Rc<Host>>,
    /// A byte of the request may have reached an upstream.
    pub delivered: bool,
    /// It may be sent again when its connection falls silent.
    pub movable: bool,
    /// Sending it twice might do something twice (RFC 9110 9.2.1).
    pub once: bool,
}

/// Somebody who may win the race for a connection.
type Contender = LocalBoxFuture<'static, (Rc<Host>, Result<Lease, ConnectError>)>;

impl Attempts<'_> {
    /// One attempt: a host, a connection, the request, the head of the answer.
    pub async fn make(
        &mut self,
        down: &Downstream,
        record: &mut Record,
        number: u32,
    ) -> Result<(Upstream, Busy), Failure> {
        let mut stale = 0;
        loop {
            let authority: Option<Rc<str>> = Some(Rc::from(down.head.authority.as_str()));
            let (host, lease) = match self.lease(authority).await {
                Ok(leased) => leased,
                Err(failure) => {
                    if let Some(host) = self.tried.last() {
                        record.attempt(host, None);
                    }
                    return Err(failure);
                }
            };
            record.attempt(&host, Some(&lease));
            let mut head = down.head.clone();
            if self.include_count {
                head.headers.insert(ATTEMPT_COUNT, number.into());
            }
            if let Some(expected) = self.expected {
                let millis = u64::try_from(expected.as_millis()).unwrap_or(u64::MAX);
                head.headers.insert(EXPECTED_TIMEOUT, millis.max(1).into());
            }
            if self.auto_host
                && let Some(name) = host
                    .endpoint()
                    .hostname
                    .as_deref()
                    .filter(|n| **n != *head.authority)
            {
                let before = std::mem::replace(&mut head.authority, name.to_owned());
                headers::insert(&mut head.headers, ORIGINAL_HOST, &before);
            }
            let in_mesh = lease.link().tls.as_ref().is_some_and(|t| !t.uris.is_empty());
            if self.announce
                && in_mesh
                && let Some((metadata, id)) = &self.cx.telemetry.peers.headers
            {
                head.headers.insert(peer::METADATA, metadata.clone());
                head.headers.insert(peer::METADATA_ID, id.clone());
            }
            if let Some(protocol) = self.upgrade {
                ask_upgrade(&mut head, protocol, self.cx);
            }
            let request =
                outgoing(&head, lease.is_http2(), down.body.attempt()).ok_or(Failure::Unsendable)?;
            let busy = Busy::at(&host);
            // From here on somebody else may have seen the request.
            let delivered = std::mem::replace(&mut self.delivered, true);
            match self.send(&host, lease, request).await {
                Ok(upstream) => return Ok((upstream, busy)),
                Err(Broken::NotSent) if stale < MOST_STALE && down.body.can_replay() => {
                    // The pooled connection had gone before a byte was written: take another, same host or not.
                    stale += 1;
                    self.delivered = delivered;
                    self.tried.retain(|t| !Rc::ptr_eq(t, &host));
                }
                Err(broken) => {
                    // Behind a gateway's address it was one replica or one pod; whether the gateway is
                    // there at all is for the next dial to say.
                    if !matches!(broken, Broken::Downstream) && host.gateway().is_none() {
                        self.cluster.note(&host, Evidence::LocalFailure);
                    }
                    return Err(Failure::Broken(broken));
                }
            }
        }
    }

    /// Sends the request. One that may be sent again leaves a connection that falls silent, when there is
    /// somewhere to go.
    async fn send(
        &self,
        host: &Rc<Host>,
        lease: Lease,
        request: http::Request<OutgoingBody>,
    ) -> Result<Upstream, Broken> {
        if !self.movable {
            return Upstream::send(lease, request).await;
        }
        let (link, sent) = (lease.link().clone(), Instant::now());
        let mut sending = std::pin::pin!(Upstream::send(lease, request));
        let alarmed = async {
            while !link.pulse.is_silent() && !host.is_lost() {
                host.alarm.notified().await;
            }
        };
        tokio::select! {
            biased;
            result = sending.as_mut() => return result,
            () = alarmed => {}
        }
        let another = |picked: Rc<Host>| match Rc::ptr_eq(&picked, host) {
            // Behind a gateway's address there may be another replica: it was heard.
            true => host.gateway().is_some() && host.heard_since(sent),
            false => !picked.is_silent(),
        };
        match self.pick().is_ok_and(another) {
            true => Err(Broken::Unacknowledged),
            false => sending.await,
        }
    }

    /// A host and a connection; those that could not be reached are told.
    async fn lease(&mut self, authority: Option<Rc<str>>) -> Result<(Rc<Host>, Lease), Failure> {
        let (started, before) = (Instant::now(), self.tried.len());
        let result = self.connect(started, authority).await;
        if let Err(Failure::Connect(error) | Failure::Unreachable(error)) = &result {
            gave_up(self.cluster, &self.tried[before..], started, error);
        }
        result
    }

    /// One that takes long to connect is raced; nothing is sent before somebody has won.
    async fn connect(
        &mut self,
        started: Instant,
        authority: Option<Rc<str>>,
    ) -> Result<(Rc<Host>, Lease), Failure> {
        let first = match self.pick() {
            Err(PickError::NoHealthy)
                if probe_ejected(self.cx, self.cluster, &self.purpose(authority.clone())).await =>
            {
                self.pick()
            }
            picked => picked,
        };
        let first = first.map_err(|e| Failure::Connect(e.into()))?;
        self.tried.push(first.clone());
        let mut running = self.contend(&first, &authority);
        let fixed = matches!(self.cluster.config.discovery, Discovery::OriginalDst { .. });
        let Some(hedge) = self.cluster.config.isthmus.connect_hedge.filter(|_| !fixed) else {
            let (host, result) = running.await;
            return result.map(|lease| (host, lease)).map_err(Failure::Connect);
        };
        let race = FuturesUnordered::new();
        match tokio::time::timeout(hedge_after(hedge, first.rtt()), running.as_mut()).await {
            Ok((host, Ok(lease))) => return Ok((host, lease)),
            Ok((_, Err(error))) if first.gateway().is_none() || !error.is_local_failure() => {
                return Err(Failure::Connect(error));
            }
            Ok(_) => {}
            Err(_) => race.push(running),
        }
        self.race(race, started, hedge, authority).await
    }

    /// Everybody who is left joins the race, one after the other; then other replicas behind a gateway's
    /// address, since the balancer before it may lead to one that answers.
    async fn race(
        &mut self,
        mut race: FuturesUnordered<Contender>,
        started: Instant,
        hedge: Duration,
        authority: Option<Rc<str>>,
    ) -> Result<(Rc<Host>, Lease), Failure> {
        let mut raced: Vec<Rc<Host>> = self.tried.last().cloned().into_iter().collect();
        let (mut joined, mut redials) = (started, 0);
        loop {
            let gateway = raced.iter().find(|host| host.gateway().is_some());
            let pause = match (self.pick(), gateway) {
                (Ok(other), _) if !self.tried.iter().any(|t| Rc::ptr_eq(t, &other)) => {
                    race.push(self.contend(&other, &authority));
                    self.tried.push(other.clone());
                    raced.push(other);
                    joined = Instant::now();
                    hedge
                }
                (_, Some(gateway)) if redials < gateway::MOST_REDIALS => {
                    redials += 1;
                    let apart = hedge_after(hedge / 2, gateway.rtt());
                    match race.is_empty() {
                        true => race.push(self.contend(gateway, &authority)),
                        // Whoever waits there takes the first connection that stands.
                        false => redial(self.cx, self.cluster, gateway, self.wire, &authority, apart),
                    }
                    apart
                }
                _ => {
                    let longest = self.cluster.config.connect_timeout;
                    return match be_patient(winner(&mut race), &raced, started, joined, longest).await {
                        Ok(result) => result.map_err(Failure::Connect),
                        Err(patience) => Err(Failure::Unreachable(ConnectError::Timeout(patience))),
                    };
                }
            };
            match tokio::time::timeout(pause, winner(&mut race)).await {
                Ok(Ok(won)) => return Ok(won),
                // All of them failed, at once perhaps: the next joins now.
                Ok(Err(error)) if raced.iter().all(|host| host.gateway().is_none()) => {
                    return Err(Failure::Connect(error));
                }
                Ok(Err(error)) if redials >= gateway::MOST_REDIALS => return Err(Failure::Connect(error)),
                Ok(Err(_)) | Err(_) => {}
            }
        }
    }

    fn purpose(&self, authority: Option<Rc<str>>) -> Purpose {
        Purpose {
            alpn: self.wire.alpn(),
            authority,
        }
    }

    fn contend(&self, host: &Rc<Host>, authority: &Option<Rc<str>>) -> Contender {
        let (cx, cluster, host) = (self.cx.clone(), self.cluster.clone(), host.clone());
        let (wire, authority, once) = (self.wire, authority.clone(), self.once);
        Box::pin(async move {
            let result = acquire(&cx, &cluster, &host, wire, authority, once).await;
            (host, result)
        })
    }

    fn pick(&self) -> Result<Rc<Host>, PickError> {
        let context = PickContext {
            hash: self.hash,
            tried: &self.tried,
            original: self.original,
        };
        self.cluster.pick(&context, &self.cx.rng)
    }
}

/// The first to have a connection; the last error when nobody has.
async fn winner(race: &mut FuturesUnordered<Contender>) -> Result<(Rc<Host>, Lease), ConnectError> {
    let mut last = ConnectError::Ending;
    while let Some((host, result)) = race.next().await {
        match result {
            Ok(lease) => return Ok((host, lease)),
            Err(error) => last = error,
        }
    }
    Err(last)
}
