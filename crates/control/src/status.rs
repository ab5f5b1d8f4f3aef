//! What the statuses of Istio's objects should say: automatic addresses, and what was found out.
//!
//! Whoever can write into the cluster does so; this crate cannot.

use std::sync::Arc;

use isthmus_api::finding::{Finding, Level};
use isthmus_api::istio::ServiceEntry;
use isthmus_api::status::{ACCEPTED, Status, Statuses};
use isthmus_api::{Kind, ObjectKey};
use isthmus_model::{Hostname, ServiceKey};
use tokio::sync::watch;

use crate::ingest::store::Store;
use crate::push::{ControlPlane, Objects};
use crate::snapshot::Snapshot;

/// Tells what statuses should say, whenever that changes.
pub async fn follow(plane: ControlPlane, objects: Objects, told: watch::Sender<Arc<Statuses>>) {
    let mut snapshots = plane.subscribe();
    loop {
        let snapshot = snapshots.borrow_and_update().clone();
        if let Some(snapshot) = snapshot {
            let generated = plane.findings();
            let now = objects.read(|store| of(store, &snapshot, &generated));
            told.send_if_modified(|before| {
                let changed = **before != now;
                if changed {
                    *before = Arc::new(now);
                }
                changed
            });
        }
        if snapshots.changed().await.is_err() {
            return;
        }
    }
}

fn of(store: &Store, snapshot: &Snapshot, generated: &[Finding]) -> Statuses {
    let mut all = Statuses::new();
    for object in store.objects().filter(|o| !o.kind.info().whole) {
        // What was once said and holds no more is taken back.
        let conditions = object
            .status
            .as_ref()
            .and_then(|s| s.get("conditions")?.as_array());
        let said = |c: &serde_json::Value| c["type"] == ACCEPTED && c["reason"] != ACCEPTED;
        if conditions.is_some_and(|all| all.iter().any(said)) {
            all.entry(object.key()).or_default();
        }
    }
    for (object, entry) in store.iter::<ServiceEntry>() {
        let addresses = automatic(entry, &object.meta.namespace, snapshot);
        if !addresses.is_empty() {
            all.entry(object.key()).or_default().addresses = addresses;
        }
    }
    for finding in snapshot.findings.iter().chain(generated) {
        if finding.level == Level::Info || !finding.cluster.is_empty() {
            continue;
        }
        if let Some(key) = key(&finding.origin) {
            let status: &mut Status = all.entry(key).or_default();
            status.findings.push(finding.clone());
        }
    }
    for status in all.values_mut() {
        status
            .findings
            .sort_by(|a, b| b.level.cmp(&a.level).then_with(|| a.cmp(b)));
        status.findings.dedup();
    }
    all
}

/// The addresses that were given to the hosts of an entry that names none.
fn automatic(
    entry: &ServiceEntry,
    namespace: &str,
    snapshot: &Snapshot,
) -> Vec<(Hostname, std::net::IpAddr)> {
    if !entry.addresses.is_empty() {
        return Vec::new();
    }
    let mut given = Vec::new();
    for host in entry.hosts.iter().filter_map(|h| h.parse::<Hostname>().ok()) {
        let key = ServiceKey {
            namespace: namespace.to_owned(),
            host: host.clone(),
        };
        let service = snapshot.registry.services.get(&key);
        let addresses = service.and_then(|s| s.service.addresses.get(&snapshot.mesh.cluster));
        given.extend(addresses.into_iter().flatten().map(|ip| (host.clone(), *ip)));
    }
    given
}

/// `Kind namespace/name` of an Istio object, as findings name it.
fn key(origin: &str) -> Option<ObjectKey> {
    let (kind, rest) = origin.split_once(' ')?;
    let kind = Kind::ALL.iter().copied().find(|k| k.info().kind == kind)?;
    let (namespace, name) = rest.split_once('/')?;
    (!kind.info().whole).then(|| ObjectKey {
        kind,
        namespace: namespace.to_owned(),
        name: name.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn findings_name_the_objects_whose_status_is_ours() {
        let found = key("ServiceEntry shop/db").unwrap();
        assert_eq!(
            (found.kind, found.namespace.as_str(), found.name.as_str()),
            (Kind::ServiceEntry, "shop", "db")
        );
        for other in ["Service shop/web", "Node n", "nothing", "API server https://x/"] {
            assert_eq!(key(other), None, "{other}");
        }
    }
}
