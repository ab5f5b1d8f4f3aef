//! Pods and WorkloadEntries of the own cluster: what runs, where, as whom.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use isthmus_api::istio::WorkloadEntry;
use isthmus_api::kubernetes::Pod;
use isthmus_api::object::{Meta, Object};
use isthmus_model::{
    EndpointAddress, EndpointHealth, Labels, Locality, NetworkId, SpiffeId, TlsMode, Workload, WorkloadKey,
};

use super::places::Places;
use crate::ingest::store::Store;
use crate::mesh::Mesh;

/// Label of a workload that says whether a sidecar takes mTLS for it.
pub const TLS_MODE_LABEL: &str = "security.istio.io/tlsMode";

/// Annotation that the injector leaves on a pod with a sidecar.
pub const INJECTED_ANNOTATION: &str = "sidecar.istio.io/status";

/// A pod or WorkloadEntry.
#[derive(Debug, Clone, PartialEq)]
pub struct Instance {
    /// Name, labels, identity, locality, network.
    pub workload: Workload,
    /// Primary address; a WorkloadEntry may have a name instead of an IP.
    pub address: EndpointAddress,
    /// Readiness as the object itself says; EndpointSlices know better.
    pub health: EndpointHealth,
    /// Ports by container port name (pod) or service port name (WorkloadEntry).
    pub named_ports: BTreeMap<String, u16>,
    /// `hostname` and `subdomain` of a pod.
    pub dns: Option<(String, String)>,
    /// Whether it is a WorkloadEntry.
    pub is_entry: bool,
    /// Share relative to its siblings.
    pub weight: u32,
    /// Annotations that generation reads.
    pub annotations: Arc<BTreeMap<String, String>>,
}

/// Every instance of the own cluster.
#[derive(Debug, Default, PartialEq)]
pub struct Instances {
    all: Vec<Arc<Instance>>,
    by_ip: HashMap<IpAddr, usize>,
    by_name: HashMap<(String, String), usize>,
}

impl Instances {
    /// Reads pods and WorkloadEntries.
    pub fn read(store: &Store, mesh: &Mesh, places: &Places) -> Self {
        let pods = store
            .iter::<Pod>()
            .filter_map(|(object, pod)| pod_instance(object, pod, mesh, places));
        let entries = store
            .iter::<WorkloadEntry>()
            .filter_map(|(object, entry)| entry_instance(&object.meta, entry, mesh, places));
        let all: Vec<_> = pods.chain(entries).map(Arc::new).collect();
        let mut by_ip = HashMap::new();
        let mut by_name = HashMap::new();
        for (i, instance) in all.iter().enumerate() {
            for ip in &instance.workload.addresses {
                by_ip.entry(*ip).or_insert(i);
            }
            let key = &instance.workload.key;
            by_name
                .entry((key.namespace.clone(), key.name.clone()))
                .or_insert(i);
        }
        Self { all, by_ip, by_name }
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Instance>> {
        self.all.iter()
    }

    /// The instance with this address.
    pub fn by_ip(&self, ip: &IpAddr) -> Option<&Arc<Instance>> {
        self.by_ip.get(ip).map(|i| &self.all[*i])
    }

    /// The instance with this name.
    pub fn by_name(&self, namespace: &str, name: &str) -> Option<&Arc<Instance>> {
        self.by_name
            .get(&(namespace.to_owned(), name.to_owned()))
            .map(|i| &self.all[*i])
    }

    /// Those of a namespace that have all labels of a selector.
    pub fn select<'a>(
        &'a self,
        namespace: &'a str,
        labels: &'a Labels,
    ) -> impl Iterator<Item = &'a Arc<Instance>> {
        self.all
            .iter()
            .filter(move |i| i.workload.key.namespace == namespace && i.workload.labels.matches(labels))
    }
}

fn pod_instance(object: &Object, pod: &Pod, mesh: &Mesh, places: &Places) -> Option<Instance> {
    let meta = &object.meta;
    if matches!(pod.status.phase.as_str(), "Succeeded" | "Failed") {
        return None;
    }
    let addresses: Vec<IpAddr> = pod.addresses().filter_map(|ip| ip.parse().ok()).collect();
    let primary = *addresses.first()?;
    let sidecar = !pod.spec.host_network
        && match meta.labels.value(TLS_MODE_LABEL) {
            Some(mode) => mode == "istio",
            None => meta.annotations.contains_key(INJECTED_ANNOTATION),
        };
    let named_ports = pod
        .spec
        .containers
        .iter()
        .chain(&pod.spec.init_containers)
        .flat_map(|c| &c.ports)
        .filter(|p| !p.name.is_empty())
        .map(|p| (p.name.clone(), p.container_port))
        .collect();
    let health = if !meta.deletion_timestamp.is_empty() {
        EndpointHealth::Draining
    } else if pod.is_ready() {
        EndpointHealth::Healthy
    } else {
        EndpointHealth::Unhealthy
    };
    let account = pod.service_account().to_owned();
    Some(Instance {
        address: EndpointAddress::Ip(primary),
        health,
        named_ports,
        dns: (!pod.spec.hostname.is_empty()).then(|| (pod.spec.hostname.clone(), pod.spec.subdomain.clone())),
        is_entry: false,
        weight: 1,
        annotations: Arc::new(meta.annotations.clone()),
        workload: Workload {
            key: key(mesh, meta),
            addresses,
            labels: meta.labels.clone(),
            identity: SpiffeId::new(mesh.trust_domain.clone(), &meta.namespace, &account),
            service_account: account,
            network: places.network(mesh, &meta.labels, &meta.namespace, Some(primary)),
            locality: places.locality(&meta.labels, &pod.spec.node_name),
            tls_mode: if sidecar {
                TlsMode::Istio
            } else {
                TlsMode::Disabled
            },
            owner: owner(meta),
        },
    })
}

fn entry_instance(meta: &Meta, entry: &WorkloadEntry, mesh: &Mesh, places: &Places) -> Option<Instance> {
    let mut labels = entry.labels.clone();
    for (key, value) in meta.labels.iter() {
        labels.0.entry(key.clone()).or_insert_with(|| value.clone());
    }
    let address: EndpointAddress = entry.address.parse().ok()?;
    let ip = match &address {
        EndpointAddress::Ip(ip) => Some(*ip),
        _ => None,
    };
    let network = match entry.network.as_str() {
        "" => places.network(mesh, &labels, &meta.namespace, ip),
        name => NetworkId::from(name),
    };
    let account = match entry.service_account.as_str() {
        "" => "default".to_owned(),
        name => name.to_owned(),
    };
    Some(Instance {
        address,
        health: EndpointHealth::Healthy,
        named_ports: entry.ports.clone(),
        dns: None,
        is_entry: true,
        weight: entry.weight.unwrap_or(1).max(1),
        annotations: Arc::new(meta.annotations.clone()),
        workload: Workload {
            key: key(mesh, meta),
            addresses: ip.into_iter().collect(),
            tls_mode: entry_tls_mode(&labels, &entry.service_account),
            locality: entry_locality(&entry.locality, &labels),
            identity: SpiffeId::new(mesh.trust_domain.clone(), &meta.namespace, &account),
            service_account: account,
            network,
            owner: meta.name.clone(),
            labels,
        },
    })
}

/// Label, else mTLS exactly when an identity is given (Istio `getTLSModeFromWorkloadEntry`).
pub fn entry_tls_mode(labels: &Labels, service_account: &str) -> TlsMode {
    match labels.value(TLS_MODE_LABEL) {
        Some("istio") => TlsMode::Istio,
        None if !service_account.is_empty() => TlsMode::Istio,
        _ => TlsMode::Disabled,
    }
}

/// Field `locality`, else label `istio-locality`.
pub fn entry_locality(field: &str, labels: &Labels) -> Locality {
    match field {
        "" => labels
            .value("istio-locality")
            .map(Locality::from_label)
            .unwrap_or_default(),
        text => Locality::from(text.to_owned()),
    }
}

fn key(mesh: &Mesh, meta: &Meta) -> WorkloadKey {
    WorkloadKey {
        cluster: mesh.cluster.clone(),
        namespace: meta.namespace.clone(),
        name: meta.name.clone(),
    }
}

/// The Deployment behind a ReplicaSet, or whatever else manages the pod, or the pod itself.
fn owner(meta: &Meta) -> String {
    let controller = meta.owner_references.iter().find(|o| o.controller == Some(true));
    let Some(owner) = controller.or_else(|| meta.owner_references.first()) else {
        return meta.name.clone();
    };
    match (owner.kind.as_str(), owner.name.rsplit_once('-')) {
        ("ReplicaSet", Some((deployment, hash)))
            if meta
                .labels
                .value("pod-template-hash")
                .is_none_or(|label| label == hash) =>
        {
            deployment.to_owned()
        }
        _ => owner.name.clone(),
    }
}
