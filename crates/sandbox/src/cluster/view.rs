//! What Kubernetes would say of the cluster: Services with addresses, EndpointSlices, Pods with status,
//! Nodes, Namespaces, ServiceAccounts and the root certificate's ConfigMap, as JSON objects; and the same
//! facts for kube-proxy, the load balancer and the cluster's DNS.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::Arc;

use isthmus_api::kubernetes::service::ServicePort;
use isthmus_api::kubernetes::{IntOrString, Service};
use isthmus_api::{Kind, Object};
use serde_json::{Value, json};

use super::addresses::Addresses;
use super::desired::{PodRecord, nodes};
use super::settings::ClusterSettings;
use crate::plan::{PodStatus, VirtualAddress, VirtualPort};

/// Inputs of [`View::build`].
pub struct Inputs<'a> {
    /// The cluster.
    pub settings: &'a ClusterSettings,
    /// The user's objects and the sandbox's own (the control plane's Service).
    pub objects: &'a [Arc<Object>],
    /// Pods that exist.
    pub pods: &'a [(PodRecord, Option<PodStatus>)],
    /// PEM of the trusted roots, for the ConfigMap.
    pub root_cert: &'a str,
}

/// One state of the cluster.
#[derive(Debug, Default, PartialEq)]
pub struct View {
    /// Objects by the file they are written to, without extension: `services`, `pods`, ...
    pub files: BTreeMap<&'static str, Vec<Value>>,
    /// Cluster addresses and the ready pods behind them.
    pub cluster_ips: Vec<VirtualAddress>,
    /// Public addresses and the ready pods behind them.
    pub load_balancers: Vec<VirtualAddress>,
    /// Names in the cluster's DNS.
    pub names: BTreeMap<String, Vec<Ipv4Addr>>,
    /// Names in the internet's DNS (annotation `external-dns.alpha.kubernetes.io/hostname`).
    pub public_names: BTreeMap<String, Vec<Ipv4Addr>>,
    /// Public address of each Service of type LoadBalancer (`NAMESPACE/NAME`), with its ports.
    pub published: BTreeMap<String, (Ipv4Addr, Vec<u16>)>,
}

impl View {
    /// Builds the view; `addresses` gives out what Services lack.
    pub fn build(inputs: &Inputs<'_>, addresses: &mut Addresses) -> Self {
        let mut view = View::default();
        let mut live = BTreeSet::new();
        for object in inputs.objects {
            if let Some(service) = object.typed::<Service>() {
                live.insert(format!("{}/{}", object.meta.namespace, object.meta.name));
                view.service(inputs, addresses, object, service);
            }
        }
        addresses.retain(&live);
        view.pods(inputs);
        view.surroundings(inputs);
        view
    }

    fn push(&mut self, file: &'static str, object: Value) {
        self.files.entry(file).or_default().push(object);
    }

    fn service(
        &mut self,
        inputs: &Inputs<'_>,
        addresses: &mut Addresses,
        object: &Object,
        service: &Service,
    ) {
        let key = format!("{}/{}", object.meta.namespace, object.meta.name);
        let host = format!("{}.{}.svc.cluster.local", object.meta.name, object.meta.namespace);
        let Ok(mut json) = object.to_json() else { return };
        if service.is_external_name() {
            self.push("services", json);
            return;
        }
        let backends = Backends::of(inputs, object, service);
        if service.is_headless() {
            self.names.insert(host.clone(), backends.ready());
            for pod in backends.pods.iter().filter(|p| p.ready) {
                self.names
                    .insert(format!("{}.{host}", pod.record.key.name), vec![pod.address]);
            }
        } else if let Some(address) =
            addresses.cluster(inputs.settings, &key, service.spec.cluster_ip.parse().ok())
        {
            json["spec"]["clusterIP"] = json!(address);
            json["spec"]["clusterIPs"] = json!([address]);
            self.cluster_ips.push(VirtualAddress {
                address,
                ports: backends.virtual_ports(service),
            });
            self.names.insert(host, vec![address]);
        }
        if service.spec.service_type == "LoadBalancer"
            && let Some(address) = addresses.public(inputs.settings, &key)
        {
            json["status"]["loadBalancer"]["ingress"] = json!([{ "ip": address }]);
            self.load_balancers.push(VirtualAddress {
                address,
                ports: backends.virtual_ports(service),
            });
            let hostnames = object
                .meta
                .annotations
                .get("external-dns.alpha.kubernetes.io/hostname");
            for name in hostnames.iter().flat_map(|h| h.split(',')) {
                self.public_names
                    .insert(name.trim().to_ascii_lowercase(), vec![address]);
            }
            let ports = service.spec.ports.iter().map(|p| p.port).collect();
            self.published.insert(key, (address, ports));
        }
        self.push("services", json);
        if !service.spec.selector.is_empty() {
            for slice in backends.slices(object, service) {
                self.push("endpointslices", slice);
            }
        }
    }

    fn pods(&mut self, inputs: &Inputs<'_>) {
        for (record, status) in inputs.pods {
            let mut owners = Vec::new();
            if !record.owner.is_empty() {
                let hash = record.labels.value("pod-template-hash").unwrap_or_default();
                owners.push(json!({
                    "apiVersion": "apps/v1", "kind": "ReplicaSet", "controller": true,
                    "name": format!("{}-{hash}", record.owner), "uid": format!("rs-{}-{hash}", record.owner),
                }));
            }
            let ports: Vec<_> = record
                .ports
                .iter()
                .map(|(name, port)| json!({"name": name, "containerPort": port}))
                .collect();
            let mut pod = json!({
                "apiVersion": "v1", "kind": "Pod",
                "metadata": {
                    "name": record.key.name, "namespace": record.key.namespace, "uid": record.uid,
                    "labels": record.labels, "annotations": record.annotations, "ownerReferences": owners,
                },
                "spec": {
                    "serviceAccountName": record.service_account, "nodeName": record.node,
                    "containers": [{"name": "main", "image": "sandbox", "ports": ports}],
                },
            });
            pod["status"] = match status {
                None => json!({"phase": "Pending"}),
                Some(status) => {
                    let ready = if status.ready() { "True" } else { "False" };
                    json!({
                        "phase": "Running", "podIP": status.address, "podIPs": [{"ip": status.address}],
                        "conditions": [
                            {"type": "Ready", "status": ready},
                            {"type": "ContainersReady", "status": ready},
                        ],
                    })
                }
            };
            self.push("pods", pod);
        }
    }

    fn surroundings(&mut self, inputs: &Inputs<'_>) {
        let written: BTreeSet<_> = inputs
            .objects
            .iter()
            .map(|o| (o.kind, o.meta.namespace.as_str(), o.meta.name.as_str()))
            .collect();
        let mut namespaces: BTreeSet<&str> = ["default", "kube-system", "istio-system"].into();
        namespaces.extend(
            inputs
                .objects
                .iter()
                .filter(|o| o.kind == Kind::Namespace)
                .map(|o| o.meta.name.as_str()),
        );
        namespaces.extend(inputs.pods.iter().map(|(p, _)| p.key.namespace.as_str()));
        let accounts: BTreeSet<_> = inputs
            .pods
            .iter()
            .map(|(p, _)| (p.key.namespace.as_str(), p.service_account.as_str()))
            .chain(namespaces.iter().map(|n| (*n, "default")))
            .collect();
        for (name, locality) in nodes(inputs.settings, inputs.objects) {
            if !written.contains(&(Kind::Node, "", name.as_str())) {
                self.push(
                    "nodes",
                    json!({
                        "apiVersion": "v1", "kind": "Node",
                        "metadata": {"name": name, "labels": {
                            "topology.kubernetes.io/region": locality.region,
                            "topology.kubernetes.io/zone": locality.zone,
                        }},
                    }),
                );
            }
        }
        for namespace in namespaces {
            if !written.contains(&(Kind::Namespace, "", namespace)) {
                let mut labels = BTreeMap::from([("kubernetes.io/metadata.name", namespace)]);
                if namespace == "istio-system" {
                    labels.insert("topology.istio.io/network", inputs.settings.network.as_str());
                }
                self.push("namespaces", json!({
                    "apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace, "labels": labels},
                }));
            }
            self.push(
                "configmaps",
                json!({
                    "apiVersion": "v1", "kind": "ConfigMap",
                    "metadata": {"name": "istio-ca-root-cert", "namespace": namespace},
                    "data": {"root-cert.pem": inputs.root_cert},
                }),
            );
        }
        for (namespace, name) in accounts {
            if !written.contains(&(Kind::ServiceAccount, namespace, name)) {
                self.push(
                    "serviceaccounts",
                    json!({
                        "apiVersion": "v1", "kind": "ServiceAccount",
                        "metadata": {"name": name, "namespace": namespace},
                    }),
                );
            }
        }
    }
}

/// The pods that a Service selects.
struct Backends<'a> {
    pods: Vec<Backend<'a>>,
}

struct Backend<'a> {
    record: &'a PodRecord,
    address: Ipv4Addr,
    ready: bool,
    terminating: bool,
}

impl<'a> Backends<'a> {
    fn of(inputs: &'a Inputs<'a>, object: &Object, service: &Service) -> Self {
        let selected = |record: &PodRecord| {
            !service.spec.selector.is_empty()
                && record.key.namespace == object.meta.namespace
                && record.labels.matches(&service.spec.selector)
        };
        let pods = inputs
            .pods
            .iter()
            .filter(|(record, _)| selected(record))
            .filter_map(|(record, status)| {
                let status = status.as_ref()?;
                Some(Backend {
                    record,
                    address: status.address,
                    ready: status.ready() || service.spec.publish_not_ready_addresses,
                    terminating: status.terminating,
                })
            })
            .collect();
        Self { pods }
    }

    fn ready(&self) -> Vec<Ipv4Addr> {
        self.pods.iter().filter(|p| p.ready).map(|p| p.address).collect()
    }

    fn virtual_ports(&self, service: &Service) -> Vec<VirtualPort> {
        let ports = service.spec.ports.iter();
        ports
            .map(|port| VirtualPort {
                udp: port.protocol == "UDP",
                port: port.port,
                targets: self
                    .pods
                    .iter()
                    .filter(|p| p.ready)
                    .filter_map(|p| Some((p.address, target_port(port, p.record)?)))
                    .collect(),
            })
            .collect()
    }

    /// One slice for each set of target ports, since a named port may be another number in each pod.
    fn slices(&self, object: &Object, service: &Service) -> Vec<Value> {
        let mut groups: BTreeMap<Vec<Option<u16>>, Vec<Value>> = BTreeMap::new();
        for pod in &self.pods {
            let targets = service
                .spec
                .ports
                .iter()
                .map(|p| target_port(p, pod.record))
                .collect();
            groups.entry(targets).or_default().push(json!({
                "addresses": [pod.address],
                "conditions": {
                    "ready": pod.ready, "serving": pod.ready, "terminating": pod.terminating,
                },
                "nodeName": pod.record.node,
                "zone": pod.record.locality.zone,
                "targetRef": {
                    "kind": "Pod", "namespace": pod.record.key.namespace, "name": pod.record.key.name,
                    "uid": pod.record.uid,
                },
            }));
        }
        groups
            .into_iter()
            .enumerate()
            .map(|(n, (targets, endpoints))| {
                let ports: Vec<_> = service
                    .spec
                    .ports
                    .iter()
                    .zip(targets)
                    .filter_map(|(port, target)| {
                        let protocol = if port.protocol.is_empty() {
                            "TCP"
                        } else {
                            &port.protocol
                        };
                        let mut json = json!({"name": port.name, "port": target?, "protocol": protocol});
                        if let Some(app) = &port.app_protocol {
                            json["appProtocol"] = json!(app);
                        }
                        Some(json)
                    })
                    .collect();
                json!({
                    "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
                    "metadata": {
                        "name": format!("{}-{n}", object.meta.name), "namespace": object.meta.namespace,
                        "labels": {"kubernetes.io/service-name": object.meta.name},
                    },
                    "ports": ports, "endpoints": endpoints,
                })
            })
            .collect()
    }
}

fn target_port(port: &ServicePort, pod: &PodRecord) -> Option<u16> {
    match &port.target_port {
        None => Some(port.port),
        Some(IntOrString::Number(0)) => Some(port.port),
        Some(IntOrString::Number(n)) => Some(*n),
        Some(IntOrString::Name(name)) if name.is_empty() => Some(port.port),
        Some(IntOrString::Name(name)) => pod.ports.iter().find(|(n, _)| n == name).map(|(_, port)| *port),
    }
}
