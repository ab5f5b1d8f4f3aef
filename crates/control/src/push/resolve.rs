//! What the names of gateways resolve to, as far as snapshots depend on it.
//!
//! A ServiceEntry may name another cluster's gateway by DNS, and a load balancer may have a name instead of
//! an address. Both are looked up here and followed; the names of traffic are resolved by the proxies.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use isthmus_model::{EndpointAddress, Hostname};
use tokio::sync::watch;

use crate::peering::listed;
use crate::registry::gateways::PASSTHROUGH_PORT;
use crate::registry::mesh_hop::ResolvedNames;
use crate::snapshot::Snapshot;

/// How often names are looked up again.
const REFRESH: Duration = Duration::from_secs(30);
/// The same after one that did not resolve.
const RETRY: Duration = Duration::from_millis(500);
/// One look-up takes no longer.
const PATIENCE: Duration = Duration::from_secs(5);
/// More names than this are not looked up.
const MOST: usize = 1000;

/// Names that a snapshot depends on: endpoints on the port of gateways, and gateways.
pub fn wanted(snapshot: &Snapshot) -> BTreeSet<Hostname> {
    let listed = listed::addresses(&snapshot.listed);
    let peers = snapshot.peers.members.values().map(|p| &p.state.head);
    let heads: Vec<_> = peers.chain([&snapshot.registry.exported.head]).collect();
    let of_gateways = heads
        .iter()
        .flat_map(|h| h.gateways.iter().map(|g| (&g.address, g.port)));
    let of_others = heads
        .iter()
        .flat_map(|h| h.passthrough.iter().map(|(a, p)| (a, *p)));
    let known: Vec<_> = of_gateways
        .chain(of_others)
        .chain(listed.iter().map(|(a, p)| (a, *p)))
        .collect();
    let ports: BTreeSet<u16> = known
        .iter()
        .map(|(_, port)| *port)
        .chain([PASSTHROUGH_PORT])
        .collect();
    let listed = snapshot.aside.listed.values().flatten();
    let endpoints = listed.filter(|e| ports.contains(&e.port)).map(|e| &e.address);
    let names = known
        .iter()
        .map(|(address, _)| *address)
        .chain(endpoints)
        .filter_map(|a| match a {
            EndpointAddress::Host(host) => Some(host.clone()),
            _ => None,
        });
    names.take(MOST).collect()
}

/// Looks names up until the receiver is gone. A name that does not resolve now keeps what it resolved to.
pub async fn run(mut names: watch::Receiver<BTreeSet<Hostname>>, resolved: watch::Sender<ResolvedNames>) {
    loop {
        let now = names.borrow_and_update().clone();
        let mut found: BTreeMap<Hostname, BTreeSet<IpAddr>> = BTreeMap::new();
        let mut failed = false;
        for name in now {
            let lookup = tokio::net::lookup_host((name.as_str().to_owned(), 0));
            let ips: BTreeSet<IpAddr> = match tokio::time::timeout(PATIENCE, lookup).await {
                Ok(Ok(addresses)) => addresses.map(|a| a.ip()).collect(),
                Ok(Err(_)) | Err(_) => BTreeSet::new(),
            };
            let ips = if ips.is_empty() {
                tracing::debug!(%name, "the name of a gateway does not resolve");
                failed = true;
                resolved.borrow().get(&name).cloned().unwrap_or_default()
            } else {
                ips
            };
            found.insert(name, ips);
        }
        resolved.send_if_modified(|old| {
            let changed = *old != found;
            *old = found;
            changed
        });
        let pause = if failed { RETRY } else { REFRESH };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            changed = names.changed() => if changed.is_err() { return },
            () = resolved.closed() => return,
        }
    }
}
