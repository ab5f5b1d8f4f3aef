//! The plan as `iptables-restore` reads it, for those who want to compare it with Istio's.

use std::fmt::Write;

use super::Plan;
use crate::nft::{Match, Point, Rule, Transport, Verdict, Version};

/// The `multiport` match takes this many.
const MULTIPORT_MAX: usize = 15;

impl Plan {
    /// The `nat` table for one IP version, in the form of `iptables-save`.
    pub fn iptables(&self, version: Version) -> String {
        let table = self.table();
        let mut out = String::from("*nat\n");
        for chain in &table.chains {
            if chain.hook.is_none() {
                let _ = writeln!(out, ":{} - [0:0]", chain.name);
            }
        }
        for chain in &table.chains {
            let name = match chain.hook.map(|h| h.point) {
                Some(Point::Prerouting) => "PREROUTING",
                Some(Point::Output) => "OUTPUT",
                _ => chain.name.as_str(),
            };
            for rule in &chain.rules {
                for line in lines(rule, version) {
                    let _ = writeln!(out, "-A {name}{line}");
                }
            }
        }
        out.push_str("COMMIT\n");
        out
    }
}

/// One nft rule may be several of iptables (a set longer than `multiport` takes) or none (the other version).
fn lines(rule: &Rule, version: Version) -> Vec<String> {
    let mut lines = vec![String::new()];
    let mut push = |words: &[String]| {
        lines = lines
            .iter()
            .flat_map(|l| words.iter().map(move |w| format!("{l} {w}")))
            .collect();
    };
    for m in &rule.matches {
        let same = |v6: bool| v6 == (version == Version::V6);
        let word = match m {
            Match::Version(v) if *v == version => continue,
            Match::Version(_) => return Vec::new(),
            Match::Source(n) | Match::Destination(n) | Match::NotDestination(n)
                if !same(n.addr().is_ipv6()) =>
            {
                return Vec::new();
            }
            Match::Source(n) => format!("-s {n}"),
            Match::Destination(n) => format!("-d {n}"),
            Match::NotDestination(n) => format!("! -d {n}"),
            Match::Transport(Transport::Tcp) => "-p tcp".to_owned(),
            Match::Transport(Transport::Udp) => "-p udp".to_owned(),
            Match::Port(p) => format!("--dport {p}"),
            Match::NotPort(p) => format!("-m multiport ! --dports {p}"),
            Match::PortRange(a, b) => format!("--dport {a}:{b}"),
            Match::Ports(ports) => {
                let all: Vec<String> = ports.iter().map(u16::to_string).collect();
                let words: Vec<String> = all
                    .chunks(MULTIPORT_MAX)
                    .map(|c| format!("-m multiport --dports {}", c.join(",")))
                    .collect();
                push(&words);
                continue;
            }
            Match::Destinations(addresses) => {
                let words: Vec<String> = addresses
                    .iter()
                    .filter(|a| same(a.is_ipv6()))
                    .map(|a| format!("-d {a}"))
                    .collect();
                push(&words);
                continue;
            }
            Match::Mark(v) => format!("-m mark --mark {v:#x}"),
            Match::NotMark(v) => format!("-m mark ! --mark {v:#x}"),
            Match::Uid(v) => format!("-m owner --uid-owner {v}"),
            Match::NotUid(v) => format!("-m owner ! --uid-owner {v}"),
            Match::Gid(v) => format!("-m owner --gid-owner {v}"),
            Match::NotGid(v) => format!("-m owner ! --gid-owner {v}"),
            Match::InLink(n) => format!("-i {n}"),
            Match::InLinkPrefix(n) => format!("-i {n}+"),
            Match::OutLink(n) => format!("-o {n}"),
            Match::OutLinkPrefix(n) => format!("-o {n}+"),
            Match::Established => "-m conntrack --ctstate ESTABLISHED,RELATED".to_owned(),
            Match::DestinationTranslated => "-m conntrack --ctstate DNAT".to_owned(),
            Match::DestinationLocal => "-m addrtype --dst-type LOCAL".to_owned(),
        };
        push(&[word]);
    }
    let target = match &rule.verdict {
        Verdict::Accept => "-j ACCEPT".to_owned(),
        Verdict::Drop => "-j DROP".to_owned(),
        Verdict::Return => "-j RETURN".to_owned(),
        Verdict::Jump(c) => format!("-j {c}"),
        Verdict::Goto(c) => format!("-g {c}"),
        Verdict::RejectTcpReset => "-j REJECT --reject-with tcp-reset".to_owned(),
        Verdict::Reject => "-j REJECT".to_owned(),
        Verdict::Redirect(p) => format!("-j REDIRECT --to-ports {p}"),
        Verdict::Masquerade => "-j MASQUERADE".to_owned(),
        Verdict::SetMark(v) => format!("-j MARK --set-mark {v:#x}"),
        Verdict::Dnat(targets) => {
            return lines
                .iter()
                .flat_map(|l| {
                    let count = targets.len();
                    targets.iter().enumerate().map(move |(i, t)| match count - i {
                        1 => format!("{l} -j DNAT --to-destination {t}"),
                        left => format!("{l} -m statistic --mode nth --every {left} --packet 0 -j DNAT --to-destination {t}"),
                    })
                })
                .collect();
        }
        Verdict::Continue => return lines,
    };
    push(&[target]);
    lines
}
