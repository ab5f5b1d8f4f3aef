//! What a proxy is told: pure functions from exactly their inputs to Envoy's resources.
//!
//! Clusters and endpoints have an `Inputs` struct that is the key under which the result is kept, so that
//! proxies that see the same get the same allocation, and a change makes again only what depends on it.
//!
//! ```text
//!   Snapshot + ProxyDescription ─► context ─┬► listener (rbac, tls) ┐
//!                                           ├► route                │
//!                                           ├► cluster (policy, tls)├─► Resources
//!                                           ├► endpoint             │
//!                                           ├► name_table, secret   ┘
//! ```

pub mod cache;
pub mod cluster;
pub mod context;
pub mod endpoint;
pub mod listener;
pub mod name_table;
pub mod rbac;
pub mod route;
pub mod same;
pub mod secret;
pub mod tls;
pub mod wire;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use isthmus_api::codes;
use isthmus_api::finding::Finding;
use isthmus_api::istio::DestinationRule;
use isthmus_model::{ClusterName, Hostname, Labels, NetworkId, Port, Protocol, Resolution};
use isthmus_xds::envoy::cluster::Cluster;
use isthmus_xds::envoy::{core, listener as envoy_listener, route as envoy_route};
use isthmus_xds::{NameTable, Resource, ResourceSet, Resources, TypeUrl};

use self::cache::Cache;
use self::cluster::policy::Policy;
use self::context::{Context, Own};
use self::same::Same;
use crate::mesh::LocalitySetting;
use crate::proxy::{ProxyDescription, ProxyKind};
use crate::registry::{MeshService, ServiceEndpoints};
use crate::snapshot::Snapshot;
use crate::snapshot::config::Written;

/// What one proxy is told.
#[derive(Debug, Clone)]
pub struct Generated {
    /// The resources.
    pub resources: Arc<Resources>,
    /// What of the snapshot belongs to this proxy alone; while it is the same, a change of endpoints makes
    /// endpoints again and nothing else.
    pub own: Own,
    /// Clusters whose endpoints come by EDS.
    eds: Arc<Vec<EdsCluster>>,
    /// What could not be generated as it was meant.
    pub findings: Vec<Finding>,
}

/// What an EDS cluster is about; its endpoints are looked up anew in every snapshot.
#[derive(Debug, Clone)]
struct EdsCluster {
    name: String,
    service: Arc<MeshService>,
    port_name: String,
    hop: Option<Same<crate::registry::MeshHop>>,
    subset: Labels,
    setting: Option<LocalitySetting>,
    own_network_only: bool,
    plaintext_too: bool,
}

/// Everything for one proxy.
pub fn all(snapshot: &Snapshot, proxy: &ProxyDescription, cache: &mut Cache) -> Generated {
    let context = Context::new(snapshot, proxy);
    let mut findings = Vec::new();
    let mut eds = Vec::new();
    let mut clusters: Vec<Arc<Resource>> = Vec::new();
    outbound_clusters(&context, cache, &mut clusters, &mut eds);

    let mesh = context.mesh();
    let mut own_clusters: Vec<Cluster> = vec![cluster::outbound_passthrough(mesh), cluster::black_hole(mesh)];
    let mut listeners: Vec<envoy_listener::Listener> = Vec::new();
    let mut tables: Vec<envoy_route::RouteConfiguration> = Vec::new();
    let mut secrets = Vec::new();
    match proxy.kind {
        ProxyKind::Sidecar => {
            let outbound = listener::outbound::listeners(&context);
            tables.extend(
                outbound
                    .tables
                    .iter()
                    .map(|port| route::outbound(&context, *port)),
            );
            for (host, port) in &outbound.detected {
                let service = context.scope.service(host);
                if let Some((service, port)) = service.and_then(|s| Some((s, s.service.port(*port)?))) {
                    tables.push(route::detected(&context, service, port));
                }
            }
            findings.extend(
                outbound
                    .conflicts
                    .iter()
                    .map(|(host, port)| port_conflict(host, *port)),
            );
            listeners.extend(outbound.listeners);
            let ports = inbound_ports(&context);
            listeners.push(listener::inbound::listener(&context, &ports));
            own_clusters.push(cluster::inbound_passthrough(mesh));
            own_clusters.extend(inbound_clusters(&context, &ports));
        }
        ProxyKind::Router => {
            let made = listener::gateway::listeners(&context);
            listeners.extend(made.listeners);
            tables.extend(route::gateway::tables(&context));
            for (name, plaintext_too) in &made.passthrough {
                let Some(service) = name.host.as_ref().and_then(|h| context.scope.service(h)) else {
                    continue;
                };
                let policy = context.policy(service, &name.subset, name.port);
                own_clusters.push(cluster::passthrough(name, mesh, &policy));
                let Some(port) = service.service.port(name.port) else {
                    continue;
                };
                let made = eds_cluster(&context, service, port, &name.subset, &policy, name.sni());
                eds.push(EdsCluster {
                    own_network_only: true,
                    plaintext_too: *plaintext_too,
                    hop: None,
                    ..made
                });
            }
            secrets = secret::secrets(&context, &mut findings);
        }
    }
    clusters.extend(own_clusters.iter().map(|c| Resource::new(c.name.as_str(), c)));

    let mut resources = Resources::new();
    let mut put = |ty: TypeUrl, members: Vec<Arc<Resource>>, cache: &mut Cache| {
        let members: Vec<_> = members.into_iter().map(|r| cache.intern(r)).collect();
        resources.insert(ty, ResourceSet::new(members));
    };
    put(TypeUrl::Cds, clusters, cache);
    put(
        TypeUrl::Lds,
        listeners
            .iter()
            .map(|l| Resource::new(l.name.as_str(), l))
            .collect(),
        cache,
    );
    put(
        TypeUrl::Rds,
        tables.iter().map(|t| Resource::new(t.name.as_str(), t)).collect(),
        cache,
    );
    put(TypeUrl::Sds, secrets, cache);
    if proxy.kind == ProxyKind::Sidecar {
        put(
            TypeUrl::Nds,
            vec![Resource::new(NAME_TABLE, &name_table(&context))],
            cache,
        );
    }
    let own = context.own();
    let eds = Arc::new(eds);
    let endpoints = endpoint_set(&context, &eds, cache, &mut findings);
    resources.insert(TypeUrl::Eds, endpoints);
    Generated {
        resources: Arc::new(resources),
        own,
        eds,
        findings,
    }
}

/// The endpoints of what was generated before, in a snapshot that differs in endpoints alone.
pub fn endpoints(
    before: &Generated,
    snapshot: &Snapshot,
    proxy: &ProxyDescription,
    cache: &mut Cache,
) -> Generated {
    let context = Context::new(snapshot, proxy);
    let mut findings = Vec::new();
    let set = endpoint_set(&context, &before.eds, cache, &mut findings);
    let resources = Arc::new((*before.resources).clone().with(TypeUrl::Eds, set));
    Generated {
        resources,
        findings,
        ..before.clone()
    }
}

/// Name of the one resource of NDS.
const NAME_TABLE: &str = "nametable";

fn name_table(context: &Context<'_>) -> NameTable {
    name_table::table(context)
}

fn endpoint_set(
    context: &Context<'_>,
    eds: &[EdsCluster],
    cache: &mut Cache,
    findings: &mut Vec<Finding>,
) -> ResourceSet {
    let mut unreachable: BTreeMap<NetworkId, BTreeSet<String>> = BTreeMap::new();
    let members: Vec<Arc<Resource>> = eds
        .iter()
        .map(|cluster| {
            let inputs = endpoint_inputs(context, cluster);
            let (resource, networks) = cache.endpoints(inputs);
            for network in networks.iter() {
                unreachable
                    .entry(network.clone())
                    .or_default()
                    .insert(cluster.service.host().to_string());
            }
            resource
        })
        .collect();
    for (network, hosts) in unreachable {
        let some: Vec<&str> = hosts.iter().take(3).map(String::as_str).collect();
        findings.push(Finding::new(
            &codes::NO_NETWORK_GATEWAY,
            format!(
                "no gateway into network {network} is known, so endpoints there are left out ({} of {})",
                some.join(", "),
                hosts.len()
            ),
            "label the gateway's Service with topology.istio.io/network, or peer with its cluster",
        ));
    }
    ResourceSet::new(members)
}

fn endpoint_inputs(context: &Context<'_>, cluster: &EdsCluster) -> endpoint::Inputs {
    let found = context
        .snapshot
        .registry
        .endpoints_of(&cluster.service.service.key);
    let nothing: Arc<ServiceEndpoints> = Arc::default();
    endpoint::Inputs {
        cluster: cluster.name.clone(),
        endpoints: Same::from(found.unwrap_or(&nothing)),
        port_name: cluster.port_name.clone(),
        subset: cluster.subset.clone(),
        gateways: Same::from(&context.snapshot.registry.gateways),
        network: context.network.clone(),
        locality: context.locality.clone(),
        labels: priority_labels(context, cluster.setting.as_ref()),
        setting: cluster.setting.clone(),
        own_network_only: cluster.own_network_only,
        plaintext_too: cluster.plaintext_too,
        hop: cluster.hop.clone(),
    }
}

/// The caller's labels that `failoverPriority` names, topology included.
fn priority_labels(context: &Context<'_>, setting: Option<&LocalitySetting>) -> Labels {
    let mut all = context.labels.clone();
    for (key, value) in [
        ("topology.kubernetes.io/region", &context.locality.region),
        ("topology.kubernetes.io/zone", &context.locality.zone),
        ("topology.istio.io/subzone", &context.locality.subzone),
        ("topology.istio.io/network", &context.network.0),
        ("topology.istio.io/cluster", &context.mesh().cluster.0),
    ] {
        if !value.is_empty() {
            all.0.insert(key.to_owned(), value.clone());
        }
    }
    let named = setting.iter().flat_map(|s| &s.failover_priority);
    named
        .filter_map(|entry| Some((entry.clone(), all.value(entry)?.to_owned())))
        .collect()
}

fn eds_cluster(
    context: &Context<'_>,
    service: &Arc<MeshService>,
    port: &Port,
    subset: &str,
    policy: &Policy,
    name: String,
) -> EdsCluster {
    let rules = context.rules(service);
    let labels = rules
        .iter()
        .flat_map(|r| &r.spec.subsets)
        .find(|s| s.name == subset)
        .map(|s| s.labels.clone());
    EdsCluster {
        name,
        service: Arc::clone(service),
        port_name: port.name.clone(),
        hop: service.hop(port.number).map(Same::from),
        subset: labels.unwrap_or_default(),
        setting: policy.locality(context.mesh()),
        own_network_only: false,
        plaintext_too: false,
    }
}

fn outbound_clusters(
    context: &Context<'_>,
    cache: &mut Cache,
    clusters: &mut Vec<Arc<Resource>>,
    eds: &mut Vec<EdsCluster>,
) {
    for (service, port) in context.scope.ports() {
        if port.protocol == Protocol::Udp {
            continue;
        }
        let rules: Vec<&Written<DestinationRule>> = context.rules(service);
        let subsets: BTreeSet<&str> = rules
            .iter()
            .flat_map(|r| &r.spec.subsets)
            .map(|s| s.name.as_str())
            .collect();
        for subset in std::iter::once("").chain(subsets) {
            let policy = Policy::of(rules.iter().map(|r| &*r.spec), subset, port.number);
            let name = ClusterName::outbound(port.number, subset, service.host().clone()).to_string();
            let made = eds_cluster(context, service, port, subset, &policy, name);
            let by_eds = service.service.resolution == Resolution::Static && !policy.is_passthrough();
            let by_dns = matches!(
                service.service.resolution,
                Resolution::Dns | Resolution::DnsRoundRobin
            );
            let inputs = cluster::Inputs {
                mesh: Same::from(context.mesh()),
                service: Same::from(service),
                port: port.number,
                subset: subset.to_owned(),
                rules: rules.iter().map(|r| Same::from(&r.spec)).collect(),
                because: rules.iter().map(|r| Arc::from(r.because("spec.host"))).collect(),
                accounts: context.snapshot.accounts(&service.service.key).map(Same::from),
                endpoints: by_dns.then(|| endpoint_inputs(context, &made)),
                kind: context.proxy.kind,
                stock_envoy: context.proxy.stock_envoy,
            };
            let Some(resource) = cache.cluster(inputs) else {
                continue;
            };
            clusters.push(resource);
            if by_eds {
                eds.push(made);
            }
        }
    }
}

/// Ports that the sidecar takes: those of a Sidecar's `ingress`, else those that services lead to.
fn inbound_ports(context: &Context<'_>) -> BTreeMap<u16, Protocol> {
    let ingress = context
        .scope
        .sidecar
        .map(|s| s.spec.ingress.as_slice())
        .unwrap_or_default();
    if ingress.is_empty() {
        let served = context
            .inbound
            .iter()
            .filter(|(_, s)| s.port.protocol != Protocol::Udp);
        return served.map(|(port, s)| (*port, s.port.protocol)).collect();
    }
    let listed = ingress.iter().filter_map(|l| l.port.as_ref());
    listed
        .map(|p| (p.number, Protocol::select(&p.name, Some(&p.protocol), None)))
        .collect()
}

fn inbound_clusters(context: &Context<'_>, ports: &BTreeMap<u16, Protocol>) -> Vec<Cluster> {
    let ingress = context
        .scope
        .sidecar
        .map(|s| s.spec.ingress.as_slice())
        .unwrap_or_default();
    ports
        .keys()
        .map(|port| {
            let listed = ingress
                .iter()
                .find(|l| l.port.as_ref().is_some_and(|p| p.number == *port));
            let address = listed.and_then(|l| default_endpoint(context, &l.default_endpoint));
            let service = context.inbound.get(port).map(|s| &*s.service);
            let pool = listed
                .and_then(|l| l.connection_pool.as_ref())
                .or_else(|| context.scope.sidecar?.spec.inbound_connection_pool.as_ref());
            cluster::inbound(*port, address, context.mesh(), service, pool)
        })
        .collect()
}

/// `defaultEndpoint` of a Sidecar's ingress; `0.0.0.0` and `::` stand for the workload's own address.
fn default_endpoint(context: &Context<'_>, written: &str) -> Option<core::Address> {
    if let Some(path) = written.strip_prefix("unix://") {
        return Some(wire::endpoint_address(
            &isthmus_model::EndpointAddress::Unix(path.to_owned()),
            0,
        ));
    }
    let address: std::net::SocketAddr = written.parse().ok()?;
    let ip = if address.ip().is_unspecified() {
        *context.proxy.addresses.first()?
    } else {
        address.ip()
    };
    Some(wire::socket(ip.to_string(), address.port()))
}

fn port_conflict(host: &Hostname, port: u16) -> Finding {
    Finding::new(
        &codes::PORT_CONFLICT,
        format!("{host} has no address, and its port {port} is an HTTP port of other services; HTTP wins"),
        "give the service an address, or another port",
    )
}
