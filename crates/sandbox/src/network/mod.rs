//! The networks: one that plays the internet, and one per cluster behind a router of its own.
//!
//! ```text
//!   supervisor's namespace: the internet, 198.51.100.1 (and .53 for its DNS)
//!     c0 ──── router of us: 198.51.100.33, public addresses 198.51.100.34-62
//!     │         p1 ── eth0 of a pod, 10.10.0.2     cluster addresses 10.10.128.0/17
//!     │         p2 ── eth0 of a pod, 10.10.0.3     masquerades what leaves
//!     c1 ──── router of eu: 198.51.100.65, public addresses 198.51.100.66-94
//!               p1 ── eth0 of a pod, 10.20.0.2     cluster addresses 10.20.128.0/17
//! ```
//!
//! Everything is routed, nothing bridged: each pod has a wire of its own to its router, so that the
//! router sees every packet and can translate a Service's address for any caller, a proxy's marked
//! sockets included, and translate the answers back. The internet knows no way to a pod's address; a
//! pod is reached from there only through a public address that the router translates.
//!
//! A cluster or public address with nothing behind it refuses connections at once: its router owns the
//! whole range, and nobody listens there.

mod addresses;
mod cluster;
mod program;
mod publish;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use isthmus_model::ClusterId;
use isthmus_redirect::netns::NetNs;
use isthmus_redirect::nft;
use isthmus_redirect::rtnetlink::{Handle, PeerNamespace};

pub use addresses::{ClusterAddresses, INTERNET, INTERNET_DNS};
pub use publish::publish;

use crate::plan::VirtualAddress;
use crate::{Error, Result};
use cluster::Cluster;

/// Something that can be cut off.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Target {
    /// A pod's address: packets to it and from it are dropped by its router.
    Pod(Ipv4Addr),
    /// A public address: packets to it and from it are dropped in the internet.
    LoadBalancer(Ipv4Addr),
    /// Whatever goes between two clusters is dropped in the internet.
    ClusterLink(ClusterId, ClusterId),
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Pod(address) | Self::LoadBalancer(address) => {
                write!(f, "every packet of {address} is dropped")
            }
            Self::ClusterLink(a, b) => write!(f, "every packet between {a} and {b} is dropped"),
        }
    }
}

/// All networks of the sandbox. Clones are the same.
#[derive(Debug, Clone)]
pub struct Network {
    shared: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct State {
    internet: NetNs,
    clusters: BTreeMap<ClusterId, Cluster>,
    dropped: BTreeSet<Target>,
}

/// A pod's place in its cluster's network.
#[derive(Debug)]
pub struct Attachment {
    /// Its network namespace, with address and default route.
    pub namespace: NetNs,
    /// Its address.
    pub address: Ipv4Addr,
}

impl Network {
    /// Makes the calling thread's namespace, which must be the supervisor's, the internet.
    pub fn new() -> Result<Self> {
        let step = || Error::kernel("set up the internet");
        let internet = NetNs::current().map_err(step())?;
        forward("the internet")?;
        let mut links = Handle::open().map_err(step())?;
        links.set_up("lo").map_err(step())?;
        for address in [INTERNET, INTERNET_DNS] {
            links
                .add_address("lo", addresses::host(address))
                .map_err(step())?;
        }
        let state = State {
            internet,
            clusters: BTreeMap::new(),
            dropped: BTreeSet::new(),
        };
        Ok(Self {
            shared: Arc::new(Mutex::new(state)),
        })
    }

    /// Adds a cluster with its router. Its addresses follow from its place among the clusters.
    pub fn add_cluster(&self, id: &ClusterId) -> Result<ClusterAddresses> {
        let mut state = self.lock();
        if state.clusters.contains_key(id) {
            return Err(Error::Cluster {
                cluster: id.clone(),
                reason: "it is there already".to_owned(),
            });
        }
        let index = state.clusters.len();
        let addresses = ClusterAddresses::at(index).ok_or_else(|| Error::Cluster {
            cluster: id.clone(),
            reason: format!(
                "a sandbox has at most {} clusters",
                ClusterAddresses::CLUSTERS_MAX
            ),
        })?;
        let cluster = Cluster::create(id, index, addresses, &state.internet)?;
        cluster.program()?;
        state.clusters.insert(id.clone(), cluster);
        Ok(addresses)
    }

    /// Addresses of a cluster.
    pub fn addresses(&self, id: &ClusterId) -> Result<ClusterAddresses> {
        Ok(self.lock().cluster(id)?.addresses)
    }

    /// Gives a new pod its namespace, address and way out.
    pub fn attach_pod(&self, id: &ClusterId) -> Result<Attachment> {
        self.lock().cluster(id)?.attach()
    }

    /// Takes a pod off its network and frees its address. One that is gone is no error.
    pub fn detach_pod(&self, id: &ClusterId, address: Ipv4Addr) -> Result<()> {
        let mut state = self.lock();
        state.cluster(id)?.detach(address)?;
        if state.dropped.remove(&Target::Pod(address)) {
            state.program_faults()?;
        }
        Ok(())
    }

    /// Public addresses and the pods behind them, in the place of those set before. Each address must
    /// be one of the cluster's public ones.
    pub fn set_load_balancers(&self, id: &ClusterId, balancers: Vec<VirtualAddress>) -> Result<()> {
        let mut state = self.lock();
        let cluster = state.cluster(id)?;
        let public = cluster.addresses.public;
        // The router's own is for NodePorts.
        if let Some(b) = balancers.iter().find(|b| !public.contains(&b.address)) {
            return Err(Error::Address {
                address: b.address,
                reason: "it is not one of the cluster's public addresses",
            });
        }
        cluster.set_load_balancers(balancers)
    }

    /// Cluster addresses of Services and the pods behind them, in the place of those set before. The router's
    /// address may be among them: that is where NodePorts are.
    pub fn set_cluster_ips(&self, id: &ClusterId, services: Vec<VirtualAddress>) -> Result<()> {
        let mut state = self.lock();
        let cluster = state.cluster(id)?;
        let (range, gateway) = (cluster.addresses.services, cluster.addresses.gateway);
        if let Some(s) = services
            .iter()
            .find(|s| !range.contains(&s.address) && s.address != gateway)
        {
            return Err(Error::Address {
                address: s.address,
                reason: "it is not in the cluster's range of Service addresses",
            });
        }
        cluster.set_cluster_ips(services)
    }

    /// Runs `f` on a thread in a cluster's router; sockets it opens stay there. Any address of the
    /// cluster's Service range may be bound.
    pub fn run_in<T: Send>(&self, id: &ClusterId, f: impl FnOnce() -> T + Send) -> Result<T> {
        let router = self
            .lock()
            .cluster(id)?
            .router
            .try_clone()
            .map_err(Error::kernel(format!("cluster {id}")))?;
        router.run(f).map_err(Error::kernel(format!("cluster {id}")))
    }

    /// A UDP and a TCP socket in a cluster's router, for its DNS, non-blocking.
    pub fn sockets_in(&self, id: &ClusterId, at: SocketAddr) -> Result<(UdpSocket, TcpListener)> {
        self.run_in(id, || {
            let udp = UdpSocket::bind(at)?;
            udp.set_nonblocking(true)?;
            let tcp = TcpListener::bind(at)?;
            tcp.set_nonblocking(true)?;
            Ok((udp, tcp))
        })?
        .map_err(Error::io(format!("listen at {at} in cluster {id}")))
    }

    /// Drops, silently, what the target says, on new and on existing connections.
    pub fn drop_packets(&self, target: Target) -> Result<()> {
        let mut state = self.lock();
        state.check(&target)?;
        state.dropped.insert(target);
        state.program_faults()
    }

    /// Undoes [`Network::drop_packets`]. A target that is not dropped is no error.
    pub fn restore(&self, target: &Target) -> Result<()> {
        let mut state = self.lock();
        if state.dropped.remove(target) {
            state.program_faults()
        } else {
            Ok(())
        }
    }

    /// What is cut off.
    pub fn dropped(&self) -> Vec<Target> {
        self.lock().dropped.iter().cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn cluster(&mut self, id: &ClusterId) -> Result<&mut Cluster> {
        self.clusters
            .get_mut(id)
            .ok_or_else(|| Error::NoCluster(id.clone()))
    }

    fn check(&self, target: &Target) -> Result<()> {
        let known = |id: &ClusterId| match self.clusters.contains_key(id) {
            true => Ok(()),
            false => Err(Error::NoCluster(id.clone())),
        };
        match target {
            Target::Pod(a) if !self.clusters.values().any(|c| c.has_pod(*a)) => Err(Error::Address {
                address: *a,
                reason: "no pod has it",
            }),
            Target::LoadBalancer(a) if !self.clusters.values().any(|c| c.addresses.public.contains(a)) => {
                Err(Error::Address {
                    address: *a,
                    reason: "it is not a public address of any cluster",
                })
            }
            Target::ClusterLink(a, b) => known(a).and_then(|()| known(b)),
            _ => Ok(()),
        }
    }

    /// Programs what is dropped, in the internet and in every router.
    fn program_faults(&self) -> Result<()> {
        let step = || Error::kernel("drop packets");
        let in_internet =
            program::internet_faults(&self.dropped, |id| self.clusters.get(id).map(|c| c.link.as_str()));
        self.internet
            .run(|| nft::replace(&in_internet))
            .and_then(|r| r)
            .map_err(step())?;
        for cluster in self.clusters.values() {
            let pods = self.dropped.iter().filter_map(|t| match t {
                Target::Pod(a) if cluster.has_pod(*a) => Some(*a),
                _ => None,
            });
            let table = program::router_faults(pods);
            cluster
                .router
                .run(|| nft::replace(&table))
                .and_then(|r| r)
                .map_err(step())?;
        }
        Ok(())
    }
}

/// Lets the calling thread's namespace pass packets on, from wherever they come.
fn forward(what: &str) -> Result<()> {
    for (setting, value) in [
        ("ip_forward", "1"),
        // With a wire for each pod the way back is never the way the kernel would guess.
        ("conf/all/rp_filter", "0"),
        ("conf/default/rp_filter", "0"),
        ("conf/all/send_redirects", "0"),
        ("conf/default/send_redirects", "0"),
    ] {
        let path = format!("/proc/sys/net/ipv4/{setting}");
        std::fs::write(&path, value).map_err(Error::io(format!("{what}: write {path}")))?;
    }
    Ok(())
}

/// Joins two namespaces by a wire; the near end stays in the calling thread's.
fn wire(near: &str, far: &str, far_namespace: &NetNs) -> isthmus_redirect::Result<Handle> {
    let mut links = Handle::open()?;
    links.add_veth(near, far, PeerNamespace::Fd(far_namespace.as_fd()))?;
    links.set_up(near)?;
    Ok(links)
}
