//! Upstream clusters (Envoy `cluster.v3.Cluster`).

mod balancer;
mod wire;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use super::endpoint::Endpoints;
use super::tls::UpstreamTls;

/// Envoy `Cluster`.
#[derive(Debug)]
pub struct Cluster {
    /// CDS resource name.
    pub name: Arc<str>,
    /// How its endpoints are found.
    pub discovery: Discovery,
    /// How one is picked.
    pub balancer: Balancer,
    /// `connect_timeout`, default 5 s (Istio sends 10 s).
    pub connect_timeout: Duration,
    /// Plaintext, TLS, or by endpoint metadata.
    pub transport: TransportSocket,
    /// What is spoken.
    pub http: UpstreamHttp,
    /// Circuit breakers of the default priority.
    pub limits: Limits,
    /// Passive health.
    pub outlier: Option<OutlierDetection>,
    /// `upstream_bind_config.source_address`.
    pub source_address: Option<IpAddr>,
    /// `common_lb_config.healthy_panic_threshold` in percent; our control plane always sends 0.
    pub panic_threshold: f64,
    /// `locality_weighted_lb_config` is set: localities of a priority share by their weights.
    pub locality_weighted: bool,
    /// `filter_metadata["istio"].services[0]`.
    pub service: Option<ServiceMetadata>,
    /// `filter_metadata["isthmus"]`, what Envoy has no field for.
    pub isthmus: IsthmusCluster,
    /// TCP keep-alive `(time, interval, probes)` of `upstream_connection_options`.
    pub keepalive: Option<(Duration, Duration, u32)>,
}

/// Envoy `Cluster.type`.
#[derive(Debug)]
pub enum Discovery {
    /// The endpoints stand in the cluster.
    Static(Arc<Endpoints>),
    /// EDS under this name.
    Eds(Arc<str>),
    /// Names are resolved, every address is an endpoint.
    StrictDns {
        /// Endpoints with names in them.
        endpoints: Arc<Endpoints>,
        /// Upper bound of the time between look-ups.
        refresh: Duration,
        /// `respect_dns_ttl`.
        respect_ttl: bool,
        /// `dns_lookup_family`.
        family: AddressFamily,
    },
    /// Names are resolved, the first address is used for new connections.
    LogicalDns {
        /// Endpoints with names in them.
        endpoints: Arc<Endpoints>,
        /// Upper bound of the time between look-ups.
        refresh: Duration,
        /// `respect_dns_ttl`.
        respect_ttl: bool,
        /// `dns_lookup_family`.
        family: AddressFamily,
    },
    /// The downstream's original destination.
    OriginalDst {
        /// `original_dst_lb_config.upstream_port_override`.
        port_override: Option<u16>,
    },
}

/// Envoy `DnsLookupFamily`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum AddressFamily {
    /// AUTO: IPv6, and IPv4 when there is none.
    #[default]
    PreferV6,
    /// V4_PREFERRED: IPv4, and IPv6 when there is none.
    PreferV4,
    /// V4_ONLY.
    V4,
    /// V6_ONLY.
    V6,
    /// ALL: both.
    All,
}

/// Envoy `lb_policy`.
#[derive(Debug, Clone, PartialEq)]
pub enum Balancer {
    /// Weighted round robin.
    RoundRobin,
    /// Two (or more) random choices, the one with fewer requests in flight.
    LeastRequest {
        /// `choice_count`, at least 2.
        choices: u32,
    },
    /// Random.
    Random,
    /// Ketama ring.
    RingHash {
        /// Least number of entries.
        min: u64,
        /// Greatest number of entries.
        max: u64,
    },
    /// Maglev table.
    Maglev {
        /// Prime table size.
        table: u64,
    },
    /// The cluster decides (original destination).
    Provided,
}

/// What carries bytes to an endpoint.
#[derive(Debug)]
pub enum TransportSocket {
    /// Plaintext.
    Raw,
    /// TLS to every endpoint.
    Tls(Arc<UpstreamTls>),
    /// `transport_socket_matches`: the first whose labels the endpoint's
    /// `envoy.transport_socket_match` metadata contains.
    Matches(Vec<TransportMatch>),
}

/// One of `transport_socket_matches`.
#[derive(Debug)]
pub struct TransportMatch {
    /// `tlsMode-istio`, `tlsMode-disabled`.
    pub name: Arc<str>,
    /// All must stand at the endpoint; empty matches every endpoint.
    pub labels: Vec<(String, String)>,
    /// `None`: plaintext.
    pub tls: Option<Arc<UpstreamTls>>,
}

/// Envoy `HttpProtocolOptions` of the upstream.
#[derive(Debug, Clone, PartialEq)]
pub struct UpstreamHttp {
    /// Which version.
    pub version: UpstreamVersion,
    /// Idle time before a pooled connection is closed, default 1 h.
    pub idle_timeout: Option<Duration>,
    /// `max_requests_per_connection`; 0: no limit.
    pub max_requests_per_connection: u32,
    /// `max_concurrent_streams` of an HTTP/2 connection.
    pub max_concurrent_streams: u32,
    /// `max_connection_duration`.
    pub max_connection_duration: Option<Duration>,
}

/// Which HTTP version an upstream is spoken to in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UpstreamVersion {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2 by prior knowledge (or ALPN over TLS).
    Http2,
    /// `use_downstream_protocol_config`: as the request came.
    Downstream,
    /// `auto_config`: by ALPN.
    Alpn,
}

/// Envoy `CircuitBreakers.Thresholds`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// `max_connections`.
    pub connections: u32,
    /// `max_pending_requests`.
    pub pending: u32,
    /// `max_requests`.
    pub requests: u32,
    /// `max_retries`.
    pub retries: u32,
}

/// Envoy `OutlierDetection`. A count of 0 switches the criterion off.
#[derive(Debug, Clone, PartialEq)]
pub struct OutlierDetection {
    /// `consecutive_5xx`.
    pub consecutive_5xx: u32,
    /// `consecutive_gateway_failure` (502, 503, 504), enforced.
    pub consecutive_gateway_failure: u32,
    /// `consecutive_local_origin_failure`.
    pub consecutive_local_origin_failure: u32,
    /// `split_external_local_origin_errors`.
    pub split_local_origin: bool,
    /// Time between sweeps.
    pub interval: Duration,
    /// First ejection lasts this long; the n-th n times as long.
    pub base_ejection: Duration,
    /// Longest ejection, default 300 s or the base, whichever is longer.
    pub max_ejection: Duration,
    /// Greatest share of hosts ejected, percent; at least one host may always be.
    pub max_ejection_percent: u32,
}

/// Whose cluster it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceMetadata {
    /// Full host name.
    pub host: Arc<str>,
    /// Short name.
    pub name: Arc<str>,
    /// Namespace.
    pub namespace: Arc<str>,
}

/// What our control plane says beyond Envoy's fields; all off by default, so Envoy's and Istio's own
/// configurations behave as they do there.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct IsthmusCluster {
    /// A connection attempt that takes longer than this, and than three round trips, is raced against another
    /// endpoint.
    pub connect_hedge: Option<Duration>,
    /// Unacknowledged data older than this, with eight round trips on top, closes an upstream connection; see
    /// `upstream::silence`.
    pub unacked_timeout: Option<Duration>,
    /// Eject on failures of local origin alone; a status never ejects.
    pub local_origin_only: bool,
}
