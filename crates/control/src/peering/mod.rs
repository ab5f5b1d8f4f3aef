//! Control planes tell each other what their clusters export.
//!
//! Every control plane dials every configured peer through the peer's east-west gateway, by mutual TLS
//! between the two control planes, and listens to it over delta ADS; the two directions are independent
//! links. What is told is the cluster's own alone, so nothing travels in circles, and which cluster speaks
//! is proven by its certificate, never read from what it says.
//!
//! ```text
//!   MemberState (own) ─► export ─► Resources ─► serve (15012) ─► peers that admit() lets in
//!   peer's 15443 ─► link (one task per peer) ─► PeerState ─► registry
//!                     └─► store (last state on disk, for a restart while the link is cut)
//! ```
//!
//! A link that is cut, slow or black-holed changes nothing but the age of what is known.

mod admission;
mod export;
mod link;
pub mod listed;
mod status;
pub(crate) mod store;
#[cfg(test)]
mod tests;
pub mod wire;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use isthmus_model::{ClusterId, TrustDomain};
use isthmus_pki::{Credentials, PeerCertificates};
use isthmus_runtime::drain;
use isthmus_xds::Resources;
use isthmus_xds::envoy::core::Node;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tonic::Status;

use crate::member::{MemberState, PeerState};

pub use admission::is_peer;
pub use listed::Peers;
pub use status::{LinkStatus, Listener, Phase};

/// How often a control plane gives a sign of life, and so the precision of ages.
pub const PULSE: Duration = Duration::from_secs(5);
/// SNI by which a peer's gateway finds the control plane behind it.
pub const SNI: &str = "outbound_.15012_._.istiod.istio-system.svc.cluster.local";
/// Service account of control planes, in the namespace of [`Config::namespace`].
pub const ACCOUNT: &str = "istiod";

/// Who takes part, and how.
#[derive(Clone)]
pub struct Config {
    /// This member cluster.
    pub cluster: ClusterId,
    /// Trust domains whose control planes are believed; the own one first.
    pub trust_domains: Vec<TrustDomain>,
    /// Namespace of control planes, `istio-system`.
    pub namespace: String,
    /// Peers that are dialled from the start; [`Peering::follow`] tells of others.
    pub peers: Peers,
    /// What this control plane proves itself with.
    pub credentials: Credentials,
    /// Folder for the last state of each peer; `None` forgets it over a restart.
    pub store: Option<PathBuf>,
    /// How often this control plane gives a sign of life: [`PULSE`].
    pub pulse: Duration,
}

/// The links to all peers, and what is told to them. Cheap to clone.
#[derive(Clone)]
pub struct Peering(Arc<Shared>);

struct Shared {
    config: Config,
    /// What peers are told.
    exported: watch::Receiver<Arc<Resources>>,
    /// What peers told.
    heard: watch::Sender<PeerState>,
    links: Mutex<BTreeMap<ClusterId, LinkStatus>>,
    /// Who is dialled, where, and by which task.
    dialled: Mutex<BTreeMap<ClusterId, (String, AbortHandle)>>,
    listeners: Mutex<BTreeMap<u64, Listener>>,
}

impl Peering {
    /// Starts to export `own` and to dial every peer; returns at once, whatever state they are in. The
    /// last stored state of each peer is known from the start.
    pub fn start(
        config: Config,
        own: watch::Receiver<Arc<MemberState>>,
        drain: &drain::Watcher,
    ) -> (Self, watch::Receiver<PeerState>) {
        let (exporter, exported) = export::Exporter::new(config.cluster.clone(), own, config.pulse);
        drop(tokio::spawn(drain.clone().until_draining(exporter.run())));

        let (heard, state) = watch::channel(PeerState::default());
        let shared = Arc::new(Shared {
            exported,
            heard,
            links: Mutex::default(),
            dialled: Mutex::default(),
            listeners: Mutex::default(),
            config,
        });
        let peering = Self(shared);
        peering.follow(&peering.0.config.peers.clone(), drain);
        (peering, state)
    }

    /// Dials these peers and no others. A peer that is no longer among them is forgotten with all that it told; one
    /// whose address changed stays known while it is dialled anew.
    pub fn follow(&self, peers: &Peers, drain: &drain::Watcher) {
        let mut dialled = lock(&self.0.dialled);
        let gone: Vec<ClusterId> = dialled
            .keys()
            .filter(|c| !peers.contains_key(*c))
            .cloned()
            .collect();
        for cluster in gone {
            if let Some((_, task)) = dialled.remove(&cluster) {
                task.abort();
            }
            tracing::info!(%cluster, "no peer any more");
            lock(&self.0.links).remove(&cluster);
            self.0.heard.send_modify(|s| {
                s.members.remove(&cluster);
            });
            if let Some(folder) = &self.0.config.store {
                store::forget(folder, &cluster);
            }
        }
        for (cluster, address) in peers {
            match dialled.get(cluster) {
                Some((before, _)) if before == address => continue,
                Some((_, task)) => task.abort(),
                None => {}
            }
            let link = link::Link::new(self.0.clone(), cluster.clone(), address.clone());
            let task = tokio::spawn(drain.clone().until_draining(link.run()));
            dialled.insert(cluster.clone(), (address.clone(), task.abort_handle()));
        }
    }

    /// Addresses of the peers that are dialled.
    pub fn peers(&self) -> Peers {
        let dialled = lock(&self.0.dialled);
        dialled
            .iter()
            .map(|(cluster, (address, _))| (cluster.clone(), address.clone()))
            .collect()
    }

    /// Lets a peer's stream in, if its verified certificate is that of another member's control plane.
    pub fn admit(
        &self,
        stream: u64,
        node: &Node,
        certificates: &PeerCertificates,
        remote: Option<std::net::SocketAddr>,
    ) -> Result<watch::Receiver<Arc<Resources>>, Status> {
        let cluster = admission::admit(&self.0.config, node, certificates)?;
        tracing::info!(%cluster, ?remote, "a peer listens");
        let listener = Listener {
            cluster,
            remote,
            since: std::time::SystemTime::now(),
        };
        lock(&self.0.listeners).insert(stream, listener);
        Ok(self.0.exported.clone())
    }

    /// A peer's stream has ended.
    pub fn closed(&self, stream: u64) {
        if let Some(listener) = lock(&self.0.listeners).remove(&stream) {
            tracing::info!(cluster = %listener.cluster, "a peer listens no more");
        }
    }

    /// How every link is doing.
    pub fn links(&self) -> BTreeMap<ClusterId, LinkStatus> {
        lock(&self.0.links).clone()
    }

    /// What is known of every peer, for `isthmus peer list`.
    pub fn page(&self) -> serde_json::Value {
        let listeners: Vec<Listener> = lock(&self.0.listeners).values().cloned().collect();
        let peers = self.peers();
        status::page(
            &self.0.config,
            &peers,
            &self.links(),
            &self.0.heard.borrow(),
            &listeners,
        )
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
