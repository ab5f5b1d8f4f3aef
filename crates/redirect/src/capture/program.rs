//! The plan as an nf_tables program.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use super::{NEVER_INBOUND, Plan, Selection, TABLE};
use crate::nft::{Chain, Kind, Match, Point, Table, Transport, Verdict, Version};

pub(super) const INBOUND: &str = "ISTIO_INBOUND";
pub(super) const OUTPUT: &str = "ISTIO_OUTPUT";
pub(super) const REDIRECT: &str = "ISTIO_REDIRECT";
pub(super) const IN_REDIRECT: &str = "ISTIO_IN_REDIRECT";

/// Priority of destination NAT (`NF_IP_PRI_NAT_DST`).
const NAT_DST: i32 = -100;
const DNS: u16 = 53;
const HBONE: u16 = 15008;
/// Source of what the proxy hands to the application beside it.
const PASSTHROUGH: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(127, 0, 0, 6)),
    IpAddr::V6(Ipv6Addr::new(0, 0, 0, 0, 0, 0, 0, 6)),
];
const LOCALHOST: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];

impl Plan {
    /// The program.
    pub fn table(&self) -> Table {
        let mut prerouting = Chain::base("prerouting", Kind::Nat, Point::Prerouting, NAT_DST);
        for link in &self.exclude_links {
            prerouting.rule([Match::InLink(link.clone())], Verdict::Return);
        }
        prerouting.rule(
            [Match::Transport(Transport::Tcp)],
            Verdict::Jump(INBOUND.to_owned()),
        );

        let mut output = Chain::base("output", Kind::Nat, Point::Output, NAT_DST);
        for link in &self.exclude_links {
            output.rule([Match::OutLink(link.clone())], Verdict::Return);
        }
        output.rule([], Verdict::Jump(OUTPUT.to_owned()));

        Table {
            name: TABLE.to_owned(),
            chains: vec![
                prerouting,
                output,
                self.inbound_chain(),
                self.output_chain(),
                redirection(REDIRECT, self.ports.outbound),
                redirection(IN_REDIRECT, self.ports.inbound),
            ],
        }
    }

    fn inbound_chain(&self) -> Chain {
        let mut c = Chain::regular(INBOUND);
        self.leave_ipv6(&mut c);
        let never: BTreeSet<u16> = NEVER_INBOUND
            .into_iter()
            .chain(self.exclude_inbound.iter().copied())
            .collect();
        c.rule([tcp(), Match::Ports(never)], Verdict::Return);
        match &self.inbound {
            Selection::All => {
                c.rule([tcp()], Verdict::Jump(IN_REDIRECT.to_owned()));
            }
            Selection::Only(ports) if ports.is_empty() => {}
            Selection::Only(ports) => {
                let ports = ports.iter().copied().collect();
                c.rule(
                    [tcp(), Match::Ports(ports)],
                    Verdict::Jump(IN_REDIRECT.to_owned()),
                );
            }
        }
        c
    }

    fn output_chain(&self) -> Chain {
        let mut c = Chain::regular(OUTPUT);
        self.leave_ipv6(&mut c);
        let lo = || Match::OutLink("lo".to_owned());
        if !self.exclude_outbound_ports.is_empty() {
            c.rule(
                [tcp(), Match::Ports(self.exclude_outbound_ports.clone())],
                Verdict::Return,
            );
        }
        for source in self.versions(PASSTHROUGH) {
            c.rule([lo(), Match::Source(source.into())], Verdict::Return);
        }

        // The proxy reaches the pod's own address when the application calls its own service: that is
        // inbound, and meets the inbound policy. What the proxy says to localhost is its own affair.
        for own in self.own() {
            for localhost in self.versions(LOCALHOST) {
                let mut m = vec![lo(), Match::NotDestination(localhost.into()), tcp()];
                if self.ports.dns.is_some() {
                    m.push(Match::NotPort(DNS));
                }
                m.extend([Match::NotPort(HBONE), own.clone()]);
                c.rule(m, Verdict::Jump(IN_REDIRECT.to_owned()));
            }
        }
        for own in self.own() {
            c.rule([own], Verdict::Return);
        }
        // The application calling itself, except for a resolver that listens on localhost.
        if self.ports.dns.is_some() {
            c.rule([lo(), tcp(), Match::NotPort(DNS)], Verdict::Return);
        } else {
            c.rule([lo()], Verdict::Return);
        }

        if let Some(port) = self.ports.dns {
            for transport in [Transport::Udp, Transport::Tcp] {
                let dns = [Match::Transport(transport), Match::Port(DNS)];
                match &self.resolvers {
                    Selection::All => {
                        c.rule(dns, Verdict::Redirect(port));
                    }
                    Selection::Only(servers) => {
                        for server in self.versions(servers.iter().copied()) {
                            let mut m = vec![Match::Destination(server.into())];
                            m.extend(dns.clone());
                            c.rule(m, Verdict::Redirect(port));
                        }
                    }
                }
            }
        }

        for localhost in self.versions(LOCALHOST) {
            c.rule([Match::Destination(localhost.into())], Verdict::Return);
        }
        for net in self.ranges(&self.exclude_outbound) {
            c.rule([Match::Destination(net)], Verdict::Return);
        }
        let captured = || Verdict::Jump(REDIRECT.to_owned());
        if !self.include_outbound_ports.is_empty() {
            c.rule(
                [tcp(), Match::Ports(self.include_outbound_ports.clone())],
                captured(),
            );
        }
        match &self.outbound {
            Selection::All => {
                c.rule([tcp()], captured());
            }
            Selection::Only(nets) => {
                for net in self.ranges(nets) {
                    c.rule([Match::Destination(net), tcp()], captured());
                }
            }
        }
        c
    }

    fn leave_ipv6(&self, chain: &mut Chain) {
        if !self.ipv6 {
            chain.rule([Match::Version(Version::V6)], Verdict::Return);
        }
    }

    /// What tells the proxy's own traffic.
    fn own(&self) -> Vec<Match> {
        let e = &self.exempt;
        e.mark
            .map(Match::Mark)
            .into_iter()
            .chain(e.uids.iter().copied().map(Match::Uid))
            .chain(e.gids.iter().copied().map(Match::Gid))
            .collect()
    }

    fn versions(&self, addresses: impl IntoIterator<Item = IpAddr>) -> Vec<IpAddr> {
        addresses
            .into_iter()
            .filter(|a| self.ipv6 || a.is_ipv4())
            .collect()
    }

    fn ranges(&self, nets: &[IpNet]) -> Vec<IpNet> {
        nets.iter()
            .copied()
            .filter(|n| self.ipv6 || n.addr().is_ipv4())
            .collect()
    }
}

fn tcp() -> Match {
    Match::Transport(Transport::Tcp)
}

fn redirection(name: &str, port: u16) -> Chain {
    let mut c = Chain::regular(name);
    c.counted([tcp()], Verdict::Redirect(port));
    c
}
