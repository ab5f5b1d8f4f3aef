//! Names of the sandbox: the internet's, and each cluster's own below `cluster.local`.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use isthmus_dns::cluster::ClusterNames;
use isthmus_dns::forward::{Forwarder, Options};
use isthmus_dns::metrics::DnsMetrics;
use isthmus_dns::server::Server;
use isthmus_dns::table::{Entry, NameTable};
use isthmus_dns::zone::{Zone, Zones};
use isthmus_model::ClusterId;

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
}

impl Names {
    /// Opens the servers: the internet's at its address, each cluster's at its DNS Service's.
    pub fn serve(network: &Network, clusters: &[(ClusterId, Ipv4Addr)]) -> Result<Self> {
        let internet = Arc::new(Zones::new(Vec::new(), None));
        let at = SocketAddr::from((INTERNET_DNS, DNS));
        let udp = std::net::UdpSocket::bind(at).map_err(Error::io(format!("listen at {at}")))?;
        let tcp = std::net::TcpListener::bind(at).map_err(Error::io(format!("listen at {at}")))?;
        spawn(
            Server::on(vec![udp], vec![tcp], DnsMetrics::default()),
            internet.clone(),
        );

        let mut tables = BTreeMap::new();
        for (id, address) in clusters {
            let table = Arc::new(ArcSwap::from_pointee(NameTable::default()));
            let options = Options {
                upstreams: vec![at],
                ..Options::default()
            };
            let upstream = Forwarder::new(options, DnsMetrics::default());
            let names = Arc::new(ClusterNames::new("cluster.local", table.clone(), upstream));
            let (udp, tcp) = network.sockets_in(id, SocketAddr::from((*address, DNS)))?;
            spawn(Server::on(vec![udp], vec![tcp], DnsMetrics::default()), names);
            tables.insert(id.clone(), table);
        }
        Ok(Self {
            public: Mutex::default(),
            internet,
            clusters: tables,
        })
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

fn spawn(server: Server, handler: Arc<impl isthmus_dns::server::Handler>) {
    tokio::spawn(async move {
        if let Err(error) = server.serve(handler).await {
            tracing::error!(%error, "a DNS server of the sandbox ended");
        }
    });
}
