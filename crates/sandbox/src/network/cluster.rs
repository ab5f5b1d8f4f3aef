//! One cluster's router and the pods on its wires.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use isthmus_model::ClusterId;
use isthmus_redirect::netns::NetNs;
use isthmus_redirect::nft;
use isthmus_redirect::rtnetlink::Handle;

use super::addresses::{ClusterAddresses, INTERNET, host};
use super::{Attachment, forward, program, wire};
use crate::plan::VirtualAddress;
use crate::{Error, Result};

/// The router's link to the internet.
pub(super) const UPLINK: &str = "internet";

#[derive(Debug)]
pub(super) struct Cluster {
    id: ClusterId,
    pub(super) addresses: ClusterAddresses,
    /// The router's namespace.
    pub(super) router: NetNs,
    /// The internet's link to the router.
    pub(super) link: String,
    /// Pods' numbers by their address.
    pods: BTreeMap<Ipv4Addr, u32>,
    /// The number given last; numbers come around, so that an address is not given again at once.
    last: u32,
    balancers: Vec<VirtualAddress>,
    services: Vec<VirtualAddress>,
}

impl Cluster {
    pub(super) fn create(
        id: &ClusterId,
        index: usize,
        addresses: ClusterAddresses,
        internet: &NetNs,
    ) -> Result<Self> {
        let link = format!("c{index}");
        let step = || Error::kernel(format!("network of cluster {id}"));
        let router = NetNs::create().map_err(step())?;
        internet
            .run(|| {
                let mut links = wire(&link, UPLINK, &router)?;
                links.add_address(&link, host(INTERNET))?;
                links.add_link_route(addresses.public.into(), &link)
            })
            .and_then(|r| r)
            .map_err(step())?;
        router
            .run(|| -> Result<()> {
                forward(&format!("router of cluster {id}"))?;
                let mut links = Handle::open().map_err(step())?;
                links
                    .set_up(UPLINK)
                    .and_then(|()| links.add_address(UPLINK, host(addresses.public_router)))
                    .and_then(|()| links.add_link_route(host(INTERNET), UPLINK))
                    .and_then(|()| links.add_default_route(INTERNET.into()))
                    .and_then(|()| links.add_address("lo", host(addresses.gateway)))
                    // What has no pod is nowhere, rather than in the internet.
                    .and_then(|()| links.add_unreachable(addresses.pods.into()))
                    .and_then(|()| links.add_local(addresses.services.into()))
                    .and_then(|()| links.add_local(addresses.public.into()))
                    .map_err(step())
            })
            .map_err(step())??;
        Ok(Self {
            id: id.clone(),
            addresses,
            router,
            link,
            pods: BTreeMap::new(),
            last: 0,
            balancers: Vec::new(),
            services: Vec::new(),
        })
    }

    pub(super) fn attach(&mut self) -> Result<Attachment> {
        let (number, address) = (1..=ClusterAddresses::PODS_MAX)
            .map(|i| (self.last + i - 1) % ClusterAddresses::PODS_MAX + 1)
            .map(|number| (number, self.addresses.pod(number)))
            .find(|(_, address)| !self.pods.contains_key(address))
            .ok_or_else(|| Error::AddressesUsedUp(self.id.clone()))?;
        let step = || Error::kernel(format!("network of pod {address} in cluster {}", self.id));
        let link = link_of(number);
        let gateway = self.addresses.gateway;
        let namespace = NetNs::create().map_err(step())?;
        self.router
            .run(|| {
                let mut links = wire(&link, "eth0", &namespace)?;
                links.add_address(&link, host(gateway))?;
                links.add_link_route(host(address), &link)
            })
            .and_then(|r| r)
            .map_err(step())?;
        namespace
            .run(|| {
                let mut links = Handle::open()?;
                links.set_up("eth0")?;
                links.add_address("eth0", host(address))?;
                links.add_link_route(host(gateway), "eth0")?;
                links.add_default_route(gateway.into())
            })
            .and_then(|r| r)
            .map_err(step())?;
        self.pods.insert(address, number);
        self.last = number;
        self.program()?;
        Ok(Attachment { namespace, address })
    }

    pub(super) fn detach(&mut self, address: Ipv4Addr) -> Result<()> {
        let Some(number) = self.pods.remove(&address) else {
            return Ok(());
        };
        let step = || Error::kernel(format!("network of pod {address} in cluster {}", self.id));
        self.router
            .run(|| Handle::open()?.delete_link(&link_of(number)))
            .and_then(|r| r)
            .map_err(step())?;
        self.program()
    }

    pub(super) fn has_pod(&self, address: Ipv4Addr) -> bool {
        self.pods.contains_key(&address)
    }

    pub(super) fn set_load_balancers(&mut self, balancers: Vec<VirtualAddress>) -> Result<()> {
        if self.balancers != balancers {
            self.balancers = balancers;
            self.program()?;
        }
        Ok(())
    }

    pub(super) fn set_cluster_ips(&mut self, services: Vec<VirtualAddress>) -> Result<()> {
        if self.services != services {
            self.services = services;
            self.program()?;
        }
        Ok(())
    }

    pub(super) fn program(&self) -> Result<()> {
        let pods = self
            .pods
            .iter()
            .map(|(address, number)| (*address, link_of(*number)));
        let table = program::router(&self.addresses, &self.balancers, &self.services, pods);
        self.router
            .run(|| nft::replace(&table))
            .and_then(|r| r)
            .map_err(Error::kernel(format!("rules of cluster {}", self.id)))
    }
}

fn link_of(number: u32) -> String {
    format!("p{number}")
}
