//! Where things run: locality of nodes, networks of namespaces and addresses.

use std::collections::BTreeMap;
use std::net::IpAddr;

use isthmus_api::kubernetes::{Namespace, Node};
use isthmus_model::{Labels, Locality, NetworkId};

use crate::ingest::store::Store;
use crate::mesh::Mesh;

/// Label of a workload, namespace or gateway Service with the network that it is on.
pub const NETWORK_LABEL: &str = "topology.istio.io/network";

/// What nodes and namespaces say of the workloads in them.
#[derive(Debug, Default, PartialEq)]
pub struct Places {
    nodes: BTreeMap<String, Locality>,
    namespace_networks: BTreeMap<String, NetworkId>,
}

impl Places {
    /// Reads nodes and namespaces.
    pub fn read(store: &Store) -> Self {
        let nodes = store
            .iter::<Node>()
            .map(|(object, _)| (object.meta.name.clone(), node_locality(&object.meta.labels)))
            .collect();
        let namespace_networks = store
            .iter::<Namespace>()
            .filter_map(|(object, _)| {
                let network = object.meta.labels.value(NETWORK_LABEL)?;
                Some((object.meta.name.clone(), NetworkId::from(network)))
            })
            .collect();
        Self {
            nodes,
            namespace_networks,
        }
    }

    /// Where a pod runs: its label `istio-locality`, else its node's labels.
    pub fn locality(&self, labels: &Labels, node: &str) -> Locality {
        match labels.value("istio-locality") {
            Some(value) => Locality::from_label(value),
            None => self.nodes.get(node).cloned().unwrap_or_default(),
        }
    }

    /// The network of a workload: its label, its namespace's, the root namespace's, `meshNetworks` by
    /// address, the control plane's own, `meshNetworks` by cluster, in this order.
    pub fn network(&self, mesh: &Mesh, labels: &Labels, namespace: &str, ip: Option<IpAddr>) -> NetworkId {
        if let Some(network) = labels.value(NETWORK_LABEL) {
            return NetworkId::from(network);
        }
        let labelled = |ns: &str| self.namespace_networks.get(ns).cloned();
        if let Some(network) = labelled(namespace).or_else(|| labelled(&mesh.root_namespace)) {
            return network;
        }
        let listed = |holds: &dyn Fn(&crate::mesh::MeshNetwork) -> bool| {
            mesh.networks
                .iter()
                .find(|(_, n)| holds(n))
                .map(|(id, _)| id.clone())
        };
        ip.and_then(|ip| listed(&|n| n.cidrs.iter().any(|c| c.contains(&ip))))
            .or_else(|| (!mesh.network.is_empty()).then(|| mesh.network.clone()))
            .or_else(|| listed(&|n| n.clusters.contains(&mesh.cluster)))
            .unwrap_or_default()
    }
}

fn node_locality(labels: &Labels) -> Locality {
    let value = |keys: &[&str]| {
        keys.iter()
            .find_map(|k| labels.value(k))
            .unwrap_or_default()
            .to_owned()
    };
    Locality {
        region: value(&[
            "topology.kubernetes.io/region",
            "failure-domain.beta.kubernetes.io/region",
        ]),
        zone: value(&[
            "topology.kubernetes.io/zone",
            "failure-domain.beta.kubernetes.io/zone",
        ]),
        subzone: value(&["topology.istio.io/subzone"]),
    }
}
