//! EDS: which addresses answer for a cluster, in which order, with which weights.
//!
//! ```text
//!   endpoints ─► port, subset, health ─► network_split ─► failover ─► ClusterLoadAssignment
//! ```

pub mod failover;
pub mod network_split;

use std::collections::BTreeSet;

use isthmus_model::{Endpoint, EndpointHealth, Labels, Locality, NetworkGateway, NetworkId, TlsMode};
use isthmus_xds::envoy::endpoint as envoy;

use self::failover::Group;
use self::network_split::{Candidate, Split, Target};
use super::same::Same;
use super::wire;
use crate::mesh::LocalitySetting;
use crate::registry::{MeshHop, ServiceEndpoints};

/// All that the endpoints of one cluster depend on.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Inputs {
    /// Name of the cluster.
    pub cluster: String,
    /// Everything that answers for the service.
    pub endpoints: Same<ServiceEndpoints>,
    /// Name of the service's port.
    pub port_name: String,
    /// Labels of the subset; empty takes all.
    pub subset: Labels,
    /// Gateways into other networks.
    pub gateways: Same<Vec<NetworkGateway>>,
    /// Network of the proxy that asks.
    pub network: NetworkId,
    /// Where the proxy runs.
    pub locality: Locality,
    /// Labels of the proxy that failover priorities name.
    pub labels: Labels,
    /// How locality is regarded; `None`: not at all.
    pub setting: Option<LocalitySetting>,
    /// For a gateway's passthrough clusters: endpoints of its own network that take mTLS, nothing else.
    pub own_network_only: bool,
    /// For a passthrough cluster to the control plane: endpoints without mesh mTLS stay.
    pub plaintext_too: bool,
    /// Endpoints that are gateways of the mesh.
    pub hop: Option<Same<MeshHop>>,
}

/// What was generated, and what could not be.
#[derive(Debug)]
pub struct Outcome {
    /// The resource.
    pub assignment: envoy::ClusterLoadAssignment,
    /// Networks without a known gateway, whose endpoints were left out.
    pub unreachable: BTreeSet<NetworkId>,
}

/// Generates the endpoints of one cluster.
pub fn assignment(inputs: &Inputs) -> Outcome {
    let members = inputs.endpoints.endpoints.iter().filter(|e| {
        e.port_name == inputs.port_name
            && e.health == EndpointHealth::Healthy
            && e.labels.matches(&inputs.subset)
    });
    let split = if inputs.own_network_only {
        Split {
            candidates: members
                .filter(|e| e.network == inputs.network || e.network.is_empty())
                .filter(|e| inputs.plaintext_too || e.tls_mode == TlsMode::Istio)
                .map(|e| Candidate {
                    target: Target::Direct(e),
                    locality: e.locality.clone(),
                    labels: e.labels.clone(),
                    weight: u64::from(e.weight.max(1)),
                })
                .collect(),
            ..Split::default()
        }
    } else {
        let regroup = inputs.setting.iter().flat_map(|s| &s.failover_priority);
        let regroup = regroup
            .map(|entry| entry.split('=').next().unwrap_or_default().to_owned())
            .collect();
        network_split::split(members, &inputs.gateways, &inputs.network, &regroup)
    };
    let groups = failover::groups(
        split.candidates,
        &inputs.locality,
        &inputs.labels,
        inputs.setting.as_ref(),
    );
    let scale = scale(&groups);
    let endpoints = groups
        .iter()
        .map(|group| envoy::LocalityLbEndpoints {
            locality: Some(wire::locality(&group.locality)),
            priority: group.priority,
            load_balancing_weight: wire::uint(fit(group.weight, scale)),
            lb_endpoints: group
                .candidates
                .iter()
                .map(|c| lb_endpoint(c, scale, inputs.hop.as_deref()))
                .collect(),
            ..Default::default()
        })
        .collect();
    Outcome {
        assignment: envoy::ClusterLoadAssignment {
            cluster_name: inputs.cluster.clone(),
            endpoints,
            ..Default::default()
        },
        unreachable: split.unreachable.into_keys().collect(),
    }
}

fn lb_endpoint(candidate: &Candidate<'_>, scale: u64, hop: Option<&MeshHop>) -> envoy::LbEndpoint {
    let weight = wire::uint(fit(candidate.weight, scale));
    match &candidate.target {
        Target::Direct(endpoint) => {
            let behind = hop
                .filter(|h| h.gateways.contains(&(endpoint.address.clone(), endpoint.port)))
                .map(|h| h.behind.max(1));
            envoy::LbEndpoint {
                metadata: endpoint_metadata(endpoint, behind),
                ..bare(wire::endpoint_address(&endpoint.address, endpoint.port), weight)
            }
        }
        Target::Gateway(gateway, behind) => envoy::LbEndpoint {
            metadata: wire::metadata([
                (
                    "envoy.transport_socket_match",
                    wire::structure([("tlsMode", wire::text("istio"))]),
                ),
                (
                    "istio",
                    wire::structure([("workload", wire::text(format!(";;;;{}", gateway.cluster)))]),
                ),
                (
                    "isthmus",
                    wire::structure([
                        ("gateway", wire::truth(true)),
                        ("behind", wire::number(f64::from(*behind))),
                        ("network", wire::text(gateway.network.as_str())),
                        ("cluster", wire::text(gateway.cluster.as_str())),
                    ]),
                ),
            ]),
            ..bare(wire::endpoint_address(&gateway.address, gateway.port), weight)
        },
    }
}

fn bare(
    address: isthmus_xds::envoy::core::Address,
    weight: Option<isthmus_xds::envoy::google::protobuf::UInt32Value>,
) -> envoy::LbEndpoint {
    envoy::LbEndpoint {
        health_status: 0,
        metadata: None,
        load_balancing_weight: weight,
        host_identifier: Some(envoy::lb_endpoint::HostIdentifier::Endpoint(envoy::Endpoint {
            address: Some(address),
            ..Default::default()
        })),
    }
}

/// Metadata of an endpoint: whether it takes mTLS, which workload it is, what stands behind it.
fn endpoint_metadata(endpoint: &Endpoint, behind: Option<u32>) -> Option<isthmus_xds::envoy::core::Metadata> {
    let mut namespaces = Vec::with_capacity(3);
    if endpoint.tls_mode == TlsMode::Istio || behind.is_some() {
        namespaces.push((
            "envoy.transport_socket_match",
            wire::structure([("tlsMode", wire::text("istio"))]),
        ));
    }
    let workload = [
        if endpoint.owner.is_empty() {
            &endpoint.workload
        } else {
            &endpoint.owner
        },
        &endpoint.namespace,
        canonical_name(endpoint),
        endpoint
            .labels
            .value("service.istio.io/canonical-revision")
            .or_else(|| endpoint.labels.value("version"))
            .unwrap_or("latest"),
        endpoint.cluster.as_str(),
    ]
    .join(";");
    namespaces.push(("istio", wire::structure([("workload", wire::text(workload))])));
    let mut ours = Vec::with_capacity(4);
    if !endpoint.network.is_empty() {
        ours.push(("network", wire::text(endpoint.network.as_str())));
    }
    if !endpoint.cluster.is_empty() {
        ours.push(("cluster", wire::text(endpoint.cluster.as_str())));
    }
    if !endpoint.workload.is_empty() {
        ours.push(("pod", wire::text(endpoint.workload.as_str())));
    }
    if let Some(behind) = behind {
        ours.push(("gateway", wire::truth(true)));
        ours.push(("behind", wire::number(f64::from(behind))));
    }
    if !ours.is_empty() {
        namespaces.push(("isthmus", wire::structure(ours)));
    }
    wire::metadata(namespaces)
}

fn canonical_name(endpoint: &Endpoint) -> &str {
    endpoint
        .labels
        .value("service.istio.io/canonical-name")
        .or_else(|| endpoint.labels.value("app.kubernetes.io/name"))
        .or_else(|| endpoint.labels.value("app"))
        .unwrap_or(if endpoint.owner.is_empty() {
            &endpoint.workload
        } else {
            &endpoint.owner
        })
}

/// What weights are divided by so that their sums fit Envoy's 32 bits.
fn scale(groups: &[Group<'_>]) -> u64 {
    let total: u64 = groups
        .iter()
        .flat_map(|g| &g.candidates)
        .map(|c| c.weight)
        .fold(0, u64::saturating_add);
    let shares: u64 = groups.iter().map(|g| g.weight).fold(0, u64::saturating_add);
    total.max(shares) / u64::from(u32::MAX) + 1
}

fn fit(weight: u64, scale: u64) -> u32 {
    u32::try_from((weight / scale).max(1)).unwrap_or(u32::MAX)
}
