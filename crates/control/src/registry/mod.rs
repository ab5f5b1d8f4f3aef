//! What exists: services, endpoints, workloads and gateways of all member clusters, from the own cluster's
//! objects and from what peers tell.
//!
//! It reads objects and decides nothing about traffic; policies are `snapshot`'s, resources `generate`'s.
//!
//! ```text
//!   Node, Namespace ─► places ─┐
//!   Pod, WorkloadEntry ────────┴► workload ─┐
//!   Service, EndpointSlice ─► kubernetes ───┤
//!   ServiceEntry ─► service_entry ──────────┴► merge (+ peers, aliases, VIPs) ─► mesh_hop ─► Registry
//! ```

pub mod gateways;
pub mod kubernetes;
pub mod merge;
pub mod mesh_hop;
pub mod places;
pub mod service;
pub mod service_entry;
pub mod workload;

use std::collections::BTreeMap;
use std::sync::Arc;

use isthmus_api::codes;
use isthmus_api::finding::Finding;
use isthmus_api::istio::ServiceEntry;
use isthmus_api::kubernetes::Service as KubeService;
use isthmus_api::object::Object;
use isthmus_dns::VipAllocator;
use isthmus_model::{Endpoint, EndpointAddress, NetworkGateway, ServiceKey, TlsMode};

use self::gateways::Entrances;
use self::kubernetes::Slices;
use self::mesh_hop::{KnownGateways, ResolvedNames, Scene};
use self::places::Places;
pub use self::service::{MeshHop, MeshService, ServiceEndpoints, TargetPort};
pub use self::workload::{Instance, Instances};
use crate::ingest::store::Store;
use crate::member::{MemberHead, MemberState, PeerState};
use crate::mesh::Mesh;
use crate::snapshot::peer_authentication::{MtlsMode, PeerAuthentications};

/// Everything that exists, as this cluster sees it. Parts that did not change are shared with the
/// registry before.
#[derive(Debug, Clone, Default)]
pub struct Registry {
    /// By namespace and host.
    pub services: Arc<BTreeMap<ServiceKey, Arc<MeshService>>>,
    /// What answers for them.
    pub endpoints: Arc<BTreeMap<ServiceKey, Arc<ServiceEndpoints>>>,
    /// Pods and WorkloadEntries of the own cluster.
    pub instances: Arc<Instances>,
    /// Where networks are entered, own and peers'.
    pub gateways: Arc<Vec<NetworkGateway>>,
    /// What peers are told.
    pub exported: Arc<MemberState>,
    /// What is odd about it.
    pub findings: Arc<Vec<Finding>>,
}

/// What the registry is made from.
pub struct Sources<'a> {
    /// Objects of the own cluster.
    pub store: &'a Store,
    /// Who we are.
    pub mesh: &'a Mesh,
    /// What peers told.
    pub peers: &'a PeerState,
    /// Public addresses of peers' gateways that the command line names.
    pub peer_addresses: &'a [(EndpointAddress, u16)],
    /// What names resolve to.
    pub resolved: &'a ResolvedNames,
    /// Who insists on mTLS, for endpoints that take none.
    pub authentications: &'a PeerAuthentications,
}

impl Registry {
    /// Builds the registry, sharing with `before` what is equal.
    pub fn build(sources: &Sources<'_>, vips: &mut VipAllocator, before: &Registry) -> Registry {
        let Sources {
            store, mesh, peers, ..
        } = *sources;
        let places = Places::read(store);
        let instances = keep(Instances::read(store, mesh, &places), &before.instances);
        let mut findings = Vec::new();
        let mut services = BTreeMap::new();
        let mut endpoints: BTreeMap<ServiceKey, Vec<Endpoint>> = BTreeMap::new();
        let mut entries: Vec<(ServiceKey, &Arc<Object>)> = Vec::new();

        let slices = Slices::read(store);
        for (object, kube) in store.iter::<KubeService>() {
            let Some(service) = kubernetes::service(object, kube, mesh) else {
                continue;
            };
            let unready = kube.spec.publish_not_ready_addresses;
            let mine = slices.endpoints(&service, unready, &instances, mesh);
            endpoints.insert(service.service.key.clone(), mine);
            services.insert(service.service.key.clone(), service);
        }
        read_entries(
            sources,
            &instances,
            &mut services,
            &mut endpoints,
            &mut entries,
            &mut findings,
        );
        refuse_mtls(&mut endpoints, sources.authentications, &instances);

        let Entrances {
            gateways: own_gateways,
            passthrough,
        } = gateways::entrances(store, mesh, &instances);
        let exported = MemberState {
            head: keep(
                MemberHead {
                    cluster: mesh.cluster.clone(),
                    network: mesh.network.clone(),
                    trust_domain: mesh.trust_domain.clone(),
                    gateways: own_gateways.clone(),
                    passthrough: passthrough.clone(),
                },
                &before.exported.head,
            ),
            services: merge::exported(&services, &endpoints, mesh, Some(&before.exported)),
        };

        merge::add_peers(&mut services, &mut endpoints, peers, mesh);
        merge::add_aliases(&mut services, mesh);
        merge::add_vips(&mut services, vips, mesh);
        let endpoints = merge::share(endpoints, &before.endpoints);

        let heads = || peers.members.values().map(|p| &p.state.head);
        let known = KnownGateways::new(
            (own_gateways
                .iter()
                .chain(heads().flat_map(|h| &h.gateways))
                .map(|g| (&g.address, g.port)))
            .chain(
                passthrough
                    .iter()
                    .chain(heads().flat_map(|h| &h.passthrough))
                    .map(|(a, p)| (a, *p)),
            )
            .chain(sources.peer_addresses.iter().map(|(a, p)| (a, *p))),
            sources.resolved,
        );
        let scene = Scene {
            mesh,
            services: &services,
            endpoints: &endpoints,
            known: &known,
            resolved: sources.resolved,
        };
        let mut hops = BTreeMap::new();
        for (key, object) in &entries {
            if let (Some(service), Some(mine)) = (services.get(key), endpoints.get(key)) {
                hops.insert(
                    key.clone(),
                    mesh_hop::hops(&scene, object, service, &mine.endpoints, &mut findings),
                );
            }
        }
        for (key, mine) in hops {
            if let Some(service) = services.get_mut(&key) {
                service.hops = mine;
            }
        }

        let mut gateways: Vec<NetworkGateway> = own_gateways;
        gateways.extend(heads().flat_map(|h| h.gateways.iter().cloned()));
        let mut gateways = followed(gateways, sources.resolved);
        gateways.sort();
        gateways.dedup();
        findings.sort();
        findings.dedup();
        Registry {
            services: keep(share_each(services, &before.services), &before.services),
            endpoints: keep(endpoints, &before.endpoints),
            instances,
            gateways: keep(gateways, &before.gateways),
            exported: keep(exported, &before.exported),
            findings: keep(findings, &before.findings),
        }
    }

    /// The service with this host that `namespace` sees: its own declaration before others'.
    pub fn visible(&self, host: &isthmus_model::Hostname, namespace: &str) -> Option<&Arc<MeshService>> {
        let key = ServiceKey {
            namespace: namespace.to_owned(),
            host: host.clone(),
        };
        if let Some(own) = self.services.get(&key) {
            return Some(own);
        }
        self.services
            .values()
            .find(|s| s.host() == host && s.service.export_to.visible_from(namespace))
    }

    /// What answers for a service.
    pub fn endpoints_of(&self, key: &ServiceKey) -> Option<&Arc<ServiceEndpoints>> {
        self.endpoints.get(key)
    }
}

/// Gateways by address: one that has a name counts as what the name resolves to now, since endpoints are
/// told as addresses.
fn followed(gateways: Vec<NetworkGateway>, resolved: &ResolvedNames) -> Vec<NetworkGateway> {
    let mut out = Vec::with_capacity(gateways.len());
    for gateway in gateways {
        match &gateway.address {
            EndpointAddress::Host(name) => {
                let ips = resolved.get(name).into_iter().flatten();
                out.extend(ips.map(|ip| NetworkGateway {
                    address: EndpointAddress::Ip(*ip),
                    ..gateway.clone()
                }));
            }
            EndpointAddress::Ip(_) | EndpointAddress::Unix(_) => out.push(gateway),
        }
    }
    out
}

fn read_entries<'a>(
    sources: &Sources<'a>,
    instances: &Instances,
    services: &mut BTreeMap<ServiceKey, MeshService>,
    endpoints: &mut BTreeMap<ServiceKey, Vec<Endpoint>>,
    entries: &mut Vec<(ServiceKey, &'a Arc<Object>)>,
    findings: &mut Vec<Finding>,
) {
    let mut written: Vec<_> = sources.store.iter::<ServiceEntry>().collect();
    written.sort_by(|(a, _), (b, _)| {
        (&a.meta.creation_timestamp, &a.meta.name).cmp(&(&b.meta.creation_timestamp, &b.meta.name))
    });
    for (object, entry) in written {
        for service in service_entry::services(object, entry, sources.mesh, findings) {
            let key = service.service.key.clone();
            let mine = service_entry::endpoints(object, entry, &key.host, sources.mesh, instances);
            match services.get(&key) {
                // A ServiceEntry may add endpoints to a Kubernetes Service of the same name.
                Some(other) if other.service.origin == isthmus_model::ServiceOrigin::Kubernetes => {
                    endpoints.entry(key).or_default().extend(mine);
                }
                Some(other) => findings.push(
                    Finding::new(
                        &codes::DUPLICATE_HOST,
                        format!(
                            "host {} is declared by {} already, which is older and wins",
                            key.host, other.declared
                        ),
                        "keep one declaration of the host in the namespace",
                    )
                    .at(&object.origin.file, object.positions.line("spec.hosts"))
                    .about(object.key()),
                ),
                None => {
                    services.insert(key.clone(), service);
                    endpoints.insert(key.clone(), mine);
                    entries.push((key, object));
                }
            }
        }
    }
}

/// A workload whose PeerAuthentication says DISABLE takes no mTLS, sidecar or not.
fn refuse_mtls(
    endpoints: &mut BTreeMap<ServiceKey, Vec<Endpoint>>,
    authentications: &PeerAuthentications,
    instances: &Instances,
) {
    for endpoint in endpoints.values_mut().flatten() {
        if endpoint.tls_mode != TlsMode::Istio {
            continue;
        }
        let EndpointAddress::Ip(ip) = endpoint.address else {
            continue;
        };
        let Some(instance) = instances.by_ip(&ip) else {
            continue;
        };
        let policy = authentications.of(&instance.workload.key.namespace, &instance.workload.labels);
        if policy.port(endpoint.port) == MtlsMode::Disable {
            endpoint.tls_mode = TlsMode::Disabled;
        }
    }
}

fn share_each(
    services: BTreeMap<ServiceKey, MeshService>,
    before: &BTreeMap<ServiceKey, Arc<MeshService>>,
) -> BTreeMap<ServiceKey, Arc<MeshService>> {
    services
        .into_iter()
        .map(|(key, service)| {
            let same = before.get(&key).filter(|old| ***old == service).cloned();
            (key, same.unwrap_or_else(|| Arc::new(service)))
        })
        .collect()
}

/// The old allocation if the new value is equal.
pub(crate) fn keep<T: PartialEq>(new: T, before: &Arc<T>) -> Arc<T> {
    if **before == new {
        Arc::clone(before)
    } else {
        Arc::new(new)
    }
}
