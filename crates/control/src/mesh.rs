//! What holds for the whole mesh, as seen from this member cluster.

use std::collections::BTreeMap;
use std::time::Duration;

use isthmus_model::{ClusterId, EndpointAddress, NetworkId, TrustDomain};
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
        }
    }
}
