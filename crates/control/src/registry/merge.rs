//! Services of all member clusters, merged by host name.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use isthmus_dns::VipAllocator;
use isthmus_model::{Endpoint, Hostname, Labels, ServiceKey, ServiceOrigin, SpiffeId};

use super::service::{MeshService, ServiceEndpoints};
use crate::member::{MemberService, MemberState, PeerState};
use crate::mesh::Mesh;

/// Adds what peers told to the own cluster's services and endpoints.
pub fn add_peers(
    services: &mut BTreeMap<ServiceKey, MeshService>,
    endpoints: &mut BTreeMap<ServiceKey, Vec<Endpoint>>,
    peers: &PeerState,
    mesh: &Mesh,
) {
    for (cluster, peer) in &peers.members {
        if *cluster == mesh.cluster {
            continue;
        }
        for (key, told) in &peer.state.services {
            let merged = match services.get_mut(key) {
                Some(own) => {
                    merge_into(own, told);
                    &*own
                }
                None => services
                    .entry(key.clone())
                    .or_insert_with(|| from_peer(told, cluster.as_str())),
            };
            if mesh.cluster_local.iter().any(|h| h.covers(&key.host)) {
                continue;
            }
            let renamed = told.endpoints.iter().map(|e| renamed(e, told, merged));
            endpoints.entry(key.clone()).or_default().extend(renamed);
        }
    }
}

/// A peer's declaration adds ports and addresses; for all else the own one holds.
fn merge_into(own: &mut MeshService, told: &MemberService) {
    for port in &told.service.ports {
        if own.service.port(port.number).is_none() {
            own.service.ports.push(port.clone());
        }
    }
    own.service.ports.sort_by_key(|p| p.number);
    for (cluster, addresses) in &told.service.addresses {
        own.service
            .addresses
            .entry(cluster.clone())
            .or_insert_with(|| addresses.clone());
    }
}

fn from_peer(told: &MemberService, cluster: &str) -> MeshService {
    MeshService {
        declared: Arc::from(format!("Service {} of cluster {cluster}", told.service.key.host)),
        created: String::new(),
        aliases: Vec::new(),
        external_name: None,
        selector: Labels::default(),
        target_ports: BTreeMap::new(),
        subject_alt_names: told
            .service
            .subject_alt_names
            .iter()
            .map(SpiffeId::to_string)
            .collect(),
        ranges: Vec::new(),
        hops: BTreeMap::new(),
        service: told.service.clone(),
    }
}

/// An endpoint names its port as its own cluster's service does; the number is what both share.
fn renamed(endpoint: &Endpoint, told: &MemberService, merged: &MeshService) -> Endpoint {
    let number = told.service.port_named(&endpoint.port_name).map(|p| p.number);
    let name = number
        .and_then(|n| merged.service.port(n))
        .map_or(&endpoint.port_name, |p| &p.name);
    Endpoint {
        port_name: name.clone(),
        ..endpoint.clone()
    }
}

/// Gives every service the name `<name>.<namespace>.global`, unless a ServiceEntry has it.
pub fn add_aliases(services: &mut BTreeMap<ServiceKey, MeshService>, mesh: &Mesh) {
    let taken: BTreeSet<Hostname> = services.keys().map(|k| k.host.clone()).collect();
    let suffix = format!(".svc.{}", mesh.domain);
    for service in services.values_mut() {
        let Some(short) = service.host().as_str().strip_suffix(&suffix) else {
            continue;
        };
        let Ok(alias) = format!("{short}.global").parse::<Hostname>() else {
            continue;
        };
        if short.split('.').count() == 2 && !taken.contains(&alias) {
            service.aliases = vec![alias];
        }
    }
}

/// Gives services without an address valid here one of the automatic ones.
pub fn add_vips(services: &mut BTreeMap<ServiceKey, MeshService>, vips: &mut VipAllocator, mesh: &Mesh) {
    vips.reserve(
        services
            .values()
            .flat_map(|s| s.service.addresses.values().flatten().copied()),
    );
    let wants = |s: &MeshService| {
        let own = s.service.addresses.contains_key(&mesh.cluster);
        let headless_here = s.service.headless && !s.declared.contains(" of cluster ");
        !own && !headless_here
            && s.external_name.is_none()
            && !s.host().is_wildcard()
            && s.service.resolution != isthmus_model::Resolution::Passthrough
    };
    let given = vips.assign(
        services
            .values()
            .filter(|s| wants(s))
            .map(|s| s.host().as_str().to_owned()),
    );
    for service in services.values_mut() {
        if !wants(service) {
            continue;
        }
        if let Some(vip) = given.get(service.host().as_str()) {
            let addresses = vec![IpAddr::V4(vip.v4()), IpAddr::V6(vip.v6())];
            service.service.addresses.insert(mesh.cluster.clone(), addresses);
        }
    }
}

/// What this cluster tells its peers of its services: those that are part of the mesh and run here.
pub fn exported(
    services: &BTreeMap<ServiceKey, MeshService>,
    endpoints: &BTreeMap<ServiceKey, Vec<Endpoint>>,
    mesh: &Mesh,
    before: Option<&MemberState>,
) -> BTreeMap<ServiceKey, Arc<MemberService>> {
    let mut out = BTreeMap::new();
    for (key, service) in services {
        let system = key.namespace == "kube-system"
            || (key.namespace == "default" && key.host.as_str().starts_with("kubernetes.default."))
            || (key.namespace == mesh.root_namespace && key.host.as_str().starts_with("istiod"));
        let internal = matches!(
            service.service.origin,
            ServiceOrigin::Kubernetes | ServiceOrigin::MeshInternal
        );
        let hidden = service.service.export_to == isthmus_model::ExportTo::Nobody;
        let by_name = service.service.resolution != isthmus_model::Resolution::Static;
        if system || !internal || hidden || by_name || service.external_name.is_some() {
            continue;
        }
        let told = MemberService {
            service: service.service.clone(),
            endpoints: endpoints.get(key).cloned().unwrap_or_default(),
        };
        let same = before
            .and_then(|b| b.services.get(key))
            .filter(|old| ***old == told);
        out.insert(key.clone(), same.cloned().unwrap_or_else(|| Arc::new(told)));
    }
    out
}

/// Endpoints with their identities, sharing with `before` what did not change.
pub fn share(
    endpoints: BTreeMap<ServiceKey, Vec<Endpoint>>,
    before: &BTreeMap<ServiceKey, Arc<ServiceEndpoints>>,
) -> BTreeMap<ServiceKey, Arc<ServiceEndpoints>> {
    endpoints
        .into_iter()
        .map(|(key, endpoints)| {
            let old = before.get(&key);
            if let Some(old) = old.filter(|o| o.endpoints == endpoints) {
                return (key, Arc::clone(old));
            }
            let accounts: BTreeSet<SpiffeId> = endpoints.iter().filter_map(|e| e.identity.clone()).collect();
            let accounts = match old.map(|o| &o.accounts) {
                Some(kept) if accounts.is_empty() || **kept == accounts => Arc::clone(kept),
                _ => Arc::new(accounts),
            };
            (key, Arc::new(ServiceEndpoints { endpoints, accounts }))
        })
        .collect()
}
