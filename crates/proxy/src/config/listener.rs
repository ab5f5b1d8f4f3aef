//! Listeners and their filter chains (Envoy `listener.v3.Listener`).

mod access_log;
mod http_manager;
mod wire;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;

use super::http_filter::HttpFilter;
use super::rbac::Rbac;
use super::route::RouteTable;
use super::tls::DownstreamTls;

/// Envoy `Listener`.
#[derive(Debug)]
pub struct Listener {
    /// LDS resource name.
    pub name: Arc<str>,
    /// Where it listens, or the destination it stands for when `bind` is false.
    pub address: SocketAddr,
    /// Whether a socket is opened (`bind_to_port`, default true).
    pub bind: bool,
    /// Hands connections to the listener of their original destination.
    pub use_original_dst: bool,
    /// The destination is where the connection went before it was redirected (`use_original_dst`, or the
    /// listener filter `original_dst`).
    pub original_dst: bool,
    /// Which way traffic flows.
    pub direction: TrafficDirection,
    /// Sniff TLS (SNI and ALPN).
    pub inspect_tls: bool,
    /// Destination ports for which TLS is not sniffed (`filter_disabled`).
    pub inspect_tls_except: PortRanges,
    /// Sniff HTTP.
    pub inspect_http: bool,
    /// Destination ports for which HTTP is not sniffed (`filter_disabled`).
    pub inspect_http_except: PortRanges,
    /// Read a PROXY protocol header first.
    pub proxy_protocol: bool,
    /// How long sniffing may take before the connection goes on without (`listener_filters_timeout`, with
    /// `continue_on_listener_filters_timeout`); server-first protocols live by it. Default 15 s; Envoy's 0 is
    /// `Duration::MAX`.
    pub sniff_timeout: Duration,
    /// Whether the connection goes on after `sniff_timeout`.
    pub continue_on_sniff_timeout: bool,
    /// In the order given; the most specific match wins (Envoy's order of criteria).
    pub chains: Vec<Arc<FilterChain>>,
    /// When none matches.
    pub default_chain: Option<Arc<FilterChain>>,
}

/// A set of ports.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PortRanges(
    /// Inclusive, ascending, not touching.
    pub Vec<(u16, u16)>,
);

impl PortRanges {
    /// Whether `port` is one of them.
    pub fn contains(&self, port: u16) -> bool {
        self.0.iter().any(|&(first, last)| (first..=last).contains(&port))
    }
}

/// Envoy `core.v3.TrafficDirection`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum TrafficDirection {
    /// A gateway's.
    #[default]
    Unspecified,
    /// Towards the workload.
    Inbound,
    /// Away from the workload.
    Outbound,
}

/// Envoy `FilterChain`.
#[derive(Debug)]
pub struct FilterChain {
    /// Its name, for logs.
    pub name: Arc<str>,
    /// When it applies.
    pub matches: ChainMatch,
    /// TLS termination; `None`: raw bytes.
    pub tls: Option<Arc<DownstreamTls>>,
    /// RBAC at connection level (`envoy.filters.network.rbac`), in order.
    pub rbac: Vec<Arc<Rbac>>,
    /// What reads the bytes.
    pub network: NetworkFilter,
}

/// Envoy `FilterChainMatch`, in the order in which its criteria decide.
#[derive(Debug, Default)]
pub struct ChainMatch {
    /// `destination_port`.
    pub destination_port: Option<u16>,
    /// `prefix_ranges` of the destination.
    pub destination: Vec<IpNet>,
    /// `server_names`; `*.example.com` kept as written, lower case.
    pub server_names: Vec<Box<str>>,
    /// `transport_protocol`.
    pub transport: Option<Transport>,
    /// `application_protocols`.
    pub application_protocols: Vec<Box<[u8]>>,
    /// `source_prefix_ranges`.
    pub source: Vec<IpNet>,
}

/// `FilterChainMatch.transport_protocol`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// `tls`.
    Tls,
    /// `raw_buffer`.
    Raw,
}

/// The terminal network filter of a chain.
#[derive(Debug)]
pub enum NetworkFilter {
    /// `envoy.filters.network.tcp_proxy`.
    Tcp(TcpProxy),
    /// `envoy.filters.network.http_connection_manager`.
    Http(Box<HttpManager>),
}

/// Envoy `TcpProxy`.
#[derive(Debug)]
pub struct TcpProxy {
    /// Clusters and weights; at least one, the sum of weights positive.
    pub clusters: Vec<(Arc<str>, u32)>,
    /// `stat_prefix`.
    pub stat_prefix: Arc<str>,
    /// `idle_timeout`, default 1 h; `None`: never.
    pub idle_timeout: Option<Duration>,
    /// `max_connect_attempts`, default 1.
    pub max_connect_attempts: u32,
    /// `max_downstream_connection_duration`; `None`: no limit.
    pub max_duration: Option<Duration>,
    /// `hash_policy.source_ip`: a consistent-hash balancer hashes the peer's address.
    pub hash_source_ip: bool,
    /// `access_log`.
    pub access_logs: Vec<AccessLog>,
    /// `filter_metadata["isthmus"].because` of the chain.
    pub because: Option<Arc<str>>,
}

/// Envoy `HttpConnectionManager`.
#[derive(Debug)]
pub struct HttpManager {
    /// `stat_prefix`.
    pub stat_prefix: Arc<str>,
    /// HTTP/1 and HTTP/2 by sniffing, or one of them.
    pub codec: Codec,
    /// The routes.
    pub routes: Routes,
    /// Filters before the router.
    pub filters: Vec<HttpFilter>,
    /// `forward_client_cert_details`.
    pub client_cert: ClientCertHeader,
    /// `use_remote_address`: the peer is the client (gateways).
    pub use_remote_address: bool,
    /// `xff_num_trusted_hops`.
    pub trusted_hops: u32,
    /// `upgrade_configs`, lower case: `websocket`.
    pub upgrades: Vec<String>,
    /// `stream_idle_timeout`, default 5 min; `None`: never.
    pub stream_idle_timeout: Option<Duration>,
    /// `request_timeout`; `None`: never.
    pub request_timeout: Option<Duration>,
    /// `common_http_protocol_options.idle_timeout` of connections, default 1 h.
    pub idle_timeout: Option<Duration>,
    /// `request_headers_timeout`.
    pub headers_timeout: Option<Duration>,
    /// `drain_timeout`.
    pub drain_timeout: Duration,
    /// `max_request_headers_kb` in bytes, default 60 KiB.
    pub max_header_bytes: usize,
    /// `http2_protocol_options.max_concurrent_streams`.
    pub max_concurrent_streams: u32,
    /// `server_name`, `None`: `envoy`; with `server_header_pass_through` the upstream's stays.
    pub server_name: Option<Arc<str>>,
    /// `server_header_transformation: PASS_THROUGH`.
    pub server_header_pass_through: bool,
    /// `normalize_path`.
    pub normalize_path: bool,
    /// `merge_slashes`.
    pub merge_slashes: bool,
    /// `generate_request_id`, default true.
    pub generate_request_id: bool,
    /// `preserve_external_request_id`: an edge proxy keeps the client's `x-request-id`.
    pub preserve_external_request_id: bool,
    /// `accept_http_10`.
    pub accept_http_10: bool,
    /// `access_log`.
    pub access_logs: Vec<AccessLog>,
    /// Tracing; `None`: off.
    pub tracing: Option<Tracing>,
}

/// Envoy `CodecType`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Codec {
    /// By ALPN, else by the HTTP/2 preface.
    Auto,
    /// HTTP/1.1.
    Http1,
    /// HTTP/2.
    Http2,
}

/// Where an HTTP connection manager has its routes from.
#[derive(Debug)]
pub enum Routes {
    /// RDS by name.
    Rds(Arc<str>),
    /// Inline.
    Inline(Arc<RouteTable>),
}

/// Envoy `ForwardClientCertDetails` for `x-forwarded-client-cert`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientCertHeader {
    /// Remove it.
    Sanitize,
    /// Pass what came over mTLS.
    ForwardOnly,
    /// Append when the connection is mTLS.
    AppendForward,
    /// Replace when the connection is mTLS, remove otherwise.
    SanitizeSet,
    /// Always pass.
    AlwaysForwardOnly,
}

/// One access log.
#[derive(Debug, Clone)]
pub struct AccessLog {
    /// File; `/dev/stdout` and `/dev/stderr` are the process's own.
    pub path: Arc<str>,
    /// Its form.
    pub format: AccessLogFormat,
}

/// Envoy `SubstitutionFormatString`.
#[derive(Debug, Clone)]
pub enum AccessLogFormat {
    /// Istio's default line.
    Default,
    /// A line with Envoy's `%...%` operators.
    Text(Arc<str>),
    /// An object whose values hold operators.
    Json(Arc<[(String, serde_json::Value)]>),
}

/// Envoy `HttpConnectionManager.Tracing`.
#[derive(Debug, Clone)]
pub struct Tracing {
    /// Share of requests in parts per million.
    pub sampling: u32,
}
