//! Envoy's `%...%` operators, for access logs and header values.

use std::fmt::Write as _;
use std::time::UNIX_EPOCH;

use http::HeaderMap;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::story::Story;

/// Istio's default line.
pub const ISTIO_DEFAULT: &str = "[%START_TIME%] \"%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% \
    %PROTOCOL%\" %RESPONSE_CODE% %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS% %CONNECTION_TERMINATION_DETAILS% \
    \"%UPSTREAM_TRANSPORT_FAILURE_REASON%\" %BYTES_RECEIVED% %BYTES_SENT% %DURATION% \
    %RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% \"%REQ(X-FORWARDED-FOR)%\" \"%REQ(USER-AGENT)%\" \
    \"%REQ(X-REQUEST-ID)%\" \"%REQ(:AUTHORITY)%\" \"%UPSTREAM_HOST%\" %UPSTREAM_CLUSTER_RAW% \
    %UPSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_REMOTE_ADDRESS% \
    %REQUESTED_SERVER_NAME% %ROUTE_NAME%\n";

/// A piece of a format.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// As it stands.
    Text(String),
    /// An operator, its argument, and the greatest length of its value.
    Operator(String, Option<String>, Option<usize>),
}

/// Cuts a format into its parts. `%%` stands for one `%`; what is no operator stays as it stands.
pub fn parse(format: &str) -> Vec<Part> {
    let mut parts = Vec::new();
    let mut text = String::new();
    let mut rest = format;
    while let Some(at) = rest.find('%') {
        text.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('%') {
            text.push('%');
            rest = after;
            continue;
        }
        match operator(rest) {
            Some((part, after)) => {
                if !text.is_empty() {
                    parts.push(Part::Text(std::mem::take(&mut text)));
                }
                parts.push(part);
                rest = after;
            }
            None => text.push('%'),
        }
    }
    text.push_str(rest);
    if !text.is_empty() {
        parts.push(Part::Text(text));
    }
    parts
}

/// `NAME%`, `NAME(ARGUMENT)%`, `NAME(ARGUMENT):LENGTH%`, after the opening `%`.
fn operator(rest: &str) -> Option<(Part, &str)> {
    let end = rest.find(|c: char| !(c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_'))?;
    if end == 0 {
        return None;
    }
    let (name, mut after) = rest.split_at(end);
    let mut argument = None;
    if let Some(inside) = after.strip_prefix('(') {
        let close = inside.find(')')?;
        argument = Some(inside[..close].to_owned());
        after = &inside[close + 1..];
    }
    let mut length = None;
    if let Some(digits) = after.strip_prefix(':') {
        let end = digits.find('%')?;
        length = Some(digits[..end].parse().ok()?);
        after = &digits[end..];
    }
    let after = after.strip_prefix('%')?;
    Some((Part::Operator(name.to_owned(), argument, length), after))
}

/// Writes a story in a format; what is not known becomes `-`.
pub fn write(parts: &[Part], story: &Story, out: &mut String) {
    for part in parts {
        match part {
            Part::Text(text) => out.push_str(text),
            Part::Operator(name, argument, length) => match value(name, argument.as_deref(), story) {
                Some(value) => out.push_str(cut(&value, *length)),
                None => out.push('-'),
            },
        }
    }
}

/// A header value with its operators filled in; what is not known becomes empty.
pub fn header_value(format: &str, story: &Story) -> String {
    if !format.contains('%') {
        return format.to_owned();
    }
    let mut out = String::new();
    for part in parse(format) {
        match part {
            Part::Text(text) => out.push_str(&text),
            Part::Operator(name, argument, length) => {
                if let Some(value) = value(&name, argument.as_deref(), story) {
                    out.push_str(cut(&value, length));
                }
            }
        }
    }
    out
}

/// A JSON value of one format string: a number where the only part is a number, null for nothing.
pub fn json(parts: &[Part], story: &Story) -> serde_json::Value {
    if let [Part::Operator(name, argument, length)] = parts {
        let Some(value) = value(name, argument.as_deref(), story) else {
            return serde_json::Value::Null;
        };
        let numeric = name.starts_with("BYTES_") || name.ends_with("DURATION") || name == "RESPONSE_CODE";
        if numeric && let Ok(n) = value.parse::<u64>() {
            return n.into();
        }
        return cut(&value, *length).into();
    }
    let mut out = String::new();
    write(parts, story, &mut out);
    out.into()
}

fn cut(value: &str, length: Option<usize>) -> &str {
    let Some(length) = length.filter(|l| *l < value.len()) else {
        return value;
    };
    let mut end = length;
    while !value.is_char_boundary(end) {
        end -= 1;
    }
    &value[..end]
}

/// The value of one operator; `None` when nothing is known or the operator is not.
fn value(name: &str, argument: Option<&str>, story: &Story) -> Option<String> {
    let facts = &story.facts;
    let request = story.request.as_ref();
    let peer = facts.tls.as_deref();
    let millis = |d: std::time::Duration| d.as_millis().to_string();
    let not_empty = |s: String| (!s.is_empty()).then_some(s);
    match name {
        "START_TIME" => start_time(argument, story),
        "PROTOCOL" => request.map(|r| r.protocol.to_owned()),
        "RESPONSE_CODE" => Some(story.response.code.to_string()),
        "RESPONSE_FLAGS" => Some(story.flags.to_string()),
        "RESPONSE_CODE_DETAILS" => not_empty(story.response.details.replace([' ', '\n', '\t'], "_")),
        "CONNECTION_TERMINATION_DETAILS" => story.termination.clone(),
        "UPSTREAM_TRANSPORT_FAILURE_REASON" => story.upstream.transport_failure.clone(),
        "BYTES_RECEIVED" => Some(story.received.to_string()),
        "BYTES_SENT" => Some(story.sent.to_string()),
        "DURATION" => Some(millis(story.start.elapsed())),
        "REQUEST_DURATION" => story.response.request_complete.map(millis),
        "RESPONSE_DURATION" => story.response.first_byte.map(millis),
        "RESPONSE_TX_DURATION" => story
            .response
            .first_byte
            .map(|d| millis(story.start.elapsed().saturating_sub(d))),
        "REQ" => header_or(argument?, |name| request_header(name, story)),
        "RESP" => header_or(argument?, |name| of(&story.response.headers, name)),
        "TRAILER" => header_or(argument?, |name| of(&story.response.trailers, name)),
        "UPSTREAM_HOST" | "UPSTREAM_REMOTE_ADDRESS" => story.upstream.host.clone(),
        "UPSTREAM_CLUSTER" | "UPSTREAM_CLUSTER_RAW" => {
            story.upstream.cluster.as_ref().map(ToString::to_string)
        }
        "UPSTREAM_LOCAL_ADDRESS" => story.upstream.local.map(|a| a.to_string()),
        "UPSTREAM_PEER_URI_SAN" => story.upstream.tls.as_ref()?.uris.first().map(ToString::to_string),
        "UPSTREAM_REQUEST_ATTEMPT_COUNT" => request.map(|r| r.attempts.to_string()),
        "DOWNSTREAM_LOCAL_ADDRESS" => Some(facts.destination.to_string()),
        "DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT" => Some(facts.destination.ip().to_string()),
        "DOWNSTREAM_LOCAL_PORT" => Some(facts.destination.port().to_string()),
        "DOWNSTREAM_REMOTE_ADDRESS" => Some(story.client.to_string()),
        "DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT" => Some(story.client.ip().to_string()),
        "DOWNSTREAM_REMOTE_PORT" => Some(story.client.port().to_string()),
        "DOWNSTREAM_DIRECT_REMOTE_ADDRESS" => Some(facts.peer.to_string()),
        "DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT" => Some(facts.peer.ip().to_string()),
        "DOWNSTREAM_PEER_URI_SAN" => peer?.uris.first().map(ToString::to_string),
        "DOWNSTREAM_LOCAL_URI_SAN" => peer?.local_uris.first().map(ToString::to_string),
        "DOWNSTREAM_PEER_SUBJECT" => not_empty(peer?.subject.clone()),
        "DOWNSTREAM_LOCAL_SUBJECT" => not_empty(peer?.local_subject.clone()),
        "DOWNSTREAM_PEER_FINGERPRINT_256" => not_empty(peer?.fingerprint.clone()),
        "DOWNSTREAM_TLS_VERSION" => not_empty(peer?.version.to_owned()),
        "DOWNSTREAM_TLS_CIPHER" => not_empty(peer?.cipher.clone()),
        "REQUESTED_SERVER_NAME" => facts.server_name.as_ref().map(ToString::to_string),
        "ROUTE_NAME" => request.and_then(|r| not_empty(r.route.to_string())),
        "VIRTUAL_CLUSTER_NAME" => request.and_then(|r| not_empty(r.virtual_host.to_string())),
        "GRPC_STATUS" | "GRPC_STATUS_NUMBER" => story.response.grpc_status.map(|s| s.to_string()),
        "CONNECTION_ID" => Some(facts.id.to_string()),
        "FILTER_CHAIN_NAME" => Some(facts.listener.to_string()),
        "HOSTNAME" => nix::unistd::gethostname().ok()?.into_string().ok(),
        _ => None,
    }
}

/// `NAME?ALTERNATIVE`.
fn header_or(argument: &str, find: impl Fn(&str) -> Option<String>) -> Option<String> {
    match argument.split_once('?') {
        Some((name, other)) => find(name).or_else(|| find(other)),
        None => find(argument),
    }
}

fn request_header(name: &str, story: &Story) -> Option<String> {
    let request = story.request.as_ref()?;
    if name.eq_ignore_ascii_case(":method") {
        return Some(request.method.to_string());
    }
    if name.eq_ignore_ascii_case(":path") {
        return Some(request.rewritten.as_ref().unwrap_or(&request.path).clone());
    }
    if name.eq_ignore_ascii_case("x-envoy-original-path") {
        return request.rewritten.is_some().then(|| request.path.clone());
    }
    if name.eq_ignore_ascii_case(":authority") || name.eq_ignore_ascii_case("host") {
        return Some(request.authority.clone()).filter(|a| !a.is_empty());
    }
    if name.eq_ignore_ascii_case(":scheme") {
        return Some(request.scheme.to_owned());
    }
    of(&request.headers, name)
}

fn of(headers: &HeaderMap, name: &str) -> Option<String> {
    // Quotes and line breaks of a peer must not forge a log line.
    let value = headers.get(name)?;
    let text = String::from_utf8_lossy(value.as_bytes());
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            c if c.is_control() => {
                let _ = write!(out, "\\x{:02x}", c as u32);
            }
            c => out.push(c),
        }
    }
    Some(out)
}

fn start_time(argument: Option<&str>, story: &Story) -> Option<String> {
    let since = story.start_time.duration_since(UNIX_EPOCH).ok()?;
    match argument {
        Some("%s") => return Some(since.as_secs().to_string()),
        Some("%s.%3f") => return Some(format!("{}.{:03}", since.as_secs(), since.subsec_millis())),
        _ => {}
    }
    let nanos = (since.as_millis() as i128) * 1_000_000;
    let time = OffsetDateTime::from_unix_timestamp_nanos(nanos).ok()?;
    let text = time.format(&Rfc3339).ok()?;
    let (head, _) = text.split_at(19.min(text.len()));
    Some(format!("{head}.{:03}Z", since.subsec_millis()))
}
