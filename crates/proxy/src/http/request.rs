//! The request path, read from top to bottom: admission, route, filters, attempts, answer, record.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{LOCATION, SET_COOKIE, UPGRADE};
use http::{HeaderValue, Method, StatusCode, Version};

use crate::config::RouteTable;
use crate::config::http_filter::HttpFilter;
use crate::config::listener::{HttpManager, NetworkFilter, Routes, TrafficDirection};
use crate::config::route::{Action, Forward, HostRewrite, Target, VirtualHost};
use crate::telemetry::flags::Flags;
use crate::telemetry::http::Record;
use crate::telemetry::peer;
use crate::upstream::connect::ConnectError;
use crate::upstream::host::bump;
use crate::upstream::{Evidence, Held, PickError};
use crate::worker::Worker;

use super::attempt::{Attempts, Failure, Verdict, judge, pause};
use super::body::REPLAY_CAP;
use super::connection::{HttpConnection, InFlight};
use super::filters::{self, CorsVerdict};
use super::headers::{self, NOT_DELIVERED, ORIGINAL_HOST, ORIGINAL_PATH, SERVICE_TIME};
use super::limits::Limits;
use super::local_reply::LocalReply;
use super::outgoing::{hash_of, wire_of};
use super::own_answer::{add_to, bodiless, local, local_with, name_server, routed, send_own};
use super::retry::{Outcome, Retries};
use super::route::{self, Match, NoMatch};
use super::stream::{Broken, Downstream, RequestHead, answer};
use super::upgrade::{self, Tunnel};
use super::{grpc, mirror};

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
    record.keep_path(&down.head.path);
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
    // An answer of the proxy's own bears what the route adds to answers, whoever gives it.
    let operations = found
        .ok()
        .map(|m| [&m.route.headers, &m.host.headers, &table.headers]);
    let operations = operations.as_ref().map(<[_; 3]>::as_slice).unwrap_or_default();
    if let Ok(Match { host, route }) = found
        && !must_be_tls(host, &down.head)
    {
        if let Some(request) = &mut record.story.request {
            request.route = route.name.clone();
            request.virtual_host = host.name.clone();
        }
        if let Action::Forward(forward) = &route.action
            && let Target::Cluster(name) = &forward.target
            && let Some(cluster) = cx.upstreams.cluster(name)
        {
            record.chose(name, Some(&cluster));
        }
    }

    // Filters, in the order given.
    let mut allowed_origin = None;
    for filter in &manager.filters {
        match filter {
            HttpFilter::Rbac(rules) => {
                let rules = route_of_rules.and_then(|r| r.rbac.as_ref()).unwrap_or(rules);
                let client = record.story.client.ip();
                if let Some(reply) = filters::authorize(rules, facts, &down.head.view(), client) {
                    return routed(down, record, manager, reply, operations).await;
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
                    return routed(down, record, manager, reply, operations).await;
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
    if must_be_tls(host, &down.head) {
        let mut head = answer(StatusCode::MOVED_PERMANENTLY);
        let location = format!("https://{}{}", down.head.authority, down.head.path);
        headers::insert(&mut head.headers, LOCATION, &location);
        record.details("direct_response");
        return send_own(down, record, manager, head, Bytes::new()).await;
    }

    // Answers without an upstream.
    let forward = match &route.action {
        Action::Forward(forward) => forward,
        Action::Redirect(redirect) => {
            let mut head = answer(redirect.status);
            let location = route::location(redirect, &route.matches, &down.head.view());
            headers::insert(&mut head.headers, LOCATION, &location);
            record.answers(head.status);
            add_to(&mut head, operations, &record);
            record.details("direct_response");
            return send_own(down, record, manager, head, Bytes::new()).await;
        }
        Action::Respond(status, body) => {
            let mut head = answer(*status);
            if !body.is_empty() {
                let text = HeaderValue::from_static("text/plain");
                head.headers.insert(http::header::CONTENT_TYPE, text);
            }
            record.answers(head.status);
            add_to(&mut head, operations, &record);
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
                return routed(down, record, manager, reply, operations).await;
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
        return routed(down, record, manager, reply, operations).await;
    };
    record.chose(&name, Some(&cluster));
    let limit = cluster.config.limits.requests.max(1);
    let Some(_requests) = Held::take(&cluster, |c| &c.requests, limit) else {
        let reply = LocalReply::no_connection(&ConnectError::Overflow, false);
        return routed(down, record, manager, reply, operations).await;
    };

    // The request as the upstream shall see it.
    let member = match (&forward.target, member) {
        (Target::Weighted { clusters, .. }, Some(at)) => clusters.get(at),
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
    let asked_for = down.head.authority.clone();
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
    if down.head.authority != asked_for {
        headers::insert(&mut down.head.headers, ORIGINAL_HOST, &asked_for);
    }
    for level in member
        .iter()
        .map(|m| &m.headers)
        .chain(operations.iter().copied())
    {
        headers::apply(&level.request, &mut down.head.headers, &record.story);
    }
    if let Some(authority) = headers::authority_of(&mut down.head.headers) {
        down.head.authority = authority;
    }
    record.keep_authority(&down.head.authority);
    let (hash, cookie) = hash_of(&forward.hash_policy, &down.head, &record, &cx);
    let policy = forward.retry.as_deref().or(host.retry.as_deref());
    let mut retries = Retries::new(policy, &down.head.method);
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
        expected: None,
        tried: Vec::new(),
        delivered: false,
        movable: false,
        once: !down.head.method.is_safe(),
    };
    let (mut upstream, busy) = loop {
        record.count_attempt();
        let number = retries.made() + 1;
        let per_try = retries.per_try_timeout();
        attempts.expected = limits.expected(per_try, number == 1);
        attempts.movable = retries.may_move(&cluster);
        let attempt = attempts.make(&down, &mut record, number);
        let failure = match limits.within(per_try, &down, attempt).await {
            Ok(Ok((upstream, busy))) => {
                let status = upstream.head.status.as_u16();
                let verdict = judge(&cluster, &upstream);
                let outcome = match verdict {
                    Verdict::NotDelivered => Outcome::NotDelivered,
                    Verdict::Died => Outcome::Broken(&Broken::Terminated),
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
        if let Failure::Connect(ConnectError::Pick(PickError::NoHealthy)) = &failure
            && let Some(why) = cluster.last_failure()
        {
            // Why they are unhealthy is known from before.
            reply.body = format!("{}, transport failure reason: {why}", reply.body);
            record.story.upstream.transport_failure = Some(why.replace(' ', "_"));
        }
        if retries.exhausted {
            reply.flags = reply.flags.with(Flags::URX);
        }
        if let Failure::Connect(error) | Failure::Unreachable(error) = &failure
            && !matches!(error, ConnectError::Pick(_) | ConnectError::Overflow)
        {
            record.story.upstream.transport_failure = Some(error.transport_failure());
        }
        let fate = match &failure {
            _ if !inbound || facts.principal().is_none() => None,
            _ if !attempts.delivered => Some(headers::NEVER),
            Failure::Broken(Broken::Terminated) => Some(headers::PERHAPS),
            _ => None,
        };
        return local_with(down, record, manager, reply, operations, |head| {
            if let Some(fate) = fate {
                head.headers.insert(NOT_DELIVERED, fate);
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
    record.answers(head.status);
    for level in member
        .iter()
        .map(|m| &m.headers)
        .chain(operations.iter().copied())
    {
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

fn must_be_tls(host: &VirtualHost, head: &RequestHead) -> bool {
    host.require_tls && head.scheme != "https"
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

/// The time for the whole request: the route's, or what gRPC asks for and the route allows.
fn whole_timeout(forward: &Forward, head: &RequestHead) -> Option<Duration> {
    let asked = forward
        .max_grpc_timeout
        .zip(grpc::timeout(&head.headers))
        .map(|(most, asked)| asked.min(most));
    asked.or(forward.timeout)
}
