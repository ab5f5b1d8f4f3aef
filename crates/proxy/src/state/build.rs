//! Building [`Live`]: parts that did not change are shared with the one before, and when nothing changed
//! there is no new one.

use std::collections::HashMap;
use std::sync::Arc;

use super::cascade::State;
use super::live::{Live, Secret};
use super::references::{self, Lookup};
use super::resolution::expand;
use crate::config::cluster::Discovery;
use crate::config::{Cluster, Endpoints};

impl State {
    /// A new configuration, if it differs from the last.
    pub(super) fn rebuild(&mut self) -> Option<Arc<Live>> {
        let old = &self.live;
        let endpoints = self
            .warming
            .clusters
            .iter()
            .filter_map(|(name, c)| Some((name.clone(), self.resolved_endpoints(name, c, old)?)))
            .collect();
        let mut secrets: HashMap<Arc<str>, Secret> = self
            .secrets
            .iter()
            .map(|(n, h)| (n.clone(), (*h.value).clone()))
            .collect();
        secrets.extend(self.local.iter().map(|(n, s)| (n.clone(), s.clone())));
        let new = Live {
            version: old.version + 1,
            listeners: self.warming.listeners.values().cloned().collect(),
            routes: self
                .routes
                .iter()
                .map(|(n, h)| (n.clone(), h.value.clone()))
                .collect(),
            clusters: self.warming.clusters.clone(),
            endpoints,
            secrets,
        };
        if same(old, &new) {
            return None;
        }
        self.live = Arc::new(new);
        Some(self.live.clone())
    }

    /// A cluster's endpoints with addresses in place of names; the last ones when they are the same.
    fn resolved_endpoints(&self, name: &Arc<str>, cluster: &Cluster, old: &Live) -> Option<Arc<Endpoints>> {
        let source = self.source_endpoints(cluster)?;
        if references::names(source).next().is_none() {
            return Some(source.clone());
        }
        let (family, _) = references::lookup_policy(cluster);
        let first_only = matches!(cluster.discovery, Discovery::LogicalDns { .. });
        let expanded = expand(source, first_only, |host| {
            let lookup = Lookup {
                host: host.into(),
                family,
            };
            self.addresses.get(&lookup).map(Vec::as_slice)
        });
        match old.endpoints.get(name) {
            Some(before) if **before == expanded => Some(before.clone()),
            _ => Some(Arc::new(expanded)),
        }
    }
}

fn same(a: &Live, b: &Live) -> bool {
    fn maps<T>(a: &HashMap<Arc<str>, Arc<T>>, b: &HashMap<Arc<str>, Arc<T>>) -> bool {
        a.len() == b.len() && a.iter().all(|(k, v)| b.get(k).is_some_and(|w| Arc::ptr_eq(v, w)))
    }
    a.listeners.len() == b.listeners.len()
        && a.listeners
            .iter()
            .zip(&b.listeners)
            .all(|(x, y)| Arc::ptr_eq(x, y))
        && maps(&a.routes, &b.routes)
        && maps(&a.clusters, &b.clusters)
        && maps(&a.endpoints, &b.endpoints)
        && a.secrets.len() == b.secrets.len()
        && a.secrets
            .iter()
            .all(|(k, v)| b.secrets.get(k).is_some_and(|w| v.is(w)))
}
