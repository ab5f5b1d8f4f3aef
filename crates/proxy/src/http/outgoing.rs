//! The request as it is sent: version, authority, upgrade, and its hash for consistent balancing.

use base64::Engine as _;
use http::header::UPGRADE;
use http::{HeaderValue, Method, Uri, Version};

use crate::config::Cluster;
use crate::config::cluster::UpstreamVersion;
use crate::config::route::HashPolicy;
use crate::telemetry::http::Record;
use crate::upstream::hash::xxh64;
use crate::upstream::pool::Wire;
use crate::worker::Worker;

use super::body::OutgoingBody;
use super::headers;
use super::stream::RequestHead;

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

/// Asks an HTTP/1.1 upstream for the upgrade, also on behalf of an extended CONNECT (RFC 8441).
pub fn ask_upgrade(head: &mut RequestHead, protocol: &str, cx: &Worker) {
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

/// The request's hash for consistent balancing, and a cookie to set when one was made for it.
pub fn hash_of(
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
            HashPolicy::Cookie {
                name,
                ttl,
                path,
                attributes,
            } => match cookie(head, name) {
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
                    text.push_str(attributes);
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
