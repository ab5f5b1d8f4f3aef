//! Connections to the control plane: names resolved and sockets marked, so that capture never sees them.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use isthmus_dns::Resolver;
use isthmus_dns::resolve::Family;
use isthmus_pki::bundle::Roots;
use isthmus_pki::credential::{Credential, client_config};
use isthmus_pki::{Credentials, TlsOptions, Verifier, describe};
use isthmus_xds::client::{Dial, DialError, Io};
use rustls::pki_types::ServerName;
use socket2::{Domain, SockRef, Type};
use tokio::io::AsyncReadExt;
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;

use super::config::ControlPlane;

/// Bytes of a token or of roots that are read at most.
const MAX_FILE: u64 = 1 << 20;

/// A name whose addresses are known from before is looked up no longer than this.
const PATIENCE: Duration = Duration::from_secs(2);

/// Opens TCP connections.
#[derive(Debug, Clone)]
pub struct Dialler {
    resolver: Resolver,
    /// Addresses that names had last: certificates are renewed although DNS is dead.
    known: Arc<Mutex<HashMap<String, Vec<IpAddr>>>>,
    /// Domains that are appended to names, in order; the name itself is tried last.
    search: Arc<[String]>,
    mark: Option<u32>,
}

impl Dialler {
    /// Resolves names by `resolver`, with the search domains of the pod.
    pub fn new(resolver: Resolver, search: Vec<String>, mark: Option<u32>) -> Self {
        Self {
            resolver,
            known: Arc::default(),
            search: search.into(),
            mark,
        }
    }

    /// Connects to `host:port`, trying the addresses of the name one after the other.
    pub async fn connect(&self, address: &str) -> io::Result<TcpStream> {
        let bad = || {
            io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("{address:?} is not HOST:PORT"),
            )
        };
        let (host, port) = address.rsplit_once(':').ok_or_else(bad)?;
        let port: u16 = port.parse().map_err(|_| bad())?;
        let mut last = None;
        for ip in self.addresses(host).await? {
            match self.connect_to(SocketAddr::new(ip, port)).await {
                Ok(stream) => return Ok(stream),
                Err(error) => last = Some(io::Error::new(error.kind(), format!("{ip}:{port}: {error}"))),
            }
        }
        Err(last.unwrap_or_else(|| io::Error::new(io::ErrorKind::NotFound, format!("{host} has no address"))))
    }

    /// The addresses of a name now, or those that it had when it was last resolved.
    async fn addresses(&self, host: &str) -> io::Result<Vec<IpAddr>> {
        let known = || self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let before = known().get(host).cloned();
        let looked_up = self.look_up(host);
        let now = match before {
            None => looked_up.await,
            Some(_) => tokio::time::timeout(PATIENCE, looked_up)
                .await
                .unwrap_or_else(|late| Err(late.into())),
        };
        match (now, before) {
            (Ok(addresses), _) => {
                known().insert(host.to_owned(), addresses.clone());
                Ok(addresses)
            }
            (Err(error), Some(addresses)) => {
                tracing::debug!(host, %error, "name not resolved; the addresses known before are tried");
                Ok(addresses)
            }
            (Err(error), None) => Err(error),
        }
    }

    /// `istiod.istio-system.svc` is completed by the search domains; a full name resolves as it is.
    async fn look_up(&self, host: &str) -> io::Result<Vec<IpAddr>> {
        let complete = host.ends_with('.') || host.parse::<IpAddr>().is_ok();
        let mut candidates: Vec<String> = Vec::new();
        if !complete {
            candidates.extend(self.search.iter().map(|domain| format!("{host}.{domain}")));
        }
        candidates.push(host.to_owned());
        let mut last = None;
        for name in candidates {
            match self.resolver.resolve(&name, Family::V4Preferred).await {
                Ok(resolved) => return Ok(resolved.addresses),
                Err(error) => last = Some(error),
            }
        }
        let why = last.map_or_else(|| format!("{host} is no name"), |e| e.to_string());
        Err(io::Error::new(io::ErrorKind::NotFound, why))
    }

    async fn connect_to(&self, address: SocketAddr) -> io::Result<TcpStream> {
        let socket = socket2::Socket::new(Domain::for_address(address), Type::STREAM, None)?;
        socket.set_nonblocking(true)?;
        if let Some(mark) = self.mark {
            SockRef::from(&socket).set_mark(mark)?;
        }
        let stream = TcpSocket::from_std_stream(socket.into()).connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }
}

/// Connections to the discovery service.
pub struct Discovery {
    /// TCP.
    pub dialler: Dialler,
    /// Where, and what it must prove.
    pub control_plane: ControlPlane,
    /// Shown besides the token, once it is there.
    pub own: Credentials,
    /// Sent as `ClusterID`.
    pub cluster: String,
}

impl Dial for Discovery {
    async fn dial(&self) -> Result<Io, DialError> {
        let tcp = self.dialler.connect(&self.control_plane.discovery).await?;
        let io = match &self.control_plane.discovery_roots {
            None => Io::new(tcp),
            Some(roots) => {
                let connector = TlsConnector::from(self.tls(roots).await?);
                let name = ServerName::try_from(self.control_plane.server_name.clone())?;
                let stream = connector.connect(name, tcp).await.map_err(|e| describe(&e))?;
                Io::new(stream)
            }
        };
        Ok(match read(&self.control_plane.token).await {
            Ok(token) => {
                let token = String::from_utf8_lossy(&token).trim().to_owned();
                io.with_token(token, (!self.cluster.is_empty()).then(|| self.cluster.clone()))
            }
            // A certificate proves the workload as well.
            Err(_) if self.own().is_some() => io,
            Err(error) => {
                let path = self.control_plane.token.display();
                return Err(format!("the token {path} cannot be read: {error}").into());
            }
        })
    }
}

impl Discovery {
    /// Our certificate, unless it has expired: shown, it would be refused, and the token is proof enough.
    fn own(&self) -> Option<Arc<Credential>> {
        let own = self.own.borrow().clone();
        own.filter(|c| c.is_valid(SystemTime::now()))
    }

    async fn tls(&self, roots: &Path) -> Result<Arc<rustls::ClientConfig>, DialError> {
        let text = read(roots)
            .await
            .map_err(|e| format!("{} cannot be read: {e}", roots.display()))?;
        let mut trusted = Roots::from_pem(&text).map_err(|e| format!("{}: {e}", roots.display()))?;
        let own = self.own();
        if let Some(own) = &own {
            // While a root is replaced the file may be older than what the authority answered.
            let known = own.bundle.iter().flat_map(|(_, r)| r.certificates());
            let all = trusted.certificates().iter().chain(known).cloned();
            trusted = Roots::new(all.collect::<Vec<_>>())?;
        }
        Ok(client_config(
            own.map(|c| c.certified_key.clone()),
            Verifier::server_name(Arc::new(trusted)),
            &TlsOptions::alpn(["h2"]),
        )?)
    }
}

async fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut out = Vec::new();
    tokio::fs::File::open(path)
        .await?
        .take(MAX_FILE)
        .read_to_end(&mut out)
        .await?;
    Ok(out)
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use isthmus_dns::forward::{Forwarder, Options};
    use isthmus_dns::metrics::DnsMetrics;
    use isthmus_dns::server::Server;
    use isthmus_dns::zone::{Zone, Zones};

    use super::*;

    #[tokio::test]
    async fn a_name_keeps_its_addresses_while_dns_is_dead() {
        let udp = std::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let at = udp.local_addr().unwrap();
        let tcp = std::net::TcpListener::bind(at).unwrap();
        let name = "istiod.istio-system.svc.cluster.local";
        let zone = Zone::new("", 0)
            .and_then(|z| z.address(name, Ipv4Addr::LOCALHOST.into()))
            .unwrap();
        let server = Server::on(vec![udp], vec![tcp], DnsMetrics::default());
        let server = tokio::spawn(server.serve(Arc::new(Zones::new(vec![zone], None))));
        let options = Options {
            upstreams: vec![at],
            ..Options::default()
        };
        let resolver = Resolver::new(Forwarder::new(options, DnsMetrics::default()));
        let search = vec!["default.svc.cluster.local".to_owned(), "cluster.local".to_owned()];
        let dialler = Dialler::new(resolver, search, None);
        let control_plane = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .await
            .unwrap();
        let port = control_plane.local_addr().unwrap().port();
        let address = format!("istiod.istio-system.svc:{port}");
        dialler.connect(&address).await.unwrap();

        server.abort();
        let _ = server.await;
        // A clone, as the CSR service and discovery each have one.
        let again = dialler.clone().connect(&address).await;
        assert!(again.is_ok(), "{again:?}");
        let unknown = dialler.connect(&format!("other.istio-system.svc:{port}")).await;
        assert!(unknown.is_err(), "nothing is known of a name that never resolved");
    }
}
