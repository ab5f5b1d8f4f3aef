//! One attempt of a request, and what is shared by all of them: a host, a connection, the request as the
//! upstream sees it, the head of the answer.

use std::rc::Rc;
use std::time::{Duration, Instant};

use http::StatusCode;

use crate::config::cluster::Discovery;
use crate::telemetry::flags::Flags;
use crate::telemetry::http::Record;
use crate::telemetry::peer;
use crate::upstream::connect::ConnectError;
use crate::upstream::gateway;
use crate::upstream::host::hedge_after;
use crate::upstream::pool::{Lease, Wire, acquire, redial};
use crate::upstream::{Busy, ClusterState, Evidence, Host, PickContext};
use crate::worker::Worker;

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
            Self::Late(_) | Self::Unsendable => None,
        }
    }

    /// The answer the downstream gets.
    pub fn reply(&self, retried: bool) -> LocalReply {
        match self {
            Self::Connect(error) => LocalReply::no_connection(error, retried),
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
}

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
                Err(error) => {
                    if let Some(host) = self.tried.last() {
                        record.attempt(host, None);
                    }
                    return Err(Failure::Connect(error));
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
            match Upstream::send(lease, request).await {
                Ok(upstream) => return Ok((upstream, busy)),
                Err((Broken::NotSent, _)) if stale < MOST_STALE && down.body.can_replay() => {
                    // The pooled connection had gone before a byte was written: take another, same host or not.
                    stale += 1;
                    self.delivered = delivered;
                    self.tried.retain(|t| !Rc::ptr_eq(t, &host));
                }
                Err((broken, _)) => {
                    if matches!(broken, Broken::Unacknowledged) {
                        // Its other connections lead into the same silence: the next request dials anew.
                        host.pool.drain();
                    }
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

    /// A host and a connection. A host that takes long to connect is raced against another.
    async fn lease(&mut self, authority: Option<Rc<str>>) -> Result<(Rc<Host>, Lease), ConnectError> {
        let first = self.pick()?;
        self.tried.push(first.clone());
        let get = |host: &Rc<Host>| {
            let (cx, cluster, host, authority) = (
                self.cx.clone(),
                self.cluster.clone(),
                host.clone(),
                authority.clone(),
            );
            let wire = self.wire;
            Box::pin(async move { acquire(&cx, &cluster, &host, wire, authority).await })
        };
        let mut racing = get(&first);
        let fixed = matches!(self.cluster.config.discovery, Discovery::OriginalDst { .. });
        let Some(after) = hedge_after(self.cluster.config.isthmus.connect_hedge).filter(|_| !fixed) else {
            return racing.await.map(|l| (first, l));
        };
        let (started, mut redials) = (Instant::now(), 0);
        let other = loop {
            let may_redial = first.gateway().is_some() && redials < gateway::MOST_REDIALS;
            match tokio::time::timeout(after, racing.as_mut()).await {
                // The balancer in front of a gateway may lead to another of its replicas.
                Ok(Err(error)) if may_redial && error.is_local_failure() => {
                    redials += 1;
                    racing = get(&first);
                    continue;
                }
                Ok(result) => return result.map(|l| (first, l)),
                Err(_) => {}
            }
            match self.pick() {
                Ok(other) if !self.tried.iter().any(|t| Rc::ptr_eq(t, &other)) => break other,
                _ if may_redial => {
                    redials += 1;
                    redial(self.cx, self.cluster, &first, self.wire, authority.clone());
                }
                _ if first.gateway().is_some() => {
                    let patience = gateway::PATIENCE.min(self.cluster.config.connect_timeout);
                    return match tokio::time::timeout(patience, racing).await {
                        Ok(result) => result.map(|l| (first, l)),
                        Err(_) => {
                            if first.is_blamed(started) {
                                self.cluster.note(&first, Evidence::LocalFailure);
                            }
                            Err(ConnectError::Timeout(patience))
                        }
                    };
                }
                _ => return racing.await.map(|l| (first, l)),
            }
        };
        let rival = get(&other);
        self.tried.push(other.clone());
        use futures_util::future::{Either, select};
        match select(racing, rival).await {
            Either::Left((Ok(lease), _)) => Ok((first, lease)),
            Either::Right((Ok(lease), _)) => Ok((other, lease)),
            Either::Left((Err(_), rival)) => rival.await.map(|l| (other, l)),
            Either::Right((Err(_), racing)) => racing.await.map(|l| (first, l)),
        }
    }

    fn pick(&self) -> Result<Rc<Host>, ConnectError> {
        let context = PickContext {
            hash: self.hash,
            tried: &self.tried,
            original: self.original,
        };
        Ok(self.cluster.pick(&context, &self.cx.rng)?)
    }
}
