//! What a VirtualService's HTTP rule does with a request, as a route's action.

use std::collections::HashMap;
use std::time::Duration;

use isthmus_api::istio::StringMatch;
use isthmus_api::istio::destination_rule::ConsistentHashLb;
use isthmus_api::istio::virtual_service::{
    CorsPolicy, Destination, HeaderOperations, Headers, HttpFaultInjection, HttpMatchRequest, HttpRedirect,
    HttpRetry, HttpRoute, Percent, RedirectPortSelection, UnmatchedPreflights,
};
use isthmus_xds::envoy::core::{
    DataSource, HeaderValue, HeaderValueOption, data_source, header_value_option,
};
use isthmus_xds::envoy::google::protobuf::Any;
use isthmus_xds::envoy::http_filters::{cors, fault};
use isthmus_xds::envoy::matcher;
use isthmus_xds::envoy::pb::envoy::extensions::filters::common::fault::v3 as common_fault;
use isthmus_xds::envoy::pb::envoy::extensions::retry::host::previous_hosts::v3::PreviousHostsPredicate;
use isthmus_xds::envoy::route::route::Action;
use isthmus_xds::envoy::route::route_action::{self, ClusterSpecifier, HostRewriteSpecifier};
use isthmus_xds::envoy::route::{
    self as envoy, DirectResponseAction, RedirectAction, RetryPolicy, RouteAction, WeightedCluster,
    redirect_action, retry_policy, weighted_cluster,
};

use super::matches;
use crate::generate::wire;
use crate::mesh::Mesh;

/// Istio's conditions for a retry; 503 only where the user lists it.
const RETRY_ON: &str = "connect-failure,refused-stream,unavailable,cancelled";

/// Names the cluster of a destination and what its requests are hashed by.
pub trait Destinations {
    /// The cluster's name.
    fn cluster(&self, destination: &Destination) -> String;
    /// The mesh's settings.
    fn mesh(&self) -> &Mesh;
    /// Hash policies for it.
    fn hash(&self, destination: &Destination) -> Vec<route_action::HashPolicy>;
}

/// The parts of a route beside its match.
#[derive(Debug, Default)]
pub struct Parts {
    /// What is done.
    pub action: Option<Action>,
    /// Faults and CORS.
    pub per_filter: HashMap<String, Any>,
    /// Towards the upstream.
    pub request_add: Vec<HeaderValueOption>,
    /// Towards the upstream.
    pub request_remove: Vec<String>,
    /// Towards the downstream.
    pub response_add: Vec<HeaderValueOption>,
    /// Towards the downstream.
    pub response_remove: Vec<String>,
}

/// A route to one cluster with Istio's defaults.
pub fn forward(
    cluster: String,
    hash: Vec<route_action::HashPolicy>,
    retries: Option<RetryPolicy>,
) -> RouteAction {
    RouteAction {
        cluster_specifier: Some(ClusterSpecifier::Cluster(cluster)),
        timeout: wire::duration(Duration::ZERO),
        retry_policy: retries,
        hash_policy: hash,
        ..Default::default()
    }
}

/// What a rule does under one of its matches.
pub fn parts(
    rule: &HttpRoute,
    matched: Option<&HttpMatchRequest>,
    to: &dyn Destinations,
    tls: bool,
) -> Parts {
    let mut parts = Parts::default();
    let mut host = None;
    if let Some(headers) = &rule.headers {
        host = take_host(headers);
        let (add, remove) = operations(headers.request.as_ref(), true);
        (parts.request_add, parts.request_remove) = (add, remove);
        let (add, remove) = operations(headers.response.as_ref(), false);
        (parts.response_add, parts.response_remove) = (add, remove);
    }
    if let Some(fault) = &rule.fault {
        parts.per_filter.insert(
            "envoy.filters.http.fault".to_owned(),
            wire::any(&http_fault(fault)),
        );
    }
    if let Some(policy) = &rule.cors_policy {
        parts.per_filter.insert(
            "envoy.filters.http.cors".to_owned(),
            wire::any(&cors_policy(policy)),
        );
    }
    parts.action = Some(if let Some(redirect) = &rule.redirect {
        Action::Redirect(redirection(redirect, tls))
    } else if let Some(response) = &rule.direct_response {
        let body = response.body.as_ref().and_then(|b| match (&b.string, &b.bytes) {
            (Some(text), _) => Some(data_source::Specifier::InlineString(text.clone())),
            (None, Some(encoded)) => decode_base64(encoded).map(data_source::Specifier::InlineBytes),
            (None, None) => None,
        });
        Action::DirectResponse(DirectResponseAction {
            status: response.status,
            body: body.map(|specifier| DataSource {
                specifier: Some(specifier),
                ..Default::default()
            }),
            ..Default::default()
        })
    } else {
        Action::Route(forwarding(rule, matched, to, host))
    });
    parts
}

fn forwarding(
    rule: &HttpRoute,
    matched: Option<&HttpMatchRequest>,
    to: &dyn Destinations,
    host: Option<String>,
) -> RouteAction {
    let mut action = forward(String::new(), Vec::new(), retries(to.mesh()));
    let taken: Vec<_> = match rule.route.as_slice() {
        [only] => vec![only],
        several => several.iter().filter(|d| d.weight > 0).collect(),
    };
    action.hash_policy = taken
        .iter()
        .map(|d| to.hash(&d.destination))
        .find(|h| !h.is_empty())
        .unwrap_or_default();
    action.cluster_specifier = Some(match taken.as_slice() {
        [only] if only.headers.is_none() => ClusterSpecifier::Cluster(to.cluster(&only.destination)),
        several => ClusterSpecifier::WeightedClusters(WeightedCluster {
            clusters: several
                .iter()
                .map(|d| {
                    let headers = d.headers.as_ref();
                    let (request_add, request_remove) =
                        operations(headers.and_then(|h| h.request.as_ref()), true);
                    let (response_add, response_remove) =
                        operations(headers.and_then(|h| h.response.as_ref()), false);
                    weighted_cluster::ClusterWeight {
                        name: to.cluster(&d.destination),
                        weight: wire::uint(
                            u32::try_from(d.weight)
                                .unwrap_or(0)
                                .max(u32::from(several.len() == 1)),
                        ),
                        request_headers_to_add: request_add,
                        request_headers_to_remove: request_remove,
                        response_headers_to_add: response_add,
                        response_headers_to_remove: response_remove,
                        host_rewrite_specifier: headers
                            .and_then(take_host)
                            .map(weighted_cluster::cluster_weight::HostRewriteSpecifier::HostRewriteLiteral),
                        ..Default::default()
                    }
                })
                .collect(),
            ..Default::default()
        }),
    });
    if let Some(timeout) = rule.timeout {
        action.timeout = wire::duration(*timeout);
    }
    if let Some(retries) = &rule.retries {
        action.retry_policy = retry(retries);
    }
    let mut authority = host;
    if let Some(rewrite) = &rule.rewrite {
        if !rewrite.authority.is_empty() {
            authority = Some(rewrite.authority.clone());
        }
        if let Some(regex) = &rewrite.uri_regex_rewrite {
            action.regex_rewrite = Some(substitute(&regex.pattern, &regex.rewrite));
        } else if !rewrite.uri.is_empty() {
            match matched.and_then(|m| m.uri.as_ref()) {
                // Nothing is matched literally, so the whole path is what is replaced.
                Some(StringMatch::Regex(_)) => action.regex_rewrite = Some(substitute("^.*$", &rewrite.uri)),
                _ => action.prefix_rewrite = rewrite.uri.clone(),
            }
        }
    }
    action.host_rewrite_specifier = authority.map(HostRewriteSpecifier::HostRewriteLiteral);
    action.request_mirror_policies = mirrors(rule, to);
    action
}

fn substitute(pattern: &str, substitution: &str) -> matcher::RegexMatchAndSubstitute {
    matcher::RegexMatchAndSubstitute {
        pattern: Some(wire::regex(pattern)),
        substitution: substitution.to_owned(),
    }
}

fn mirrors(rule: &HttpRoute, to: &dyn Destinations) -> Vec<route_action::RequestMirrorPolicy> {
    let policy = |destination: &Destination, percent: f64| route_action::RequestMirrorPolicy {
        cluster: to.cluster(destination),
        runtime_fraction: wire::runtime_fraction(percent),
        ..Default::default()
    };
    let share = |p: Option<&Percent>| p.map_or(100.0, |p| p.value);
    let single = rule.mirror.as_ref().map(|destination| {
        let old = rule.mirror_percent.map(f64::from);
        policy(
            destination,
            rule.mirror_percentage
                .as_ref()
                .map(|p| p.value)
                .or(old)
                .unwrap_or(100.0),
        )
    });
    let listed = rule
        .mirrors
        .iter()
        .map(|m| policy(&m.destination, share(m.percentage.as_ref())));
    single.into_iter().chain(listed).collect()
}

/// Retries of routes that say nothing about them: the mesh's, else Istio's default.
pub fn retries(mesh: &Mesh) -> Option<RetryPolicy> {
    match &mesh.retries {
        Some(written) => retry(written),
        None => Some(default_retries()),
    }
}

fn default_retries() -> RetryPolicy {
    RetryPolicy {
        retry_on: RETRY_ON.to_owned(),
        num_retries: wire::uint(2),
        retry_host_predicate: vec![previous_hosts()],
        host_selection_retry_max_attempts: 5,
        ..Default::default()
    }
}

/// `None` when retries are turned off.
fn retry(written: &HttpRetry) -> Option<RetryPolicy> {
    let attempts = u32::try_from(written.attempts).ok().filter(|n| *n > 0)?;
    let mut conditions = Vec::new();
    let mut codes = Vec::new();
    for part in written
        .retry_on
        .split(',')
        .map(str::trim)
        .filter(|p| !p.is_empty())
    {
        match part.parse::<u32>() {
            Ok(code) => codes.push(code),
            Err(_) => conditions.push(part),
        }
    }
    if written.retry_on.trim().is_empty() {
        conditions.push(RETRY_ON);
    }
    if !codes.is_empty() && !conditions.contains(&"retriable-status-codes") {
        conditions.push("retriable-status-codes");
    }
    let avoid = written.retry_ignore_previous_hosts != Some(false);
    Some(RetryPolicy {
        retry_on: conditions.join(","),
        num_retries: wire::uint(attempts),
        per_try_timeout: written.per_try_timeout.and_then(|d| wire::duration(*d)),
        retriable_status_codes: codes,
        retry_host_predicate: if avoid { vec![previous_hosts()] } else { Vec::new() },
        host_selection_retry_max_attempts: if avoid { 5 } else { 0 },
        retry_back_off: written.backoff.map(|d| retry_policy::RetryBackOff {
            base_interval: wire::duration(*d),
            max_interval: None,
        }),
        ..Default::default()
    })
}

fn previous_hosts() -> retry_policy::RetryHostPredicate {
    retry_policy::RetryHostPredicate {
        name: "envoy.retry_host_predicates.previous_hosts".to_owned(),
        config_type: Some(retry_policy::retry_host_predicate::ConfigType::TypedConfig(
            wire::any(&PreviousHostsPredicate {}),
        )),
    }
}

fn redirection(written: &HttpRedirect, tls: bool) -> RedirectAction {
    use redirect_action::RedirectResponseCode as Code;
    let code = match written.redirect_code {
        Some(302) => Code::Found,
        Some(303) => Code::SeeOther,
        Some(307) => Code::TemporaryRedirect,
        Some(308) => Code::PermanentRedirect,
        _ => Code::MovedPermanently,
    };
    let secure = if written.scheme.is_empty() {
        tls
    } else {
        written.scheme == "https"
    };
    let port = written.port.map(u32::from).or(match written.derive_port {
        Some(RedirectPortSelection::FromProtocolDefault) => Some(if secure { 443 } else { 80 }),
        Some(RedirectPortSelection::FromRequestPort) | None => None,
    });
    RedirectAction {
        host_redirect: written.authority.clone(),
        port_redirect: port.unwrap_or(0),
        response_code: code as i32,
        scheme_rewrite_specifier: (!written.scheme.is_empty())
            .then(|| redirect_action::SchemeRewriteSpecifier::SchemeRedirect(written.scheme.clone())),
        path_rewrite_specifier: match written.uri.strip_prefix("%PREFIX()%") {
            Some(prefix) => Some(redirect_action::PathRewriteSpecifier::PrefixRewrite(
                prefix.to_owned(),
            )),
            None if written.uri.is_empty() => None,
            None => Some(redirect_action::PathRewriteSpecifier::PathRedirect(
                written.uri.clone(),
            )),
        },
        ..Default::default()
    }
}

/// A `Host` that is set is a rewrite of the authority, not a header.
fn take_host(headers: &Headers) -> Option<String> {
    let request = headers.request.as_ref()?;
    request
        .set
        .iter()
        .find(|(name, _)| is_host(name))
        .map(|(_, value)| value.clone())
}

fn is_host(name: &str) -> bool {
    name.eq_ignore_ascii_case("host") || name == ":authority"
}

fn operations(written: Option<&HeaderOperations>, request: bool) -> (Vec<HeaderValueOption>, Vec<String>) {
    use header_value_option::HeaderAppendAction;
    let Some(written) = written else {
        return (Vec::new(), Vec::new());
    };
    let option = |(key, value): (&String, &String), action: HeaderAppendAction| HeaderValueOption {
        header: Some(HeaderValue {
            key: key.clone(),
            value: value.clone(),
            ..Default::default()
        }),
        append_action: action as i32,
        ..Default::default()
    };
    let set = written.set.iter().filter(|(name, _)| !(request && is_host(name)));
    let add = set
        .map(|pair| option(pair, HeaderAppendAction::OverwriteIfExistsOrAdd))
        .chain(
            written
                .add
                .iter()
                .map(|pair| option(pair, HeaderAppendAction::AppendIfExistsOrAdd)),
        )
        .collect();
    (add, written.remove.clone())
}

fn http_fault(written: &HttpFaultInjection) -> fault::HttpFault {
    let delay = written.delay.as_ref().and_then(|d| {
        let percent = d
            .percentage
            .as_ref()
            .map(|p| p.value)
            .or(d.percent.map(f64::from))
            .unwrap_or(0.0);
        Some(common_fault::FaultDelay {
            percentage: Some(wire::fraction(percent)),
            fault_delay_secifier: Some(common_fault::fault_delay::FaultDelaySecifier::FixedDelay(
                wire::duration(*d.fixed_delay?)?,
            )),
        })
    });
    let abort = written.abort.as_ref().and_then(|a| {
        let status = a
            .http_status
            .and_then(|s| u32::try_from(s).ok())
            .map(fault::fault_abort::ErrorType::HttpStatus);
        let grpc = || {
            a.grpc_status
                .as_deref()
                .and_then(grpc_code)
                .map(fault::fault_abort::ErrorType::GrpcStatus)
        };
        Some(fault::FaultAbort {
            percentage: Some(wire::fraction(a.percentage.as_ref().map_or(100.0, |p| p.value))),
            error_type: Some(status.or_else(grpc)?),
            ..Default::default()
        })
    });
    fault::HttpFault {
        delay,
        abort,
        ..Default::default()
    }
}

/// A gRPC status by name or number.
fn grpc_code(text: &str) -> Option<u32> {
    const NAMES: [&str; 17] = [
        "OK",
        "CANCELLED",
        "UNKNOWN",
        "INVALID_ARGUMENT",
        "DEADLINE_EXCEEDED",
        "NOT_FOUND",
        "ALREADY_EXISTS",
        "PERMISSION_DENIED",
        "RESOURCE_EXHAUSTED",
        "FAILED_PRECONDITION",
        "ABORTED",
        "OUT_OF_RANGE",
        "UNIMPLEMENTED",
        "INTERNAL",
        "UNAVAILABLE",
        "DATA_LOSS",
        "UNAUTHENTICATED",
    ];
    if let Ok(number) = text.parse() {
        return Some(number);
    }
    NAMES
        .iter()
        .position(|n| n.eq_ignore_ascii_case(text))
        .map(|n| n as u32)
}

fn cors_policy(written: &CorsPolicy) -> cors::CorsPolicy {
    let old = written.allow_origin.iter().map(|origin| {
        if origin == "*" {
            wire::regex_matcher(".*")
        } else {
            wire::exact(origin)
        }
    });
    let listed = written.allow_origins.iter().filter_map(matches::string);
    cors::CorsPolicy {
        allow_origin_string_match: old.chain(listed).collect(),
        allow_methods: written.allow_methods.join(","),
        allow_headers: written.allow_headers.join(","),
        expose_headers: written.expose_headers.join(","),
        max_age: written
            .max_age
            .map(|d| d.as_secs().to_string())
            .unwrap_or_default(),
        allow_credentials: written.allow_credentials.and_then(wire::boolean),
        filter_enabled: wire::runtime_fraction(100.0),
        forward_not_matching_preflights: match written.unmatched_preflights {
            UnmatchedPreflights::Ignore => wire::boolean(false),
            UnmatchedPreflights::Unspecified | UnmatchedPreflights::Forward => None,
        },
        ..Default::default()
    }
}

/// Hash policies of a route from the destination's consistent hash.
pub fn hash_policies(hash: &ConsistentHashLb) -> Vec<route_action::HashPolicy> {
    use route_action::hash_policy::{
        ConnectionProperties, Cookie, CookieAttribute, Header, PolicySpecifier, QueryParameter,
    };
    let specifier = if let Some(name) = &hash.http_header_name {
        PolicySpecifier::Header(Header {
            header_name: name.clone(),
            ..Default::default()
        })
    } else if let Some(cookie) = &hash.http_cookie {
        PolicySpecifier::Cookie(Cookie {
            name: cookie.name.clone(),
            ttl: cookie.ttl.and_then(|d| wire::duration(*d)),
            path: cookie.path.clone(),
            attributes: cookie
                .attributes
                .iter()
                .map(|a| CookieAttribute {
                    name: a.name.clone(),
                    value: a.value.clone(),
                })
                .collect(),
        })
    } else if hash.use_source_ip == Some(true) {
        PolicySpecifier::ConnectionProperties(ConnectionProperties { source_ip: true })
    } else if let Some(name) = &hash.http_query_parameter_name {
        PolicySpecifier::QueryParameter(QueryParameter { name: name.clone() })
    } else {
        return Vec::new();
    };
    vec![envoy::route_action::HashPolicy {
        terminal: false,
        policy_specifier: Some(specifier),
    }]
}

fn decode_base64(text: &str) -> Option<Vec<u8>> {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.decode(text).ok()
}
