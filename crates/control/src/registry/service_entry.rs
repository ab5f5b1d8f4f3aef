//! ServiceEntries: services that Kubernetes does not know.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use isthmus_api::codes;
use isthmus_api::finding::Finding;
use isthmus_api::istio::ServiceEntry;
use isthmus_api::istio::service_entry::{Location, Resolution as Written, ServicePort};
use isthmus_api::object::Object;
use isthmus_model::{
    Endpoint, EndpointAddress, EndpointHealth, Hostname, Labels, NetworkId, Port, Protocol, Resolution,
    Service, ServiceKey, ServiceOrigin, SpiffeId, TlsMode,
};

use super::kubernetes::{export_to, from_instance};
use super::service::MeshService;
use super::workload::{Instances, entry_locality, entry_tls_mode};
use crate::mesh::Mesh;

/// Reads a ServiceEntry: one service for each of its hosts.
pub fn services(
    object: &Object,
    entry: &ServiceEntry,
    mesh: &Mesh,
    findings: &mut Vec<Finding>,
) -> Vec<MeshService> {
    let namespace = &object.meta.namespace;
    let mut ports: Vec<Port> = entry
        .ports
        .iter()
        .map(|p| Port {
            number: p.number,
            name: p.name.clone(),
            protocol: protocol(p),
        })
        .collect();
    ports.sort_by_key(|p| p.number);
    let mut addresses: Vec<IpAddr> = Vec::new();
    let mut ranges: Vec<IpNet> = Vec::new();
    let by_host = ports.iter().all(|p| p.protocol.is_http());
    for (i, text) in entry.addresses.iter().enumerate() {
        match (single_address(text), text.parse::<IpNet>()) {
            (Some(ip), _) => addresses.push(ip),
            (None, Ok(net)) if !by_host => ranges.push(net.trunc()),
            (None, _) => findings.push(
                Finding::new(
                    &codes::NO_EFFECT,
                    format!("address {text:?} is a range, and requests are routed by their host"),
                    "remove it, or write one address, such as 240.0.0.2/32",
                )
                .at(
                    &object.origin.file,
                    object.positions.line(&format!("spec.addresses[{i}]")),
                )
                .about(object.key()),
            ),
        }
    }
    let resolution = match entry.resolution {
        Written::None => Resolution::Passthrough,
        Written::Static => Resolution::Static,
        Written::Dns => Resolution::Dns,
        Written::DnsRoundRobin => Resolution::DnsRoundRobin,
        Written::DynamicDns => Resolution::DynamicDns,
    };
    entry
        .hosts
        .iter()
        .filter_map(|host| host.parse::<Hostname>().ok())
        .map(|host| MeshService {
            declared: Arc::from(format!("{} {}", object.key(), object.origin)),
            created: object.meta.creation_timestamp.clone(),
            aliases: Vec::new(),
            external_name: None,
            selector: Labels::default(),
            target_ports: BTreeMap::new(),
            ranges: ranges.clone(),
            subject_alt_names: entry.subject_alt_names.clone(),
            hops: BTreeMap::new(),
            service: Service {
                key: ServiceKey {
                    namespace: namespace.clone(),
                    host,
                },
                origin: match entry.location {
                    Location::MeshExternal => ServiceOrigin::MeshExternal,
                    Location::MeshInternal => ServiceOrigin::MeshInternal,
                },
                ports: ports.clone(),
                addresses: if addresses.is_empty() {
                    BTreeMap::new()
                } else {
                    BTreeMap::from([(mesh.cluster.clone(), addresses.clone())])
                },
                headless: false,
                resolution,
                labels: object.meta.labels.clone(),
                export_to: export_to(&entry.export_to, &mesh.services_export_to, namespace),
                subject_alt_names: entry
                    .subject_alt_names
                    .iter()
                    .filter_map(|s| s.parse().ok())
                    .collect(),
            },
        })
        .collect()
}

/// What answers for one host of a ServiceEntry.
pub fn endpoints(
    object: &Object,
    entry: &ServiceEntry,
    host: &Hostname,
    mesh: &Mesh,
    instances: &Instances,
) -> Vec<Endpoint> {
    let namespace = &object.meta.namespace;
    let mut out = Vec::new();
    if let Some(selector) = &entry.workload_selector {
        for instance in instances.select(namespace, &selector.labels) {
            for port in &entry.ports {
                let number = if instance.is_entry {
                    instance.named_ports.get(&port.name).copied()
                } else {
                    None
                };
                let number = number.or(port.target_port).unwrap_or(port.number);
                out.push(from_instance(instance, number, &port.name));
            }
        }
        out.sort();
        out.dedup();
        return out;
    }
    for listed in &entry.endpoints {
        let Ok(address) = listed.address.parse::<EndpointAddress>() else {
            continue;
        };
        for port in &entry.ports {
            let number = listed
                .ports
                .get(&port.name)
                .copied()
                .or(port.target_port)
                .unwrap_or(port.number);
            out.push(Endpoint {
                address: address.clone(),
                port: number,
                port_name: port.name.clone(),
                labels: listed.labels.clone(),
                locality: entry_locality(&listed.locality, &listed.labels),
                network: NetworkId::from(listed.network.as_str()),
                cluster: mesh.cluster.clone(),
                identity: (!listed.service_account.is_empty())
                    .then(|| SpiffeId::new(mesh.trust_domain.clone(), namespace, &listed.service_account)),
                tls_mode: entry_tls_mode(&listed.labels, &listed.service_account),
                weight: listed.weight.unwrap_or(1).max(1),
                health: EndpointHealth::Healthy,
                workload: String::new(),
                owner: String::new(),
                namespace: namespace.clone(),
            });
        }
    }
    let by_name = matches!(entry.resolution, Written::Dns | Written::DnsRoundRobin);
    if entry.endpoints.is_empty() && by_name && !host.is_wildcard() {
        for port in &entry.ports {
            out.push(Endpoint {
                address: EndpointAddress::Host(host.clone()),
                port: port.target_port.unwrap_or(port.number),
                port_name: port.name.clone(),
                labels: Labels::default(),
                locality: Default::default(),
                network: NetworkId::default(),
                cluster: mesh.cluster.clone(),
                identity: None,
                tls_mode: TlsMode::Disabled,
                weight: 1,
                health: EndpointHealth::Healthy,
                workload: String::new(),
                owner: String::new(),
                namespace: namespace.clone(),
            });
        }
    }
    out
}

fn protocol(port: &ServicePort) -> Protocol {
    if port.protocol.is_empty() {
        return match Protocol::select(&port.name, None, None) {
            Protocol::Auto => Protocol::Tcp,
            said => said,
        };
    }
    match Protocol::select("", Some(&port.protocol), None) {
        Protocol::Auto => Protocol::Tcp,
        said => said,
    }
}

/// `240.0.0.2` or `240.0.0.2/32`.
fn single_address(text: &str) -> Option<IpAddr> {
    if let Ok(ip) = text.parse() {
        return Some(ip);
    }
    let net: IpNet = text.parse().ok()?;
    (net.prefix_len() == net.max_prefix_len()).then(|| net.addr())
}
