//! The control plane's ports.
//!
//! ```text
//!   15012 TLS ───┐            ┌─ ADS ─ proof ─ node ─► Configuration::open ─► Resources ─► proxy
//!   15010 loop ──┴─ HTTP/2 ───┤        └ control planes ─► peering
//!                             └─ CSR service (isthmus-pki)
//!   8080 /ready, /debug/*     15014 /metrics, /version, /debug/*
//! ```
//!
//! Every stream proves who it is, by token or by certificate; namespace and account of a proxy come from
//! the proof, and a node that claims others is refused. [`Sockets::bind`] takes all ports before anything
//! is started. What the proxies are told is the business of whoever implements [`Configuration`].

mod debug;
mod grpc;
mod metrics;
mod node;
mod streams;
#[cfg(test)]
mod tests;

use std::future::Future;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use arc_swap::ArcSwap;
use isthmus_model::{ClusterId, TrustDomain};
use isthmus_pki::service::CertificateServer;
use isthmus_pki::{
    Authenticator, Authority, ClientCertificates, Credentials, Expected, LiveServer, TlsOptions,
};
use isthmus_runtime::bind::{self, BindError};
use isthmus_runtime::drain;
use isthmus_runtime::metrics::Metrics;
use isthmus_runtime::readiness::Readiness;
use isthmus_runtime::server::{Limits, Server};
use isthmus_xds::Resources;
use isthmus_xds::server::Answer;
use isthmus_xds::server::service::Ads;
use serde_json::Value;
use tokio::sync::watch;

use crate::peering::Peering;
use crate::proxy::ProxyDescription;
use crate::remote::Remotes;

pub use node::NodeError;
use streams::Streams;

/// What the rest of the control plane gives to its ports.
pub trait Configuration: Send + Sync + 'static {
    /// What a proxy is to be told, now and later. Completes when there is a first snapshot. The proxy is
    /// gone when the receiver is dropped.
    fn open(&self, proxy: ProxyDescription) -> impl Future<Output = watch::Receiver<Arc<Resources>>> + Send;

    /// A proxy took or refused a response.
    fn answered(&self, _proxy: &ProxyDescription, _answer: &Answer) {}

    /// A page of `/debug` about what is known.
    fn page(&self, page: Page) -> Value;

    /// How many services are known (`pilot_services`).
    fn services(&self) -> usize;
}

/// Pages of `/debug` about the snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Page {
    /// `/debug/registryz`: services.
    Registry,
    /// `/debug/endpointz`: endpoints by service.
    Endpoints,
    /// `/debug/configz`: the user's objects.
    Config,
    /// `/debug/networkz`: networks and their gateways.
    Networks,
}

/// Where to listen.
#[derive(Debug, Clone)]
pub struct Addresses {
    /// xDS and CSR over TLS.
    pub xds: SocketAddr,
    /// xDS and CSR in plaintext; `None` for nowhere.
    pub plaintext: Option<SocketAddr>,
    /// `/ready` and `/debug`.
    pub http: SocketAddr,
    /// `/metrics` and `/version`.
    pub monitoring: SocketAddr,
}

impl Default for Addresses {
    /// Istio's ports on all IPv4 addresses; plaintext on loopback alone.
    fn default() -> Self {
        let on = |ip: Ipv4Addr, port| SocketAddr::from((IpAddr::V4(ip), port));
        Self {
            xds: on(Ipv4Addr::UNSPECIFIED, 15012),
            plaintext: Some(on(Ipv4Addr::LOCALHOST, 15010)),
            http: on(Ipv4Addr::UNSPECIFIED, 8080),
            monitoring: on(Ipv4Addr::UNSPECIFIED, 15014),
        }
    }
}

/// All ports, taken.
#[derive(Debug)]
pub struct Sockets {
    xds: std::net::TcpListener,
    plaintext: Option<std::net::TcpListener>,
    http: Server,
    monitoring: Server,
}

impl Sockets {
    /// Takes all ports; the first that cannot be taken is the error.
    pub fn bind(addresses: &Addresses) -> Result<Self, BindError> {
        let plaintext = addresses
            .plaintext
            .map(|a| bind::tcp(a, "xDS in plaintext"))
            .transpose()?;
        Ok(Self {
            xds: bind::tcp(addresses.xds, "xDS over TLS")?,
            plaintext,
            http: Server::bind(addresses.http, "readiness and debug pages", Limits::default())?,
            monitoring: Server::bind(addresses.monitoring, "metrics", Limits::default())?,
        })
    }

    /// The addresses with the real ports.
    pub fn addresses(&self) -> std::io::Result<Addresses> {
        Ok(Addresses {
            xds: self.xds.local_addr()?,
            plaintext: self
                .plaintext
                .as_ref()
                .map(std::net::TcpListener::local_addr)
                .transpose()?,
            http: self.http.address(),
            monitoring: self.monitoring.address(),
        })
    }
}

/// What is served.
pub struct Parts<C> {
    /// This member cluster.
    pub cluster: ClusterId,
    /// Trust domain of this mesh.
    pub trust_domain: TrustDomain,
    /// What proxies are told.
    pub configuration: Arc<C>,
    /// Who proxies are: a token of this cluster, or a certificate of its authority.
    pub authenticator: Arc<dyn Authenticator>,
    /// The CSR service.
    pub certificates: CertificateServer,
    /// What 15012 proves itself with.
    pub credentials: Credentials,
    /// For the expiry metrics.
    pub authority: Arc<ArcSwap<Authority>>,
    /// Other member clusters; `None` when there are no peers and none are let in.
    pub peering: Option<Peering>,
    /// Clusters that are read from here; `None` when none can be.
    pub remotes: Option<Remotes>,
    /// `/ready`.
    pub readiness: Readiness,
    /// `/metrics`.
    pub metrics: Metrics,
    /// `/version`.
    pub version: Value,
}

/// Serves until the drain begins. Streams end then; proxies keep what they have and reconnect.
pub async fn run<C: Configuration>(
    sockets: Sockets,
    parts: Parts<C>,
    drain: drain::Watcher,
) -> std::io::Result<()> {
    let meters = Arc::new(metrics::Meters::new(&parts.metrics));
    let streams = Arc::new(Streams::new(
        parts.cluster.clone(),
        parts.trust_domain.clone(),
        parts.configuration.clone(),
        parts.authenticator.clone(),
        parts.peering.clone(),
        meters.clone(),
    ));
    let ads = Ads::new(streams.clone()).into_service();
    let services = grpc::Services {
        ads,
        certificates: parts.certificates.clone(),
    };
    // A peer's gateway passes on what offers `istio`; both ends prefer to speak `h2`.
    let tls = LiveServer::new(
        parts.credentials.clone(),
        ClientCertificates::Optional(Expected::anyone()),
        TlsOptions::alpn(["h2", "istio"]),
    );
    let pages = Arc::new(debug::Pages {
        parts,
        streams,
        meters,
    });
    let secure = grpc::serve(sockets.xds, Some(Arc::new(tls)), services.clone(), drain.clone());
    let plaintext = async {
        match sockets.plaintext {
            Some(listener) => grpc::serve(listener, None, services, drain.clone()).await,
            None => Ok(()),
        }
    };
    let http = sockets.http.serve(debug::http_router(&pages), drain.clone());
    let monitoring = sockets
        .monitoring
        .serve(debug::monitoring_router(&pages), drain.clone());
    tokio::try_join!(secure, plaintext, http, monitoring)?;
    Ok(())
}
