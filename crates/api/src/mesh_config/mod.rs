//! MeshConfig and MeshNetworks: the mesh's own settings, in ConfigMap `istio` of the root namespace
//! under the keys `mesh` and `meshNetworks`.
//!
//! Absent fields have Istio's defaults through the methods of [`MeshConfig`], so that overlays can tell
//! "not said" from "said".

mod read;

pub use read::{Mesh, from_config_map, from_node, from_text};

use std::collections::BTreeMap;

use isthmus_model::{Labels, TrustDomain};
use serde_json::{Map, Value};

use crate::duration::Duration;
use crate::istio::destination_rule::{
    ClientTlsSettings, H2UpgradePolicy, LocalityLoadBalancerSetting, TcpKeepalive,
};
use crate::istio::sidecar::OutboundTrafficPolicyMode;
use crate::istio::virtual_service::HttpRetry;
use crate::message::{choice, message};

/// Name of the ConfigMap.
pub const CONFIG_MAP: &str = "istio";
/// Namespace of the control plane and of mesh-wide policies unless said otherwise.
pub const ROOT_NAMESPACE: &str = "istio-system";

message! {
    /// Settings of the whole mesh.
    pub struct MeshConfig {
        /// Root of the identities; `cluster.local` when empty.
        trust_domain: String,
        /// Former trust domains whose identities still count.
        trust_domain_aliases: Vec<String>,
        /// Namespace of mesh-wide policies; `istio-system` when empty.
        root_namespace: String,
        /// What happens to unknown destinations.
        outbound_traffic_policy: Option<OutboundTrafficPolicy>,
        /// What happens to inbound traffic without a service.
        inbound_traffic_policy: Option<InboundTrafficPolicy>,
        /// File of the access log; `/dev/stdout` writes to standard output, empty turns it off.
        access_log_file: String,
        /// Format of the access log; the encoding's default when empty.
        access_log_format: String,
        /// TEXT or JSON.
        access_log_encoding: AccessLogEncoding,
        /// Access log over gRPC.
        enable_envoy_access_log_service: bool,
        /// Whether listeners log as well.
        disable_envoy_listener_log: bool,
        /// Locality rules.
        locality_lb_setting: Option<LocalityLoadBalancerSetting>,
        /// Settings of every proxy.
        default_config: Option<MeshProxyConfig>,
        /// Whether mTLS is used wherever the other side takes it; yes when absent.
        enable_auto_mtls: Option<bool>,
        /// 10 s when absent.
        connect_timeout: Option<Duration>,
        /// 60 s when absent.
        dns_refresh_rate: Option<Duration>,
        /// Time for sniffing a protocol; 5 s when absent, 0 waits for ever.
        protocol_detection_timeout: Option<Duration>,
        /// Keep-alive of every outbound connection.
        tcp_keepalive: Option<TcpKeepalive>,
        /// Visibility of services that do not say theirs; `*` when empty.
        default_service_export_to: Vec<String>,
        /// Visibility of VirtualServices that do not say theirs; `*` when empty.
        default_virtual_service_export_to: Vec<String>,
        /// Visibility of DestinationRules that do not say theirs; `*` when empty.
        default_destination_rule_export_to: Vec<String>,
        /// Whether HTTP/1.1 becomes HTTP/2 between sidecars.
        h2_upgrade_policy: H2UpgradePolicy,
        /// Retries of routes that do not say theirs.
        default_http_retry_policy: Option<HttpRetry>,
        /// Whether traces are made; yes when absent.
        enable_tracing: Option<bool>,
        /// External authorisers, tracers and log services by name.
        extension_providers: Vec<Map<String, Value>>,
        /// Providers of metrics, traces and logs unless Telemetry says otherwise.
        default_providers: Option<DefaultProviders>,
        /// Which namespaces are looked at.
        discovery_selectors: Vec<Map<String, Value>>,
        /// Settings of single hosts.
        service_settings: Vec<ServiceSettings>,
        /// Further roots for the mesh.
        ca_certificates: Vec<CertificateData>,
        /// Certificates for DNS names.
        certificates: Vec<Map<String, Value>>,
        /// How paths are normalised before they are matched.
        path_normalization: Option<PathNormalization>,
        /// TLS between sidecars.
        #[serde(rename = "meshMTLS")]
        mesh_mtls: Option<TlsConfig>,
        /// TLS by default elsewhere.
        tls_defaults: Option<TlsConfig>,
        /// Port of the outbound capture; 15001 when 0.
        proxy_listen_port: u16,
        /// Port of the inbound capture; 15006 when 0.
        proxy_inbound_listen_port: u16,
        /// Port of an HTTP proxy for applications; off when 0.
        proxy_http_port: u16,
        /// Class of Ingress resources.
        ingress_class: String,
        /// Service of the ingress gateway.
        ingress_service: String,
        /// Labels of the ingress gateway.
        ingress_selector: String,
        /// OFF, DEFAULT or STRICT.
        ingress_controller_mode: String,
        /// Whether DestinationRules verify servers by the system's roots; yes when absent.
        verify_certificate_at_client: Option<bool>,
        /// External authority.
        ca: Option<Map<String, Value>>,
        /// Sources of configuration besides Kubernetes.
        config_sources: Vec<Map<String, Value>>,
        /// Whether headers keep their case and other HTTP/1 matters.
        http1_proxy_settings: Option<Map<String, Value>>,
        /// Prefix of inbound cluster names in statistics.
        inbound_cluster_stat_name: String,
        /// Prefix of outbound cluster names in statistics.
        outbound_cluster_stat_name: String,
        /// Rate limits of Thrift; not used.
        thrift_config: Option<Map<String, Value>>,
        /// Whether Prometheus annotations are merged; yes when absent.
        enable_prometheus_merge: Option<bool>,
        /// Search domains of pods; not used.
        pod_dns_search_namespaces: Vec<String>,
        /// Socket of the agent; not used.
        sds_uds_path: String,
        /// Retired by Istio; not used.
        disable_policy_checks: Option<bool>,
        /// `istio` restores upstream's locality failover (only with outlierDetection).
        compatibility: String,
    }

    /// What happens to unknown destinations.
    pub struct OutboundTrafficPolicy {
        /// ALLOW_ANY when the policy is absent.
        mode: Option<OutboundTrafficPolicyMode>,
    }

    /// What happens to inbound traffic without a service.
    pub struct InboundTrafficPolicy {
        /// PASSTHROUGH or LOCALHOST.
        mode: String,
    }

    /// Settings of proxies; also annotation `proxy.istio.io/config`.
    pub struct MeshProxyConfig {
        /// Address of the control plane; `istiod.istio-system.svc:15012` when empty.
        discovery_address: String,
        /// Worker threads; 0 for one per core.
        concurrency: Option<i32>,
        /// Environment and node metadata.
        proxy_metadata: BTreeMap<String, String>,
        /// Time for connections to end; 45 s when absent.
        drain_duration: Option<Duration>,
        /// Time between SIGTERM and the end; 5 s when absent.
        termination_drain_duration: Option<Duration>,
        /// Whether the application starts after the proxy.
        hold_application_until_proxy_starts: Option<bool>,
        /// Admin port; 15000 when 0.
        proxy_admin_port: u16,
        /// Port of merged metrics; 15020 when 0.
        status_port: u16,
        /// REDIRECT, TPROXY or NONE.
        interception_mode: String,
        /// Traces.
        tracing: Option<ProxyTracing>,
        /// How many gateways are trusted before this one.
        gateway_topology: Option<GatewayTopology>,
        /// Which statistics are made.
        proxy_stats_matcher: Option<Map<String, Value>>,
        /// Health probe.
        readiness_probe: Option<Map<String, Value>>,
        /// Directory of the configuration; not used.
        config_path: String,
        /// Path of another proxy binary; not used.
        binary_path: String,
        /// Name of the service; not used.
        service_cluster: String,
        /// Further roots of the control plane; not used.
        ca_certificates_pem: Vec<String>,
        /// MUTUAL_TLS or NONE.
        control_plane_auth_policy: String,
        /// Longest name of a statistic; not used.
        stat_name_length: i32,
        /// Statsd; not used.
        statsd_udp_address: String,
        /// Access log service.
        envoy_access_log_service: Option<Map<String, Value>>,
        /// Metrics service.
        envoy_metrics_service: Option<Map<String, Value>>,
        /// Tags of statistics.
        extra_stat_tags: Vec<String>,
        /// Image of the proxy.
        image: Option<Map<String, Value>>,
        /// Private key provider; not used.
        private_key_provider: Option<Map<String, Value>>,
        /// Headers that proxies add.
        proxy_headers: Option<Map<String, Value>>,
        /// Bootstrap template of the user's own; not used.
        custom_config_file: String,
        /// Zone of the proxy; not used.
        availability_zone: String,
        /// Mesh id.
        mesh_id: String,
        /// How often access logs are flushed; not used.
        file_flush_interval: Option<Duration>,
        /// Size at which logs flush; not used.
        file_flush_min_size_kb: Option<u32>,
        /// Runtime values of Envoy; not used.
        runtime_values: BTreeMap<String, String>,
        /// Retired by Istio; not used.
        zipkin_address: String,
    }

    /// Traces.
    pub struct ProxyTracing {
        /// 0 to 100; 1 when absent.
        sampling: Option<f64>,
        /// Length of a path in a span.
        max_path_tag_length: Option<u32>,
        /// Tags of spans.
        custom_tags: BTreeMap<String, Value>,
        /// Zipkin.
        zipkin: Option<Map<String, Value>>,
        /// OpenCensus.
        open_census_agent: Option<Map<String, Value>>,
        /// Datadog.
        datadog: Option<Map<String, Value>>,
        /// Lightstep.
        lightstep: Option<Map<String, Value>>,
        /// Stackdriver.
        stackdriver: Option<Map<String, Value>>,
        /// TLS towards the tracer.
        tls_settings: Option<ClientTlsSettings>,
        /// Whether Istio's tags are added.
        enable_istio_tags: Option<bool>,
    }

    /// What stands in front of a gateway.
    pub struct GatewayTopology {
        /// Proxies whose X-Forwarded-For is believed.
        num_trusted_proxies: u32,
        /// What happens to x-forwarded-client-cert.
        forward_client_cert_details: String,
        /// PROXY protocol.
        proxy_protocol: Option<Map<String, Value>>,
    }

    /// Providers by use.
    pub struct DefaultProviders {
        /// Of traces.
        tracing: Vec<String>,
        /// Of metrics.
        metrics: Vec<String>,
        /// Of access logs.
        access_logging: Vec<String>,
    }

    /// Settings of hosts.
    pub struct ServiceSettings {
        /// The settings.
        settings: Option<ServiceSettingsFields>,
        /// The hosts, with wildcards.
        hosts: Vec<String>,
    }

    /// Settings of hosts.
    pub struct ServiceSettingsFields {
        /// Whether only endpoints of the caller's own cluster are used.
        cluster_local: bool,
    }

    /// A root.
    pub struct CertificateData {
        /// PEM.
        pem: Option<String>,
        /// Where it is fetched.
        spiffe_bundle_url: Option<String>,
        /// Which signers it belongs to.
        cert_signers: Vec<String>,
        /// Trust domains that it vouches for.
        trust_domains: Vec<String>,
    }

    /// How paths are normalised.
    pub struct PathNormalization {
        /// NONE, BASE, MERGE_SLASHES, DECODE_AND_MERGE_SLASHES; BASE when empty.
        normalization: PathNormalizationType,
    }

    /// TLS settings.
    pub struct TlsConfig {
        /// TLSV1_2 or TLSV1_3.
        min_protocol_version: String,
        /// Curves.
        ecdh_curves: Vec<String>,
        /// Suites for TLS 1.2.
        cipher_suites: Vec<String>,
    }

    /// Networks by name.
    pub struct MeshNetworks {
        /// The networks.
        networks: BTreeMap<String, Network>,
    }

    /// A network.
    pub struct Network {
        /// What belongs to it.
        endpoints: Vec<NetworkEndpoints>,
        /// How it is reached.
        gateways: Vec<NetworkGateway>,
    }

    /// What belongs to a network: one of the two.
    pub struct NetworkEndpoints {
        /// Addresses.
        from_cidr: Option<String>,
        /// A member cluster.
        from_registry: Option<String>,
    }

    /// How a network is reached: a service or an address.
    pub struct NetworkGateway {
        /// Service of the gateway.
        registry_service_name: Option<String>,
        /// Address or DNS name.
        address: Option<String>,
        /// Port; 15443 as a rule.
        port: u16,
        /// Where it runs.
        locality: String,
        /// Labels, not used.
        labels: Labels,
    }
}

choice! {
    /// Form of the access log.
    pub enum AccessLogEncoding {
        /// Envoy's format strings.
        Text,
        /// An object per line.
        Json,
    }

    /// How paths are normalised before they are matched.
    pub enum PathNormalizationType {
        /// As BASE.
        Default,
        /// Not at all.
        None,
        /// RFC 3986.
        Base,
        /// And slashes merged.
        MergeSlashes,
        /// And escaped slashes decoded first.
        DecodeAndMergeSlashes,
    }
}

impl MeshConfig {
    /// The trust domain; `cluster.local` when absent or not valid (which is a finding).
    pub fn trust_domain(&self) -> TrustDomain {
        self.trust_domain.parse().unwrap_or_default()
    }

    /// Namespace of mesh-wide policies.
    pub fn root_namespace(&self) -> &str {
        if self.root_namespace.is_empty() {
            ROOT_NAMESPACE
        } else {
            &self.root_namespace
        }
    }

    /// Whether unknown destinations may be reached.
    pub fn outbound_mode(&self) -> OutboundTrafficPolicyMode {
        let said = self.outbound_traffic_policy.as_ref().and_then(|p| p.mode);
        said.unwrap_or(OutboundTrafficPolicyMode::AllowAny)
    }

    /// Time to connect upstream.
    pub fn connect_timeout(&self) -> Duration {
        self.connect_timeout.unwrap_or(Duration::from_secs(10))
    }

    /// How often names are resolved again.
    pub fn dns_refresh_rate(&self) -> Duration {
        self.dns_refresh_rate.unwrap_or(Duration::from_secs(60))
    }

    /// Time for sniffing a protocol; zero waits for ever. That is upstream's default, and a server that
    /// speaks first is never heard on a port whose protocol nobody said.
    pub fn protocol_detection_timeout(&self) -> Duration {
        let default = if self.like_istio() { 0 } else { 5 };
        self.protocol_detection_timeout
            .unwrap_or(Duration::from_secs(default))
    }

    /// Whether mTLS is used wherever the other side takes it.
    pub fn auto_mtls(&self) -> bool {
        self.enable_auto_mtls.unwrap_or(true)
    }

    /// Whether locality decides about failover.
    pub fn locality_enabled(&self) -> bool {
        self.locality_lb_setting
            .as_ref()
            .and_then(|l| l.enabled)
            .unwrap_or(true)
    }

    /// Whether upstream's behaviour is asked for where it differs.
    pub fn like_istio(&self) -> bool {
        self.compatibility == "istio"
    }

    /// Time for connections to end when listeners change.
    pub fn drain_duration(&self) -> Duration {
        let said = self.default_config.as_ref().and_then(|c| c.drain_duration);
        said.unwrap_or(Duration::from_secs(45))
    }

    /// Percent of the requests that are traced.
    pub fn trace_sampling(&self) -> f64 {
        let tracing = self.default_config.as_ref().and_then(|c| c.tracing.as_ref());
        tracing.and_then(|t| t.sampling).unwrap_or(1.0)
    }
}
