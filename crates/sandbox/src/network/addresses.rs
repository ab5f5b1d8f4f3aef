//! Who has which address.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::{IpNet, Ipv4Net};

/// The supervisor in the internet (198.51.100.0/24 is TEST-NET-2, RFC 5737).
pub const INTERNET: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
/// Where the internet's DNS listens.
pub const INTERNET_DNS: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 53);

/// Addresses of one cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClusterAddresses {
    /// Everything inside: `10.X.0.0/16`.
    pub pods: Ipv4Net,
    /// The router as the pods see it: `10.X.0.1`.
    pub gateway: Ipv4Addr,
    /// Addresses of Services: `10.X.128.0/17`.
    pub services: Ipv4Net,
    /// Public addresses, a /27 of the internet; the first is the router's own.
    pub public: Ipv4Net,
    /// The router as the internet sees it; what leaves a pod comes from here.
    pub public_router: Ipv4Addr,
}

impl ClusterAddresses {
    /// How many clusters fit into the internet, whose first two /27 hold the supervisor and its DNS.
    pub const CLUSTERS_MAX: usize = 6;

    /// Of the cluster at `index`: 10.10.0.0/16, 10.20.0.0/16, ...
    pub(crate) fn at(index: usize) -> Option<Self> {
        if index >= Self::CLUSTERS_MAX {
            return None;
        }
        let i = index as u8;
        let inside = 10 * (i + 1);
        // 198.51.100.53 lies in the second /27, which therefore belongs to nobody.
        let public = 32 * (i + 2);
        let net = |a: Ipv4Addr, length: u8| Ipv4Net::new(a, length).ok();
        Some(Self {
            pods: net(Ipv4Addr::new(10, inside, 0, 0), 16)?,
            gateway: Ipv4Addr::new(10, inside, 0, 1),
            services: net(Ipv4Addr::new(10, inside, 128, 0), 17)?,
            public: net(Ipv4Addr::new(198, 51, 100, public), 27)?,
            public_router: Ipv4Addr::new(198, 51, 100, public + 1),
        })
    }

    /// The public addresses that load balancers may have, in order.
    pub fn load_balancers(&self) -> impl Iterator<Item = Ipv4Addr> + use<> {
        self.public.hosts().skip(1)
    }

    /// The pod address with this number, from 1.
    pub(super) fn pod(&self, number: u32) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.gateway) + number)
    }

    /// How many pods have an address.
    pub(super) const PODS_MAX: u32 = 32_000;
}

/// An address alone.
pub(super) fn host(a: Ipv4Addr) -> IpNet {
    IpNet::from(IpAddr::V4(a))
}
