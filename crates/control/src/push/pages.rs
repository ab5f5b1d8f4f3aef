//! The debug pages about what is known.

use isthmus_api::Kind;
use isthmus_model::EndpointAddress;
use serde_json::{Value, json};

use super::plane::ControlPlane;
use crate::ingest::store::Store;
use crate::registry::MeshService;
use crate::snapshot::Snapshot;

/// `/debug/registryz`.
pub fn registry(snapshot: &Snapshot) -> Value {
    snapshot.registry.services.values().map(|s| service(s)).collect()
}

fn service(service: &MeshService) -> Value {
    let ports: Value = (service.service.ports.iter())
        .map(|p| json!({ "name": p.name, "port": p.number, "protocol": p.protocol.to_string() }))
        .collect();
    let hops: Value = (service.hops.iter())
        .map(|(port, hop)| {
            json!({ "port": port, "target": hop.host, "targetPort": hop.port, "rule": hop.rule })
        })
        .collect();
    json!({
        "hostname": service.host(),
        "attributes": {
            "name": service.host().as_str().split('.').next(),
            "namespace": service.namespace(),
            "labels": service.service.labels,
            "declared": &*service.declared,
        },
        "ports": ports,
        "clusterVIPs": service.service.addresses,
        "aliases": service.aliases,
        "resolution": service.service.resolution,
        "hops": hops,
    })
}

/// `/debug/endpointz`.
pub fn endpoints(snapshot: &Snapshot) -> Value {
    let of = |e: &isthmus_model::Endpoint| {
        let peer = snapshot.peers.members.get(&e.cluster);
        json!({
            "address": match &e.address {
                EndpointAddress::Unix(_) => e.address.to_string(),
                other => format!("{other}:{}", e.port),
            },
            "portName": e.port_name,
            "cluster": e.cluster,
            "network": e.network,
            "locality": e.locality,
            "identity": e.identity,
            "tlsMode": e.tls_mode,
            "health": e.health,
            "weight": e.weight,
            "workload": e.workload,
            "ageSeconds": peer.map(|p| p.heard.elapsed().unwrap_or_default().as_secs()),
        })
    };
    (snapshot.registry.endpoints.iter())
        .map(|(key, all)| {
            let listed: Value = all.endpoints.iter().map(of).collect();
            json!({ "service": key.host, "namespace": key.namespace, "endpoints": listed })
        })
        .collect()
}

/// `/debug/networkz`.
pub fn networks(snapshot: &Snapshot) -> Value {
    (snapshot.registry.gateways.iter())
        .map(|g| {
            json!({
                "network": g.network,
                "cluster": g.cluster,
                "address": g.address,
                "port": g.port,
                "locality": g.locality,
            })
        })
        .collect()
}

/// `/debug/configz`: the user's objects in force, without what is secret or only state, and every finding.
pub fn config(store: &Store, snapshot: &Snapshot, plane: &ControlPlane) -> Value {
    let left_out = [
        Kind::Secret,
        Kind::ConfigMap,
        Kind::Pod,
        Kind::Node,
        Kind::EndpointSlice,
    ];
    let objects = store
        .objects()
        .filter(|o| !left_out.contains(&o.kind))
        .filter_map(|o| o.to_json().ok());
    let configs: Value = objects.collect();
    let generated = plane.findings();
    let findings = snapshot
        .findings
        .iter()
        .chain(&generated)
        .filter_map(|f| serde_json::to_value(f).ok());
    let findings: Value = findings.collect();
    json!({ "configs": configs, "findings": findings })
}
