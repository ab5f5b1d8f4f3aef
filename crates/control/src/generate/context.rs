//! One proxy as generation sees it: what it is, what it may see, which ports it serves.

use std::collections::BTreeMap;
use std::sync::Arc;

use isthmus_api::istio::DestinationRule;
use isthmus_model::{EndpointAddress, Labels, Locality, NetworkId, Port, ServiceKey};

use super::cluster::policy::Policy;
use super::same::Same;
use crate::mesh::Mesh;
use crate::proxy::{ProxyDescription, ProxyKind};
use crate::registry::kubernetes::target_port;
use crate::registry::{Instance, MeshService};
use crate::snapshot::Snapshot;
use crate::snapshot::config::Written;
use crate::snapshot::peer_authentication::WorkloadMtls;
use crate::snapshot::scope::Scope;

/// A proxy in a snapshot.
#[derive(Debug)]
pub struct Context<'a> {
    /// The mesh.
    pub snapshot: &'a Snapshot,
    /// Who asks.
    pub proxy: &'a ProxyDescription,
    /// What it may see.
    pub scope: Scope<'a>,
    /// Its pod or WorkloadEntry, when it is known.
    pub instance: Option<&'a Arc<Instance>>,
    /// Labels of the pod, else those that it says of itself.
    pub labels: &'a Labels,
    /// Where it can be reached directly.
    pub network: NetworkId,
    /// Where it runs.
    pub locality: Locality,
    /// Ports of the workload that services lead to, by port.
    pub inbound: BTreeMap<u16, Served>,
    /// Whether it insists on mTLS.
    pub mtls: WorkloadMtls,
}

/// A port of the workload that a service leads to.
#[derive(Debug, Clone, PartialEq)]
pub struct Served {
    /// The service; the first by name where several lead to one port.
    pub service: Arc<MeshService>,
    /// Its port.
    pub port: Port,
}

impl<'a> Context<'a> {
    /// Finds the proxy in the snapshot.
    pub fn new(snapshot: &'a Snapshot, proxy: &'a ProxyDescription) -> Self {
        let instances = &snapshot.registry.instances;
        let instance = proxy
            .addresses
            .iter()
            .find_map(|ip| instances.by_ip(ip))
            .or_else(|| instances.by_name(&proxy.namespace, &proxy.name))
            // What it says of itself must not make it another namespace's workload.
            .filter(|i| i.workload.key.namespace == proxy.namespace);
        let labels = instance.map_or(&proxy.labels, |i| &i.workload.labels);
        let network = match instance.map(|i| &i.workload.network).filter(|n| !n.is_empty()) {
            Some(known) => known.clone(),
            None if !proxy.network.is_empty() => proxy.network.clone(),
            None => snapshot.mesh.network.clone(),
        };
        let locality = match instance.map(|i| &i.workload.locality).filter(|l| !l.is_empty()) {
            Some(known) => known.clone(),
            None => proxy.locality.clone(),
        };
        let sidecar = proxy.kind == ProxyKind::Sidecar;
        Self {
            scope: Scope::of(snapshot, &proxy.namespace, labels, sidecar),
            inbound: served(snapshot, proxy, instance),
            mtls: snapshot.config.authentication.of(&proxy.namespace, labels),
            snapshot,
            proxy,
            instance,
            labels,
            network,
            locality,
        }
    }

    /// The mesh's settings.
    pub fn mesh(&self) -> &'a Arc<Mesh> {
        &self.snapshot.mesh
    }

    /// The DestinationRules that hold for a service.
    pub fn rules(&self, service: &MeshService) -> Vec<&'a Written<DestinationRule>> {
        self.snapshot.config.destination_rules_of(
            service.host(),
            service.namespace(),
            &self.proxy.namespace,
            self.labels,
            &self.snapshot.mesh.root_namespace,
        )
    }

    /// The policy for one port and subset of a service.
    pub fn policy(&self, service: &MeshService, subset: &str, port: u16) -> Policy {
        let rules = self.rules(service);
        Policy::of(rules.iter().map(|r| &*r.spec), subset, port)
    }

    /// Whether this proxy is an instance of the service's own workloads, so that headless traffic stays.
    pub fn is_sidecar(&self) -> bool {
        self.proxy.kind == ProxyKind::Sidecar
    }

    /// What decides about everything but endpoints, as far as it belongs to this proxy alone.
    pub fn own(&self) -> Own {
        Own {
            labels: self.labels.clone(),
            network: self.network.clone(),
            locality: self.locality.clone(),
            inbound: self
                .inbound
                .iter()
                .map(|(p, s)| (*p, (Same::from(&s.service), s.port.number)))
                .collect(),
        }
    }
}

/// See [`Context::own`].
#[derive(Debug, Clone, PartialEq)]
pub struct Own {
    labels: Labels,
    network: NetworkId,
    locality: Locality,
    inbound: BTreeMap<u16, (Same<MeshService>, u16)>,
}

fn served(
    snapshot: &Snapshot,
    proxy: &ProxyDescription,
    instance: Option<&Arc<Instance>>,
) -> BTreeMap<u16, Served> {
    let registry = &snapshot.registry;
    let mut out: BTreeMap<u16, Served> = BTreeMap::new();
    let mut add = |port: u16, service: &Arc<MeshService>, of: &Port| {
        out.entry(port).or_insert_with(|| Served {
            service: Arc::clone(service),
            port: of.clone(),
        });
    };
    let is_mine = |address: &EndpointAddress| match address {
        EndpointAddress::Ip(ip) => proxy.addresses.contains(ip),
        _ => false,
    };
    if let Some(instance) = instance {
        for service in registry.services.values() {
            let selects = !service.selector.is_empty()
                && service.namespace() == instance.workload.key.namespace
                && instance.workload.labels.matches(&service.selector);
            if selects {
                for port in &service.service.ports {
                    if let Some(number) = target_port(service, port.number, instance) {
                        add(number, service, port);
                    }
                }
            }
        }
    }
    for (key, endpoints) in registry.endpoints.iter() {
        let Some(service) = registry.services.get(key) else {
            continue;
        };
        for endpoint in &endpoints.endpoints {
            let here = endpoint.cluster == snapshot.mesh.cluster && endpoint.namespace == proxy.namespace;
            if here
                && is_mine(&endpoint.address)
                && let Some(port) = service.service.port_named(&endpoint.port_name)
            {
                add(endpoint.port, service, port);
            }
        }
    }
    out
}

/// The key of a service by its parts, for look-ups.
pub fn key_of(service: &MeshService) -> &ServiceKey {
    &service.service.key
}
