//! The open streams: admission, and where each stands.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Instant, SystemTime};

use isthmus_model::{ClusterId, TrustDomain};
use isthmus_pki::{Authenticator, PeerCertificates, Proof};
use isthmus_xds::Resources;
use isthmus_xds::server::service::{Kind, Source, StreamInfo};
use isthmus_xds::server::{Answer, Sent, TypeStatus};
use tokio::sync::watch;
use tonic::Status;

use super::metrics::Meters;
use super::{Configuration, node};
use crate::peering::{self, Peering};
use crate::proxy::ProxyDescription;

/// Admits streams and remembers them.
pub(super) struct Streams<C> {
    cluster: ClusterId,
    trust_domain: TrustDomain,
    configuration: Arc<C>,
    authenticator: Arc<dyn Authenticator>,
    peering: Option<Peering>,
    meters: Arc<Meters>,
    open: Mutex<BTreeMap<u64, Open>>,
}

/// A proxy's stream.
#[derive(Clone)]
pub(super) struct Open {
    pub proxy: Arc<ProxyDescription>,
    pub version: String,
    pub kind: Kind,
    pub remote: Option<SocketAddr>,
    pub since: SystemTime,
    pub resources: watch::Receiver<Arc<Resources>>,
    pub types: Vec<TypeStatus>,
    /// Since when something is on its way to the proxy.
    behind_since: Option<Instant>,
}

impl<C: Configuration> Streams<C> {
    pub fn new(
        cluster: ClusterId,
        trust_domain: TrustDomain,
        configuration: Arc<C>,
        authenticator: Arc<dyn Authenticator>,
        peering: Option<Peering>,
        meters: Arc<Meters>,
    ) -> Self {
        Self {
            cluster,
            trust_domain,
            configuration,
            authenticator,
            peering,
            meters,
            open: Mutex::default(),
        }
    }

    /// All proxies' streams, oldest first.
    pub fn list(&self) -> Vec<Open> {
        self.lock().values().cloned().collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<u64, Open>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn admit(&self, stream: &StreamInfo) -> Result<watch::Receiver<Arc<Resources>>, Status> {
        let peer = &stream.peer;
        let certificates = PeerCertificates(peer.connection.certificates.clone());
        if peering::is_peer(&stream.node) {
            let Some(peering) = &self.peering else {
                return Err(Status::permission_denied("this control plane has no peers"));
            };
            return peering.admit(stream.id, &stream.node, &certificates, peer.connection.remote);
        }
        let proof = Proof {
            token: peer.token.clone(),
            certificates,
            claimed_cluster: peer
                .cluster
                .as_deref()
                .filter(|c| !c.is_empty())
                .map(ClusterId::from),
        };
        let caller = self
            .authenticator
            .authenticate(&proof)
            .await
            .map_err(Status::from)?;
        let proxy = node::describe(&stream.node, &caller, &self.cluster, &self.trust_domain)?;
        let resources = self.configuration.open(proxy.clone()).await;
        tracing::info!(proxy = proxy.id, identity = %caller.identity(&self.trust_domain), kind = ?stream.kind, "proxy connected");
        let open = Open {
            proxy: Arc::new(proxy),
            version: node::version(&stream.node),
            kind: stream.kind,
            remote: peer.connection.remote,
            since: SystemTime::now(),
            resources: resources.clone(),
            types: Vec::new(),
            behind_since: None,
        };
        self.lock().insert(stream.id, open);
        self.meters.proxies.inc();
        Ok(resources)
    }
}

impl<C: Configuration> Source for Streams<C> {
    async fn open(&self, stream: &StreamInfo) -> Result<watch::Receiver<Arc<Resources>>, Status> {
        let admitted = self.admit(stream).await;
        if let Err(status) = &admitted {
            self.meters.refused_streams.inc();
            let id: String = stream.node.id.chars().take(256).collect();
            let remote = stream.peer.connection.remote;
            tracing::warn!(node = id, ?remote, code = ?status.code(), reason = status.message(), "ADS stream refused");
        }
        admitted
    }

    fn sent(&self, stream: &StreamInfo, sent: &Sent) {
        self.meters
            .push(sent.ty.short(), stream.kind, sent.resources.len());
    }

    fn answered(&self, stream: &StreamInfo, answer: &Answer) {
        let proxy = self.lock().get(&stream.id).map(|open| open.proxy.clone());
        if let Answer::Nack { ty, error, .. } = answer {
            self.meters.reject(ty.short());
            tracing::warn!(
                node = stream.node.id,
                ty = ty.short(),
                error,
                "a response was refused"
            );
        }
        if let Some(proxy) = proxy {
            self.configuration.answered(&proxy, answer);
        }
    }

    fn status(&self, stream: &StreamInfo, types: Vec<TypeStatus>) {
        let mut streams = self.lock();
        let Some(open) = streams.get_mut(&stream.id) else {
            return;
        };
        let behind = types.iter().any(|t| !t.synced && t.error.is_none());
        match (behind, open.behind_since) {
            (true, None) => open.behind_since = Some(Instant::now()),
            (false, Some(since)) => {
                self.meters.convergence.observe(since.elapsed().as_secs_f64());
                open.behind_since = None;
            }
            _ => {}
        }
        open.types = types;
    }

    fn closed(&self, stream: &StreamInfo) {
        let open = self.lock().remove(&stream.id);
        match (open, &self.peering) {
            (Some(open), _) => {
                self.meters.proxies.dec();
                tracing::info!(proxy = open.proxy.id, "proxy disconnected");
            }
            (None, Some(peering)) => peering.closed(stream.id),
            (None, None) => {}
        }
    }
}
