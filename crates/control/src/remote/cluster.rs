//! One cluster that is read from here: its source, what is known of it, and since when.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use isthmus_api::finding::Finding;
use isthmus_api::source::{Change, Source};
use isthmus_api::{Kind, codes};
use isthmus_dns::VipAllocator;
use isthmus_model::{ClusterId, NetworkId};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::Shown;
use crate::ingest::store::Store;
use crate::member::{MemberState, Peer, PeerState};
use crate::mesh::Mesh;
use crate::peering::store::{self, Stored};
use crate::push::debounce::Debounce;
use crate::registry::mesh_hop::ResolvedNames;
use crate::registry::places::NETWORK_LABEL;
use crate::registry::{Registry, Sources};
use crate::snapshot::peer_authentication::PeerAuthentications;

/// Without these there is nothing to tell; a cluster that does not permit them is not taken for an empty one.
const NEEDED: &[Kind] = &[Kind::Namespace, Kind::Service, Kind::Pod, Kind::EndpointSlice];
/// The last state is kept on disk no more often than this.
const KEEP: Duration = Duration::from_secs(5);

/// What a source tells.
pub enum Event {
    /// As any source.
    Changes(Vec<Change>),
    /// It has ended.
    Ended(String),
}

/// A source that runs.
pub struct Live {
    generation: u64,
    store: Store,
    synced: bool,
    /// What is wrong, by what it is about.
    trouble: BTreeMap<Arc<str>, Vec<Finding>>,
    ended: Option<String>,
    debounce: Debounce,
    task: JoinHandle<()>,
}

impl Drop for Live {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Live {
    /// Runs a source; what it tells arrives with its generation.
    pub fn start(
        cluster: &ClusterId,
        generation: u64,
        source: Box<dyn Source>,
        events: mpsc::UnboundedSender<(ClusterId, u64, Event)>,
    ) -> Self {
        let (cluster, sink) = (cluster.clone(), events.clone());
        let name = cluster.clone();
        let reading = source.run(Box::new(move |changes| {
            sink.send((name.clone(), generation, Event::Changes(changes)))
                .is_ok()
        }));
        let task = tokio::spawn(async move {
            let why = match reading.await {
                Ok(()) => "its source ended".to_owned(),
                Err(error) => error.to_string(),
            };
            let _ = events.send((cluster, generation, Event::Ended(why)));
        });
        Self {
            generation,
            store: Store::default(),
            synced: false,
            trouble: BTreeMap::new(),
            ended: None,
            debounce: Debounce::default(),
            task,
        }
    }

    /// Why it cannot be heard at the moment.
    fn away(&self) -> Option<String> {
        let away = |f: &&Finding| f.code.id == codes::API_SERVER_AWAY.id;
        let found = self
            .trouble
            .values()
            .flatten()
            .find(away)
            .map(|f| f.message.clone());
        self.ended.clone().or(found)
    }

    /// Why what it tells is not the whole.
    fn blind(&self) -> Option<String> {
        NEEDED.iter().find_map(|kind| {
            let found = self.trouble.get(kind.info().plural)?;
            found.first().map(|f| f.message.clone())
        })
    }

    fn is_whole(&self) -> bool {
        self.synced && self.blind().is_none()
    }
}

/// A cluster, its last state, and the sources that tell of it.
pub struct Remote {
    pub cluster: ClusterId,
    /// `namespace/name` of its secret.
    pub secret: String,
    /// Of the kubeconfig that was opened last.
    pub digest: u64,
    /// Why the kubeconfig cannot be used.
    pub unusable: Option<String>,
    /// Since when its secret is gone.
    pub leaving: Option<Instant>,
    /// What is in force comes from here.
    live: Option<Live>,
    /// Takes over once it has told everything.
    next: Option<Live>,
    state: Option<Arc<MemberState>>,
    registry: Registry,
    vips: VipAllocator,
    heard: Option<SystemTime>,
    folder: PathBuf,
    kept: Option<(Instant, Arc<MemberState>)>,
}

impl Remote {
    /// A cluster of which the last state on disk is known, if there is one.
    pub fn new(cluster: ClusterId, secret: String, folder: PathBuf) -> Self {
        let last = store::load(&folder, &cluster).map(|(peer, _)| peer);
        Self {
            secret,
            digest: 0,
            unusable: None,
            leaving: None,
            live: None,
            next: None,
            state: last.as_ref().map(|p| Arc::clone(&p.state)),
            registry: Registry::default(),
            vips: VipAllocator::new(),
            heard: last.map(|p| p.heard),
            folder,
            kept: None,
            cluster,
        }
    }

    /// A source was opened with new credentials.
    pub fn opened(&mut self, live: Live) {
        // What speaks goes on until the new one has shown that it works.
        match &self.live {
            Some(present) if present.is_whole() => self.next = Some(live),
            _ => {
                self.next = None;
                self.live = Some(live);
            }
        }
    }

    /// Takes what a source tells; what is to be said of it.
    pub fn take(&mut self, generation: u64, event: Event) -> Vec<Change> {
        let of = |live: &&mut Live| live.generation == generation;
        let Some(live) = [&mut self.live, &mut self.next].into_iter().flatten().find(of) else {
            return Vec::new();
        };
        let mut said = Vec::new();
        match event {
            Event::Ended(why) => live.ended = Some(why),
            Event::Changes(changes) => {
                for change in changes {
                    match change {
                        Change::Findings { scope, findings } => {
                            let findings: Vec<Finding> = findings
                                .into_iter()
                                .map(|f| Finding {
                                    cluster: self.cluster.to_string(),
                                    ..f
                                })
                                .collect();
                            if findings.is_empty() {
                                live.trouble.remove(&scope);
                            } else {
                                live.trouble.insert(Arc::clone(&scope), findings.clone());
                            }
                            said.push(Change::Findings {
                                scope: Arc::from(format!("cluster {}: {scope}", self.cluster)),
                                findings,
                            });
                        }
                        Change::Synced => live.synced = true,
                        change @ (Change::Put(_) | Change::Delete(_)) => drop(live.store.apply(change)),
                    }
                }
                live.debounce.changed(Instant::now());
            }
        }
        if let Some(next) = self.next.take_if(|next| next.is_whole()) {
            tracing::info!(cluster = %self.cluster, "the rotated remote secret is in force");
            self.live = Some(next);
        }
        if self.connected() {
            self.heard = Some(SystemTime::now());
        }
        said
    }

    /// What was said of it is taken back.
    pub fn forgotten(self) -> Vec<Change> {
        store::remove(&self.folder, &self.cluster);
        let lives = [&self.live, &self.next].into_iter().flatten();
        lives
            .flat_map(|live| live.trouble.keys())
            .map(|scope| Change::Findings {
                scope: Arc::from(format!("cluster {}: {scope}", self.cluster)),
                findings: Vec::new(),
            })
            .collect()
    }

    /// The settings that its state depends on have changed.
    pub fn outdated(&mut self) {
        if let Some(live) = &mut self.live {
            live.debounce.changed(Instant::now());
        }
    }

    /// When to build.
    pub fn due(&self) -> Option<Instant> {
        let live = self.live.as_ref().filter(|live| live.is_whole())?;
        live.debounce.due()
    }

    /// Derives what the cluster would tell of itself.
    pub fn build(&mut self, own: &Mesh) {
        let Some(live) = self.live.as_mut().filter(|live| live.is_whole()) else {
            return;
        };
        live.debounce.taken();
        let root = live.store.object(Kind::Namespace, "", &own.root_namespace);
        let labelled = root.and_then(|o| o.meta.labels.value(NETWORK_LABEL));
        let mesh = Mesh {
            cluster: self.cluster.clone(),
            network: labelled.map(NetworkId::from).unwrap_or_default(),
            ..own.clone()
        };
        let authentications = PeerAuthentications::read(&live.store, &mesh.root_namespace);
        let sources = Sources {
            store: &live.store,
            mesh: &mesh,
            peers: &PeerState::default(),
            peer_addresses: &[],
            resolved: &ResolvedNames::new(),
            authentications: &authentications,
        };
        self.registry = Registry::build(&sources, &mut self.vips, &self.registry);
        self.state = Some(Arc::clone(&self.registry.exported));
    }

    /// Time passes.
    pub fn tick(&mut self) {
        if self.connected() {
            self.heard = Some(SystemTime::now());
        }
        let Some(peer) = self.peer().filter(|p| p.connected) else {
            return;
        };
        let due = self
            .kept
            .as_ref()
            .is_none_or(|(at, state)| at.elapsed() >= KEEP && !Arc::ptr_eq(state, &peer.state));
        if due {
            self.kept = Some((Instant::now(), Arc::clone(&peer.state)));
            let stored = Stored::new(&peer, Vec::new());
            drop(tokio::spawn(store::save(
                self.folder.clone(),
                self.cluster.clone(),
                stored,
            )));
        }
    }

    /// Its last state, as a peer's.
    pub fn peer(&self) -> Option<Peer> {
        Some(Peer {
            state: Arc::clone(self.state.as_ref()?),
            connected: self.connected(),
            heard: self.heard.unwrap_or(SystemTime::UNIX_EPOCH),
        })
    }

    pub(super) fn shown(&self) -> Shown {
        let services = self.state.iter().flat_map(|s| s.services.values());
        Shown {
            cluster: self.cluster.clone(),
            secret: self.secret.clone(),
            connected: self.connected(),
            known: self.state.is_some(),
            error: self.error(),
            heard: self.heard,
            services: services.clone().count(),
            endpoints: services.map(|s| s.endpoints.len()).sum(),
        }
    }

    fn connected(&self) -> bool {
        let live = self.live.as_ref();
        live.is_some_and(|live| live.is_whole() && live.away().is_none())
    }

    fn error(&self) -> Option<String> {
        let lives = [&self.next, &self.live].into_iter().flatten();
        let of_source = || {
            lives
                .clone()
                .find_map(|live| live.away().or_else(|| live.blind()))
        };
        self.unusable.clone().or_else(of_source)
    }
}
