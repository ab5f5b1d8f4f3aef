//! HTTP routes of a VirtualService.

use std::collections::BTreeMap;

use super::super::At;
use super::super::field::{
    header_name, optional_percent, optional_port, pattern, percent, positive, whole_milliseconds,
};
use super::super::metadata::{clip, is_dns_label, labels};
use super::{destination, gateways, weights};
use crate::codes;
use crate::enforcement;
use crate::istio::StringMatch;
use crate::istio::virtual_service::{
    CorsPolicy, HeaderOperations, Headers, HttpDirectResponse, HttpFaultInjection, HttpMatchRequest,
    HttpRetry, HttpRewrite, HttpRoute,
};

const RETRY_CONDITIONS: &[&str] = &[
    "5xx",
    "gateway-error",
    "reset",
    "reset-before-request",
    "connect-failure",
    "retriable-4xx",
    "refused-stream",
    "retriable-status-codes",
    "retriable-headers",
    "envoy-ratelimited",
    "http3-post-connect-failure",
    "cancelled",
    "deadline-exceeded",
    "internal",
    "resource-exhausted",
    "unavailable",
];

/// Checks the routes in their order, since the first match wins.
pub(super) fn routes(routes: &[HttpRoute], delegate: bool, at: &At<'_>) {
    for (i, r) in routes.iter().enumerate() {
        route(r, delegate, &at.index(i));
    }
    reachable(routes, at);
}

fn route(route: &HttpRoute, delegate: bool, at: &At<'_>) {
    for (i, m) in route.matches.iter().enumerate() {
        request(m, &at.field("match").index(i));
    }
    answer(route, delegate, at);
    for (i, r) in route.route.iter().enumerate() {
        let at = at.field("route").index(i);
        destination(&r.destination, &at.field("destination"));
        headers(r.headers.as_ref(), &at.field("headers"));
    }
    weights(route.route.iter().map(|r| r.weight), &at.field("route"));
    whole_milliseconds(route.timeout, &at.field("timeout"));
    if let Some(r) = &route.retries {
        retries(r, &at.field("retries"));
    }
    if let Some(f) = &route.fault {
        fault(f, &at.field("fault"));
    }
    mirrors(route, at);
    if let Some(cors) = &route.cors_policy {
        cors_policy(cors, &at.field("corsPolicy"));
    }
    headers(route.headers.as_ref(), &at.field("headers"));
    if let Some(r) = &route.rewrite {
        rewrite(r, route, &at.field("rewrite"));
    }
}

/// Exactly one of route, redirect, directResponse and delegate.
fn answer(route: &HttpRoute, delegate: bool, at: &At<'_>) {
    let given: Vec<&str> = [
        ("route", !route.route.is_empty()),
        ("redirect", route.redirect.is_some()),
        ("directResponse", route.direct_response.is_some()),
        ("delegate", route.delegate.is_some()),
    ]
    .into_iter()
    .filter_map(|(name, set)| set.then_some(name))
    .collect();
    match given.as_slice() {
        [] => at.error(
            "the route leads nowhere",
            "add route, redirect, directResponse or delegate",
        ),
        [_] => {}
        [first, rest @ ..] => {
            at.field(rest[0]).error(
                format_args!("{} and {first} exclude each other", rest[0]),
                "keep one of them",
            );
        }
    }
    let answered = route.redirect.is_some() || route.direct_response.is_some();
    if answered && route.rewrite.is_some() {
        at.field("rewrite").error(
            "a redirect or directResponse cannot be rewritten",
            "remove rewrite",
        );
    }
    if answered && route.fault.is_some() {
        at.field("fault")
            .error("a redirect or directResponse takes no fault", "remove fault");
    }
    if let Some(redirect) = &route.redirect {
        let at = at.field("redirect");
        optional_port(redirect.port, &at.field("port"));
        if redirect.port.is_some() && redirect.derive_port.is_some() {
            at.field("derivePort")
                .error("port and derivePort exclude each other", "keep one of them");
        }
        if !matches!(redirect.scheme.as_str(), "" | "http" | "https") {
            at.field("scheme").error(
                format_args!("{:?} is not a scheme", clip(&redirect.scheme)),
                "write http or https",
            );
        }
        if !matches!(
            redirect.redirect_code,
            None | Some(0 | 301 | 302 | 303 | 307 | 308)
        ) {
            at.field("redirectCode")
                .error("not a code of a redirect", "write 301, 302, 303, 307 or 308");
        }
        let said = !redirect.uri.is_empty() || !redirect.authority.is_empty() || !redirect.scheme.is_empty();
        if !said && redirect.port.is_none() && redirect.derive_port.is_none() {
            at.error(
                "the redirect changes nothing",
                "add uri, authority, scheme or port",
            );
        }
    }
    if let Some(direct) = &route.direct_response {
        direct_response(direct, &at.field("directResponse"));
    }
    if let Some(target) = &route.delegate {
        let at = at.field("delegate");
        if delegate {
            at.error("a delegate cannot delegate again", "give the route a destination");
        }
        if target.name.is_empty() {
            at.error("the delegate has no name", "add name");
        }
        if !target.namespace.is_empty() && !is_dns_label(&target.namespace) {
            at.field("namespace")
                .error("not a namespace", "write a namespace's name");
        }
    }
}

fn direct_response(direct: &HttpDirectResponse, at: &At<'_>) {
    if !(200..=599).contains(&direct.status) {
        at.field("status").error(
            format_args!("{} is not a status that can be answered", direct.status),
            "write 200 to 599",
        );
    }
    if let Some(body) = &direct.body {
        if body.string.is_some() == body.bytes.is_some() {
            at.field("body")
                .error("a body is either string or bytes", "keep one of them");
        }
        let size = body
            .string
            .as_ref()
            .or(body.bytes.as_ref())
            .map_or(0, String::len);
        if size > 1 << 20 {
            at.field("body").error(
                format_args!("the body has {size} bytes, more than 1 MiB"),
                "serve it from a service",
            );
        }
    }
}

fn request(m: &HttpMatchRequest, at: &At<'_>) {
    for (name, value) in [
        ("uri", &m.uri),
        ("scheme", &m.scheme),
        ("method", &m.method),
        ("authority", &m.authority),
    ] {
        if let Some(value) = value {
            string_match(value, false, &at.field(name));
        }
    }
    for (name, set) in [("headers", &m.headers), ("withoutHeaders", &m.without_headers)] {
        header_matches(set, &at.field(name));
    }
    for (name, value) in &m.query_params {
        let at = at.field("queryParams").field(name);
        if name.is_empty() {
            at.error("a query parameter without a name", "name it");
        }
        string_match(value, true, &at);
    }
    optional_port(m.port, &at.field("port"));
    labels(&m.source_labels, &at.field("sourceLabels"));
    gateways(&m.gateways, &at.field("gateways"));
    if m.ignore_uri_case && matches!(m.uri, None | Some(StringMatch::Regex(_))) {
        at.field("ignoreUriCase").finding(
            &codes::NO_EFFECT,
            "ignoreUriCase does nothing without an exact or prefix uri",
            "use (?i) in the regular expression, or remove it",
        );
    }
}

fn header_matches(set: &BTreeMap<String, StringMatch>, at: &At<'_>) {
    for (name, value) in set {
        let at = at.field(name);
        if name.starts_with("@request.auth.") {
            enforcement::require("VirtualService.match on token claims", &at);
            continue;
        }
        header_name(name, &at);
        if name.bytes().any(|b| b.is_ascii_uppercase()) {
            at.warn(
                "header names are matched in lower case",
                format_args!("write {}", name.to_ascii_lowercase()),
            );
        }
        string_match(value, true, &at);
    }
}

/// One comparison; `{}` means "is there" where something may be missing.
fn string_match(m: &StringMatch, may_be_missing: bool, at: &At<'_>) {
    match m {
        StringMatch::Present if !may_be_missing => {
            at.error("nothing is said about the value", "add exact, prefix or regex");
        }
        StringMatch::Prefix(s) if s.is_empty() => {
            at.error("the prefix is empty", "write /, or remove the match")
        }
        StringMatch::Exact(s) if s.is_empty() && !may_be_missing => {
            at.error("the value is empty", "write a value")
        }
        StringMatch::Regex(s) => pattern(s, &at.field("regex")),
        _ => {}
    }
}

fn retries(r: &HttpRetry, at: &At<'_>) {
    if r.attempts < 0 {
        at.field("attempts")
            .error("the number of retries is negative", "write 0 or more");
    }
    if r.attempts == 0 && (r.per_try_timeout.is_some() || !r.retry_on.is_empty()) {
        at.field("attempts").error(
            "retries are off and yet configured",
            "set attempts to at least 1, or remove the rest",
        );
    }
    whole_milliseconds(r.per_try_timeout, &at.field("perTryTimeout"));
    positive(r.backoff, &at.field("backoff"));
    for condition in r.retry_on.split(',').map(str::trim).filter(|c| !c.is_empty()) {
        let code = condition.parse::<u16>().is_ok_and(|c| (100..=599).contains(&c));
        if !code && !RETRY_CONDITIONS.contains(&condition) {
            let remedy = match crate::suggest::nearest(condition, RETRY_CONDITIONS.iter().copied()) {
                Some(name) => format!("did you mean {name}?"),
                None => format!("write a status code, or one of {}", RETRY_CONDITIONS.join(", ")),
            };
            at.field("retryOn").error(
                format_args!("{:?} is not a condition for a retry", clip(condition)),
                remedy,
            );
        }
    }
}

fn fault(f: &HttpFaultInjection, at: &At<'_>) {
    if f.delay.is_none() && f.abort.is_none() {
        at.error("the fault does nothing", "add delay or abort");
    }
    if let Some(delay) = &f.delay {
        let at = at.field("delay");
        if delay.exponential_delay.is_some() {
            at.field("exponentialDelay")
                .error("exponentialDelay is not supported", "use fixedDelay");
        } else if delay.fixed_delay.is_none() {
            at.error("the delay has no length", "add fixedDelay");
        }
        positive(delay.fixed_delay, &at.field("fixedDelay"));
        if let Some(p) = delay.percent {
            percent(f64::from(p), &at.field("percent"));
        }
        optional_percent(delay.percentage.as_ref(), &at.field("percentage"));
    }
    if let Some(abort) = &f.abort {
        let at = at.field("abort");
        let given = [
            abort.http_status.is_some(),
            abort.grpc_status.is_some(),
            abort.http2_error.is_some(),
        ];
        if given.into_iter().filter(|g| *g).count() != 1 {
            at.error(
                "an abort needs one status",
                "write one of httpStatus and grpcStatus",
            );
        }
        if abort.http2_error.is_some() {
            at.field("http2Error")
                .error("http2Error is not supported", "use httpStatus");
        }
        if let Some(status) = abort.http_status
            && !(200..=599).contains(&status)
        {
            at.field("httpStatus").error(
                format_args!("{status} is not a status that can be answered"),
                "write 200 to 599",
            );
        }
        optional_percent(abort.percentage.as_ref(), &at.field("percentage"));
    }
}

fn mirrors(route: &HttpRoute, at: &At<'_>) {
    if route.mirror.is_some() && !route.mirrors.is_empty() {
        at.field("mirror")
            .error("mirror and mirrors exclude each other", "keep mirrors");
    }
    if let Some(mirror) = &route.mirror {
        destination(mirror, &at.field("mirror"));
    } else if route.mirror_percent.is_some() || route.mirror_percentage.is_some() {
        at.field("mirrorPercentage").finding(
            &codes::NO_EFFECT,
            "a share for a mirror that is not there",
            "add mirror",
        );
    }
    if let Some(p) = route.mirror_percent {
        percent(f64::from(p), &at.field("mirrorPercent"));
    }
    optional_percent(route.mirror_percentage.as_ref(), &at.field("mirrorPercentage"));
    for (i, mirror) in route.mirrors.iter().enumerate() {
        let at = at.field("mirrors").index(i);
        destination(&mirror.destination, &at.field("destination"));
        optional_percent(mirror.percentage.as_ref(), &at.field("percentage"));
    }
}

fn cors_policy(cors: &CorsPolicy, at: &At<'_>) {
    for (i, origin) in cors.allow_origins.iter().enumerate() {
        string_match(origin, false, &at.field("allowOrigins").index(i));
    }
    for (i, method) in cors.allow_methods.iter().enumerate() {
        if method.is_empty() || !method.bytes().all(|b| b.is_ascii_uppercase() || b == b'*') {
            at.field("allowMethods").index(i).error(
                format_args!("{:?} is not a method", clip(method)),
                "write it in capitals",
            );
        }
    }
    for (field, names) in [
        ("allowHeaders", &cors.allow_headers),
        ("exposeHeaders", &cors.expose_headers),
    ] {
        for (i, name) in names.iter().enumerate() {
            header_name(name, &at.field(field).index(i));
        }
    }
    if cors.max_age.is_some_and(|d| d.subsec_nanos() != 0) {
        at.field("maxAge")
            .error("maxAge is finer than a second", "write whole seconds");
    }
}

fn headers(h: Option<&Headers>, at: &At<'_>) {
    let Some(h) = h else { return };
    for (name, operations) in [("request", &h.request), ("response", &h.response)] {
        if let Some(operations) = operations {
            header_operations(operations, name == "response", &at.field(name));
        }
    }
}

fn header_operations(operations: &HeaderOperations, response: bool, at: &At<'_>) {
    for (field, set) in [("set", &operations.set), ("add", &operations.add)] {
        for (name, value) in set {
            let at = at.field(field).field(name);
            header_name(name, &at);
            if name.starts_with(':') && (response || name != ":authority") {
                at.error(
                    format_args!("{:?} cannot be changed", clip(name)),
                    "use rewrite for path and authority",
                );
            }
            if value.contains(['\r', '\n', '\0']) {
                at.error("the value has a line break", "remove it");
            }
        }
    }
    for (i, name) in operations.remove.iter().enumerate() {
        let at = at.field("remove").index(i);
        header_name(name, &at);
        if name.starts_with(':') || name.eq_ignore_ascii_case("host") {
            at.error(
                format_args!("{:?} cannot be removed", clip(name)),
                "remove it from the list",
            );
        }
    }
}

fn rewrite(r: &HttpRewrite, route: &HttpRoute, at: &At<'_>) {
    if r.uri.is_empty() && r.authority.is_empty() && r.uri_regex_rewrite.is_none() {
        at.error(
            "the rewrite changes nothing",
            "add uri, authority or uriRegexRewrite",
        );
    }
    if let Some(regex) = &r.uri_regex_rewrite {
        if !r.uri.is_empty() {
            at.field("uriRegexRewrite")
                .error("uri and uriRegexRewrite exclude each other", "keep one of them");
        }
        pattern(&regex.pattern, &at.field("uriRegexRewrite").field("match"));
    } else if !r.uri.is_empty() {
        let regex = route
            .matches
            .iter()
            .any(|m| matches!(m.uri, Some(StringMatch::Regex(_))));
        if regex {
            at.field("uri").warn(
                "after a regex match the whole path is replaced",
                "use uriRegexRewrite to keep a part of it",
            );
        }
    }
}

/// Says which routes can never be reached, and which matches repeat earlier ones.
fn reachable(routes: &[HttpRoute], at: &At<'_>) {
    let mut takes_all: Option<usize> = None;
    let mut seen: Vec<(usize, &HttpMatchRequest)> = Vec::new();
    for (i, route) in routes.iter().enumerate() {
        if let Some(first) = takes_all {
            at.index(i).finding(
                &codes::UNREACHABLE_RULE,
                format_args!("the route is never used, since http[{first}] takes every request"),
                "move it before that route, or remove it",
            );
            continue;
        }
        for (j, m) in route.matches.iter().enumerate() {
            match seen.iter().find(|(_, earlier)| same(earlier, m)) {
                Some((earlier, _)) => at.index(i).field("match").index(j).finding(
                    &codes::INEFFECTIVE_MATCH,
                    format_args!("the match repeats one of http[{earlier}] and is never used"),
                    "remove it",
                ),
                // Quadratic only up to here; a list this long is generated.
                None if seen.len() < 1000 => seen.push((i, m)),
                None => {}
            }
        }
        if route.matches.is_empty() {
            takes_all = Some(i);
        }
    }
}

fn same(a: &HttpMatchRequest, b: &HttpMatchRequest) -> bool {
    let unnamed = |m: &HttpMatchRequest| HttpMatchRequest {
        name: String::new(),
        stat_prefix: String::new(),
        ..m.clone()
    };
    unnamed(a) == unnamed(b)
}
