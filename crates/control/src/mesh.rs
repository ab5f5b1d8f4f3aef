//! What holds for the whole mesh, as seen from this member cluster.

use std::collections::BTreeMap;
use std::time::Duration;

use isthmus_api::istio::destination_rule::{H2UpgradePolicy, LocalityLoadBalancerSetting, TcpKeepalive};
use isthmus_api::istio::sidecar::OutboundTrafficPolicyMode;
use isthmus_api::istio::virtual_service::HttpRetry;
use isthmus_api::mesh_config;
use isthmus_model::{ClusterId, EndpointAddress, Hostname, NetworkId, TrustDomain};
use serde::{Deserialize, Serialize};

/// Who this control plane is and the mesh-wide settings (Istio `MeshConfig`, `MeshNetworks`).
#[derive(Debug, Clone, PartialEq)]
pub struct Mesh {
    /// This member cluster. Istio: `global.multiCluster.clusterName`.
    pub cluster: ClusterId,
    /// Network of workloads that say nothing else. Istio: `global.network`.
    pub network: NetworkId,
    /// Istio: `global.meshID`.
    pub mesh_id: String,
    /// Root of this mesh's identities.
    pub trust_domain: TrustDomain,
    /// Trust domains whose identities count as this mesh's own. Istio: `trustDomainAliases`.
    pub trust_domain_aliases: Vec<TrustDomain>,
    /// DNS suffix of Kubernetes services, `cluster.local`.
    pub domain: String,
    /// Namespace whose policies hold everywhere, `istio-system`.
    pub root_namespace: String,
    /// `outboundTrafficPolicy.mode`.
    pub outbound_policy: OutboundPolicy,
    /// `enableAutoMtls`.
    pub auto_mtls: bool,
    /// `connectTimeout` of clusters without one of their own.
    pub connect_timeout: Duration,
    /// `dnsRefreshRate`.
    pub dns_refresh: Duration,
    /// `protocolDetectionTimeout`; zero waits for ever.
    pub detection_timeout: Duration,
    /// `accessLogFile`; empty: none.
    pub access_log_file: String,
    /// `accessLogEncoding: JSON`.
    pub access_log_json: bool,
    /// `accessLogFormat`; empty: Istio's default.
    pub access_log_format: String,
    /// `localityLbSetting`, the mesh's default.
    pub locality: LocalitySetting,
    /// `isthmus.compatibility: istio`: defaults as upstream has them where they differ from ours.
    pub istio_compatible: bool,
    /// `meshNetworks`, by network.
    pub networks: BTreeMap<NetworkId, MeshNetwork>,
    /// `defaultServiceExportTo`, for Services and ServiceEntries that say nothing.
    pub services_export_to: Vec<String>,
    /// `defaultVirtualServiceExportTo`.
    pub virtual_services_export_to: Vec<String>,
    /// `defaultDestinationRuleExportTo`.
    pub destination_rules_export_to: Vec<String>,
    /// `defaultHttpRetryPolicy`, for routes without one of their own.
    pub retries: Option<HttpRetry>,
    /// `h2UpgradePolicy: UPGRADE`, where a DestinationRule says nothing.
    pub upgrades_to_h2: bool,
    /// `tcpKeepalive` towards upstreams, where a DestinationRule says nothing.
    pub tcp_keepalive: Option<TcpKeepalive>,
    /// Hosts of `serviceSettings` with `clusterLocal`: other clusters' endpoints are left out.
    pub cluster_local: Vec<Hostname>,
    /// `gatewayTopology.numTrustedProxies` of `defaultConfig`: proxies before a gateway whose
    /// X-Forwarded-For is believed.
    pub trusted_proxies: u32,
}

/// What the installation says of this control plane, before any MeshConfig.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// `--cluster-id`.
    pub cluster: ClusterId,
    /// `--network`.
    pub network: NetworkId,
    /// `--mesh-id`.
    pub mesh_id: String,
    /// `--trust-domain`, when it was said.
    pub trust_domain: Option<TrustDomain>,
    /// Namespace of the control plane.
    pub root_namespace: String,
}

/// What happens with traffic to hosts that nobody declared (`outboundTrafficPolicy.mode`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum OutboundPolicy {
    /// It is passed on as it is.
    #[default]
    AllowAny,
    /// It is refused.
    RegistryOnly,
}

/// Istio `LocalityLoadBalancerSetting`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct LocalitySetting {
    /// Explicit shares by the caller's locality.
    pub distribute: Vec<Distribute>,
    /// Which region follows when another fails.
    pub failover: Vec<Failover>,
    /// Labels that have to agree, in order of importance.
    pub failover_priority: Vec<String>,
    /// Whether locality is regarded at all; on when not said.
    pub enabled: Option<bool>,
}

/// Istio `LocalityLoadBalancerSetting.Distribute`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default)]
pub struct Distribute {
    /// Locality of the caller, `region/zone/subzone`, `*` as the last part.
    pub from: String,
    /// Share by locality of the endpoints; the sum is 100.
    pub to: BTreeMap<String, u32>,
}

/// Istio `LocalityLoadBalancerSetting.Failover`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default)]
pub struct Failover {
    /// Region that fails.
    pub from: String,
    /// Region that takes over.
    pub to: String,
}

/// One of `meshNetworks.networks`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct MeshNetwork {
    /// `fromCidr` of its endpoints.
    pub cidrs: Vec<ipnet::IpNet>,
    /// `fromRegistry` of its endpoints.
    pub clusters: Vec<ClusterId>,
    /// Gateways by address and port.
    pub gateways: Vec<(EndpointAddress, u16)>,
    /// Gateways by Service host name (`registryServiceName`) and port.
    pub gateway_services: Vec<(String, u16)>,
}

impl Default for Mesh {
    fn default() -> Self {
        Self {
            cluster: ClusterId::from("Kubernetes"),
            network: NetworkId::default(),
            mesh_id: String::new(),
            trust_domain: TrustDomain::default(),
            trust_domain_aliases: Vec::new(),
            domain: "cluster.local".to_owned(),
            root_namespace: "istio-system".to_owned(),
            outbound_policy: OutboundPolicy::AllowAny,
            auto_mtls: true,
            connect_timeout: Duration::from_secs(10),
            dns_refresh: Duration::from_secs(60),
            detection_timeout: Duration::from_secs(5),
            access_log_file: String::new(),
            access_log_json: false,
            access_log_format: String::new(),
            locality: LocalitySetting::default(),
            istio_compatible: false,
            networks: BTreeMap::new(),
            services_export_to: Vec::new(),
            virtual_services_export_to: Vec::new(),
            destination_rules_export_to: Vec::new(),
            retries: None,
            upgrades_to_h2: false,
            tcp_keepalive: None,
            cluster_local: Vec::new(),
            trusted_proxies: 0,
        }
    }
}

impl Mesh {
    /// The settings that hold: those of the MeshConfig over those of the installation.
    pub fn new(identity: &Identity, written: &mesh_config::Mesh) -> Self {
        let config = &written.config;
        let trust_domain = match (config.trust_domain.as_str(), &identity.trust_domain) {
            ("", Some(said)) => said.clone(),
            _ => config.trust_domain(),
        };
        Self {
            cluster: identity.cluster.clone(),
            network: identity.network.clone(),
            mesh_id: identity.mesh_id.clone(),
            trust_domain,
            trust_domain_aliases: config
                .trust_domain_aliases
                .iter()
                .filter_map(|t| t.parse().ok())
                .collect(),
            domain: "cluster.local".to_owned(),
            root_namespace: match config.root_namespace.as_str() {
                "" => identity.root_namespace.clone(),
                said => said.to_owned(),
            },
            outbound_policy: match config.outbound_mode() {
                OutboundTrafficPolicyMode::AllowAny => OutboundPolicy::AllowAny,
                OutboundTrafficPolicyMode::RegistryOnly => OutboundPolicy::RegistryOnly,
            },
            auto_mtls: config.auto_mtls(),
            connect_timeout: *config.connect_timeout(),
            dns_refresh: *config.dns_refresh_rate(),
            detection_timeout: *config.protocol_detection_timeout(),
            access_log_file: config.access_log_file.clone(),
            access_log_json: config.access_log_encoding == mesh_config::AccessLogEncoding::Json,
            access_log_format: config.access_log_format.clone(),
            locality: config
                .locality_lb_setting
                .as_ref()
                .map(LocalitySetting::from)
                .unwrap_or_default(),
            istio_compatible: config.like_istio(),
            networks: written
                .networks
                .networks
                .iter()
                .map(|(n, w)| (NetworkId::from(n.as_str()), network(w)))
                .collect(),
            services_export_to: config.default_service_export_to.clone(),
            virtual_services_export_to: config.default_virtual_service_export_to.clone(),
            destination_rules_export_to: config.default_destination_rule_export_to.clone(),
            retries: config.default_http_retry_policy.clone(),
            upgrades_to_h2: config.h2_upgrade_policy == H2UpgradePolicy::Upgrade,
            tcp_keepalive: config.tcp_keepalive.clone(),
            cluster_local: cluster_local(config),
            trusted_proxies: config
                .default_config
                .as_ref()
                .and_then(|c| c.gateway_topology.as_ref())
                .map_or(0, |t| t.num_trusted_proxies),
        }
    }
}

fn cluster_local(config: &mesh_config::MeshConfig) -> Vec<Hostname> {
    let local = config
        .service_settings
        .iter()
        .filter(|s| s.settings.as_ref().is_some_and(|s| s.cluster_local));
    local
        .flat_map(|s| &s.hosts)
        .filter_map(|h| h.parse().ok())
        .collect()
}

fn network(written: &mesh_config::Network) -> MeshNetwork {
    let mut network = MeshNetwork::default();
    for endpoints in &written.endpoints {
        network.cidrs.extend(
            endpoints
                .from_cidr
                .as_deref()
                .and_then(|c| c.parse::<ipnet::IpNet>().ok()),
        );
        network
            .clusters
            .extend(endpoints.from_registry.as_deref().map(ClusterId::from));
    }
    for gateway in &written.gateways {
        let port = if gateway.port == 0 { 15443 } else { gateway.port };
        network.gateways.extend(
            gateway
                .address
                .as_deref()
                .and_then(|a| Some((a.parse().ok()?, port))),
        );
        network
            .gateway_services
            .extend(gateway.registry_service_name.clone().map(|name| (name, port)));
    }
    network
}

impl From<&LocalityLoadBalancerSetting> for LocalitySetting {
    fn from(written: &LocalityLoadBalancerSetting) -> Self {
        Self {
            distribute: written
                .distribute
                .iter()
                .map(|d| Distribute {
                    from: d.from.clone(),
                    to: d.to.clone(),
                })
                .collect(),
            failover: written
                .failover
                .iter()
                .map(|f| Failover {
                    from: f.from.clone(),
                    to: f.to.clone(),
                })
                .collect(),
            failover_priority: written.failover_priority.clone(),
            enabled: written.enabled,
        }
    }
}
