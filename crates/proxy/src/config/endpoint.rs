//! Endpoints of a cluster (Envoy `endpoint.v3.ClusterLoadAssignment`).

mod wire;

use std::net::SocketAddr;
use std::sync::Arc;

use isthmus_model::Locality;

/// Envoy `ClusterLoadAssignment`.
#[derive(Debug, Default, PartialEq)]
pub struct Endpoints {
    /// `cluster_name`.
    pub cluster: Arc<str>,
    /// Localities with their priority, in the order given.
    pub localities: Vec<LocalityEndpoints>,
    /// `policy.overprovisioning_factor` in percent, default 140.
    pub overprovisioning: u32,
    /// `policy.drop_overloads` summed, parts per million.
    pub drop: u32,
}

/// Envoy `LocalityLbEndpoints`.
#[derive(Debug, PartialEq)]
pub struct LocalityEndpoints {
    /// Where.
    pub locality: Locality,
    /// 0 is taken first.
    pub priority: u32,
    /// `load_balancing_weight`; 0 when not given.
    pub weight: u32,
    /// The endpoints.
    pub endpoints: Vec<Arc<Endpoint>>,
}

/// Envoy `LbEndpoint`.
#[derive(Debug, Clone, PartialEq)]
pub struct Endpoint {
    /// Address.
    pub address: Address,
    /// `endpoint.hostname`.
    pub hostname: Option<Arc<str>>,
    /// At least 1.
    pub weight: u32,
    /// `health_status` as the control plane sees it.
    pub health: Health,
    /// `filter_metadata["envoy.transport_socket_match"]`.
    pub transport_labels: Vec<(String, String)>,
    /// `filter_metadata["istio"].workload`: `name;namespace;canonical name;revision;cluster`.
    pub workload: Option<Arc<str>>,
    /// `filter_metadata["isthmus"].gateway`: the address is a network gateway, and this many endpoints
    /// stand behind it.
    pub gateway: Option<u32>,
}

/// Where an endpoint is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Address {
    /// Address and port.
    Socket(SocketAddr),
    /// A name to be resolved, and a port.
    Name(Arc<str>, u16),
    /// A Unix domain socket.
    Unix(Arc<str>),
}

/// Envoy `HealthStatus`, reduced to what decides.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Health {
    /// UNKNOWN or HEALTHY.
    #[default]
    Healthy,
    /// DEGRADED.
    Degraded,
    /// UNHEALTHY or TIMEOUT.
    Unhealthy,
    /// DRAINING: finishes what it has.
    Draining,
}
