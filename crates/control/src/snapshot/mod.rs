//! The mesh at one moment, immutable: what readers see while the next one is built.
//!
//! A snapshot is made of parts in `Arc`s. A part that a change does not touch is the same allocation in the
//! next snapshot, and that is how everybody sees what changed: [`Snapshot::differs_in`].
//!
//! ```text
//!   Store, PeerState ─► registry::Registry ─┐
//!   Store ──────────────► config::Config ───┴► Snapshot ─► scope::Scope (what one proxy may see)
//! ```

pub mod builder;
pub mod config;
pub mod peer_authentication;
pub mod scope;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use isthmus_api::finding::Finding;
use isthmus_model::{Endpoint, Resolution, ServiceKey, SpiffeId};

use self::config::Config;
use crate::member::PeerState;
use crate::mesh::Mesh;
use crate::peering::Peers;
use crate::registry::{Registry, ServiceEndpoints};

/// The mesh as this control plane knows it.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// Counts snapshots; the first is 1.
    pub version: u64,
    /// Who we are and the mesh's settings.
    pub mesh: Arc<Mesh>,
    /// What exists.
    pub registry: Registry,
    /// What was written about traffic.
    pub config: Arc<Config>,
    /// What of the endpoints decides about more than endpoints.
    pub aside: Arc<Aside>,
    /// What was last heard from peers, for ages.
    pub peers: Arc<PeerState>,
    /// Which peers there are to be.
    pub listed: Arc<Peers>,
    /// What is odd: files, registry, generation.
    pub findings: Arc<Vec<Finding>>,
}

/// The part of the endpoints on which clusters, listeners and names depend: identities, addresses of
/// headless services, endpoints inside clusters that are resolved by DNS.
#[derive(Debug, Default, PartialEq)]
pub struct Aside {
    /// By service.
    pub accounts: BTreeMap<ServiceKey, Arc<BTreeSet<SpiffeId>>>,
    /// Endpoints of headless services and of those that are not EDS.
    pub listed: BTreeMap<ServiceKey, Vec<Endpoint>>,
}

/// How two snapshots differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Difference {
    /// Not at all.
    None,
    /// In endpoints alone: nothing but EDS has to be made again.
    Endpoints,
    /// In more.
    Everything,
}

impl Aside {
    fn of(registry: &Registry) -> Self {
        let mut aside = Self::default();
        for (key, ServiceEndpoints { endpoints, accounts }) in
            registry.endpoints.iter().map(|(k, e)| (k, &**e))
        {
            aside.accounts.insert(key.clone(), Arc::clone(accounts));
            let Some(service) = registry.services.get(key) else {
                continue;
            };
            if service.service.headless || service.service.resolution != Resolution::Static {
                aside.listed.insert(key.clone(), endpoints.clone());
            }
        }
        aside
    }
}

impl Snapshot {
    /// How this snapshot differs from the one before.
    pub fn differs_in(&self, before: &Snapshot) -> Difference {
        let same = Arc::ptr_eq(&self.mesh, &before.mesh)
            && Arc::ptr_eq(&self.registry.services, &before.registry.services)
            && Arc::ptr_eq(&self.registry.instances, &before.registry.instances)
            && Arc::ptr_eq(&self.registry.gateways, &before.registry.gateways)
            && Arc::ptr_eq(&self.config, &before.config)
            && Arc::ptr_eq(&self.aside, &before.aside);
        if !same {
            Difference::Everything
        } else if !Arc::ptr_eq(&self.registry.endpoints, &before.registry.endpoints) {
            Difference::Endpoints
        } else {
            Difference::None
        }
    }

    /// Identities behind a service.
    pub fn accounts(&self, key: &ServiceKey) -> Option<&Arc<BTreeSet<SpiffeId>>> {
        self.aside.accounts.get(key)
    }
}
