//! The control plane as a process: sources, peers, authority and ports, tied together.
//!
//! Ports are taken first. The mesh's settings come from the first snapshot, so nothing is signed or served
//! before the cluster's own configuration has been read; a peer is never waited for.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use isthmus_api::source::{Change, ClusterConnector, Source};
use isthmus_api::status::Statuses;
use isthmus_model::{SpiffeId, TrustDomain};
use isthmus_pki::token::{AUDIENCE, Members};
use isthmus_pki::{
    Authenticator, CertificateService, FirstOf, JwksAuthenticator, JwksConfig, KeyAlgorithm, LocalAuthority,
    PeerAuthenticator, Renewal,
};
use isthmus_runtime::bind::{self, BindError};
use isthmus_runtime::drain;
use isthmus_runtime::metrics::Metrics;
use isthmus_runtime::readiness::Readiness;
use serde_json::Value;
use tokio::sync::{Notify, mpsc, watch};

use crate::authority;
use crate::ingest::directory::Directory;
use crate::ingest::overlay::Overlay;
use crate::member::{MemberHead, MemberState, PeerState};
use crate::mesh::Identity;
use crate::names::Names;
use crate::peering::{self, Peering, Peers};
use crate::push::{self, ControlPlane, Feeds, Served};
use crate::remote::{self, Remotes};
use crate::serve::{self, Addresses, Parts, Sockets};
use crate::snapshot::builder::Builder;
use crate::status;
use crate::webhook::{self, OwnObjects, Webhook};

/// A snapshot that nothing follows for so long holds all that is known at the start.
const QUIET: Duration = Duration::from_millis(300);
/// Proxies wait no longer than this for it.
const SETTLE: Duration = Duration::from_secs(2);

/// What the command line says.
#[derive(Debug, Clone)]
pub struct Config {
    /// Who we are.
    pub identity: Identity,
    /// Directories of YAML; where two have an object, the later one's counts.
    pub directories: Vec<PathBuf>,
    /// Directory with the files of the secret `cacerts`; a Secret of that name among the objects goes before
    /// it. With neither, a root of its own signs, kept in the state directory.
    pub cacerts: Option<PathBuf>,
    /// Key set of the cluster's service-account issuer.
    pub jwks: Option<PathBuf>,
    /// Accepted issuers of service-account tokens.
    pub issuers: Vec<String>,
    /// Peers by member cluster: `HOST:PORT` of their east-west gateway; ConfigMap `isthmus-peers` may name more.
    pub peers: Peers,
    /// Where automatic addresses, peers' last states, the last good version of every file and an own root
    /// are kept.
    pub state_dir: PathBuf,
    /// Ports.
    pub addresses: Addresses,
    /// Where pods without sidecars are told the mesh's names; `None`: nowhere.
    pub dns: Option<SocketAddr>,
    /// Where the API server asks about pods and objects; `None` for nowhere.
    pub webhook: Option<SocketAddr>,
    /// Revision of the control plane; empty for the default one.
    pub revision: String,
    /// Life of workload certificates whose proxies ask for none; zero is 24 h.
    pub workload_ttl: Duration,
    /// For `/version`.
    pub version: Value,
}

/// What the binary plugs in from the edges that this crate does not know, such as an API server.
#[derive(Default)]
pub struct Plugs {
    /// Sources beside the directories, which come first: where two have an object, the later one's counts.
    pub sources: Vec<Box<dyn Source>>,
    /// Who a caller with a token is; asked in this order, before certificates.
    pub authenticators: Vec<Arc<dyn Authenticator>>,
    /// Opens the clusters that remote secrets name; without it they are not read.
    pub connector: Option<Arc<dyn ClusterConnector>>,
    /// Told whom the mesh trusts, as PEM, whenever that changes.
    pub roots: Option<watch::Sender<Arc<str>>>,
    /// Told what the statuses of objects should say.
    pub statuses: Option<watch::Sender<Arc<Statuses>>>,
}

/// Why the control plane could not start or go on.
#[derive(Debug, thiserror::Error)]
pub enum RoleError {
    /// A port is taken.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// Nothing can be signed.
    #[error(transparent)]
    Authority(#[from] authority::Unusable),
    /// The sources ended before everything was read.
    #[error("the configuration cannot be read: {0}")]
    Sources(String),
    /// Serving failed.
    #[error("serving failed: {0}")]
    Serve(#[from] std::io::Error),
}

/// Runs the control plane until the drain begins.
pub async fn run(
    config: Config,
    plugs: Plugs,
    metrics: Metrics,
    readiness: Readiness,
    drain: drain::Watcher,
) -> Result<(), RoleError> {
    let starting = readiness.guard("the first snapshot");
    let sockets = Sockets::bind(&config.addresses)?;
    let names = config
        .dns
        .map(|address| Names::bind(address, &config.identity.root_namespace, &metrics))
        .transpose()?;
    let admission = (config.webhook)
        .map(|address| bind::tcp(address, "admission webhooks"))
        .transpose()?;

    let plane = ControlPlane::new();
    let objects = push::Objects::default();
    let (peer_sender, peers) = watch::channel(PeerState::default());
    let own = MemberState {
        head: Arc::new(MemberHead {
            cluster: config.identity.cluster.clone(),
            network: config.identity.network.clone(),
            ..MemberHead::default()
        }),
        services: BTreeMap::new(),
    };
    let (exported, own_state) = watch::channel(Arc::new(own));
    let last_good = config.state_dir.join("last-good");
    let directories = config.directories.iter().map(|directory| {
        Box::new(Directory::new(directory.clone()).keeping_in(&last_good)) as Box<dyn Source>
    });
    let sources: Vec<Box<dyn Source>> = directories.chain(plugs.sources).collect();
    let count = sources.len();
    let (changer, changes) = mpsc::unbounded_channel();
    let sources_failed = start_sources(sources, &changer, &drain);
    let builder = Builder::new(
        config.identity.clone(),
        config.peers.clone(),
        Some(config.state_dir.join("addresses.json")),
    );
    let feeds = Feeds {
        changes,
        sources: count,
        peers,
        exported,
    };
    drain.spawn(push::run(plane.clone(), objects.clone(), builder, feeds));

    if let Some(names) = names {
        let serving = names.serve(plane.clone());
        drain.spawn(async move {
            if let Err(error) = serving.await {
                tracing::error!(%error, "DNS for pods without sidecars ended");
            }
        });
    }
    let trust_domain = first_trust_domain(&plane, sources_failed, &drain).await?;
    let Some(trust_domain) = trust_domain else {
        return Ok(());
    };

    let places = authority::Places {
        directory: config.cacerts.clone(),
        state_dir: config.state_dir.clone(),
    };
    let first = authority::load(&places, plane.snapshot().as_deref(), &trust_domain)?;
    let authority = Arc::new(ArcSwap::from_pointee(first));
    let taken_up = Arc::new(Notify::new());
    let following = authority::follow(
        places,
        plane.clone(),
        Arc::clone(&authority),
        plugs.roots,
        Arc::clone(&taken_up),
    );
    drain.spawn(following);
    if let Some(told) = plugs.statuses {
        drain.spawn(status::follow(plane.clone(), objects.clone(), told));
    }
    let aliases = plane
        .snapshot()
        .map(|s| s.mesh.trust_domain_aliases.clone())
        .unwrap_or_default();
    let trust_domains: Vec<TrustDomain> = std::iter::once(trust_domain.clone()).chain(aliases).collect();
    let root = config.identity.root_namespace.clone();
    let identity = SpiffeId::new(trust_domain.clone(), &root, peering::ACCOUNT);
    let renewal = Renewal {
        source: Arc::new(LocalAuthority {
            authority: Arc::clone(&authority),
            identity: identity.clone(),
            dns_names: LocalAuthority::control_plane_names("istiod", &root, "cluster.local"),
        }),
        identity,
        ttl: Duration::ZERO,
        algorithm: KeyAlgorithm::EcdsaP256,
    }
    .start();
    let credentials = renewal.credentials();
    drop(tokio::spawn(drain.clone().until_draining(async move {
        // Peers and proxies that trust the new root alone refuse a certificate of the old one.
        loop {
            taken_up.notified().await;
            renewal.renew_now();
        }
    })));

    if let Some(listener) = admission {
        let source = OwnObjects {
            identity: config.identity.clone(),
            revision: config.revision.clone(),
            plane: plane.clone(),
            objects: objects.clone(),
        };
        let router = Arc::new(Webhook::new(source, &metrics)).router();
        let serving = webhook::serve(listener, credentials.clone(), router, drain.clone());
        drain.spawn(async move {
            if let Err(error) = serving.await {
                tracing::error!(%error, "admission webhooks cannot be served");
            }
        });
    }

    let peering_config = peering::Config {
        cluster: config.identity.cluster.clone(),
        trust_domains: trust_domains.clone(),
        namespace: root,
        peers: config.peers.clone(),
        credentials: credentials.clone(),
        store: Some(config.state_dir.join("peers")),
        pulse: peering::PULSE,
    };
    let (peering, heard) = Peering::start(peering_config, own_state, &drain);
    let remotes = plugs.connector.map(|connector| {
        let config = remote::Config {
            own: config.identity.cluster.clone(),
            connector,
            store: config.state_dir.join("remotes"),
            findings: changer,
        };
        Remotes::start(config, &plane, &drain)
    });
    let (remotes, read) = remotes.unzip();
    drain.spawn(forward(heard, read, peer_sender));
    drop(tokio::spawn(drain.clone().until_draining(follow_peers(
        plane.clone(),
        peering.clone(),
        drain.clone(),
    ))));
    if let Some(remotes) = &remotes {
        remotes.settled(SETTLE).await;
    }
    settle(&plane).await;

    let authenticator = authenticator(&config, plugs.authenticators, trust_domains);
    let limits = isthmus_pki::service::Limits {
        default_ttl: config.workload_ttl,
        ..Default::default()
    };
    let certificates = CertificateService::new(
        Arc::clone(&authenticator),
        Arc::clone(&authority),
        trust_domain.clone(),
        limits,
    );
    let parts = Parts {
        cluster: config.identity.cluster.clone(),
        trust_domain,
        configuration: Arc::new(Served { plane, objects }),
        authenticator,
        certificates: certificates.into_server(),
        credentials: credentials.clone(),
        authority,
        peering: Some(peering),
        remotes,
        readiness,
        metrics,
        version: config.version,
    };
    drop(starting);
    serve::run(sockets, parts, drain).await?;
    Ok(())
}

/// Waits until what peers told before a restart and the addresses of names are in the snapshot. A proxy that
/// reconnects must not be told for a moment that other clusters are gone, or that a gateway is none.
async fn settle(plane: &ControlPlane) {
    let mut snapshots = plane.subscribe();
    let quiet = async {
        while tokio::time::timeout(QUIET, snapshots.changed())
            .await
            .is_ok_and(|changed| changed.is_ok())
        {
            snapshots.mark_unchanged();
        }
    };
    // Names that resolve slowly are not waited for.
    let _ = tokio::time::timeout(SETTLE, quiet).await;
}

/// Starts to read; the value completes when a source cannot be read at all.
fn start_sources(
    sources: Vec<Box<dyn Source>>,
    // A source sends what changed, which its own limits bound; the builder only applies it.
    sender: &mpsc::UnboundedSender<Vec<Change>>,
    drain: &drain::Watcher,
) -> mpsc::UnboundedReceiver<String> {
    let (failed, failures) = mpsc::unbounded_channel();
    let overlay = Arc::new(Mutex::new(Overlay::new(sources.len())));
    for (layer, source) in sources.into_iter().enumerate() {
        let (sender, overlay) = (sender.clone(), Arc::clone(&overlay));
        let failed = failed.clone();
        let reading = source.run(Box::new(move |changes| {
            // Held while sending, so that what is sent comes in the order in which it was decided.
            let mut overlay = overlay.lock().unwrap_or_else(PoisonError::into_inner);
            sender.send(overlay.apply(layer, changes)).is_ok()
        }));
        let work = async move {
            if let Err(error) = reading.await {
                tracing::error!("{error}");
                let _ = failed.send(error.to_string());
            }
        };
        drop(tokio::spawn(drain.clone().until_draining(work)));
    }
    failures
}

/// The mesh's trust domain once the configuration has been read; `None` if the drain begins before.
async fn first_trust_domain(
    plane: &ControlPlane,
    mut failures: mpsc::UnboundedReceiver<String>,
    drain: &drain::Watcher,
) -> Result<Option<TrustDomain>, RoleError> {
    let mut snapshots = plane.subscribe();
    let mut drain = drain.clone();
    tokio::select! {
        first = snapshots.wait_for(Option::is_some) => match first.ok().and_then(|s| s.clone()) {
            Some(snapshot) => Ok(Some(snapshot.mesh.trust_domain.clone())),
            None => Err(RoleError::Sources("no snapshot was built".to_owned())),
        },
        Some(failure) = failures.recv() => Err(RoleError::Sources(failure)),
        _ = drain.draining() => Ok(None),
    }
}

/// Dials whom the objects name as peers, from the first snapshot on.
async fn follow_peers(plane: ControlPlane, peering: Peering, drain: drain::Watcher) {
    let mut snapshots = plane.subscribe();
    loop {
        let listed = snapshots
            .borrow_and_update()
            .as_ref()
            .map(|s| Arc::clone(&s.listed));
        if let Some(listed) = listed {
            peering.follow(&listed, &drain);
        }
        if snapshots.changed().await.is_err() {
            return;
        }
    }
}

/// Carries what peers tell and what is read of remote clusters into the builder, which runs before either can.
async fn forward(
    mut heard: watch::Receiver<PeerState>,
    read: Option<watch::Receiver<PeerState>>,
    into: watch::Sender<PeerState>,
) {
    // Without remote clusters, one that never says anything.
    let (_silent, nothing) = watch::channel(PeerState::default());
    let mut read = read.unwrap_or(nothing);
    loop {
        let now = remote::merged(&heard.borrow_and_update(), &read.borrow_and_update());
        if into.send(now).is_err() {
            return;
        }
        tokio::select! {
            changed = heard.changed() => if changed.is_err() { return },
            changed = read.changed() => if changed.is_err() { return },
        }
    }
}

fn authenticator(
    config: &Config,
    mut all: Vec<Arc<dyn Authenticator>>,
    trust_domains: Vec<TrustDomain>,
) -> Arc<dyn Authenticator> {
    if let Some(keys) = &config.jwks {
        all.push(Arc::new(JwksAuthenticator::new(JwksConfig {
            cluster: config.identity.cluster.clone(),
            keys: keys.clone(),
            issuers: config.issuers.clone(),
            audiences: vec![AUDIENCE.to_owned()],
        })));
    }
    all.push(Arc::new(PeerAuthenticator {
        trust_domains,
        members: Members::Only(config.identity.cluster.clone()),
    }));
    Arc::new(FirstOf(all))
}
