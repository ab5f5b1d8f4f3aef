//! From changes to pushes.
//!
//! ```text
//!   Change, PeerState, resolved names ─► debounce ─► snapshot::builder ─► plane ─► serve
//!                                                     one merged push per proxy that is affected
//! ```
//!
//! One task owns the objects and builds; readers see finished snapshots alone. An object that is wrong
//! becomes a finding and breaks nothing else, and the last good snapshot serves on.

pub mod debounce;
mod pages;
mod plane;
pub mod resolve;

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use isthmus_api::finding::{Finding, Level};
use isthmus_api::source::Change;
use isthmus_model::Hostname;
use isthmus_xds::Resources;
use serde_json::Value;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use self::debounce::Debounce;
pub use self::plane::{ControlPlane, Reach};
use crate::ingest::store::Store;
use crate::member::{MemberState, PeerState};
use crate::proxy::ProxyDescription;
use crate::registry::mesh_hop::ResolvedNames;
use crate::serve::{Configuration, Page};
use crate::snapshot::Snapshot;
use crate::snapshot::builder::{Builder, Dirty};

/// The objects of the own cluster; written by the building task alone, read by the debug pages.
#[derive(Debug, Clone, Default)]
pub struct Objects(Arc<Mutex<Store>>);

impl Objects {
    /// Looks at them; nothing is built meanwhile.
    pub fn read<R>(&self, look: impl FnOnce(&Store) -> R) -> R {
        look(&self.lock())
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Store> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What drives the control plane.
pub struct Feeds {
    /// Changes of objects, in order.
    pub changes: mpsc::UnboundedReceiver<Vec<Change>>,
    /// How many sources send them; nothing is built before all have sent everything they have.
    pub sources: usize,
    /// What peers tell.
    pub peers: watch::Receiver<PeerState>,
    /// What this cluster tells its peers.
    pub exported: watch::Sender<Arc<MemberState>>,
}

/// Builds and publishes until the sources end.
pub async fn run(plane: ControlPlane, objects: Objects, mut builder: Builder, mut feeds: Feeds) {
    let (wanted, names) = watch::channel(BTreeSet::<Hostname>::new());
    let (found, mut resolved) = watch::channel(ResolvedNames::new());
    let _resolver = AbortOnDrop(tokio::spawn(resolve::run(names, found)));

    let mut peers = Arc::new(feeds.peers.borrow_and_update().clone());
    let mut peers_open = true;
    let mut dirty = Dirty::default();
    let mut debounce = Debounce::default();
    let mut synced = 0;
    let mut told: BTreeSet<Finding> = BTreeSet::new();
    loop {
        let due = debounce.due().filter(|_| synced >= feeds.sources);
        tokio::select! {
            batch = feeds.changes.recv() => {
                let Some(batch) = batch else { return };
                let taken = take(&objects, batch, &mut dirty);
                synced += taken.synced;
                // A heartbeat of a node is a change of an object, and none of what it means.
                if taken.matters {
                    debounce.changed(Instant::now());
                }
            }
            changed = feeds.peers.changed(), if peers_open => {
                peers_open = changed.is_ok();
                let now = feeds.peers.borrow_and_update().clone();
                if tells_something_new(&peers, &now) {
                    dirty.peers = true;
                    debounce.changed(Instant::now());
                }
                peers = Arc::new(now);
            }
            Ok(()) = resolved.changed() => {
                resolved.mark_unchanged();
                dirty.peers = true;
                debounce.changed(Instant::now());
            }
            () = sleep_until(due), if due.is_some() => {
                debounce.taken();
                let names = resolved.borrow().clone();
                let snapshot = builder.build(&objects.lock(), &peers, &names, &std::mem::take(&mut dirty));
                publish(&plane, &snapshot, &feeds, &wanted);
                tell(&mut told, &snapshot, &plane);
            }
        }
    }
}

/// What a batch of changes comes to.
#[derive(Default)]
struct Taken {
    /// How many sources have sent everything.
    synced: usize,
    /// Whether there is something to build.
    matters: bool,
}

fn take(objects: &Objects, batch: Vec<Change>, dirty: &mut Dirty) -> Taken {
    let mut store = objects.lock();
    let mut taken = Taken::default();
    for change in batch {
        if matches!(change, Change::Synced) {
            taken.synced += 1;
        }
        taken.matters |= matches!(change, Change::Synced | Change::Findings { .. });
        if let Some(key) = store.apply(change) {
            dirty.kinds.insert(key.kind);
            taken.matters = true;
        }
    }
    taken
}

fn publish(
    plane: &ControlPlane,
    snapshot: &Arc<Snapshot>,
    feeds: &Feeds,
    wanted: &watch::Sender<BTreeSet<Hostname>>,
) {
    let started = Instant::now();
    let reach = plane.publish(snapshot);
    let exported = &snapshot.registry.exported;
    feeds.exported.send_if_modified(|old| {
        let changed = !Arc::ptr_eq(old, exported);
        *old = Arc::clone(exported);
        changed
    });
    let names = resolve::wanted(snapshot);
    wanted.send_if_modified(|old| {
        let changed = *old != names;
        *old = names;
        changed
    });
    tracing::info!(
        version = snapshot.version,
        services = snapshot.registry.services.len(),
        proxies = reach.proxies,
        pushed = reach.pushed,
        endpoints_only = reach.endpoints_only,
        took = ?started.elapsed(),
        "a new snapshot is out"
    );
}

/// Says what is newly found, once, and which files are in order again.
fn tell(told: &mut BTreeSet<Finding>, snapshot: &Snapshot, plane: &ControlPlane) {
    let now: BTreeSet<Finding> = snapshot
        .findings
        .iter()
        .cloned()
        .chain(plane.findings())
        .collect();
    for finding in now.difference(told) {
        let code = finding.code.id;
        match finding.level {
            Level::Error => tracing::error!(code, "{finding}"),
            Level::Warning => tracing::warn!(code, "{finding}"),
            Level::Info => tracing::info!(code, "{finding}"),
        }
    }
    let files = |of: &BTreeSet<Finding>| of.iter().map(|f| Arc::clone(&f.file)).collect::<BTreeSet<_>>();
    for file in files(told).difference(&files(&now)).filter(|f| !f.is_empty()) {
        tracing::info!(%file, "in order again");
    }
    *told = now;
}

/// Whether a peer's state is another; a sign of life alone is none.
fn tells_something_new(old: &PeerState, new: &PeerState) -> bool {
    old.members.len() != new.members.len()
        || new.members.iter().any(|(cluster, peer)| {
            let before = old.members.get(cluster);
            before.is_none_or(|b| !Arc::ptr_eq(&b.state, &peer.state) && b.state != peer.state)
        })
}

async fn sleep_until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}

struct AbortOnDrop(tokio::task::JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// What the ports serve: the plane, and the objects for the pages.
#[derive(Debug, Clone)]
pub struct Served {
    /// The proxies and the snapshot.
    pub plane: ControlPlane,
    /// The user's objects.
    pub objects: Objects,
}

impl Configuration for Served {
    async fn open(&self, proxy: ProxyDescription) -> watch::Receiver<Arc<Resources>> {
        self.plane.open(proxy).await
    }

    fn page(&self, page: Page) -> Value {
        let Some(snapshot) = self.plane.snapshot() else {
            return Value::Null;
        };
        match page {
            Page::Registry => pages::registry(&snapshot),
            Page::Endpoints => pages::endpoints(&snapshot),
            Page::Networks => pages::networks(&snapshot),
            Page::Config => pages::config(&self.objects.lock(), &snapshot, &self.plane),
        }
    }

    fn services(&self) -> usize {
        self.plane.snapshot().map_or(0, |s| s.registry.services.len())
    }
}
