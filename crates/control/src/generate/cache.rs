//! What was generated, by exactly what it was generated from.

use std::collections::{BTreeSet, HashMap};
use std::hash::Hash;
use std::sync::Arc;

use isthmus_model::NetworkId;
use isthmus_xds::Resource;

use super::{cluster, endpoint};

/// Results of generation. What two snapshots in a row did not ask for is forgotten.
#[derive(Debug, Default)]
pub struct Cache {
    clusters: Turning<cluster::Inputs, Option<Arc<Resource>>>,
    endpoints: Turning<endpoint::Inputs, (Arc<Resource>, Arc<BTreeSet<NetworkId>>)>,
    interned: Turning<(Arc<str>, String), Arc<Resource>>,
}

impl Cache {
    /// Begins a new round: what is not asked for until the next one is forgotten then.
    pub fn turn(&mut self) {
        self.clusters.turn();
        self.endpoints.turn();
        self.interned.turn();
    }

    /// An outbound cluster.
    pub fn cluster(&mut self, inputs: cluster::Inputs) -> Option<Arc<Resource>> {
        self.clusters.found(inputs, |inputs| {
            cluster::outbound(inputs).map(|c| Resource::new(c.name.as_str(), &c))
        })
    }

    /// The endpoints of a cluster, and networks that have no gateway.
    pub fn endpoints(&mut self, inputs: endpoint::Inputs) -> (Arc<Resource>, Arc<BTreeSet<NetworkId>>) {
        self.endpoints.found(inputs, |inputs| {
            let outcome = endpoint::assignment(inputs);
            let resource = Resource::new(outcome.assignment.cluster_name.as_str(), &outcome.assignment);
            (resource, Arc::new(outcome.unreachable))
        })
    }

    /// One allocation for resources of one name and content.
    pub fn intern(&mut self, resource: Arc<Resource>) -> Arc<Resource> {
        let key = (
            resource.name.clone(),
            format!("{}{}", resource.version, resource.body.type_url.len()),
        );
        self.interned.found(key, |_| resource)
    }
}

/// A map of two generations.
#[derive(Debug)]
struct Turning<K, V> {
    young: HashMap<K, V>,
    old: HashMap<K, V>,
}

impl<K, V> Default for Turning<K, V> {
    fn default() -> Self {
        Self {
            young: HashMap::new(),
            old: HashMap::new(),
        }
    }
}

impl<K: Eq + Hash, V: Clone> Turning<K, V> {
    fn turn(&mut self) {
        self.old = std::mem::take(&mut self.young);
    }

    fn found(&mut self, key: K, make: impl FnOnce(&K) -> V) -> V {
        if let Some(value) = self.young.get(&key) {
            return value.clone();
        }
        let value = match self.old.remove(&key) {
            Some(value) => value,
            None => make(&key),
        };
        self.young.insert(key, value.clone());
        value
    }
}
