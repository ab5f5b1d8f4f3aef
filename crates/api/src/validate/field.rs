//! Rules for single values that many kinds share: hosts, ports, addresses, patterns, durations.

use std::collections::HashSet;
use std::net::IpAddr;

use ipnet::IpNet;
use isthmus_model::Hostname;
use regex::RegexBuilder;

use super::At;
use super::metadata::{clip, is_dns_label, labels};
use crate::codes;
use crate::duration::Duration;
use crate::istio::virtual_service::Percent;
use crate::istio::{LabelSelector, TargetRef, WorkloadSelector};

/// Protocols of ports, in the spelling of the API.
const PROTOCOLS: &[&str] = &[
    "HTTP", "HTTPS", "HTTP2", "GRPC", "GRPC-WEB", "TCP", "TLS", "MONGO", "MYSQL", "REDIS", "UDP",
];

/// A host; wildcards as the first label where `wildcard` says so. A single label is a short name.
pub(super) fn host(host: &str, wildcard: bool, at: &At<'_>) {
    match host.parse::<Hostname>() {
        Err(e) => at.error(e, "correct the host name"),
        Ok(h) if h.is_wildcard() && !wildcard => {
            at.error(format_args!("{:?} has a wildcard", clip(host)), "name one host");
        }
        Ok(h)
            if h.as_str().bytes().all(|b| b.is_ascii_digit() || b == b'.')
                && host.parse::<IpAddr>().is_err() =>
        {
            at.error(
                format_args!("{:?} is neither a host name nor an address", clip(host)),
                "correct it",
            );
        }
        Ok(_) => {}
    }
}

/// `[namespace/]host` as Gateways and Sidecars write it; `*`, `.` and `~` may stand for a namespace.
pub(super) fn namespaced_host(text: &str, namespace_required: bool, at: &At<'_>) {
    let name = match text.split_once('/') {
        None if namespace_required => {
            at.error(
                format_args!("{:?} names no namespace", clip(text)),
                format_args!("write namespace/host, as in */{} or ./{}", clip(text), clip(text)),
            );
            return;
        }
        None => text,
        Some((namespace, name)) => {
            if !matches!(namespace, "*" | "." | "~") && !is_dns_label(namespace) {
                at.error(
                    format_args!("{:?} is not a namespace", clip(namespace)),
                    "write *, . or a namespace's name",
                );
            }
            if namespace == "~" && name != "*" {
                at.error("~ stands for no namespace at all", "write ~/*");
            }
            name
        }
    };
    host(name, true, at);
    if !name.contains('.') && name != "*" && !name.contains(':') {
        at.error(
            format_args!("{:?} is a short name", clip(name)),
            "write the full host name",
        );
    }
}

/// A port that must be there: 1 to 65535.
pub(super) fn port(number: u16, at: &At<'_>) {
    if number == 0 {
        at.error("the port is missing or 0", "write a port from 1 to 65535");
    }
}

/// A port that may be there.
pub(super) fn optional_port(number: Option<u16>, at: &At<'_>) {
    if number == Some(0) {
        at.error("0 is not a port", "write a port from 1 to 65535");
    }
}

/// A port's protocol.
pub(super) fn protocol(protocol: &str, at: &At<'_>) {
    let upper = protocol.to_ascii_uppercase();
    if PROTOCOLS.contains(&upper.as_str()) {
        return;
    }
    let remedy = match crate::suggest::nearest(protocol, PROTOCOLS.iter().copied()) {
        Some(name) => format!("did you mean {name}?"),
        None => format!("write one of {}", PROTOCOLS.join(", ")),
    };
    at.error(format_args!("{:?} is not a protocol", clip(protocol)), remedy);
}

/// A port's name.
pub(super) fn port_name(name: &str, at: &At<'_>) {
    if name.is_empty() {
        at.error(
            "the port has no name",
            "add name, beginning with the protocol, as in http-web",
        );
    } else if !is_dns_label(&name.to_ascii_lowercase()) {
        at.error(
            format_args!("{:?} is not a port name", clip(name)),
            "use at most 63 letters, digits and '-'",
        );
    }
}

/// An IP or CIDR; what was read, for rules that go on.
pub(super) fn address_or_cidr(text: &str, at: &At<'_>) -> Option<IpNet> {
    let parsed = if text.contains('/') {
        text.parse::<IpNet>().ok()
    } else {
        text.parse::<IpAddr>().ok().map(IpNet::from)
    };
    match parsed {
        None => at.error(
            format_args!("{:?} is not an address or CIDR", clip(text)),
            "write it as 10.0.0.1, 10.0.0.0/8 or 2001:db8::/32",
        ),
        Some(net) if net.trunc() != net => at.warn(
            format_args!("{net} has bits beyond its prefix, which are ignored"),
            format_args!("write {}", net.trunc()),
        ),
        Some(_) => {}
    }
    parsed
}

/// A list of namespaces that see an object.
pub(super) fn export_to(list: &[String], at: &At<'_>) {
    let mut seen = HashSet::new();
    for (i, name) in list.iter().enumerate() {
        if !matches!(name.as_str(), "*" | "." | "~") && !is_dns_label(name) {
            at.index(i).error(
                format_args!("{:?} is not a namespace", clip(name)),
                "write *, ., ~ or a namespace's name",
            );
        }
        if !seen.insert(name) {
            at.index(i)
                .error(format_args!("{name:?} stands here twice"), "remove one of them");
        }
        if matches!(name.as_str(), "*" | "~") && list.len() > 1 {
            at.index(i).error(
                format_args!("{name:?} excludes any other entry"),
                "keep it alone, or remove it",
            );
        }
    }
}

/// A regular expression in the dialect of Envoy (RE2), bounded in size.
pub(super) fn pattern(regex: &str, at: &At<'_>) {
    if regex.is_empty() {
        at.error("the regular expression is empty", "write .* to match everything");
        return;
    }
    if regex.len() > 1024 {
        at.error(
            format_args!("the regular expression has {} bytes, more than 1024", regex.len()),
            "shorten it, or use several matches",
        );
        return;
    }
    if let Err(e) = RegexBuilder::new(regex).size_limit(1 << 20).build() {
        let reason = e.to_string();
        let reason = reason
            .lines()
            .last()
            .unwrap_or_default()
            .trim_start_matches("error: ")
            .to_owned();
        at.finding(
            &codes::INVALID_REGEXP,
            format_args!("{:?} is not a regular expression: {reason}", clip(regex)),
            "correct it; the syntax is RE2, without look-around and back-references",
        );
    }
}

/// A name of a header, perhaps with wildcards elsewhere handled.
pub(super) fn header_name(name: &str, at: &At<'_>) {
    let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    let bare = name.strip_prefix(':').unwrap_or(name);
    if bare.is_empty() || !bare.bytes().all(token) {
        at.error(
            format_args!("{:?} is not a header's name", clip(name)),
            "use letters, digits and '-'",
        );
    }
}

/// A time that must be 0 or at least a millisecond.
pub(super) fn whole_milliseconds(duration: Option<Duration>, at: &At<'_>) {
    if let Some(d) = duration
        && d.subsec_nanos() % 1_000_000 != 0
    {
        at.error(
            format_args!("{d} is finer than a millisecond"),
            "write whole milliseconds",
        );
    }
}

/// A time that must be at least a millisecond.
pub(super) fn positive(duration: Option<Duration>, at: &At<'_>) {
    whole_milliseconds(duration, at);
    if duration.is_some_and(|d| d.is_zero()) {
        at.error("the time is 0", "write at least 1ms");
    }
}

/// A share from 0 to 100.
pub(super) fn percent(value: f64, at: &At<'_>) {
    if !(0.0..=100.0).contains(&value) {
        at.error(
            format_args!("{value} is not a percentage"),
            "write a number from 0 to 100",
        );
    }
}

/// A share from 0 to 100, if there is one.
pub(super) fn optional_percent(share: Option<&Percent>, at: &At<'_>) {
    if let Some(share) = share {
        percent(share.value, &at.field("value"));
    }
}

/// `selector.matchLabels`.
pub(super) fn label_selector(selector: Option<&LabelSelector>, at: &At<'_>) {
    if let Some(selector) = selector {
        labels(&selector.match_labels, &at.field("matchLabels"));
    }
}

/// `workloadSelector.labels`.
pub(super) fn workload_selector(selector: Option<&WorkloadSelector>, at: &At<'_>) {
    if let Some(selector) = selector {
        labels(&selector.labels, &at.field("labels"));
    }
}

/// `selector` and `targetRefs` exclude each other.
pub(super) fn attachment(
    selector: bool,
    target_ref: Option<&TargetRef>,
    target_refs: &[TargetRef],
    at: &At<'_>,
) {
    let refs = usize::from(target_ref.is_some()) + target_refs.len();
    if selector && refs > 0 {
        at.field("targetRefs")
            .error("selector and targetRefs exclude each other", "keep one of them");
    }
    let named = target_ref.map(|r| ("targetRef", r)).into_iter();
    for (name, target) in named.chain(target_refs.iter().map(|r| ("targetRefs", r))) {
        if target.kind.is_empty() || target.name.is_empty() {
            at.field(name)
                .error("a target has no kind or no name", "add both");
        }
        if !target.namespace.is_empty() && target.namespace != at.meta().namespace {
            at.field(name).error(
                "a target stands in another namespace",
                "name one in the policy's own namespace",
            );
        }
    }
}

/// Positions of the values that stood earlier in the list as well.
pub(super) fn repeated<T: std::hash::Hash + Eq>(values: impl Iterator<Item = T>) -> Vec<usize> {
    let mut seen = HashSet::new();
    values
        .enumerate()
        .filter_map(|(i, v)| (!seen.insert(v)).then_some(i))
        .collect()
}
