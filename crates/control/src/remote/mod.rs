//! Clusters that are read from here: one source for each that a remote secret names.
//!
//! ```text
//!   Secrets with label istio/multiCluster=true ─▶ ClusterConnector ─▶ Source ─▶ Store ─▶ Registry
//!                                                                  what that cluster would tell of itself
//!   PeerState, as peers' ◀─ MemberState ◀──────────────────────────────────────────────────┘
//! ```
//!
//! A cluster keeps its last state while its API server is away and over a restart, while a rotated secret has
//! not been shown to work, and for a moment when its secret is gone, since a secret that is replaced is gone
//! for a moment. Nobody waits for a cluster that does not answer.

mod cluster;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use isthmus_api::finding::Finding;
use isthmus_api::kubernetes::REMOTE_SECRET_LABEL;
use isthmus_api::source::{Change, ClusterConnector};
use isthmus_api::{ObjectKey, codes};
use isthmus_model::ClusterId;
use isthmus_runtime::drain;
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use self::cluster::{Live, Remote};
use crate::member::PeerState;
use crate::mesh::Mesh;
use crate::push::ControlPlane;
use crate::snapshot::Snapshot;

/// A cluster whose secret is gone for so long is gone.
const GRACE: Duration = Duration::from_secs(10);
/// How often ages are brought up to date and what waits is looked at.
const TICK: Duration = Duration::from_secs(1);

/// Who reads, and how.
pub struct Config {
    /// The own cluster; a secret that names it means nothing.
    pub own: ClusterId,
    /// Opens a cluster from its kubeconfig.
    pub connector: Arc<dyn ClusterConnector>,
    /// Folder for the last state of each cluster.
    pub store: PathBuf,
    /// Takes what is found out about secrets and clusters, as [`Change::Findings`].
    pub findings: mpsc::UnboundedSender<Vec<Change>>,
}

/// The clusters that are read from here. Cheap to clone.
#[derive(Clone)]
pub struct Remotes(Arc<Mutex<Vec<Shown>>>);

/// How one cluster is doing.
#[derive(Debug, Clone, PartialEq)]
struct Shown {
    cluster: ClusterId,
    secret: String,
    connected: bool,
    known: bool,
    error: Option<String>,
    heard: Option<SystemTime>,
    services: usize,
    endpoints: usize,
}

impl Remotes {
    /// Follows the remote secrets of the snapshots until the drain begins.
    pub fn start(
        config: Config,
        plane: &ControlPlane,
        drain: &drain::Watcher,
    ) -> (Self, watch::Receiver<PeerState>) {
        let shown = Self(Arc::default());
        let (told, heard) = watch::channel(PeerState::default());
        let (sender, changes) = mpsc::unbounded_channel();
        let follower = Follower {
            config,
            clusters: BTreeMap::new(),
            refused: BTreeMap::new(),
            mesh: None,
            generation: 0,
            sender,
            told,
            shown: shown.clone(),
        };
        let work = follower.run(plane.clone(), changes);
        drop(tokio::spawn(drain.clone().until_draining(work)));
        (shown, heard)
    }

    /// How many clusters there are.
    pub fn count(&self) -> usize {
        self.lock().len()
    }

    /// Waits until every cluster has been read or is known not to answer, at most so long.
    pub async fn settled(&self, patience: Duration) {
        let all = async {
            while !self.lock().iter().all(|c| c.known || c.error.is_some()) {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        // Whoever takes longer is heard when it speaks.
        let _ = tokio::time::timeout(patience, all).await;
    }

    /// For `/debug/clusterz`, which `remote-clusters` reads.
    pub(crate) fn page(&self) -> Vec<Value> {
        let seconds = |at: SystemTime| at.elapsed().unwrap_or_default().as_secs();
        let row = |c: &Shown| {
            json!({
                "id": c.cluster,
                "secretName": c.secret,
                "syncStatus": match (c.connected, c.known) {
                    (true, _) => "synced",
                    (false, true) => "stale",
                    (false, false) if c.error.is_some() => "timeout",
                    (false, false) => "syncing",
                },
                "error": c.error,
                "ageSeconds": c.heard.map(seconds),
                "services": c.services,
                "endpoints": c.endpoints,
            })
        };
        self.lock().iter().map(row).collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Shown>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What peers told and what is read from here, as one: a peer that speaks knows itself best.
pub fn merged(peers: &PeerState, remotes: &PeerState) -> PeerState {
    let mut all = peers.clone();
    for (cluster, read) in &remotes.members {
        let better =
            |told: &crate::member::Peer| told.connected || told.heard >= read.heard && !read.connected;
        if !all.members.get(cluster).is_some_and(better) {
            all.members.insert(cluster.clone(), read.clone());
        }
    }
    all
}

struct Follower {
    config: Config,
    clusters: BTreeMap<ClusterId, Remote>,
    /// What is wrong with secrets, by `namespace/name`.
    refused: BTreeMap<String, Vec<Finding>>,
    /// The own mesh's settings.
    mesh: Option<Arc<Mesh>>,
    /// Tells a source's changes from those of the one before it.
    generation: u64,
    sender: mpsc::UnboundedSender<(ClusterId, u64, cluster::Event)>,
    told: watch::Sender<PeerState>,
    shown: Remotes,
}

impl Follower {
    async fn run(
        mut self,
        plane: ControlPlane,
        mut events: mpsc::UnboundedReceiver<(ClusterId, u64, cluster::Event)>,
    ) {
        let mut snapshots = plane.subscribe();
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let snapshot = snapshots.borrow_and_update().clone();
            if let Some(snapshot) = snapshot {
                self.follow_secrets(&snapshot);
            }
            let due = self.clusters.values().filter_map(Remote::due).min();
            self.publish();
            tokio::select! {
                event = events.recv() => {
                    if let Some((cluster, generation, event)) = event
                        && let Some(remote) = self.clusters.get_mut(&cluster)
                    {
                        let findings = remote.take(generation, event);
                        if !findings.is_empty() && self.config.findings.send(findings).is_err() {
                            return;
                        }
                    }
                    continue;
                }
                changed = snapshots.changed() => if changed.is_err() { return },
                _ = tick.tick() => self.expire(),
                () = tokio::time::sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {}
            }
            self.build();
        }
    }

    /// Opens what is new or other, and marks what is gone.
    fn follow_secrets(&mut self, snapshot: &Snapshot) {
        let mesh_changed = self.mesh.as_ref().is_none_or(|m| !Arc::ptr_eq(m, &snapshot.mesh));
        self.mesh = Some(Arc::clone(&snapshot.mesh));
        if mesh_changed {
            self.clusters.values_mut().for_each(Remote::outdated);
        }
        let mut named: BTreeMap<ClusterId, ObjectKey> = BTreeMap::new();
        let mut refused: BTreeMap<String, Vec<Finding>> = BTreeMap::new();
        let mut secrets: Vec<_> = snapshot
            .config
            .secrets
            .iter()
            .filter(|s| s.namespace() == snapshot.mesh.root_namespace)
            .filter(|s| s.object.meta.labels.value(REMOTE_SECRET_LABEL) == Some("true"))
            .collect();
        secrets.sort_by(|a, b| a.object.meta.name.cmp(&b.object.meta.name));
        for secret in secrets {
            let key = secret.object.key();
            let mut wrong = |why: String| {
                let finding = Finding::new(&codes::REMOTE_SECRET, why, codes::REMOTE_SECRET.remedy)
                    .at(&secret.object.origin.file, secret.object.origin.line)
                    .about(&key);
                let scope = format!("remote secret {}/{}", key.namespace, key.name);
                refused.entry(scope).or_default().push(finding);
            };
            for name in secret.spec.keys() {
                let cluster = ClusterId::from(name);
                if cluster == self.config.own {
                    continue;
                }
                if let Some(first) = named.get(&cluster) {
                    wrong(format!(
                        "cluster {cluster} is named by {first} already, which counts"
                    ));
                    continue;
                }
                named.insert(cluster.clone(), key.clone());
                let Some(kubeconfig) = secret.spec.bytes(name) else {
                    wrong(format!("the kubeconfig of cluster {cluster} is not base64"));
                    continue;
                };
                if let Err(why) = self.open(&cluster, &key, &kubeconfig) {
                    wrong(why);
                }
            }
        }
        for (cluster, remote) in &mut self.clusters {
            match named.contains_key(cluster) {
                true => remote.leaving = None,
                false => drop(remote.leaving.get_or_insert_with(Instant::now)),
            }
        }
        self.tell(refused);
    }

    /// Opens a cluster, unless it is open with this kubeconfig.
    fn open(&mut self, cluster: &ClusterId, secret: &ObjectKey, kubeconfig: &[u8]) -> Result<(), String> {
        let mut hasher = DefaultHasher::new();
        kubeconfig.hash(&mut hasher);
        let digest = hasher.finish();
        let secret = format!("{}/{}", secret.namespace, secret.name);
        if let Some(remote) = self.clusters.get_mut(cluster) {
            remote.secret = secret.clone();
            if remote.digest == digest {
                return remote.unusable.clone().map_or(Ok(()), Err);
            }
        }
        let store = self.config.store.clone();
        let remote = self
            .clusters
            .entry(cluster.clone())
            .or_insert_with(|| Remote::new(cluster.clone(), secret, store));
        remote.digest = digest;
        match self.config.connector.connect(cluster, kubeconfig) {
            Ok(source) => {
                self.generation += 1;
                remote.unusable = None;
                remote.opened(Live::start(cluster, self.generation, source, self.sender.clone()));
                tracing::info!(%cluster, secret = remote.secret, "a cluster is read by its remote secret");
                Ok(())
            }
            Err(error) => {
                remote.unusable = Some(error.to_string());
                Err(error.to_string())
            }
        }
    }

    /// Forgets clusters whose secret has been gone for long.
    fn expire(&mut self) {
        let gone: Vec<ClusterId> = self
            .clusters
            .iter()
            .filter(|(_, r)| r.leaving.is_some_and(|since| since.elapsed() >= GRACE))
            .map(|(cluster, _)| cluster.clone())
            .collect();
        for cluster in gone {
            if let Some(remote) = self.clusters.remove(&cluster) {
                tracing::info!(%cluster, secret = remote.secret, "a cluster is read no more: its secret is gone");
                let _ = self.config.findings.send(remote.forgotten());
            }
        }
        self.clusters.values_mut().for_each(Remote::tick);
    }

    fn build(&mut self) {
        let Some(mesh) = self.mesh.clone() else { return };
        let now = Instant::now();
        for remote in self.clusters.values_mut() {
            if remote.due().is_some_and(|due| due <= now) {
                remote.build(&mesh);
            }
        }
    }

    fn publish(&mut self) {
        let members: BTreeMap<_, _> = self
            .clusters
            .values()
            .filter_map(|r| Some((r.cluster.clone(), r.peer()?)))
            .collect();
        let state = PeerState { members };
        self.told.send_if_modified(|told| {
            let changed = *told != state;
            *told = state;
            changed
        });
        *self.shown.lock() = self.clusters.values().map(Remote::shown).collect();
    }

    /// Tells what is wrong with secrets now.
    fn tell(&mut self, refused: BTreeMap<String, Vec<Finding>>) {
        if refused == self.refused {
            return;
        }
        let scopes = self.refused.keys().chain(refused.keys());
        let mut scopes: Vec<&String> = scopes.collect();
        scopes.sort();
        scopes.dedup();
        let changes = scopes
            .into_iter()
            .map(|scope| Change::Findings {
                scope: Arc::from(scope.as_str()),
                findings: refused.get(scope).cloned().unwrap_or_default(),
            })
            .collect();
        // The builder ends with the control plane.
        let _ = self.config.findings.send(changes);
        self.refused = refused;
    }
}
