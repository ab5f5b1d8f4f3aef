//! Virtual addresses of Services: given once, kept as long as the Service lives, never given twice.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use super::settings::ClusterSettings;

/// First host number handed out; the ones below are for well-known Services such as DNS.
const FIRST: u16 = 20;

/// Which address belongs to which Service (`NAMESPACE/NAME`).
#[derive(Debug, Default)]
pub struct Addresses {
    cluster: BTreeMap<String, Ipv4Addr>,
    public: BTreeMap<String, Ipv4Addr>,
}

impl Addresses {
    /// The cluster address of a Service; `wanted` is its `clusterIP` when the user wrote one.
    pub fn cluster(
        &mut self,
        settings: &ClusterSettings,
        service: &str,
        wanted: Option<Ipv4Addr>,
    ) -> Option<Ipv4Addr> {
        if let Some(address) = wanted {
            self.cluster.insert(service.to_owned(), address);
        }
        if let Some(address) = self.cluster.get(service) {
            return Some(*address);
        }
        let taken: BTreeSet<_> = self.cluster.values().copied().collect();
        let free = (FIRST..0x7fff)
            .map(|n| settings.service_address(n))
            .find(|a| !taken.contains(a))?;
        self.cluster.insert(service.to_owned(), free);
        Some(free)
    }

    /// The public address of a Service of type LoadBalancer; `None` when the cluster has no more.
    pub fn public(&mut self, settings: &ClusterSettings, service: &str) -> Option<Ipv4Addr> {
        if let Some(address) = self.public.get(service) {
            return Some(*address);
        }
        let taken: BTreeSet<_> = self.public.values().copied().collect();
        let free = settings.addresses.load_balancers().find(|a| !taken.contains(a))?;
        self.public.insert(service.to_owned(), free);
        Some(free)
    }

    /// Forgets Services that are gone.
    pub fn retain(&mut self, live: &BTreeSet<String>) {
        self.cluster.retain(|service, _| live.contains(service));
        self.public.retain(|service, _| live.contains(service));
    }
}
