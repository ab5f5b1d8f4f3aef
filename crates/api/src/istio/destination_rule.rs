//! `networking.istio.io` DestinationRule: what happens to traffic for a host after routing.

use std::collections::BTreeMap;

use isthmus_model::Labels;

use super::LabelSelector;
use super::virtual_service::PortSelector;
use crate::duration::Duration;
use crate::message::{choice, message};

message! {
    /// Policies and subsets of a host.
    pub struct DestinationRule {
        /// Host; short names belong to the resource's namespace.
        host: String,
        /// Policy for the whole host.
        traffic_policy: Option<TrafficPolicy>,
        /// Named versions of the service.
        subsets: Vec<Subset>,
        /// Namespaces that see it.
        export_to: Vec<String>,
        /// Callers that it applies to; all when absent.
        workload_selector: Option<LabelSelector>,
    }

    /// A version of a service.
    pub struct Subset {
        /// Name that routes use.
        name: String,
        /// Labels of its endpoints.
        labels: Labels,
        /// Policy that overrides the host's.
        traffic_policy: Option<TrafficPolicy>,
    }

    /// Policies for connections to a host.
    pub struct TrafficPolicy {
        /// How an endpoint is chosen.
        load_balancer: Option<LoadBalancerSettings>,
        /// Limits.
        connection_pool: Option<ConnectionPoolSettings>,
        /// When an endpoint is ejected.
        outlier_detection: Option<OutlierDetection>,
        /// TLS towards the host.
        tls: Option<ClientTlsSettings>,
        /// Policies of single ports, which replace these.
        port_level_settings: Vec<PortTrafficPolicy>,
        /// HTTP CONNECT tunnel.
        tunnel: Option<TunnelSettings>,
        /// PROXY protocol towards the host.
        proxy_protocol: Option<ProxyProtocol>,
        /// Share of requests that may be retries.
        retry_budget: Option<RetryBudget>,
    }

    /// Policies for one port.
    pub struct PortTrafficPolicy {
        /// Which port.
        port: Option<PortSelector>,
        /// How an endpoint is chosen.
        load_balancer: Option<LoadBalancerSettings>,
        /// Limits.
        connection_pool: Option<ConnectionPoolSettings>,
        /// When an endpoint is ejected.
        outlier_detection: Option<OutlierDetection>,
        /// TLS towards the host.
        tls: Option<ClientTlsSettings>,
    }

    /// How an endpoint is chosen: `simple` or `consistentHash`.
    pub struct LoadBalancerSettings {
        /// A standard algorithm.
        simple: Option<SimpleLb>,
        /// By a hash of the request.
        consistent_hash: Option<ConsistentHashLb>,
        /// Locality rules, instead of the mesh's.
        locality_lb_setting: Option<LocalityLoadBalancerSetting>,
        /// Deprecated: `warmup.duration`.
        warmup_duration_secs: Option<Duration>,
        /// New endpoints get their share slowly.
        warmup: Option<WarmupConfiguration>,
    }

    /// Slow start.
    pub struct WarmupConfiguration {
        /// How long.
        duration: Option<Duration>,
        /// Least share in percent; 10 when absent.
        minimum_percent: Option<f64>,
        /// Shape of the curve, at least 1.
        aggression: Option<f64>,
    }

    /// What is hashed (one of the first four) and how.
    pub struct ConsistentHashLb {
        /// A header.
        http_header_name: Option<String>,
        /// A cookie, made when it is missing.
        http_cookie: Option<HttpCookie>,
        /// The caller's address.
        use_source_ip: Option<bool>,
        /// A query parameter.
        http_query_parameter_name: Option<String>,
        /// Ring.
        ring_hash: Option<RingHash>,
        /// Maglev table.
        maglev: Option<Maglev>,
        /// Deprecated: `ringHash.minimumRingSize`.
        minimum_ring_size: Option<u64>,
    }

    /// The cookie that is hashed.
    pub struct HttpCookie {
        /// Name.
        name: String,
        /// Path.
        path: String,
        /// Lifetime; required, 0 is a session cookie.
        ttl: Option<Duration>,
        /// Further attributes.
        attributes: Vec<CookieAttribute>,
    }

    /// An attribute of a cookie.
    pub struct CookieAttribute {
        /// Name, e.g. `SameSite`.
        name: String,
        /// Value.
        value: String,
    }

    /// Ring hash.
    pub struct RingHash {
        /// Least number of points.
        minimum_ring_size: Option<u64>,
    }

    /// Maglev.
    pub struct Maglev {
        /// Size, a prime; 65537 when absent.
        table_size: Option<u64>,
    }

    /// Locality rules: `distribute`, `failover` or `failoverPriority`.
    pub struct LocalityLoadBalancerSetting {
        /// Shares by locality.
        distribute: Vec<LocalityDistribute>,
        /// Which region follows which.
        failover: Vec<LocalityFailover>,
        /// Labels whose agreement makes an endpoint nearer.
        failover_priority: Vec<String>,
        /// Whether locality matters at all.
        enabled: Option<bool>,
    }

    /// Where traffic from a locality goes.
    pub struct LocalityDistribute {
        /// `region/zone/subzone`, with `*` for the rest.
        from: String,
        /// Percent by locality; the sum is 100.
        to: BTreeMap<String, u32>,
    }

    /// Which region takes over.
    pub struct LocalityFailover {
        /// The region of the caller.
        from: String,
        /// The region that takes over.
        to: String,
    }

    /// Limits on connections and requests.
    pub struct ConnectionPoolSettings {
        /// For every protocol.
        tcp: Option<TcpSettings>,
        /// For HTTP.
        http: Option<HttpSettings>,
    }

    /// Connection limits.
    pub struct TcpSettings {
        /// Connections to one host; unlimited when absent.
        max_connections: Option<i32>,
        /// 10 s when absent.
        connect_timeout: Option<Duration>,
        /// Probes of idle connections.
        tcp_keepalive: Option<TcpKeepalive>,
        /// After this long a connection is closed.
        max_connection_duration: Option<Duration>,
        /// Without bytes for this long a connection is closed; 1 h when absent.
        idle_timeout: Option<Duration>,
    }

    /// TCP keep-alive; the system's values where absent.
    pub struct TcpKeepalive {
        /// Probes without answer until the connection counts as dead.
        probes: Option<u32>,
        /// Idle time before the first probe.
        time: Option<Duration>,
        /// Between probes.
        interval: Option<Duration>,
    }

    /// Request limits.
    pub struct HttpSettings {
        /// Requests that wait for a connection.
        http1_max_pending_requests: Option<i32>,
        /// Requests at the same time.
        http2_max_requests: Option<i32>,
        /// Requests per connection; unlimited when absent.
        max_requests_per_connection: Option<i32>,
        /// Retries at the same time.
        max_retries: Option<i32>,
        /// Without requests for this long a connection is closed; 1 h when absent.
        idle_timeout: Option<Duration>,
        /// Whether HTTP/1.1 becomes HTTP/2.
        h2_upgrade_policy: H2UpgradePolicy,
        /// Whether the caller's protocol is kept.
        use_client_protocol: bool,
        /// Streams per HTTP/2 connection.
        max_concurrent_streams: Option<i32>,
        /// HTTP/2 pings.
        http2_keep_alive: Option<Http2KeepAlive>,
    }

    /// HTTP/2 pings.
    pub struct Http2KeepAlive {
        /// Between pings.
        interval: Option<Duration>,
        /// Until a ping's answer.
        timeout: Option<Duration>,
    }

    /// When an endpoint is ejected.
    pub struct OutlierDetection {
        /// Deprecated: `consecutive5xxErrors`.
        consecutive_errors: Option<i32>,
        /// Whether connect failures are counted apart from answers.
        split_external_local_origin_errors: bool,
        /// Connect failures in a row; 5 when absent.
        consecutive_local_origin_failures: Option<u32>,
        /// 502, 503, 504 in a row; off when absent or 0.
        consecutive_gateway_errors: Option<u32>,
        /// 5xx in a row; 5 when absent, 0 turns it off.
        #[serde(rename = "consecutive5xxErrors")]
        consecutive_5xx_errors: Option<u32>,
        /// Between sweeps; 10 s when absent.
        interval: Option<Duration>,
        /// Times the number of ejections; 30 s when absent.
        base_ejection_time: Option<Duration>,
        /// Of the endpoints; 10 when absent.
        max_ejection_percent: Option<i32>,
        /// Below this share of healthy endpoints ejection is ignored; 0 when absent.
        min_health_percent: Option<i32>,
    }

    /// TLS towards a host.
    pub struct ClientTlsSettings {
        /// Which certificate is shown, if any.
        mode: ClientTlsMode,
        /// File of the certificate chain (MUTUAL).
        client_certificate: String,
        /// File of the key (MUTUAL).
        private_key: String,
        /// File of the roots that the server must chain to.
        ca_certificates: String,
        /// Secret with the same, for gateways.
        credential_name: String,
        /// Names that the server must prove one of.
        subject_alt_names: Vec<String>,
        /// Name asked for.
        sni: String,
        /// Whether the server is not verified at all.
        insecure_skip_verify: Option<bool>,
        /// File of revoked certificates.
        ca_crl: String,
    }

    /// HTTP CONNECT tunnel.
    pub struct TunnelSettings {
        /// CONNECT or POST.
        protocol: String,
        /// Host at the far end.
        target_host: String,
        /// Port at the far end.
        target_port: Option<u16>,
    }

    /// PROXY protocol.
    pub struct ProxyProtocol {
        /// Which version.
        version: ProxyProtocolVersion,
    }

    /// Share of requests that may be retries.
    pub struct RetryBudget {
        /// Percent of the requests in flight; 20 when absent.
        percent: Option<Percent>,
        /// Retries that are always allowed; 3 when absent.
        min_retry_concurrency: Option<u32>,
    }

    /// A share.
    pub struct Percent {
        /// 0 to 100.
        value: f64,
    }
}

choice! {
    /// A standard algorithm.
    pub enum SimpleLb {
        /// As LEAST_REQUEST.
        Unspecified,
        /// Deprecated: LEAST_REQUEST.
        LeastConn,
        /// Any.
        Random,
        /// To the address that the caller chose.
        Passthrough,
        /// In turn.
        RoundRobin,
        /// The idler of two.
        LeastRequest,
    }

    /// Whether HTTP/1.1 becomes HTTP/2.
    pub enum H2UpgradePolicy {
        /// As the mesh says.
        Default,
        /// No.
        DoNotUpgrade,
        /// Yes.
        Upgrade,
    }

    /// Which certificate is shown to the server.
    pub enum ClientTlsMode {
        /// No TLS.
        Disable,
        /// None.
        Simple,
        /// The user's own.
        Mutual,
        /// The workload's identity.
        IstioMutual,
    }

    /// Version of the PROXY protocol.
    pub enum ProxyProtocolVersion {
        /// Text.
        V1,
        /// Binary.
        V2,
    }
}
