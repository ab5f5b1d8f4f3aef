//! Services of Kubernetes and their EndpointSlices.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use isthmus_api::kubernetes::endpoint_slice::{Endpoint as SliceEndpoint, SERVICE_NAME_LABEL};
use isthmus_api::kubernetes::{EndpointSlice, IntOrString, Service as KubeService};
use isthmus_api::object::Object;
use isthmus_model::{
    Endpoint, EndpointAddress, EndpointHealth, ExportTo, Hostname, Labels, Port, Protocol, Resolution,
    Service, ServiceKey, ServiceOrigin, TlsMode,
};

use super::service::{MeshService, TargetPort};
use super::workload::{Instance, Instances};
use crate::ingest::store::Store;
use crate::mesh::Mesh;

/// Annotation of a Service with the namespaces that see it.
const EXPORT_TO_ANNOTATION: &str = "networking.istio.io/exportTo";

/// Reads a Service; `None` if its name is not a host name.
pub fn service(object: &Object, kube: &KubeService, mesh: &Mesh) -> Option<MeshService> {
    let meta = &object.meta;
    let host: Hostname = format!("{}.{}.svc.{}", meta.name, meta.namespace, mesh.domain)
        .parse()
        .ok()?;
    let addresses: Vec<IpAddr> = std::iter::once(&kube.spec.cluster_ip)
        .chain(&kube.spec.cluster_ips)
        .filter_map(|ip| ip.parse().ok())
        .fold(Vec::new(), |mut seen, ip| {
            if !seen.contains(&ip) {
                seen.push(ip);
            }
            seen
        });
    let mut ports: Vec<Port> = kube
        .spec
        .ports
        .iter()
        .map(|p| Port {
            number: p.port,
            name: p.name.clone(),
            protocol: Protocol::select(&p.name, p.app_protocol.as_deref(), Some(&p.protocol)),
        })
        .collect();
    ports.sort_by_key(|p| p.number);
    let target_ports = kube
        .spec
        .ports
        .iter()
        .map(|p| {
            let target = match &p.target_port {
                Some(IntOrString::Number(n)) => TargetPort::Number(*n),
                Some(IntOrString::Name(name)) if !name.is_empty() => TargetPort::Name(name.clone()),
                _ => TargetPort::Number(p.port),
            };
            (p.port, target)
        })
        .collect();
    let export_to = meta.annotations.get(EXPORT_TO_ANNOTATION).map(|text| {
        let names: Vec<String> = text.split(',').map(|s| s.trim().to_owned()).collect();
        export_to(&names, &mesh.services_export_to, &meta.namespace)
    });
    Some(MeshService {
        declared: Arc::from(format!("{} {}", object.key(), object.origin)),
        created: meta.creation_timestamp.clone(),
        aliases: Vec::new(),
        external_name: kube
            .is_external_name()
            .then(|| kube.spec.external_name.parse().ok())
            .flatten(),
        selector: kube.spec.selector.clone(),
        target_ports,
        ranges: Vec::new(),
        subject_alt_names: Vec::new(),
        hops: BTreeMap::new(),
        service: Service {
            key: ServiceKey {
                namespace: meta.namespace.clone(),
                host,
            },
            origin: ServiceOrigin::Kubernetes,
            ports,
            headless: kube.is_headless(),
            addresses: if addresses.is_empty() {
                BTreeMap::new()
            } else {
                BTreeMap::from([(mesh.cluster.clone(), addresses)])
            },
            resolution: if kube.is_external_name() {
                Resolution::Dns
            } else {
                Resolution::Static
            },
            labels: meta.labels.clone(),
            export_to: export_to.unwrap_or_default(),
            subject_alt_names: Vec::new(),
        },
    })
}

/// Reads `exportTo`: `.` is the object's own namespace, `*` everyone, `~` nobody. `default` holds where
/// nothing is said.
pub fn export_to(names: &[String], default: &[String], namespace: &str) -> ExportTo {
    let names = if names.is_empty() { default } else { names };
    if names.is_empty() || names.iter().any(|n| n == "*") {
        return ExportTo::All;
    }
    if names.iter().all(|n| n == "~") {
        return ExportTo::Nobody;
    }
    ExportTo::Namespaces(
        names
            .iter()
            .filter(|n| *n != "~")
            .map(|n| if n == "." { namespace.to_owned() } else { n.clone() })
            .collect(),
    )
}

/// EndpointSlices by the service they belong to: (namespace, name).
pub struct Slices<'a>(HashMap<(&'a str, &'a str), Vec<&'a Arc<EndpointSlice>>>);

impl<'a> Slices<'a> {
    /// Reads the slices.
    pub fn read(store: &'a Store) -> Self {
        let mut by: HashMap<(&str, &str), Vec<&Arc<EndpointSlice>>> = HashMap::new();
        for (object, slice) in store.iter::<EndpointSlice>() {
            if let Some(service) = object.meta.labels.value(SERVICE_NAME_LABEL) {
                by.entry((&object.meta.namespace, service))
                    .or_default()
                    .push(slice);
            }
        }
        Self(by)
    }

    /// What answers for a Service: its slices, or the pods it selects when it has none.
    pub fn endpoints(
        &self,
        service: &MeshService,
        publish_unready: bool,
        instances: &Instances,
        mesh: &Mesh,
    ) -> Vec<Endpoint> {
        let namespace = service.namespace();
        let name = service.host().as_str().split('.').next().unwrap_or_default();
        let mut out = Vec::new();
        match self.0.get(&(namespace, name)) {
            Some(slices) => {
                for slice in slices {
                    for endpoint in &slice.endpoints {
                        for port in &slice.ports {
                            let (Some(number), name) = (port.port, port.name.as_deref().unwrap_or_default())
                            else {
                                continue;
                            };
                            for address in &endpoint.addresses {
                                let health = slice_health(endpoint, publish_unready);
                                out.extend(slice_endpoint(
                                    address, endpoint, number, name, health, namespace, instances, mesh,
                                ));
                            }
                        }
                    }
                }
            }
            None if !service.selector.is_empty() => {
                for instance in instances
                    .select(namespace, &service.selector)
                    .filter(|i| !i.is_entry)
                {
                    for port in &service.service.ports {
                        let Some(number) = target_port(service, port.number, instance) else {
                            continue;
                        };
                        let mut endpoint = from_instance(instance, number, &port.name);
                        if publish_unready && endpoint.health == EndpointHealth::Unhealthy {
                            endpoint.health = EndpointHealth::Healthy;
                        }
                        out.push(endpoint);
                    }
                }
            }
            None => {}
        }
        out.sort();
        out.dedup();
        out
    }
}

/// The port of an instance behind a service port; `None` if it has none of the wanted name.
pub fn target_port(service: &MeshService, port: u16, instance: &Instance) -> Option<u16> {
    match service.target_ports.get(&port) {
        Some(TargetPort::Number(n)) => Some(*n),
        Some(TargetPort::Name(name)) => instance.named_ports.get(name).copied(),
        None => None,
    }
}

/// An instance as one port of a service sees it.
pub fn from_instance(instance: &Instance, port: u16, port_name: &str) -> Endpoint {
    let workload = &instance.workload;
    Endpoint {
        address: instance.address.clone(),
        port,
        port_name: port_name.to_owned(),
        labels: workload.labels.clone(),
        locality: workload.locality.clone(),
        network: workload.network.clone(),
        cluster: workload.key.cluster.clone(),
        identity: Some(workload.identity.clone()),
        tls_mode: workload.tls_mode,
        weight: instance.weight,
        health: instance.health,
        workload: workload.key.name.clone(),
        owner: workload.owner.clone(),
        namespace: workload.key.namespace.clone(),
    }
}

fn slice_health(endpoint: &SliceEndpoint, publish_unready: bool) -> EndpointHealth {
    let conditions = &endpoint.conditions;
    if conditions.terminating == Some(true) {
        EndpointHealth::Draining
    } else if conditions.ready.unwrap_or(true) || publish_unready {
        EndpointHealth::Healthy
    } else {
        EndpointHealth::Unhealthy
    }
}

#[allow(
    clippy::too_many_arguments,
    reason = "one call, and each is a fact of the slice"
)]
fn slice_endpoint(
    address: &str,
    endpoint: &SliceEndpoint,
    port: u16,
    port_name: &str,
    health: EndpointHealth,
    namespace: &str,
    instances: &Instances,
    mesh: &Mesh,
) -> Option<Endpoint> {
    let ip: IpAddr = address.parse().ok()?;
    let pod = endpoint
        .target_ref
        .as_ref()
        .filter(|r| r.kind == "Pod")
        .and_then(|r| {
            instances.by_name(
                if r.namespace.is_empty() {
                    namespace
                } else {
                    &r.namespace
                },
                &r.name,
            )
        })
        .or_else(|| instances.by_ip(&ip));
    if let Some(instance) = pod {
        return Some(Endpoint {
            address: EndpointAddress::Ip(ip),
            health,
            ..from_instance(instance, port, port_name)
        });
    }
    Some(Endpoint {
        address: EndpointAddress::Ip(ip),
        port,
        port_name: port_name.to_owned(),
        labels: Labels::default(),
        locality: endpoint
            .zone
            .as_ref()
            .map(|zone| isthmus_model::Locality {
                zone: zone.clone(),
                ..Default::default()
            })
            .unwrap_or_default(),
        network: mesh.network.clone(),
        cluster: mesh.cluster.clone(),
        identity: None,
        tls_mode: TlsMode::Disabled,
        weight: 1,
        health,
        workload: endpoint
            .target_ref
            .as_ref()
            .map(|r| r.name.clone())
            .unwrap_or_default(),
        owner: String::new(),
        namespace: namespace.to_owned(),
    })
}
