//! The request path, read from top to bottom: admission, route, filters, attempts, answer, record.

use std::future::Future;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine as _;
use bytes::Bytes;
use http::header::{LOCATION, SERVER, SET_COOKIE, UPGRADE};
use http::{HeaderValue, Method, StatusCode, Uri, Version, response};
use http_body::Frame;

use crate::config::Cluster;
use crate::config::cluster::{Discovery, UpstreamVersion};
use crate::config::http_filter::HttpFilter;
use crate::config::listener::{HttpManager, NetworkFilter, Routes, TrafficDirection};
use crate::config::route::{Action, Forward, HashPolicy, HostRewrite, RouteTable};
use crate::telemetry::flags::Flags;
use crate::telemetry::http::Record;
use crate::telemetry::peer;
use crate::upstream::connect::ConnectError;
use crate::upstream::hash::xxh64;
use crate::upstream::host::{bump, hedge_after};
use crate::upstream::pool::{Lease, Wire, acquire};
use crate::upstream::{Busy, ClusterState, Evidence, Held, Host, PickContext};
use crate::worker::Worker;

use super::body::{OutgoingBody, REPLAY_CAP};
use super::connection::{HttpConnection, InFlight};
use super::filters::{self, CorsVerdict};
use super::headers::{self, ATTEMPT_COUNT, NOT_DELIVERED, ORIGINAL_PATH, SERVICE_TIME};
use super::local_reply::LocalReply;
use super::retry::{Outcome, Retries};
use super::route::{self, Match, NoMatch};
use super::stream::{Broken, Downstream, RequestHead, Upstream, answer};
use super::upgrade::{self, Tunnel};
use super::{grpc, mirror};

/// How often a request that was never sent, since its pooled connection had gone, moves to another one.
const MOST_STALE: u32 = 8;

/// Serves one request to its end.
pub async fn serve(cx: Rc<Worker>, connection: Rc<HttpConnection>, mut down: Downstream) {
    let _in_flight = InFlight::on(&connection);
    let chain = connection.chain(&cx);
    let NetworkFilter::Http(manager) = &chain.network else {
        return;
    };
    let facts = &connection.facts;
    let mut record = Record::begin(&cx, facts, manager, &down);

    // Admission: what is malformed is answered before anything acts on it.
    if let Some(reply) = admit(manager, &mut down.head) {
        return local(down, record, manager, reply).await;
    }
    let wanted_upgrade = upgrade_wanted(&down.head);
    headers::strip_hop_by_hop(&mut down.head.headers, true);
    record.story.client = headers::forward(manager, facts, &mut down.head.headers, &cx.rng);
    headers::client_certificate(manager.client_cert, facts, &mut down.head.headers);
    let inbound = facts.direction == TrafficDirection::Inbound;
    let exchanges_metadata = manager
        .filters
        .iter()
        .any(|f| matches!(f, HttpFilter::PeerMetadata));
    let told = down.head.headers.get(&peer::METADATA).cloned();
    if inbound && let Some(metadata) = &told {
        record.client_peer = Some(cx.telemetry.peers.of_header(metadata));
    }
    headers::strip_peer_metadata(&mut down.head.headers);
    down.head.headers.remove(&NOT_DELIVERED);
    record.keep_headers(&down.head.headers);

    // Route.
    let live = cx.live();
    let table: &Arc<RouteTable> = match &manager.routes {
        Routes::Inline(table) => table,
        Routes::Rds(name) => match live.routes.get(name) {
            Some(table) => table,
            None => return local(down, record, manager, no_route()).await,
        },
    };
    let found = route::find(table, &down.head.view(), &cx.rng);
    let route_of_rules = found.ok().map(|m| m.route);

    // Filters, in the order given.
    let mut allowed_origin = None;
    for filter in &manager.filters {
        match filter {
            HttpFilter::Rbac(rules) => {
                let rules = route_of_rules.and_then(|r| r.rbac.as_ref()).unwrap_or(rules);
                let client = record.story.client.ip();
                if let Some(reply) = filters::authorize(rules, facts, &down.head.view(), client) {
                    return local(down, record, manager, reply).await;
                }
            }
            HttpFilter::Fault => {
                let Some(fault) = route_of_rules.and_then(|r| r.fault.as_ref()) else {
                    continue;
                };
                let (delay, reply) = filters::fault(fault, &cx.rng);
                if let Some(delay) = delay {
                    record.flag(Flags::DI);
                    tokio::time::sleep(delay).await;
                }
                if let Some(reply) = reply {
                    return local(down, record, manager, reply).await;
                }
            }
            HttpFilter::Cors => {
                let Some(policy) = route_of_rules.and_then(|r| r.cors.as_ref()) else {
                    continue;
                };
                match filters::cors(policy, &down.head) {
                    CorsVerdict::Pass => {}
                    CorsVerdict::Allow(origin) => allowed_origin = Some((policy.clone(), origin)),
                    CorsVerdict::Answer(head) => {
                        record.details("cors_response");
                        return send_own(down, record, manager, *head, Bytes::new()).await;
                    }
                }
            }
            HttpFilter::PeerMetadata | HttpFilter::Stats | HttpFilter::GrpcStats => {}
        }
    }
    let Match { host, route } = match found {
        Ok(found) => found,
        Err(NoMatch::Host | NoMatch::Route) => return local(down, record, manager, no_route()).await,
    };
    if let Some(request) = &mut record.story.request {
        request.route = route.name.clone();
        request.virtual_host = host.name.clone();
    }
    if host.require_tls && down.head.scheme != "https" {
        let mut head = answer(StatusCode::MOVED_PERMANENTLY);
        let location = format!("https://{}{}", down.head.authority, down.head.path);
        headers::insert(&mut head.headers, LOCATION, &location);
        record.details("tls_redirect");
        return send_own(down, record, manager, head, Bytes::new()).await;
    }
    let operations = [&route.headers, &host.headers, &table.headers];

    // Answers without an upstream.
    let forward = match &route.action {
        Action::Forward(forward) => forward,
        Action::Redirect(redirect) => {
            let mut head = answer(redirect.status);
            let location = route::location(redirect, &route.matches, &down.head.view());
            headers::insert(&mut head.headers, LOCATION, &location);
            for level in operations {
                headers::apply(&level.response, &mut head.headers, &record.story);
            }
            record.details("direct_response");
            return send_own(down, record, manager, head, Bytes::new()).await;
        }
        Action::Respond(status, body) => {
            let mut head = answer(*status);
            if !body.is_empty() {
                let text = HeaderValue::from_static("text/plain");
                head.headers.insert(http::header::CONTENT_TYPE, text);
            }
            for level in operations {
                headers::apply(&level.response, &mut head.headers, &record.story);
            }
            record.details("direct_response");
            return send_own(down, record, manager, head, Bytes::copy_from_slice(body)).await;
        }
    };
    let upgrade = match wanted_upgrade {
        None => None,
        Some(protocol) => match upgrade_allowed(manager, forward, &protocol) {
            true => Some(protocol),
            false => {
                let reply = LocalReply::new(StatusCode::FORBIDDEN, "", "upgrade_failed", Flags::default());
                return local(down, record, manager, reply).await;
            }
        },
    };

    // Where to.
    let Some((name, member)) = route::cluster(&forward.target, &down.head.headers, &cx.rng) else {
        return local(down, record, manager, no_route()).await;
    };
    let Some(cluster) = cx.upstreams.cluster(&name) else {
        record.chose(&name, None);
        let reply = LocalReply::new(forward.cluster_not_found, "", "cluster_not_found", Flags::NC);
        return local(down, record, manager, reply).await;
    };
    record.chose(&name, Some(&cluster));
    let limit = cluster.config.limits.requests.max(1);
    let Some(_requests) = Held::take(&cluster, |c| &c.requests, limit) else {
        let reply = LocalReply::no_connection(&ConnectError::Overflow, false);
        return local(down, record, manager, reply).await;
    };

    // The request as the upstream shall see it.
    let member = match (&forward.target, member) {
        (crate::config::route::Target::Weighted { clusters, .. }, Some(at)) => clusters.get(at),
        _ => None,
    };
    if let Some(rewrite) = &forward.path_rewrite {
        let path = route::rewrite_path(rewrite, &route.matches, &down.head.path);
        let before = std::mem::replace(&mut down.head.path, path.clone());
        headers::insert(&mut down.head.headers, ORIGINAL_PATH, &before);
        if let Some(request) = &mut record.story.request {
            request.rewritten = Some(path);
        }
    }
    match (
        &member.and_then(|m| m.host_rewrite.as_ref()),
        &forward.host_rewrite,
    ) {
        (Some(literal), _) => down.head.authority = (*literal).clone(),
        (None, Some(HostRewrite::Literal(value))) => {
            down.head.authority = String::from_utf8_lossy(value.as_bytes()).into_owned();
        }
        (None, Some(HostRewrite::Header(name))) => {
            if let Some(value) = down.head.headers.get(name).and_then(|v| v.to_str().ok()) {
                down.head.authority = value.to_owned();
            }
        }
        (None, Some(HostRewrite::Auto) | None) => {}
    }
    for level in member.iter().map(|m| &m.headers).chain(operations) {
        headers::apply(&level.request, &mut down.head.headers, &record.story);
    }
    if let Some(authority) = headers::authority_of(&mut down.head.headers) {
        down.head.authority = authority;
    }
    let (hash, cookie) = hash_of(&forward.hash_policy, &down.head, &record, &cx);
    let policy = forward.retry.as_deref().or(host.retry.as_deref());
    let mut retries = Retries::new(policy);
    for mirror in forward.mirrors.iter().filter(|m| cx.rng.happens(m.fraction)) {
        down.body.remember(REPLAY_CAP);
        mirror::spawn(&cx, mirror, &down.head, &down.body);
    }
    if retries.may_happen() {
        down.body.remember(REPLAY_CAP);
    }
    let limits = Limits {
        start: record.story.start,
        whole: whole_timeout(forward, &down.head),
        idle: forward.idle_timeout.or(manager.stream_idle_timeout),
    };

    // Attempts.
    let mut attempts = Attempts {
        cx: &cx,
        cluster: &cluster,
        hash,
        original: Some(facts.destination),
        wire: wire_of(&cluster.config, &down.head, upgrade.is_some()),
        auto_host: matches!(forward.host_rewrite, Some(HostRewrite::Auto)),
        announce: exchanges_metadata && !inbound,
        upgrade: upgrade.as_deref(),
        include_count: host.include_attempt_count,
        tried: Vec::new(),
        delivered: false,
    };
    let (mut upstream, busy) = loop {
        record.count_attempt();
        let number = retries.made() + 1;
        let per_try = retries.per_try_timeout();
        let attempt = attempts.make(&down, &mut record, number);
        let failure = match limits.within(per_try, &down, attempt).await {
            Ok(Ok((upstream, busy))) => {
                let status = upstream.head.status.as_u16();
                let verdict = judge(&cluster, &upstream);
                let outcome = match verdict {
                    Verdict::NotDelivered => Outcome::NotDelivered,
                    Verdict::Answered => Outcome::Answer(status, &upstream.head.headers),
                };
                if down.body.can_replay() && retries.again(outcome, &cluster) {
                    // Dropping the answer frees its connection or resets its stream.
                    drop((upstream, busy));
                    pause(&retries, &cx, &mut attempts).await;
                    continue;
                }
                break (upstream, busy);
            }
            Ok(Err(failure)) => failure,
            Err(late) => Failure::Late(late),
        };
        if let Failure::Late(_) = failure
            && let Some(host) = attempts.tried.last()
        {
            bump(&host.totals.timeout);
            cluster.note(host, Evidence::LocalFailure);
        }
        if down.body.is_failed() {
            record.flag(Flags::DC);
            return;
        }
        let outcome = failure.outcome();
        let again = outcome.is_some_and(|o| {
            // What never left this proxy can be sent again whatever its size was meant to be.
            (down.body.can_replay() || matches!(o, Outcome::Connect(_))) && retries.again(o, &cluster)
        });
        if again {
            pause(&retries, &cx, &mut attempts).await;
            continue;
        }
        let mut reply = failure.reply(retries.made() > 0);
        if retries.exhausted {
            reply.flags = reply.flags.with(Flags::URX);
        }
        if let Failure::Connect(error) = &failure
            && !matches!(error, ConnectError::Pick(_) | ConnectError::Overflow)
        {
            record.story.upstream.transport_failure = Some(error.to_string().replace(' ', "_"));
        }
        let undelivered = !attempts.delivered && inbound && facts.principal().is_some();
        return local_with(down, record, manager, reply, |head| {
            if undelivered {
                head.headers.insert(NOT_DELIVERED, HeaderValue::from_static("1"));
            }
        })
        .await;
    };
    if retries.exhausted {
        record.flag(Flags::URX);
    }

    // The answer's head.
    record.first_byte();
    record.details("via_upstream");
    let mut head = std::mem::replace(&mut upstream.head, answer(StatusCode::OK));
    let switching = head.status == StatusCode::SWITCHING_PROTOCOLS;
    headers::strip_hop_by_hop(&mut head.headers, false);
    if let Some(metadata) = head.headers.get(&peer::METADATA)
        && !inbound
    {
        record.server_peer = Some(cx.telemetry.peers.of_header(metadata));
    }
    headers::strip_peer_metadata(&mut head.headers);
    if inbound
        && exchanges_metadata
        && told.is_some()
        && let Some((metadata, id)) = &cx.telemetry.peers.headers
    {
        head.headers.insert(peer::METADATA, metadata.clone());
        head.headers.insert(peer::METADATA_ID, id.clone());
    }
    head.headers.remove(&NOT_DELIVERED);
    head.headers.insert(
        SERVICE_TIME,
        (record.story.start.elapsed().as_millis() as u64).into(),
    );
    if let Some((policy, origin)) = allowed_origin {
        filters::allow_origin(&policy, origin, &mut head.headers);
    }
    for level in member.iter().map(|m| &m.headers).chain(operations) {
        headers::apply(&level.response, &mut head.headers, &record.story);
    }
    if let Some(cookie) = cookie {
        head.headers.append(SET_COOKIE, cookie);
    }
    name_server(manager, &mut head);
    record.answered(&head);

    // A tunnel goes on in a task of its own.
    if let Some(protocol) = upgrade.filter(|_| switching) {
        if down.head.version == Version::HTTP_2 {
            head.status = StatusCode::OK;
        } else {
            head.headers
                .insert(http::header::CONNECTION, HeaderValue::from_static("upgrade"));
            headers::insert(&mut head.headers, UPGRADE, &protocol);
        }
        let ends = down.take_upgrade().zip(upstream.into_upgrade());
        down.send_head(head, true);
        let Some((downstream, (upstream, lease))) = ends else {
            return;
        };
        let idle = limits.idle;
        upgrade::spawn(
            &cx,
            Tunnel {
                downstream,
                upstream,
                lease,
                busy,
                record,
                idle,
            },
        );
        return;
    }

    // The answer's body.
    let request_done = |down: &Downstream| down.body.is_ended();
    if upstream.is_end() || bodiless(&down.head.method, head.status) {
        record.complete();
        if upstream.is_end() && request_done(&down) {
            upstream.finish();
        }
        down.send_head(head, true);
        return;
    }
    down.send_head(head, false);
    loop {
        match limits.within(None, &down, upstream.frame()).await {
            Ok(Some(Ok(frame))) => {
                if let Some(data) = frame.data_ref() {
                    record.sent(data);
                } else if let Some(trailers) = frame.trailers_ref() {
                    record.trailers(trailers);
                }
                let last = upstream.is_end();
                if last {
                    record.complete();
                }
                down.send(frame, last).await;
                if last {
                    break;
                }
            }
            Ok(None) => {
                record.complete();
                down.finish();
                break;
            }
            Ok(Some(Err(broken))) => {
                record.flag(match broken {
                    Broken::Reset | Broken::Refused => Flags::UR,
                    _ => Flags::UC,
                });
                record.details("upstream_reset_after_response_started{connection termination}");
                record.complete();
                cluster.note(upstream.lease().host(), Evidence::LocalFailure);
                return down.reset();
            }
            Err(late) => {
                let (flag, details) = late.after_head();
                record.flag(flag);
                record.details(details);
                record.complete();
                return down.reset();
            }
        }
    }
    if request_done(&down) {
        upstream.finish();
    }
    drop(busy);
}

/// Turns away what no filter should see.
fn admit(manager: &HttpManager, head: &mut RequestHead) -> Option<LocalReply> {
    let refuse = |status, details: &str| Some(LocalReply::new(status, "", details, Flags::DPE));
    if head.version == Version::HTTP_10 && !manager.accept_http_10 {
        return refuse(StatusCode::UPGRADE_REQUIRED, "low_version");
    }
    if head.ambiguous || (head.authority.is_empty() && head.version != Version::HTTP_10) {
        return refuse(StatusCode::BAD_REQUEST, "missing_host_header");
    }
    if head.method == Method::CONNECT {
        return match head.protocol {
            Some(_) => None,
            None => refuse(StatusCode::METHOD_NOT_ALLOWED, "connect_not_supported"),
        };
    }
    if !head.path.starts_with('/') && head.path != "*" {
        return refuse(StatusCode::BAD_REQUEST, "missing_path_rejected");
    }
    if manager.normalize_path && head.path != "*" {
        match headers::normalize_path(&head.path) {
            Some(path) => head.path = path,
            None => return refuse(StatusCode::BAD_REQUEST, "path_normalization_failed"),
        }
    }
    if manager.merge_slashes {
        head.path = headers::merge_slashes(&head.path);
    }
    None
}

fn no_route() -> LocalReply {
    LocalReply::new(StatusCode::NOT_FOUND, "", "route_not_found", Flags::NR)
}

fn upgrade_wanted(head: &RequestHead) -> Option<String> {
    match &head.protocol {
        Some(protocol) => Some(protocol.to_ascii_lowercase()),
        // An upgrade to h2c is never followed: the request is served as it stands.
        None => headers::upgrade_of(&head.headers).filter(|p| p != "h2c"),
    }
}

fn upgrade_allowed(manager: &HttpManager, forward: &Forward, protocol: &str) -> bool {
    match forward.upgrades.iter().find(|(p, _)| p == protocol) {
        Some((_, enabled)) => *enabled,
        None => manager.upgrades.iter().any(|u| u == protocol),
    }
}

/// Answers to HEAD, 204 and 304 have no body, whatever their headers say.
fn bodiless(method: &Method, status: StatusCode) -> bool {
    method == Method::HEAD || status == StatusCode::NO_CONTENT || status == StatusCode::NOT_MODIFIED
}

async fn local(down: Downstream, record: Record, manager: &HttpManager, reply: LocalReply) {
    local_with(down, record, manager, reply, |_| {}).await;
}

async fn local_with(
    down: Downstream,
    mut record: Record,
    manager: &HttpManager,
    reply: LocalReply,
    adjust: impl FnOnce(&mut response::Parts),
) {
    record.flag(reply.flags);
    record.details(reply.details.clone());
    let (mut head, body) = reply.into_parts(record.is_grpc());
    adjust(&mut head);
    send_own(down, record, manager, head, body).await;
}

/// Sends an answer of our own.
async fn send_own(
    mut down: Downstream,
    mut record: Record,
    manager: &HttpManager,
    mut head: response::Parts,
    body: Bytes,
) {
    let bodiless = bodiless(&down.head.method, head.status);
    if !bodiless && !head.headers.contains_key(http::header::CONTENT_LENGTH) {
        head.headers
            .insert(http::header::CONTENT_LENGTH, body.len().into());
    }
    name_server(manager, &mut head);
    record.answered(&head);
    record.complete();
    if bodiless || body.is_empty() {
        down.send_head(head, true);
        return;
    }
    record.sent(&body);
    down.send_head(head, false);
    down.send(Frame::data(body), true).await;
}

fn name_server(manager: &HttpManager, head: &mut response::Parts) {
    if manager.server_header_pass_through {
        return;
    }
    let name = manager.server_name.as_deref().unwrap_or("envoy");
    headers::insert(&mut head.headers, SERVER, name);
}

/// The time for the whole request: the route's, or what gRPC asks for and the route allows.
fn whole_timeout(forward: &Forward, head: &RequestHead) -> Option<Duration> {
    let asked = forward
        .max_grpc_timeout
        .zip(grpc::timeout(&head.headers))
        .map(|(most, asked)| asked.min(most));
    asked.or(forward.timeout)
}

/// What carries a request to a cluster.
pub fn wire_of(cluster: &Cluster, head: &RequestHead, upgrade: bool) -> Wire {
    if upgrade {
        return Wire::Http1;
    }
    match cluster.http.version {
        UpstreamVersion::Http1 => Wire::Http1,
        UpstreamVersion::Http2 => Wire::Http2,
        UpstreamVersion::Downstream if head.version == Version::HTTP_2 => Wire::Http2,
        UpstreamVersion::Downstream => Wire::Http1,
        UpstreamVersion::Alpn => Wire::ByAlpn,
    }
}

/// The request for the engine; `None` when authority or path cannot be sent.
pub fn outgoing(head: &RequestHead, http2: bool, body: OutgoingBody) -> Option<http::Request<OutgoingBody>> {
    let path = if head.path.is_empty() {
        "/"
    } else {
        head.path.as_str()
    };
    let mut request = http::Request::new(body);
    if http2 {
        *request.uri_mut() = Uri::builder()
            .scheme(head.scheme)
            .authority(head.authority.as_str())
            .path_and_query(path)
            .build()
            .ok()?;
        *request.version_mut() = Version::HTTP_2;
    } else {
        *request.uri_mut() = path.parse().ok()?;
    }
    *request.method_mut() = head.method.clone();
    *request.headers_mut() = head.headers.clone();
    if !http2 {
        let host = HeaderValue::from_str(&head.authority).ok()?;
        request.headers_mut().insert(http::header::HOST, host);
    }
    Some(request)
}

/// The request's hash for consistent balancing, and a cookie to set when one was made for it.
fn hash_of(
    policies: &[HashPolicy],
    head: &RequestHead,
    record: &Record,
    cx: &Worker,
) -> (Option<u64>, Option<HeaderValue>) {
    let mut hash: Option<u64> = None;
    let mut set = None;
    for policy in policies {
        let key = match policy {
            HashPolicy::Header(name) => head.headers.get(name).map(|v| v.as_bytes().to_vec()),
            HashPolicy::Query(name) => head.view().query_value(name).map(|v| v.as_bytes().to_vec()),
            HashPolicy::SourceIp => Some(record.story.client.ip().to_string().into_bytes()),
            HashPolicy::Cookie { name, ttl, path } => match cookie(head, name) {
                Some(value) => Some(value.into_bytes()),
                None => ttl.map(|ttl| {
                    let value = format!("{:016x}", cx.rng.next());
                    let mut text = format!("{name}=\"{value}\"");
                    if !ttl.is_zero() {
                        text.push_str(&format!("; Max-Age={}", ttl.as_secs()));
                    }
                    if !path.is_empty() {
                        text.push_str(&format!("; Path={path}"));
                    }
                    text.push_str("; HttpOnly");
                    set = HeaderValue::from_str(&text).ok();
                    value.into_bytes()
                }),
            },
        };
        if let Some(key) = key {
            let next = xxh64(&key, 0);
            hash = Some(hash.map_or(next, |h| h.rotate_left(1) ^ next));
        }
    }
    (hash, set)
}

fn cookie(head: &RequestHead, name: &str) -> Option<String> {
    head.headers
        .get_all(http::header::COOKIE)
        .iter()
        .filter_map(|v| v.to_str().ok())
        .flat_map(|v| v.split(';'))
        .filter_map(|pair| pair.trim().split_once('='))
        .find(|(n, _)| *n == name)
        .map(|(_, v)| v.trim_matches('"').to_owned())
}

/// The clocks of one request.
struct Limits {
    start: Instant,
    whole: Option<Duration>,
    idle: Option<Duration>,
}

/// Which clock ran out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Late {
    Whole,
    PerTry,
    Idle,
}

impl Late {
    fn after_head(self) -> (Flags, &'static str) {
        match self {
            Self::Whole | Self::PerTry => (Flags::UT, "response_timeout"),
            Self::Idle => (Flags::SI, "stream_idle_timeout"),
        }
    }
}

impl Limits {
    /// Runs a step of the request under its clocks. The whole-request clock starts when the downstream has
    /// sent everything, as Envoy's does.
    async fn within<T>(
        &self,
        per_try: Option<Duration>,
        down: &Downstream,
        step: impl Future<Output = T>,
    ) -> Result<T, Late> {
        let whole = async {
            let Some(whole) = self.whole.filter(|d| !d.is_zero() && *d < Duration::MAX) else {
                return std::future::pending().await;
            };
            down.body.ended().await;
            let ended = down.body.ended_after().unwrap_or_default();
            tokio::time::sleep_until((self.start + ended + whole).into()).await;
        };
        let one_try = async {
            match per_try.filter(|d| !d.is_zero()) {
                Some(d) => tokio::time::sleep(d).await,
                None => std::future::pending().await,
            }
        };
        let idle = async {
            let Some(idle) = self.idle.filter(|d| !d.is_zero() && *d < Duration::MAX) else {
                return std::future::pending().await;
            };
            loop {
                let before = down.body.received();
                tokio::time::sleep(idle).await;
                if down.body.received() == before {
                    return;
                }
            }
        };
        tokio::select! {
            biased;
            done = step => Ok(done),
            () = whole => Err(Late::Whole),
            () = one_try => Err(Late::PerTry),
            () = idle => Err(Late::Idle),
        }
    }
}

/// Why an attempt brought no answer.
#[derive(Debug)]
enum Failure {
    Connect(ConnectError),
    Broken(Broken),
    Late(Late),
    Unsendable,
}

impl Failure {
    fn outcome(&self) -> Option<Outcome<'_>> {
        match self {
            Self::Connect(error) => Some(Outcome::Connect(error)),
            Self::Broken(broken) => Some(Outcome::Broken(broken)),
            Self::Late(Late::PerTry) => Some(Outcome::PerTryTimeout),
            Self::Late(_) | Self::Unsendable => None,
        }
    }

    fn reply(&self, retried: bool) -> LocalReply {
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
enum Verdict {
    Answered,
    NotDelivered,
}

/// Takes note of an answer for outlier detection.
fn judge(cluster: &Rc<ClusterState>, upstream: &Upstream) -> Verdict {
    let lease = upstream.lease();
    let proved = lease
        .link()
        .tls
        .as_ref()
        .is_some_and(|t| t.verified && !t.uris.is_empty());
    if proved && upstream.head.headers.contains_key(&NOT_DELIVERED) {
        match lease.host().gateway() {
            // The pod behind this connection is dead, the gateway is not.
            Some(_) => lease.doom(),
            None => cluster.note(lease.host(), Evidence::LocalFailure),
        }
        return Verdict::NotDelivered;
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

async fn pause(retries: &Retries<'_>, cx: &Worker, attempts: &mut Attempts<'_>) {
    if !retries.avoids_tried() {
        attempts.tried.clear();
    }
    tokio::time::sleep(retries.pause(&cx.rng)).await;
}

/// What every attempt of one request shares.
struct Attempts<'a> {
    cx: &'a Rc<Worker>,
    cluster: &'a Rc<ClusterState>,
    hash: Option<u64>,
    original: Option<std::net::SocketAddr>,
    wire: Wire,
    auto_host: bool,
    /// Tell peers of the mesh who we are.
    announce: bool,
    upgrade: Option<&'a str>,
    include_count: bool,
    tried: Vec<Rc<Host>>,
    /// A byte of the request may have reached an upstream.
    delivered: bool,
}

impl Attempts<'_> {
    /// One attempt: a host, a connection, the request, the head of the answer.
    async fn make(
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
            if self.auto_host
                && let Some(name) = &host.endpoint().hostname
            {
                head.authority = name.to_string();
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
                    if !matches!(broken, Broken::Downstream) {
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
        if let Ok(result) = tokio::time::timeout(after, racing.as_mut()).await {
            return result.map(|l| (first, l));
        }
        let other = match self.pick() {
            Ok(other) if !self.tried.iter().any(|t| Rc::ptr_eq(t, &other)) => other,
            _ => return racing.await.map(|l| (first, l)),
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

/// Asks an HTTP/1.1 upstream for the upgrade, also on behalf of an extended CONNECT (RFC 8441).
fn ask_upgrade(head: &mut RequestHead, protocol: &str, cx: &Worker) {
    head.headers
        .insert(http::header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers::insert(&mut head.headers, UPGRADE, protocol);
    if head.method == Method::CONNECT {
        head.method = Method::GET;
        if protocol == "websocket" && !head.headers.contains_key("sec-websocket-key") {
            let mut key = [0u8; 16];
            key[..8].copy_from_slice(&cx.rng.next().to_ne_bytes());
            key[8..].copy_from_slice(&cx.rng.next().to_ne_bytes());
            let key = base64::engine::general_purpose::STANDARD.encode(key);
            headers::insert(&mut head.headers, http::header::SEC_WEBSOCKET_KEY, &key);
        }
    }
}
