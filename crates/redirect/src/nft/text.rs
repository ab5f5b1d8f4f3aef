//! A table as `nft -f` reads it.

use std::fmt::{self, Display, Formatter};

use ipnet::IpNet;

use super::batch::hook_kind;
use super::{Chain, Match, Point, Rule, Table, Transport, Verdict, Version};

impl Display for Table {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(f, "table inet {} {{", self.name)?;
        for (i, chain) in self.chains.iter().enumerate() {
            if i > 0 {
                writeln!(f)?;
            }
            chain.fmt(f)?;
        }
        writeln!(f, "}}")
    }
}

impl Display for Chain {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(f, "\tchain {} {{", self.name)?;
        if let Some(h) = self.hook {
            let point = match h.point {
                Point::Prerouting => "prerouting",
                Point::Input => "input",
                Point::Forward => "forward",
                Point::Output => "output",
                Point::Postrouting => "postrouting",
            };
            writeln!(
                f,
                "\t\ttype {} hook {point} priority {}; policy accept;",
                hook_kind(h.kind),
                h.priority
            )?;
        }
        for rule in &self.rules {
            writeln!(f, "\t\t{rule}")?;
        }
        writeln!(f, "\t}}")
    }
}

impl Display for Rule {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let mut words: Vec<String> = Vec::new();
        let mut transport = None;
        for (i, m) in self.matches.iter().enumerate() {
            if let Match::Transport(t) = m {
                transport = Some(*t);
                // A port that follows names the protocol itself.
                let said = self.matches[i + 1..].iter().any(|m| {
                    matches!(
                        m,
                        Match::Port(_) | Match::NotPort(_) | Match::Ports(_) | Match::PortRange(..)
                    )
                });
                if !said {
                    words.push(format!("meta l4proto {}", transport_name(*t)));
                }
            } else {
                words.push(condition(m, transport));
            }
        }
        if self.counter {
            words.push("counter".to_owned());
        }
        if let Some(v) = verdict(&self.verdict) {
            words.push(v);
        }
        f.write_str(&words.join(" "))
    }
}

fn transport_name(t: Transport) -> &'static str {
    match t {
        Transport::Tcp => "tcp",
        Transport::Udp => "udp",
    }
}

fn condition(m: &Match, transport: Option<Transport>) -> String {
    let transport = transport.map_or("th", transport_name);
    let ip = |n: &IpNet| match n {
        IpNet::V4(_) => "ip",
        IpNet::V6(_) => "ip6",
    };
    match m {
        Match::Version(Version::V4) => "meta nfproto ipv4".to_owned(),
        Match::Version(Version::V6) => "meta nfproto ipv6".to_owned(),
        Match::Transport(t) => format!("meta l4proto {}", transport_name(*t)),
        Match::Source(n) => format!("{} saddr {}", ip(n), n.trunc()),
        Match::Destination(n) => format!("{} daddr {}", ip(n), n.trunc()),
        Match::NotDestination(n) => format!("{} daddr != {}", ip(n), n.trunc()),
        Match::Destinations(a) => {
            let family = if a.first().is_some_and(|a| a.is_ipv6()) {
                "ip6"
            } else {
                "ip"
            };
            format!("{family} daddr {{ {} }}", list(a))
        }
        Match::Port(p) => format!("{transport} dport {p}"),
        Match::NotPort(p) => format!("{transport} dport != {p}"),
        Match::Ports(p) => format!("{transport} dport {{ {} }}", list(p)),
        Match::PortRange(a, b) => format!("{transport} dport {a}-{b}"),
        Match::Mark(v) => format!("meta mark {v:#x}"),
        Match::NotMark(v) => format!("meta mark != {v:#x}"),
        Match::Uid(v) => format!("meta skuid {v}"),
        Match::NotUid(v) => format!("meta skuid != {v}"),
        Match::Gid(v) => format!("meta skgid {v}"),
        Match::NotGid(v) => format!("meta skgid != {v}"),
        Match::InLink(n) => format!("iifname \"{n}\""),
        Match::InLinkPrefix(n) => format!("iifname \"{n}*\""),
        Match::OutLink(n) => format!("oifname \"{n}\""),
        Match::OutLinkPrefix(n) => format!("oifname \"{n}*\""),
        Match::Established => "ct state established,related".to_owned(),
        Match::DestinationTranslated => "ct status dnat".to_owned(),
        Match::DestinationLocal => "fib daddr type local".to_owned(),
    }
}

fn verdict(v: &Verdict) -> Option<String> {
    Some(match v {
        Verdict::Accept => "accept".to_owned(),
        Verdict::Drop => "drop".to_owned(),
        Verdict::Return => "return".to_owned(),
        Verdict::Jump(c) => format!("jump {c}"),
        Verdict::Goto(c) => format!("goto {c}"),
        Verdict::RejectTcpReset => "reject with tcp reset".to_owned(),
        Verdict::Reject => "reject".to_owned(),
        Verdict::Redirect(p) => format!("redirect to :{p}"),
        Verdict::Dnat(t) => {
            let family = if t.first().is_some_and(|a| a.is_ipv6()) {
                "ip6"
            } else {
                "ip"
            };
            match t.as_slice() {
                [one] => format!("dnat {family} to {one}"),
                many => {
                    let map: Vec<String> = many
                        .iter()
                        .enumerate()
                        .map(|(i, a)| format!("{i} : {} . {}", a.ip(), a.port()))
                        .collect();
                    format!(
                        "dnat {family} to numgen inc mod {} map {{ {} }}",
                        many.len(),
                        map.join(", ")
                    )
                }
            }
        }
        Verdict::Masquerade => "masquerade".to_owned(),
        Verdict::SetMark(m) => format!("meta mark set {m:#x}"),
        Verdict::Continue => return None,
    })
}

fn list<T: ToString>(items: impl IntoIterator<Item = T>) -> String {
    items
        .into_iter()
        .map(|i| i.to_string())
        .collect::<Vec<_>>()
        .join(", ")
}
