//! What may be used already: a cluster whose endpoints and secrets have come, a listener whose routes and
//! secrets have come. The version before stays in use until then, and nothing waits longer than
//! [`PATIENCE`] (Envoy's `initial_fetch_timeout`).

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use isthmus_xds::TypeUrl;

use super::cascade::State;
use super::references::{self, Lookup};
use crate::config::{Cluster, Listener};

/// Envoy's default of `initial_fetch_timeout`.
pub const PATIENCE: Duration = Duration::from_secs(15);

/// What is in use, and since when the rest waits.
#[derive(Debug, Default)]
pub struct Warming {
    /// Clusters in use, by name.
    pub clusters: HashMap<Arc<str>, Arc<Cluster>>,
    /// Listeners in use, by name.
    pub listeners: BTreeMap<Arc<str>, Arc<Listener>>,
    clusters_since: HashMap<Arc<str>, Instant>,
    listeners_since: HashMap<Arc<str>, Instant>,
}

impl State {
    /// Lets in what is warm and drops what is gone.
    pub(super) fn warm(&mut self, now: Instant) {
        let mut warming = std::mem::take(&mut self.warming);
        warming
            .clusters
            .retain(|name, _| self.clusters.held(name).is_some());
        warming
            .listeners
            .retain(|name, _| self.listeners.held(name).is_some());
        let mut waiting = HashMap::new();
        for (name, held) in self.clusters.iter() {
            if warming
                .clusters
                .get(name)
                .is_some_and(|c| Arc::ptr_eq(c, &held.value))
            {
                continue;
            }
            let missing = self.missing_of_cluster(&held.value);
            match may_enter(&missing, warming.clusters_since.get(name), now) {
                Ok(late) => {
                    if late {
                        tracing::warn!(cluster = %name, ?missing, "cluster used without what it waited for");
                    }
                    warming.clusters.insert(name.clone(), held.value.clone());
                }
                Err(since) => {
                    waiting.insert(name.clone(), since);
                }
            }
        }
        warming.clusters_since = waiting;
        let mut waiting = HashMap::new();
        for (name, held) in self.listeners.iter() {
            if warming
                .listeners
                .get(name)
                .is_some_and(|l| Arc::ptr_eq(l, &held.value))
            {
                continue;
            }
            let missing = self.missing_of_listener(&held.value);
            match may_enter(&missing, warming.listeners_since.get(name), now) {
                Ok(late) => {
                    if late {
                        tracing::warn!(listener = %name, ?missing, "listener used without what it waited for");
                    }
                    warming.listeners.insert(name.clone(), held.value.clone());
                }
                Err(since) => {
                    waiting.insert(name.clone(), since);
                }
            }
        }
        warming.listeners_since = waiting;
        self.warming = warming;
    }

    /// When something that waits has waited long enough; `None` when nothing waits.
    pub fn deadline(&self) -> Option<Instant> {
        let w = &self.warming;
        w.clusters_since
            .values()
            .chain(w.listeners_since.values())
            .min()
            .map(|since| *since + PATIENCE)
    }

    /// Names of clusters and listeners that wait, for `/config_dump` and readiness.
    pub fn waiting(&self) -> impl Iterator<Item = &Arc<str>> {
        let w = &self.warming;
        w.clusters_since.keys().chain(w.listeners_since.keys())
    }

    /// Whether the cluster's held version waits.
    pub fn is_cluster_warming(&self, name: &str) -> bool {
        self.warming.clusters_since.contains_key(name)
    }

    /// Whether the listener's held version waits.
    pub fn is_listener_warming(&self, name: &str) -> bool {
        self.warming.listeners_since.contains_key(name)
    }

    fn missing_of_cluster(&self, cluster: &Cluster) -> Vec<String> {
        let mut missing = Vec::new();
        if let Some(name) = references::eds(cluster)
            && self.endpoints.held(name).is_none()
            && !self.absent.contains(&(TypeUrl::Eds, name.clone()))
        {
            missing.push(format!("endpoints {name}"));
        }
        if let Some(endpoints) = self.source_endpoints(cluster) {
            let (family, _) = references::lookup_policy(cluster);
            for host in references::names(endpoints) {
                let lookup = Lookup {
                    host: host.clone(),
                    family,
                };
                if !self.addresses.contains_key(&lookup) {
                    missing.push(format!("addresses of {host}"));
                }
            }
        }
        let mut secrets = BTreeSet::new();
        references::cluster_secrets(cluster, &mut secrets);
        self.missing_secrets(secrets, &mut missing);
        missing
    }

    fn missing_of_listener(&self, listener: &Listener) -> Vec<String> {
        let mut missing = Vec::new();
        for name in references::route_tables(listener) {
            if self.routes.held(name).is_none() && !self.absent.contains(&(TypeUrl::Rds, name.clone())) {
                missing.push(format!("routes {name}"));
            }
        }
        let mut secrets = BTreeSet::new();
        references::listener_secrets(listener, &mut secrets);
        self.missing_secrets(secrets, &mut missing);
        missing
    }

    fn missing_secrets(&self, names: BTreeSet<Arc<str>>, missing: &mut Vec<String>) {
        for name in names {
            let known = self.local.contains_key(&name)
                || self.secrets.held(&name).is_some()
                || self.absent.contains(&(TypeUrl::Sds, name.clone()));
            if !known {
                missing.push(format!("secret {name}"));
            }
        }
    }
}

/// `Ok(late)` when it may be used, else since when it waits.
fn may_enter(missing: &[String], since: Option<&Instant>, now: Instant) -> Result<bool, Instant> {
    if missing.is_empty() {
        return Ok(false);
    }
    let since = since.copied().unwrap_or(now);
    if now.saturating_duration_since(since) >= PATIENCE {
        Ok(true)
    } else {
        Err(since)
    }
}
