//! Header hygiene and the headers a proxy adds: hop-by-hop, forwarded-for, client certificate, request id.

use std::net::{IpAddr, SocketAddr};

use http::header::{
    CONNECTION, CONTENT_LENGTH, EXPECT, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE, TRAILER,
    TRANSFER_ENCODING, UPGRADE,
};
use http::{HeaderMap, HeaderName, HeaderValue};

use crate::config::listener::{ClientCertHeader, HttpManager};
use crate::config::route::HeaderOperation;
use crate::listener::Facts;
use crate::telemetry::format::header_value;
use crate::telemetry::peer;
use crate::telemetry::story::Story;
use crate::upstream::rng::Rng;

/// `x-request-id`.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// `x-forwarded-for`.
pub const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
/// `x-forwarded-proto`.
pub const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
/// `x-forwarded-host`.
pub const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
/// `x-forwarded-client-cert`.
pub const CLIENT_CERT: HeaderName = HeaderName::from_static("x-forwarded-client-cert");
/// `x-envoy-attempt-count`.
pub const ATTEMPT_COUNT: HeaderName = HeaderName::from_static("x-envoy-attempt-count");
/// `x-envoy-upstream-service-time`.
pub const SERVICE_TIME: HeaderName = HeaderName::from_static("x-envoy-upstream-service-time");
/// `x-envoy-original-host`.
pub const ORIGINAL_HOST: HeaderName = HeaderName::from_static("x-envoy-original-host");
/// `x-envoy-expected-rq-timeout-ms`.
pub const EXPECTED_TIMEOUT: HeaderName = HeaderName::from_static("x-envoy-expected-rq-timeout-ms");
/// `x-envoy-external-address`.
const EXTERNAL_ADDRESS: HeaderName = HeaderName::from_static("x-envoy-external-address");
/// `x-envoy-original-path`.
pub const ORIGINAL_PATH: HeaderName = HeaderName::from_static("x-envoy-original-path");
/// Set by a sidecar of the mesh on an answer of its own when the request never reached the application:
/// it may be sent elsewhere without asking what the method is.
pub const NOT_DELIVERED: HeaderName = HeaderName::from_static("x-isthmus-not-delivered");
/// Value of [`NOT_DELIVERED`]: the application never saw the request.
pub const NEVER: HeaderValue = HeaderValue::from_static("1");
/// Value of [`NOT_DELIVERED`]: the application died with the request in its hands, so that only what
/// changes nothing may be sent elsewhere.
pub const PERHAPS: HeaderValue = HeaderValue::from_static("perhaps");

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");

/// Headers with which an outsider could steer the proxy (Envoy's internal ones).
const INTERNAL: [&str; 13] = [
    "x-envoy-attempt-count",
    "x-envoy-decorator-operation",
    "x-envoy-expected-rq-timeout-ms",
    "x-envoy-force-trace",
    "x-envoy-hedge-on-per-try-timeout",
    "x-envoy-internal",
    "x-envoy-ip-tags",
    "x-envoy-max-retries",
    "x-envoy-original-path",
    "x-envoy-retry-grpc-on",
    "x-envoy-retry-on",
    "x-envoy-upstream-alt-stat-name",
    "x-envoy-upstream-rq-timeout-ms",
];

/// The protocol a request wants to switch to, when it says so properly.
pub fn upgrade_of(headers: &HeaderMap) -> Option<String> {
    let asked = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|v| v.to_str().ok())
        .flat_map(|v| v.split(','))
        .any(|t| t.trim().eq_ignore_ascii_case("upgrade"));
    if !asked {
        return None;
    }
    let protocol = headers.get(UPGRADE)?.to_str().ok()?;
    Some(protocol.trim().to_ascii_lowercase())
}

/// Removes what is meant for this hop alone (RFC 9110 7.6.1), and what `connection` names. Headers that
/// decide about identity or routing cannot be named away.
pub fn strip_hop_by_hop(headers: &mut HeaderMap, request: bool) {
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|v| v.to_str().ok())
        .flat_map(|v| v.split(','))
        .filter_map(|t| t.trim().parse::<HeaderName>().ok())
        .filter(|n| {
            let n = n.as_str();
            !n.starts_with("x-forwarded-")
                && !n.starts_with("x-envoy-")
                && n != "authorization"
                && n != "cookie"
        })
        .take(32)
        .collect();
    let trailers = headers
        .get_all(TE)
        .iter()
        .filter_map(|v| v.to_str().ok())
        .flat_map(|v| v.split(','))
        .any(|t| t.trim().eq_ignore_ascii_case("trailers"));
    // With both, the length is whatever the sender hopes somebody believes.
    if headers.contains_key(TRANSFER_ENCODING) {
        headers.remove(CONTENT_LENGTH);
    }
    for name in named {
        headers.remove(name);
    }
    for name in [
        CONNECTION,
        KEEP_ALIVE,
        PROXY_CONNECTION,
        TRANSFER_ENCODING,
        UPGRADE,
        HTTP2_SETTINGS,
    ] {
        headers.remove(name);
    }
    if request {
        headers.remove(TE);
        headers.remove(EXPECT);
        headers.remove(PROXY_AUTHORIZATION);
        if trailers {
            headers.insert(TE, HeaderValue::from_static("trailers"));
        }
    } else {
        headers.remove(PROXY_AUTHENTICATE);
        headers.remove(TRAILER);
    }
}

/// The client's address as trusted headers give it, and the forwarding headers for the next hop.
pub fn forward(manager: &HttpManager, facts: &Facts, headers: &mut HeaderMap, rng: &Rng) -> SocketAddr {
    let given: Vec<IpAddr> = headers
        .get_all(&FORWARDED_FOR)
        .iter()
        .filter_map(|v| v.to_str().ok())
        .flat_map(|v| v.split(','))
        .filter_map(|a| a.trim().parse().ok())
        .collect();
    let hops = manager.trusted_hops as usize;
    let scheme = if facts.tls.is_some() { "https" } else { "http" };
    let client = if manager.use_remote_address {
        // At the edge the peer is the client, unless trusted proxies stand before us.
        let client = match hops {
            0 => facts.source,
            n => given
                .len()
                .checked_sub(n)
                .and_then(|at| given.get(at))
                .map_or(facts.source, |ip| SocketAddr::new(*ip, 0)),
        };
        let mut text = String::new();
        for value in headers.get_all(&FORWARDED_FOR) {
            if let Ok(value) = value.to_str() {
                text.push_str(value);
                text.push(',');
            }
        }
        text.push_str(&facts.source.ip().to_string());
        insert(headers, FORWARDED_FOR, &text);
        if hops == 0 || !headers.contains_key(&FORWARDED_PROTO) {
            headers.insert(FORWARDED_PROTO, HeaderValue::from_static(scheme));
        }
        client
    } else {
        if !headers.contains_key(&FORWARDED_PROTO) {
            headers.insert(FORWARDED_PROTO, HeaderValue::from_static(scheme));
        }
        given
            .len()
            .checked_sub(hops + 1)
            .and_then(|at| given.get(at))
            .map_or(facts.source, |ip| SocketAddr::new(*ip, 0))
    };
    // At the edge everybody is an outsider, whatever the address: Envoy's default since 1.33.
    let outsider = manager.use_remote_address;
    if outsider {
        for name in INTERNAL {
            headers.remove(name);
        }
        insert(headers, EXTERNAL_ADDRESS, &client.ip().to_string());
    }
    let keep = !outsider || manager.preserve_external_request_id;
    if manager.generate_request_id && !(keep && headers.contains_key(&REQUEST_ID)) {
        insert(headers, REQUEST_ID, &uuid(rng));
    }
    client
}

/// A random UUID (RFC 9562, version 4).
pub fn uuid(rng: &Rng) -> String {
    let (a, b) = (rng.next(), rng.next());
    format!(
        "{:08x}-{:04x}-4{:03x}-{:04x}-{:012x}",
        a >> 32,
        (a >> 16) & 0xffff,
        a & 0xfff,
        (b >> 48) & 0x3fff | 0x8000,
        b & 0xffff_ffff_ffff
    )
}

/// `x-forwarded-client-cert`, as the listener is told to treat it.
pub fn client_certificate(mode: ClientCertHeader, facts: &Facts, headers: &mut HeaderMap) {
    let mutual = facts.tls.as_ref().filter(|t| t.verified);
    match (mode, mutual) {
        (ClientCertHeader::AlwaysForwardOnly, _) | (ClientCertHeader::ForwardOnly, Some(_)) => {}
        (ClientCertHeader::AppendForward, Some(tls)) => {
            let element = client_certificate_element(tls);
            let text = match headers.get(&CLIENT_CERT).and_then(|v| v.to_str().ok()) {
                Some(before) if !before.is_empty() => format!("{before},{element}"),
                _ => element,
            };
            insert(headers, CLIENT_CERT, &text);
        }
        (ClientCertHeader::SanitizeSet, Some(tls)) => {
            insert(headers, CLIENT_CERT, &client_certificate_element(tls));
        }
        _ => {
            headers.remove(&CLIENT_CERT);
        }
    }
}

fn client_certificate_element(tls: &crate::tls::TlsPeer) -> String {
    let mut out = String::new();
    for by in &tls.local_uris {
        out.push_str("By=");
        out.push_str(by);
        out.push(';');
    }
    out.push_str("Hash=");
    out.push_str(&tls.fingerprint);
    out.push_str(";Subject=\"");
    out.push_str(&tls.subject.replace('\\', "\\\\").replace('"', "\\\""));
    out.push('"');
    for uri in &tls.uris {
        out.push_str(";URI=");
        out.push_str(uri);
    }
    for dns in &tls.dns_names {
        out.push_str(";DNS=");
        out.push_str(dns);
    }
    out
}

/// Applies operations whose values may hold `%...%`.
pub fn apply(operations: &[HeaderOperation], headers: &mut HeaderMap, story: &Story) {
    for operation in operations {
        match operation {
            HeaderOperation::Remove(name) => {
                headers.remove(name);
            }
            HeaderOperation::Append(name, value) => {
                if let Ok(value) = HeaderValue::from_str(&header_value(value, story)) {
                    headers.append(name, value);
                }
            }
            HeaderOperation::Set(name, value) => insert(headers, name.clone(), &header_value(value, story)),
            HeaderOperation::AddIfAbsent(name, value) => {
                if !headers.contains_key(name) {
                    insert(headers, name.clone(), &header_value(value, story));
                }
            }
        }
    }
}

/// The new authority when operations on `host` or `:authority` set one.
pub fn authority_of(headers: &mut HeaderMap) -> Option<String> {
    let value = headers.remove(http::header::HOST)?;
    value.to_str().ok().map(str::to_owned)
}

/// Removes what the mesh's proxies tell each other.
pub fn strip_peer_metadata(headers: &mut HeaderMap) {
    headers.remove(peer::METADATA);
    headers.remove(peer::METADATA_ID);
}

/// Sets a header when the text can be one.
pub fn insert(headers: &mut HeaderMap, name: HeaderName, text: &str) {
    if let Ok(value) = HeaderValue::from_str(text) {
        headers.insert(name, value);
    }
}

/// `normalize_path` (RFC 3986 6): dot segments and needless percent-encoding away; `None` for a path that
/// climbs out of the root or has no leading slash.
pub fn normalize_path(path_and_query: &str) -> Option<String> {
    let end = path_and_query.find(['?', '#']).unwrap_or(path_and_query.len());
    let (path, query) = path_and_query.split_at(end);
    if !path.starts_with('/') {
        return None;
    }
    let decoded = decode_unreserved(path).replace('\\', "/");
    let mut segments: Vec<&str> = Vec::new();
    let mut directory = false;
    for segment in decoded.split('/').skip(1) {
        directory = false;
        match segment {
            "." => directory = true,
            ".." => {
                segments.pop()?;
                directory = true;
            }
            other => segments.push(other),
        }
    }
    let mut out = String::with_capacity(path_and_query.len());
    for segment in &segments {
        out.push('/');
        out.push_str(segment);
    }
    if out.is_empty() || (directory && !out.ends_with('/')) {
        out.push('/');
    }
    out.push_str(query);
    Some(out)
}

/// `%41` is `A`: unreserved characters stand for themselves.
fn decode_unreserved(path: &str) -> String {
    let bytes = path.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let code = (bytes[at] == b'%')
            .then(|| path.get(at + 1..at + 3))
            .flatten()
            .and_then(|hex| u8::from_str_radix(hex, 16).ok());
        match code {
            Some(c) if c.is_ascii_alphanumeric() || b"-._~".contains(&c) => {
                out.push(c);
                at += 3;
            }
            _ => {
                out.push(bytes[at]);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// `merge_slashes`.
pub fn merge_slashes(path_and_query: &str) -> String {
    let end = path_and_query.find('?').unwrap_or(path_and_query.len());
    let (path, query) = path_and_query.split_at(end);
    let mut out = String::with_capacity(path_and_query.len());
    let mut slash = false;
    for c in path.chars() {
        if c == '/' && slash {
            continue;
        }
        slash = c == '/';
        out.push(c);
    }
    out.push_str(query);
    out
}
