//! Names of the sandbox: the internet's, and each cluster's own below `cluster.local`.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use isthmus_dns::cluster::ClusterNames;
use isthmus_dns::forward::{Forwarder, Options};
use isthmus_dns::metrics::DnsMetrics;
use isthmus_dns::server::{Handler, Server};
use isthmus_dns::table::{Entry, NameTable};
use isthmus_dns::zone::{Zone, Zones};
use isthmus_model::ClusterId;
use tokio::task::JoinHandle;

use crate::network::{INTERNET_DNS, Network};
use crate::{Error, Result};

/// Port of DNS.
const DNS: u16 = 53;
/// Seconds that an answer of the internet's DNS holds.
const TTL: u32 = 5;

/// All names, replaced as Services come and go.
#[derive(Debug)]
pub struct Names {
    public: Mutex<BTreeMap<ClusterId, BTreeMap<String, Vec<Ipv4Addr>>>>,
    internet: Arc<Zones>,
    clusters: BTreeMap<ClusterId, Arc<ArcSwap<NameTable>>>,
    /// The internet's server (`None`) and the clusters' own.
    servers: BTreeMap<Option<ClusterId>, NameServer>,
}

impl Names {
    /// Opens the servers: the internet's at its address, each cluster's at its DNS Service's.
    pub fn serve(network: &Network, clusters: &[(ClusterId, Ipv4Addr)]) -> Result<Self> {
        let internet = Arc::new(Zones::new(Vec::new(), None));
        let at = SocketAddr::from((INTERNET_DNS, DNS));
        let mut servers = BTreeMap::new();
        servers.insert(None, NameServer::new(network, None, at, internet.clone())?);

        let mut tables = BTreeMap::new();
        for (id, address) in clusters {
            let table = Arc::new(ArcSwap::from_pointee(NameTable::default()));
            let options = Options {
                upstreams: vec![at],
                ..Options::default()
            };
            let upstream = Forwarder::new(options, DnsMetrics::default());
            let names = Arc::new(ClusterNames::new("cluster.local", table.clone(), upstream));
            let at = SocketAddr::from((*address, DNS));
            let server = NameServer::new(network, Some(id.clone()), at, names)?;
            servers.insert(Some(id.clone()), server);
            tables.insert(id.clone(), table);
        }
        Ok(Self {
            public: Mutex::default(),
            internet,
            clusters: tables,
            servers,
        })
    }

    /// Ends a server: its port refuses from now on. `None` is the internet's.
    pub async fn stop(&self, cluster: Option<&ClusterId>) {
        if let Some(server) = self.servers.get(&cluster.cloned()) {
            server.stop().await;
        }
    }

    /// Starts a server again, unless it runs.
    pub async fn start(&self, cluster: Option<&ClusterId>) -> Result<()> {
        match self.servers.get(&cluster.cloned()) {
            Some(server) => server.start().await,
            None => Ok(()),
        }
    }

    /// Starts all servers that do not run.
    pub async fn start_all(&self) -> Result<()> {
        for server in self.servers.values() {
            server.start().await?;
        }
        Ok(())
    }

    /// Replaces a cluster's names and its share of the public ones.
    pub fn replace(
        &self,
        cluster: &ClusterId,
        names: &BTreeMap<String, Vec<Ipv4Addr>>,
        public: &BTreeMap<String, Vec<Ipv4Addr>>,
    ) {
        if let Some(table) = self.clusters.get(cluster) {
            table.store(Arc::new(NameTable::build(names.iter().map(|(host, ips)| {
                Entry {
                    host,
                    ips: ips.iter().copied().map(IpAddr::V4).collect(),
                    registry: "Kubernetes",
                    shortname: "",
                    namespace: "",
                }
            }))));
        }
        let mut all = self.public.lock().unwrap_or_else(PoisonError::into_inner);
        all.insert(cluster.clone(), public.clone());
        let zone = all
            .values()
            .flatten()
            .flat_map(|(name, ips)| ips.iter().map(move |ip| (name, *ip)))
            .try_fold(Zone::new("", TTL), |zone, (name, ip)| {
                Some(zone.and_then(|z| z.address(name, IpAddr::V4(ip))))
            });
        match zone {
            Some(Ok(zone)) => self.internet.replace(vec![zone]),
            Some(Err(error)) => {
                tracing::warn!(%error, "a public name cannot be served; the others stay as they were")
            }
            None => {}
        }
    }
}

/// A DNS server that can be ended and started again.
struct NameServer {
    network: Network,
    cluster: Option<ClusterId>,
    at: SocketAddr,
    handler: Arc<dyn Handler>,
    task: tokio::sync::Mutex<Option<JoinHandle<()>>>,
}

impl NameServer {
    /// Starts it, in a cluster's router or, without a cluster, here.
    fn new(
        network: &Network,
        cluster: Option<ClusterId>,
        at: SocketAddr,
        handler: Arc<dyn Handler>,
    ) -> Result<Self> {
        let mut server = Self {
            network: network.clone(),
            cluster,
            at,
            handler,
            task: tokio::sync::Mutex::default(),
        };
        let task = server.spawn()?;
        *server.task.get_mut() = Some(task);
        Ok(server)
    }

    async fn stop(&self) {
        if let Some(task) = self.task.lock().await.take() {
            task.abort();
            // The sockets are closed when the task has ended.
            let _ = task.await;
        }
    }

    async fn start(&self) -> Result<()> {
        let mut task = self.task.lock().await;
        if task.is_none() {
            *task = Some(self.spawn()?);
        }
        Ok(())
    }

    fn spawn(&self) -> Result<JoinHandle<()>> {
        let at = self.at;
        let (udp, tcp) = match &self.cluster {
            Some(id) => self.network.sockets_in(id, at)?,
            None => {
                let refused = || Error::io(format!("listen at {at}"));
                let udp = std::net::UdpSocket::bind(at).map_err(refused())?;
                (udp, std::net::TcpListener::bind(at).map_err(refused())?)
            }
        };
        let server = Server::on(vec![udp], vec![tcp], DnsMetrics::default());
        let handler = self.handler.clone();
        Ok(tokio::spawn(async move {
            if let Err(error) = server.serve(handler).await {
                tracing::error!(%error, "a DNS server of the sandbox ended");
            }
        }))
    }
}

impl std::fmt::Debug for NameServer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NameServer")
            .field("cluster", &self.cluster)
            .field("at", &self.at)
            .finish_non_exhaustive()
    }
}
