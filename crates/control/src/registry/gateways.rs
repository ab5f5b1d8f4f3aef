//! Where networks are entered: gateways that take mesh mTLS and pass it on by SNI.

use std::collections::BTreeSet;

use isthmus_api::istio::Gateway;
use isthmus_api::istio::gateway::ServerTlsMode;
use isthmus_api::kubernetes::{Node, Service as KubeService};
use isthmus_api::object::Object;
use isthmus_model::{EndpointAddress, Labels, Locality, NetworkGateway, NetworkId};

use super::places::NETWORK_LABEL;
use super::workload::Instances;
use crate::ingest::store::Store;
use crate::mesh::Mesh;

/// Port of a passthrough server unless something else is said.
pub const PASSTHROUGH_PORT: u16 = 15443;

/// Label or annotation of a gateway's Service with another port.
const GATEWAY_PORT_LABEL: &str = "networking.istio.io/gatewayPort";

/// The label that makes a workload an east-west gateway.
pub const EAST_WEST: (&str, &str) = ("istio", "eastwestgateway");

/// The own cluster's entrances.
#[derive(Debug, Default, PartialEq)]
pub struct Entrances {
    /// Gateways of networks.
    pub gateways: Vec<NetworkGateway>,
    /// Other gateways that carry a passthrough port.
    pub passthrough: Vec<(EndpointAddress, u16)>,
}

/// Whether labels are those of an east-west gateway.
pub fn is_east_west(labels: &Labels) -> bool {
    labels.value(EAST_WEST.0) == Some(EAST_WEST.1)
}

/// Reads the gateways of the own cluster from Services, Gateway resources and `meshNetworks`.
pub fn entrances(store: &Store, mesh: &Mesh, instances: &Instances) -> Entrances {
    let mut gateways = BTreeSet::new();
    let mut passthrough = BTreeSet::new();
    for (object, service) in store.iter::<KubeService>() {
        let meta = &object.meta;
        let network = meta.labels.value(NETWORK_LABEL).map(NetworkId::from);
        let east_west = is_east_west(&meta.labels) || is_east_west(&service.spec.selector);
        let locality = || pods_locality(object, service, instances);
        if network.is_some() || east_west {
            let network = network.unwrap_or_else(|| mesh.network.clone());
            let said = meta.labels.value(GATEWAY_PORT_LABEL);
            let said = said.or_else(|| meta.annotations.get(GATEWAY_PORT_LABEL).map(String::as_str));
            let port = said.and_then(|p| p.parse().ok()).unwrap_or(PASSTHROUGH_PORT);
            for (address, port) in public_addresses(store, service, port) {
                gateways.insert(NetworkGateway {
                    network: network.clone(),
                    cluster: mesh.cluster.clone(),
                    address,
                    port,
                    locality: locality(),
                });
            }
            continue;
        }
        for port in passthrough_ports(store, object, service) {
            passthrough.extend(public_addresses(store, service, port));
        }
    }
    for (id, network) in &mesh.networks {
        for (address, port) in &network.gateways {
            gateways.insert(NetworkGateway {
                network: id.clone(),
                cluster: network.clusters.first().cloned().unwrap_or_default(),
                address: address.clone(),
                port: *port,
                locality: Locality::default(),
            });
        }
        for (host, port) in &network.gateway_services {
            for (object, service) in store.iter::<KubeService>() {
                let meta = &object.meta;
                let full = format!("{}.{}.svc.{}", meta.name, meta.namespace, mesh.domain);
                if full == *host {
                    for (address, port) in public_addresses(store, service, *port) {
                        gateways.insert(NetworkGateway {
                            network: id.clone(),
                            cluster: mesh.cluster.clone(),
                            address,
                            port,
                            locality: pods_locality(object, service, instances),
                        });
                    }
                }
            }
        }
    }
    Entrances {
        gateways: gateways.into_iter().collect(),
        passthrough: passthrough.into_iter().collect(),
    }
}

/// Addresses at which others reach a Service's port.
fn public_addresses(store: &Store, service: &KubeService, port: u16) -> Vec<(EndpointAddress, u16)> {
    let mut out: Vec<(EndpointAddress, u16)> = Vec::new();
    for ingress in &service.status.load_balancer.ingress {
        let text = if ingress.ip.is_empty() {
            &ingress.hostname
        } else {
            &ingress.ip
        };
        out.extend(text.parse().ok().map(|address| (address, port)));
    }
    out.extend(
        service
            .spec
            .external_ips
            .iter()
            .filter_map(|ip| Some((ip.parse().ok()?, port))),
    );
    let node_port = service
        .spec
        .ports
        .iter()
        .find(|p| p.port == port)
        .map_or(0, |p| p.node_port);
    if out.is_empty() && service.spec.service_type == "NodePort" && node_port != 0 {
        for (_, node) in store.iter::<Node>() {
            let of_kind = |kind: &str| node.status.addresses.iter().find(|a| a.address_type == kind);
            let address = of_kind("ExternalIP").or_else(|| of_kind("InternalIP"));
            out.extend(address.and_then(|a| Some((a.address.parse().ok()?, node_port))));
        }
    }
    out
}

/// Ports of a Service that lead to pods on which a Gateway resource opens an AUTO_PASSTHROUGH server.
fn passthrough_ports(store: &Store, object: &Object, service: &KubeService) -> Vec<u16> {
    if service.spec.selector.is_empty() {
        return Vec::new();
    }
    let mut out = Vec::new();
    for (gateway_object, gateway) in store.iter::<Gateway>() {
        // The Service's selector stands for the labels of its pods.
        let selected = !gateway.selector.is_empty()
            && (service.spec.selector.matches(&gateway.selector)
                || object.meta.labels.matches(&gateway.selector));
        if !selected || gateway_object.meta.name.is_empty() {
            continue;
        }
        for server in &gateway.servers {
            let passthrough = server
                .tls
                .as_ref()
                .is_some_and(|t| t.mode == ServerTlsMode::AutoPassthrough);
            if let (true, Some(port)) = (passthrough, &server.port)
                && service.spec.ports.iter().any(|p| p.port == port.number)
            {
                out.push(port.number);
            }
        }
    }
    out
}

fn pods_locality(object: &Object, service: &KubeService, instances: &Instances) -> Locality {
    if service.spec.selector.is_empty() {
        return Locality::default();
    }
    let mut pods = instances.select(&object.meta.namespace, &service.spec.selector);
    pods.next()
        .map(|i| i.workload.locality.clone())
        .unwrap_or_default()
}
