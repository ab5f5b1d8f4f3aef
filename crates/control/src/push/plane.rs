//! The connected proxies and what each of them is told.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use isthmus_api::finding::Finding;
use isthmus_xds::Resources;
use tokio::sync::watch;

use crate::generate::cache::Cache;
use crate::generate::context::Context;
use crate::generate::{self, Generated};
use crate::proxy::ProxyDescription;
use crate::snapshot::{Difference, Snapshot};

/// The control plane as its ports see it. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct ControlPlane(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    snapshot: watch::Sender<Option<Arc<Snapshot>>>,
    clients: Mutex<Clients>,
}

#[derive(Debug, Default)]
struct Clients {
    next: u64,
    by_number: BTreeMap<u64, Client>,
    cache: Cache,
}

/// A connected proxy.
#[derive(Debug)]
struct Client {
    description: ProxyDescription,
    generated: Generated,
    told: watch::Sender<Arc<Resources>>,
}

/// How many proxies a snapshot reached.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Reach {
    /// Connected.
    pub proxies: usize,
    /// Told something new.
    pub pushed: usize,
    /// Of these, told of endpoints alone.
    pub endpoints_only: usize,
}

impl ControlPlane {
    /// Before the first snapshot.
    pub fn new() -> Self {
        Self::default()
    }

    /// What a proxy is told, now and later; completes when there is a first snapshot. The proxy is gone
    /// when the receiver is dropped.
    pub async fn open(&self, description: ProxyDescription) -> watch::Receiver<Arc<Resources>> {
        let mut snapshots = self.0.snapshot.subscribe();
        // The sender lives as long as `self`, so the wait ends only with a snapshot.
        let _ = snapshots.wait_for(Option::is_some).await;
        let mut clients = self.clients();
        let Some(snapshot) = self.snapshot() else {
            return watch::channel(Arc::default()).1;
        };
        let generated = generate::all(&snapshot, &description, &mut clients.cache);
        let (told, receiver) = watch::channel(Arc::clone(&generated.resources));
        let number = clients.next;
        clients.next += 1;
        clients.by_number.insert(
            number,
            Client {
                description,
                generated,
                told,
            },
        );
        receiver
    }

    /// The present snapshot; `None` before the first.
    pub fn snapshot(&self) -> Option<Arc<Snapshot>> {
        self.0.snapshot.borrow().clone()
    }

    /// Every snapshot from now on.
    pub fn subscribe(&self) -> watch::Receiver<Option<Arc<Snapshot>>> {
        self.0.snapshot.subscribe()
    }

    /// Puts a new snapshot in place and tells every proxy what changed for it. A proxy has at most one state
    /// that it has not read yet: a newer one takes its place.
    pub fn publish(&self, snapshot: &Arc<Snapshot>) -> Reach {
        let mut clients = self.clients();
        let before = self.0.snapshot.send_replace(Some(Arc::clone(snapshot)));
        let difference = before.map_or(Difference::Everything, |before| snapshot.differs_in(&before));
        let Clients { by_number, cache, .. } = &mut *clients;
        by_number.retain(|_, client| !client.told.is_closed());
        let mut reach = Reach {
            proxies: by_number.len(),
            ..Reach::default()
        };
        if difference == Difference::None {
            return reach;
        }
        cache.turn();
        for client in by_number.values_mut() {
            let own = Context::new(snapshot, &client.description).own();
            let endpoints_only = difference == Difference::Endpoints && own == client.generated.own;
            let mut generated = if endpoints_only {
                generate::endpoints(&client.generated, snapshot, &client.description, cache)
            } else {
                generate::all(snapshot, &client.description, cache)
            };
            let (merged, changed) = merge(&client.generated.resources, &generated.resources);
            generated.resources = merged;
            if changed {
                reach.pushed += 1;
                reach.endpoints_only += usize::from(endpoints_only);
                client.told.send_replace(Arc::clone(&generated.resources));
            }
            client.generated = generated;
        }
        reach
    }

    /// What could not be generated as it was meant, for any proxy.
    pub fn findings(&self) -> Vec<Finding> {
        let clients = self.clients();
        let mut all: Vec<Finding> = clients
            .by_number
            .values()
            .flat_map(|c| c.generated.findings.iter().cloned())
            .collect();
        all.sort();
        all.dedup();
        all
    }

    fn clients(&self) -> MutexGuard<'_, Clients> {
        self.0.clients.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The new resources, with the old sets where they are equal; whether anything differs.
fn merge(old: &Arc<Resources>, new: &Resources) -> (Arc<Resources>, bool) {
    let mut merged = Resources::new();
    let mut changed = old.iter().any(|(ty, _)| new.set(ty).is_none());
    for (ty, set) in new.iter() {
        let same = old.set(ty).filter(|o| o.version() == set.version());
        changed |= same.is_none();
        merged.insert(ty.clone(), Arc::clone(same.unwrap_or(set)));
    }
    if changed {
        (Arc::new(merged), true)
    } else {
        (Arc::clone(old), false)
    }
}
