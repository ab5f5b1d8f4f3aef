//! Filters of the HTTP connection manager that the proxy has (Envoy `extensions.filters.http`).

pub mod wire;

use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;

use super::matcher::StringMatcher;
use super::rbac::Rbac;

/// One entry of `http_filters`, the router left out.
#[derive(Debug, Clone)]
pub enum HttpFilter {
    /// `envoy.filters.http.rbac`.
    Rbac(Arc<Rbac>),
    /// `envoy.filters.http.fault`: the policy stands at the route.
    Fault,
    /// `envoy.filters.http.cors`: the policy stands at the route.
    Cors,
    /// `istio.metadata_exchange`, or Envoy's peer metadata filter.
    PeerMetadata,
    /// `istio.stats`.
    Stats,
    /// `envoy.filters.http.grpc_stats`: counts messages.
    GrpcStats,
}

/// Envoy `HTTPFault`.
#[derive(Debug)]
pub struct Fault {
    /// Delay and its share in parts per million.
    pub delay: Option<(Duration, u32)>,
    /// Answer and its share in parts per million.
    pub abort: Option<(Abort, u32)>,
}

/// What an aborted request is answered with.
#[derive(Debug, Clone, Copy)]
pub enum Abort {
    /// HTTP status.
    Http(StatusCode),
    /// gRPC status code.
    Grpc(u32),
}

/// Envoy `CorsPolicy`.
#[derive(Debug)]
pub struct Cors {
    /// Allowed origins.
    pub origins: Vec<StringMatcher>,
    /// `access-control-allow-methods`.
    pub methods: String,
    /// `access-control-allow-headers`.
    pub headers: String,
    /// `access-control-expose-headers`.
    pub expose: String,
    /// `access-control-max-age`.
    pub max_age: String,
    /// `access-control-allow-credentials`.
    pub credentials: bool,
    /// Preflights of origins that do not match go on to the upstream.
    pub forward_unmatched_preflights: bool,
}
