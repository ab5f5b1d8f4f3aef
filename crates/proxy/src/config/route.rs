//! Routes (Envoy `route.v3.RouteConfiguration`).

pub mod action;
pub mod wire;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, HeaderValue, StatusCode};
use regex::Regex;

use super::http_filter::{Cors, Fault};
use super::matcher::{HeaderMatcher, PathMatch, QueryMatcher};
use super::rbac::Rbac;

/// A named table of virtual hosts.
#[derive(Debug)]
pub struct RouteTable {
    /// RDS resource name, or the listener's name for an inline table.
    pub name: Arc<str>,
    /// Virtual hosts in the order they were given.
    pub virtual_hosts: Vec<Arc<VirtualHost>>,
    /// Which host names lead to which virtual host (index into `virtual_hosts`).
    pub domains: DomainIndex,
    /// Envoy `ignore_port_in_host_matching`.
    pub ignore_port_in_host: bool,
    /// Envoy `max_direct_response_body_size_bytes`, default 4096.
    pub max_direct_response_body: usize,
    /// Header operations for every route of the table.
    pub headers: HeaderOperations,
}

/// Host to virtual host: exact, then the longest `*suffix`, then the longest `prefix*`, then `*`.
#[derive(Debug, Default)]
pub struct DomainIndex {
    /// Lower-case exact names, with port where the domain had one.
    pub exact: HashMap<String, usize>,
    /// `*.example.com` kept as `.example.com`, longest first.
    pub suffixes: Vec<(String, usize)>,
    /// `example.*` kept as `example.`, longest first.
    pub prefixes: Vec<(String, usize)>,
    /// `*`.
    pub any: Option<usize>,
}

/// Hosts that share routes.
#[derive(Debug)]
pub struct VirtualHost {
    /// Name, `HOST:PORT` from our control plane.
    pub name: Arc<str>,
    /// First match wins.
    pub routes: Vec<Arc<Route>>,
    /// Header operations for every route of the host.
    pub headers: HeaderOperations,
    /// Retry policy for routes that have none.
    pub retry: Option<Arc<RetryPolicy>>,
    /// `require_tls` other than NONE: answer with a redirect to https.
    pub require_tls: bool,
    /// `include_request_attempt_count`.
    pub include_attempt_count: bool,
}

/// One match and what is done.
#[derive(Debug)]
pub struct Route {
    /// Route name, for logs and metrics; may be empty.
    pub name: Arc<str>,
    /// When it applies.
    pub matches: RouteMatch,
    /// What happens.
    pub action: Action,
    /// Header operations.
    pub headers: HeaderOperations,
    /// Per-route RBAC instead of the listener's.
    pub rbac: Option<Arc<Rbac>>,
    /// Fault injection.
    pub fault: Option<Arc<Fault>>,
    /// CORS policy.
    pub cors: Option<Arc<Cors>>,
    /// `filter_metadata["isthmus"].because`: the object and line behind the route.
    pub because: Option<Arc<str>>,
}

/// Envoy `RouteMatch`.
#[derive(Debug)]
pub struct RouteMatch {
    /// Path condition.
    pub path: PathMatch,
    /// `case_sensitive`, default true; applies to prefix and exact.
    pub case_sensitive: bool,
    /// All must match.
    pub headers: Vec<HeaderMatcher>,
    /// All must match.
    pub query: Vec<QueryMatcher>,
    /// Share of requests that match, in parts per million; `None` for all.
    pub runtime_fraction: Option<u32>,
    /// Only gRPC requests.
    pub grpc: bool,
}

/// What a route does.
#[derive(Debug)]
pub enum Action {
    /// Send to an upstream cluster.
    Forward(Box<Forward>),
    /// Answer with a redirect.
    Redirect(Redirect),
    /// Answer directly.
    Respond(StatusCode, Arc<[u8]>),
}

/// Envoy `RouteAction`.
#[derive(Debug)]
pub struct Forward {
    /// Where to.
    pub target: Target,
    /// Whole-request timeout from the end of the request to the end of the response; `None`: no limit.
    pub timeout: Option<Duration>,
    /// Idle timeout of the stream; `None`: the listener's. Envoy's 0 (never) is `Duration::MAX`.
    pub idle_timeout: Option<Duration>,
    /// `grpc-timeout` of the request is honoured up to this (`max_stream_duration.grpc_timeout_header_max`);
    /// Envoy's 0 (without limit) is `Duration::MAX`, `None` ignores the header.
    pub max_grpc_timeout: Option<Duration>,
    /// Retries; `None`: the virtual host's.
    pub retry: Option<Arc<RetryPolicy>>,
    /// New path.
    pub path_rewrite: Option<PathRewrite>,
    /// New authority.
    pub host_rewrite: Option<HostRewrite>,
    /// Copies of requests, whose answers are dropped.
    pub mirrors: Vec<Mirror>,
    /// What a consistent-hash balancer hashes.
    pub hash_policy: Vec<HashPolicy>,
    /// Upgrades (lower case) allowed beyond the listener's.
    pub upgrades: Vec<(String, bool)>,
    /// `cluster_not_found_response_code`, default 503.
    pub cluster_not_found: StatusCode,
}

/// Where a request goes.
#[derive(Debug)]
pub enum Target {
    /// One cluster.
    Cluster(Arc<str>),
    /// One of several, by weight.
    Weighted {
        /// At least one with a positive weight.
        clusters: Vec<WeightedCluster>,
        /// Sum of the weights, positive.
        total: u32,
    },
    /// The cluster named by a request header.
    Header(HeaderName),
}

/// A member of [`Target::Weighted`].
#[derive(Debug)]
pub struct WeightedCluster {
    /// Cluster name.
    pub name: Arc<str>,
    /// Share.
    pub weight: u32,
    /// Header operations when this one is taken.
    pub headers: HeaderOperations,
    /// `host_rewrite_literal` of the destination.
    pub host_rewrite: Option<String>,
}

/// A new path for the upstream.
#[derive(Debug)]
pub enum PathRewrite {
    /// `prefix_rewrite`: replaces what the route's prefix or exact path matched.
    Prefix(String),
    /// `regex_rewrite`: pattern and substitution (`\1` in Envoy, already turned into `${1}`).
    Regex(Regex, String),
}

/// A new authority for the upstream.
#[derive(Debug)]
pub enum HostRewrite {
    /// `host_rewrite_literal`.
    Literal(HeaderValue),
    /// `auto_host_rewrite`: the chosen endpoint's host name.
    Auto,
    /// `host_rewrite_header`.
    Header(HeaderName),
}

/// Envoy `RequestMirrorPolicy`.
#[derive(Debug, Clone)]
pub struct Mirror {
    /// Cluster that gets the copy.
    pub cluster: Arc<str>,
    /// Share of requests in parts per million.
    pub fraction: u32,
    /// The authority of the copy gets `-shadow` (unless `disable_shadow_host_suffix_append`).
    pub shadow_suffix: bool,
}

/// Envoy `RouteAction.HashPolicy`.
#[derive(Debug)]
pub enum HashPolicy {
    /// A header's value.
    Header(HeaderName),
    /// A cookie; with a lifetime it is set when absent.
    Cookie {
        /// Cookie name.
        name: String,
        /// `ttl`; zero makes a session cookie, `None` never sets one.
        ttl: Option<Duration>,
        /// Path attribute.
        path: String,
        /// Further attributes as they stand in the cookie, each behind `"; "`.
        attributes: String,
    },
    /// The downstream's address.
    SourceIp,
    /// A query parameter.
    Query(String),
}

/// Envoy `RetryPolicy`.
#[derive(Debug, Clone)]
pub struct RetryPolicy {
    /// Attempts after the first.
    pub retries: u32,
    /// On what.
    pub on: RetryOn,
    /// Status codes besides those of `on`.
    pub status_codes: Vec<u16>,
    /// Time for each attempt; `None`: none of its own.
    pub per_try_timeout: Option<Duration>,
    /// Never the host just tried (`previous_hosts`).
    pub avoid_previous_hosts: bool,
    /// How often another host is picked before giving in.
    pub host_selection_attempts: u32,
    /// First back-off, default 25 ms.
    pub backoff_base: Duration,
    /// Longest back-off, default ten times the first.
    pub backoff_max: Duration,
}

/// Conditions of `retry_on`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RetryOn {
    /// `5xx`.
    pub server_error: bool,
    /// `gateway-error`: 502, 503, 504.
    pub gateway_error: bool,
    /// `connect-failure`.
    pub connect_failure: bool,
    /// `refused-stream`.
    pub refused_stream: bool,
    /// `reset`.
    pub reset: bool,
    /// `reset-before-request`.
    pub reset_before_request: bool,
    /// `retriable-4xx`: 409.
    pub retriable_4xx: bool,
    /// `retriable-status-codes`.
    pub status_codes: bool,
    /// gRPC `cancelled`.
    pub grpc_cancelled: bool,
    /// gRPC `deadline-exceeded`.
    pub grpc_deadline_exceeded: bool,
    /// gRPC `internal`.
    pub grpc_internal: bool,
    /// gRPC `resource-exhausted`.
    pub grpc_resource_exhausted: bool,
    /// gRPC `unavailable`.
    pub grpc_unavailable: bool,
}

/// Envoy `RedirectAction`.
#[derive(Debug)]
pub struct Redirect {
    /// Status of the answer: 301, 302, 303, 307 or 308.
    pub status: StatusCode,
    /// `scheme_redirect`; `https_redirect` is `Some("https")`.
    pub scheme: Option<String>,
    /// `host_redirect`.
    pub host: Option<String>,
    /// `port_redirect`.
    pub port: Option<u16>,
    /// New path.
    pub path: Option<RedirectPath>,
    /// `strip_query`.
    pub strip_query: bool,
}

/// The path of a redirect.
#[derive(Debug)]
pub enum RedirectPath {
    /// `path_redirect`.
    Full(String),
    /// `prefix_rewrite`.
    Prefix(String),
    /// `regex_rewrite`.
    Regex(Regex, String),
}

/// Header operations in the order Envoy applies them: remove, then add or set.
#[derive(Debug, Clone, Default)]
pub struct HeaderOperations {
    /// Towards the upstream.
    pub request: Vec<HeaderOperation>,
    /// Towards the downstream.
    pub response: Vec<HeaderOperation>,
}

/// One operation. Values may hold Envoy's `%...%` operators.
#[derive(Debug, Clone)]
pub enum HeaderOperation {
    /// Delete all of this name.
    Remove(HeaderName),
    /// Add another.
    Append(HeaderName, String),
    /// Replace or add.
    Set(HeaderName, String),
    /// Add when absent.
    AddIfAbsent(HeaderName, String),
}
