//! What is known of one member cluster: the unit in which control planes tell each other.
//!
//! [`MemberState`] is what a cluster says of itself; [`PeerState`] is what this control plane last heard
//! from each of the others. A peer that falls silent keeps its last state, with its age.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use isthmus_model::{
    ClusterId, Endpoint, EndpointAddress, NetworkGateway, NetworkId, Service, ServiceKey, TrustDomain,
};
use serde::{Deserialize, Serialize};

/// What one member cluster exports: services, endpoints with identities, gateways.
///
/// Endpoints are those the cluster runs itself, never those it heard of from others, so that nothing
/// travels in circles. Services with a namespace-limited `exportTo` are told as such; those exported to
/// nobody are left out.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct MemberState {
    /// What holds for the whole cluster. It is one peering resource.
    pub head: Arc<MemberHead>,
    /// Its services and their endpoints. Each entry is one peering resource.
    pub services: BTreeMap<ServiceKey, Arc<MemberService>>,
}

/// Who a member cluster is and where it is entered.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberHead {
    /// Who it is.
    pub cluster: ClusterId,
    /// Its own network.
    pub network: NetworkId,
    /// Root of its identities.
    pub trust_domain: TrustDomain,
    /// Where its networks are entered (AUTO_PASSTHROUGH).
    pub gateways: Vec<NetworkGateway>,
    /// Addresses and names of its other gateways that carry a passthrough port, e.g. ingress gateways
    /// with 15443.
    pub passthrough: Vec<(EndpointAddress, u16)>,
}

/// A service of a member cluster with the endpoints that this cluster runs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MemberService {
    /// The service; `addresses` has only this cluster's.
    pub service: Service,
    /// Its endpoints, all ports.
    pub endpoints: Vec<Endpoint>,
}

/// What was last heard from every peer.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct PeerState {
    /// By member cluster. A peer that was never heard of has no entry.
    pub members: BTreeMap<ClusterId, Peer>,
}

/// One peer.
#[derive(Debug, Clone, PartialEq)]
pub struct Peer {
    /// Its last state; kept when the link is gone.
    pub state: Arc<MemberState>,
    /// Whether the link is up now.
    pub connected: bool,
    /// When something was last heard, data or a sign of life.
    pub heard: SystemTime,
}
