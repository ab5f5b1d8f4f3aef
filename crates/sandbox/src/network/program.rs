//! The rules of routers and of the internet, as nf_tables programs. Pure.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};

use isthmus_model::ClusterId;
use isthmus_redirect::nft::{Chain, Kind, Match, Point, TARGETS_MAX, Table, Transport, Verdict};

use super::Target;
use super::addresses::{ClusterAddresses, host};
use super::cluster::UPLINK;
use crate::plan::VirtualAddress;

const NAT_DST: i32 = -100;
const NAT_SRC: i32 = 100;
const FILTER: i32 = 0;
/// Before connection tracking's users: a dropped packet has no effect on anything.
const EARLY: i32 = -300;

/// A router: Services translated, what leaves masqueraded, what comes uninvited dropped.
pub(super) fn router(
    addresses: &ClusterAddresses,
    balancers: &[VirtualAddress],
    services: &[VirtualAddress],
    pods: impl Iterator<Item = (Ipv4Addr, String)>,
) -> Table {
    let mut dnat = Chain::base("services", Kind::Nat, Point::Prerouting, NAT_DST);
    for address in balancers.iter().chain(services) {
        for port in address.ports.iter().filter(|p| !p.targets.is_empty()) {
            let transport = if port.udp { Transport::Udp } else { Transport::Tcp };
            let targets: Vec<SocketAddr> = port
                .targets
                .iter()
                .take(TARGETS_MAX)
                .map(|(a, p)| SocketAddr::from((*a, *p)))
                .collect();
            dnat.counted(
                [
                    Match::Destination(host(address.address)),
                    Match::Transport(transport),
                    Match::Port(port.port),
                ],
                Verdict::Dnat(targets),
            );
        }
    }

    let mut snat = Chain::base("leaving", Kind::Nat, Point::Postrouting, NAT_SRC);
    snat.rule([Match::OutLink(UPLINK.to_owned())], Verdict::Masquerade);
    for (pod, link) in pods {
        // A pod that calls a Service and is given itself would see its own address as the caller's.
        snat.rule(
            [Match::Source(host(pod)), Match::OutLink(link)],
            Verdict::Masquerade,
        );
    }

    let mut filter = Chain::base("uninvited", Kind::Filter, Point::Forward, FILTER);
    filter.rule([Match::Established], Verdict::Accept);
    filter.rule([Match::DestinationTranslated], Verdict::Accept);
    filter.counted([Match::InLink(UPLINK.to_owned())], Verdict::Drop);
    filter.rule(
        [
            Match::OutLink(UPLINK.to_owned()),
            Match::Source(addresses.pods.into()),
        ],
        Verdict::Accept,
    );
    Table {
        name: "router".to_owned(),
        chains: vec![dnat, snat, filter],
    }
}

/// In the internet: public addresses and links between clusters that are cut off.
pub(super) fn internet_faults<'a>(
    dropped: &BTreeSet<Target>,
    link_of: impl Fn(&ClusterId) -> Option<&'a str>,
) -> Table {
    let mut chains = everywhere();
    for target in dropped {
        match target {
            Target::LoadBalancer(a) => cut(&mut chains, *a),
            Target::ClusterLink(a, b) => {
                let (Some(a), Some(b)) = (link_of(a), link_of(b)) else {
                    continue;
                };
                for (from, to) in [(a, b), (b, a)] {
                    chains[FORWARD].counted(
                        [Match::InLink(from.to_owned()), Match::OutLink(to.to_owned())],
                        Verdict::Drop,
                    );
                }
            }
            Target::Pod(_) => {}
        }
    }
    Table {
        name: "faults".to_owned(),
        chains: chains.into(),
    }
}

/// In a router: pods that are cut off.
pub(super) fn router_faults(pods: impl Iterator<Item = Ipv4Addr>) -> Table {
    let mut chains = everywhere();
    for pod in pods {
        cut(&mut chains, pod);
    }
    Table {
        name: "faults".to_owned(),
        chains: chains.into(),
    }
}

/// Index of the chain for what is passed on, in [`everywhere`].
const FORWARD: usize = 1;

fn everywhere() -> [Chain; 3] {
    [
        Chain::base("input", Kind::Filter, Point::Input, EARLY),
        Chain::base("forward", Kind::Filter, Point::Forward, EARLY),
        Chain::base("output", Kind::Filter, Point::Output, EARLY),
    ]
}

fn cut(chains: &mut [Chain; 3], address: Ipv4Addr) {
    for chain in chains {
        chain.counted([Match::Destination(host(address))], Verdict::Drop);
        chain.counted([Match::Source(host(address))], Verdict::Drop);
    }
}
