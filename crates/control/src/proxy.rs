//! Who asks: a connected proxy, as its proven identity and its node metadata describe it.

use std::net::IpAddr;

use isthmus_model::{ClusterId, Labels, Locality, NetworkId, SpiffeId};

/// What kind of proxy it is (first part of the node id).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ProxyKind {
    /// `sidecar`.
    Sidecar,
    /// `router`: an ingress, egress or east-west gateway.
    Router,
}

/// A proxy as far as generation depends on it. Equal descriptions get equal configuration.
///
/// `namespace` and `service_account` come from the proven identity, the rest from node metadata.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ProxyDescription {
    /// Whole node id, `sidecar~IP~POD.NS~NS.svc.cluster.local`; the key in `/debug/syncz`.
    pub id: String,
    /// Sidecar or router.
    pub kind: ProxyKind,
    /// Its addresses (`INSTANCE_IPS`, else that of the node id), the primary one first.
    pub addresses: Vec<IpAddr>,
    /// Pod name.
    pub name: String,
    /// Namespace of the proven identity.
    pub namespace: String,
    /// Service account of the proven identity.
    pub service_account: String,
    /// Whole identity; `None` only for a plaintext stream on loopback.
    pub identity: Option<SpiffeId>,
    /// `LABELS`.
    pub labels: Labels,
    /// `CLUSTER_ID`, empty when not said.
    pub cluster: ClusterId,
    /// `NETWORK`, empty when not said: the registry knows better.
    pub network: NetworkId,
    /// `node.locality`; the registry's knowledge of the pod wins.
    pub locality: Locality,
    /// `DNS_CAPTURE`: the proxy answers DNS from a name table.
    pub dns_capture: bool,
    /// A stock Envoy: no `istio.*` filters, no metadata exchange ALPN.
    pub stock_envoy: bool,
}
