//! A rule as nf_tables expressions, and the anonymous sets it looks things up in.
//!
//! Numbers are those of `linux/netfilter/nf_tables.h`. Register 1 (four words) holds what is being
//! compared; an address and a port for NAT lie side by side from its first word.

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

use super::{Match, Rule, Transport, Verdict, Version};
use crate::netlink::Message;
use crate::rtnetlink::octets;

/// `NFT_REG_1`.
const REG: u32 = libc::NFT_REG_1 as u32;
/// `NFT_REG_VERDICT`.
const REG_VERDICT: u32 = libc::NFT_REG_VERDICT as u32;
/// `NFT_REG32_00`, the first word of register 1.
const WORD_0: u32 = libc::NFT_REG32_00 as u32;

const NFTA_LIST_ELEM: u16 = 1;
const NFTA_EXPR_NAME: u16 = 1;
const NFTA_EXPR_DATA: u16 = 2;
const NFTA_DATA_VALUE: u16 = 1;
const NFTA_DATA_VERDICT: u16 = 2;
const NFTA_VERDICT_CODE: u16 = 1;
const NFTA_VERDICT_CHAIN: u16 = 2;

const META_MARK: u32 = libc::NFT_META_MARK as u32;
const META_IIFNAME: u32 = libc::NFT_META_IIFNAME as u32;
const META_OIFNAME: u32 = libc::NFT_META_OIFNAME as u32;
const META_SKUID: u32 = libc::NFT_META_SKUID as u32;
const META_SKGID: u32 = libc::NFT_META_SKGID as u32;
const META_NFPROTO: u32 = libc::NFT_META_NFPROTO as u32;
const META_L4PROTO: u32 = libc::NFT_META_L4PROTO as u32;

const CMP_EQ: u32 = libc::NFT_CMP_EQ as u32;
const CMP_NEQ: u32 = libc::NFT_CMP_NEQ as u32;
const CMP_LTE: u32 = libc::NFT_CMP_LTE as u32;
const CMP_GTE: u32 = libc::NFT_CMP_GTE as u32;

const NETWORK_HEADER: u32 = libc::NFT_PAYLOAD_NETWORK_HEADER as u32;
const TRANSPORT_HEADER: u32 = libc::NFT_PAYLOAD_TRANSPORT_HEADER as u32;

/// Data types by which `nft` shows sets; the kernel keeps them without reading them.
const TYPE_INTEGER: u32 = 4;
const TYPE_IPV4: u32 = 7;
const TYPE_IPV6: u32 = 8;
const TYPE_SERVICE: u32 = 13;
/// Bits by which a concatenation's types are shifted.
const TYPE_BITS: u32 = 6;

/// An anonymous set or map that a rule needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Set {
    /// Number, unique in the batch, by which the rule refers to it.
    pub(super) id: u32,
    pub(super) key_type: u32,
    pub(super) key_length: u32,
    /// Type and length of what keys map to.
    pub(super) data: Option<(u32, u32)>,
    /// Keys, with what they map to.
    pub(super) elements: Vec<(Vec<u8>, Option<Vec<u8>>)>,
}

/// Gives out set numbers over a batch and keeps the sets of the rule at hand.
#[derive(Debug, Default)]
pub(super) struct Sets {
    pub(super) last: u32,
    pub(super) wanted: Vec<Set>,
}

impl Sets {
    fn add(&mut self, set: impl FnOnce(u32) -> Set) -> u32 {
        self.last += 1;
        self.wanted.push(set(self.last));
        self.last
    }
}

/// The sets that `rule` needs, in the order in which it refers to them.
pub(super) fn sets_of(rule: &Rule, sets: &mut Sets) {
    // The expressions are written twice: once to learn the sets, which must be sent first. A rule is
    // a few hundred bytes.
    let mut scratch = Message::new(0, 0);
    write(rule, sets, &mut scratch);
}

/// Writes the expressions of `rule`; the sets it needs are added to `sets`.
pub(super) fn write(rule: &Rule, sets: &mut Sets, m: &mut Message) {
    let mut known = Known::default();
    for condition in &rule.matches {
        matching(condition, &mut known, sets, m);
    }
    if rule.counter {
        expression(m, "counter", |_| {});
    }
    act(&rule.verdict, sets, m);
}

/// What the expressions so far have established, so that it is not asked twice.
#[derive(Default)]
struct Known {
    version: Option<Version>,
}

impl Known {
    fn require(&mut self, version: Version, m: &mut Message) {
        if self.version != Some(version) {
            self.version = Some(version);
            load_meta(m, META_NFPROTO);
            let number = match version {
                Version::V4 => libc::NFPROTO_IPV4,
                Version::V6 => libc::NFPROTO_IPV6,
            };
            compare(m, CMP_EQ, &[number as u8]);
        }
    }
}

fn matching(condition: &Match, known: &mut Known, sets: &mut Sets, m: &mut Message) {
    let number = |m: &mut Message, key: u32, operator: u32, value: u32| {
        load_meta(m, key);
        compare(m, operator, &value.to_ne_bytes());
    };
    match condition {
        Match::Version(v) => known.require(*v, m),
        Match::Transport(t) => {
            load_meta(m, META_L4PROTO);
            compare(m, CMP_EQ, &[transport_number(*t)]);
        }
        Match::Source(net) => address(m, known, *net, true, CMP_EQ),
        Match::Destination(net) => address(m, known, *net, false, CMP_EQ),
        Match::NotDestination(net) => address(m, known, *net, false, CMP_NEQ),
        Match::Destinations(addresses) => {
            let v6 = addresses.first().is_some_and(IpAddr::is_ipv6);
            known.require(if v6 { Version::V6 } else { Version::V4 }, m);
            let (offset, length) = field(v6, false);
            load_payload(m, NETWORK_HEADER, offset, length);
            let id = sets.add(|id| Set {
                id,
                key_type: if v6 { TYPE_IPV6 } else { TYPE_IPV4 },
                key_length: length,
                data: None,
                elements: addresses.iter().map(|a| (octets(*a), None)).collect(),
            });
            lookup(m, id, None);
        }
        Match::Port(p) => port(m, CMP_EQ, *p),
        Match::NotPort(p) => port(m, CMP_NEQ, *p),
        Match::PortRange(first, last) => {
            load_payload(m, TRANSPORT_HEADER, 2, 2);
            compare(m, CMP_GTE, &first.to_be_bytes());
            compare(m, CMP_LTE, &last.to_be_bytes());
        }
        Match::Ports(ports) => {
            load_payload(m, TRANSPORT_HEADER, 2, 2);
            let id = sets.add(|id| Set {
                id,
                key_type: TYPE_SERVICE,
                key_length: 2,
                data: None,
                elements: ports.iter().map(|p| (p.to_be_bytes().to_vec(), None)).collect(),
            });
            lookup(m, id, None);
        }
        Match::Mark(v) => number(m, META_MARK, CMP_EQ, *v),
        Match::NotMark(v) => number(m, META_MARK, CMP_NEQ, *v),
        Match::Uid(v) => number(m, META_SKUID, CMP_EQ, *v),
        Match::NotUid(v) => number(m, META_SKUID, CMP_NEQ, *v),
        Match::Gid(v) => number(m, META_SKGID, CMP_EQ, *v),
        Match::NotGid(v) => number(m, META_SKGID, CMP_NEQ, *v),
        Match::InLink(name) => link(m, META_IIFNAME, name, true),
        Match::InLinkPrefix(name) => link(m, META_IIFNAME, name, false),
        Match::OutLink(name) => link(m, META_OIFNAME, name, true),
        Match::OutLinkPrefix(name) => link(m, META_OIFNAME, name, false),
        // ip_conntrack_info: NF_CT_STATE_BIT is 1 << (n % 3 + 1), established 0, related 1.
        Match::Established => bits(m, libc::NFT_CT_STATE as u32, 0b110),
        // IPS_DST_NAT.
        Match::DestinationTranslated => bits(m, libc::NFT_CT_STATUS as u32, 1 << 5),
        Match::DestinationLocal => {
            const FIB_RESULT_ADDRTYPE: u32 = 3;
            const FIB_F_DADDR: u32 = 1 << 1;
            expression(m, "fib", |m| {
                m.be32(1, REG).be32(2, FIB_RESULT_ADDRTYPE).be32(3, FIB_F_DADDR);
            });
            compare(m, CMP_EQ, &u32::from(libc::RTN_LOCAL).to_ne_bytes());
        }
    }
}

fn act(verdict: &Verdict, sets: &mut Sets, m: &mut Message) {
    match verdict {
        Verdict::Accept => decide(m, libc::NF_ACCEPT, None),
        Verdict::Drop => decide(m, libc::NF_DROP, None),
        Verdict::Return => decide(m, libc::NFT_RETURN, None),
        Verdict::Jump(chain) => decide(m, libc::NFT_JUMP, Some(chain)),
        Verdict::Goto(chain) => decide(m, libc::NFT_GOTO, Some(chain)),
        Verdict::RejectTcpReset => reject(m, libc::NFT_REJECT_TCP_RST as u32, None),
        Verdict::Reject => {
            reject(
                m,
                libc::NFT_REJECT_ICMPX_UNREACH as u32,
                Some(libc::NFT_REJECT_ICMPX_PORT_UNREACH as u8),
            );
        }
        Verdict::Redirect(port) => {
            immediate(m, REG, &port.to_be_bytes());
            expression(m, "redir", |m| {
                m.be32(1, REG).be32(2, REG).be32(3, RANGE_PROTO_SPECIFIED);
            });
        }
        Verdict::Dnat(targets) => translate(m, sets, targets),
        Verdict::Masquerade => expression(m, "masq", |_| {}),
        Verdict::SetMark(mark) => {
            immediate(m, REG, &mark.to_ne_bytes());
            expression(m, "meta", |m| {
                m.be32(2, META_MARK).be32(3, REG);
            });
        }
        Verdict::Continue => {}
    }
}

/// `NF_NAT_RANGE_MAP_IPS`.
const RANGE_MAP_IPS: u32 = 1;
/// `NF_NAT_RANGE_PROTO_SPECIFIED`.
const RANGE_PROTO_SPECIFIED: u32 = 2;

/// To the only target, or to the next of several: `numgen inc mod N map { 0 : A . P, ... }`.
fn translate(m: &mut Message, sets: &mut Sets, targets: &[SocketAddr]) {
    const NUMGEN_INC: u32 = 0;
    let Some(first) = targets.first() else { return };
    let v6 = first.is_ipv6();
    let (length, address_type, family) = if v6 {
        (16_u32, TYPE_IPV6, libc::NFPROTO_IPV6)
    } else {
        (4_u32, TYPE_IPV4, libc::NFPROTO_IPV4)
    };
    // The port lies in the word behind the address; for IPv6 that word begins register 2.
    let port_register = if v6 { libc::NFT_REG_2 as u32 } else { WORD_0 + 1 };
    if targets.len() == 1 {
        immediate(m, REG, &octets(first.ip()));
        immediate(m, port_register, &first.port().to_be_bytes());
    } else {
        expression(m, "numgen", |m| {
            m.be32(1, REG)
                .be32(2, targets.len() as u32)
                .be32(3, NUMGEN_INC)
                .be32(4, 0);
        });
        let id = sets.add(|id| Set {
            id,
            key_type: TYPE_INTEGER,
            key_length: 4,
            data: Some(((address_type << TYPE_BITS) | TYPE_SERVICE, length + 4)),
            elements: targets
                .iter()
                .enumerate()
                .map(|(i, t)| {
                    let mut data = octets(t.ip());
                    data.extend_from_slice(&t.port().to_be_bytes());
                    data.extend_from_slice(&[0, 0]);
                    ((i as u32).to_ne_bytes().to_vec(), Some(data))
                })
                .collect(),
        });
        lookup(m, id, Some(REG));
    }
    const NAT_DNAT: u32 = 1;
    expression(m, "nat", |m| {
        m.be32(1, NAT_DNAT)
            .be32(2, family as u32)
            .be32(3, REG)
            .be32(4, REG)
            .be32(5, port_register)
            .be32(6, port_register)
            .be32(7, RANGE_MAP_IPS | RANGE_PROTO_SPECIFIED);
    });
}

fn transport_number(t: Transport) -> u8 {
    match t {
        Transport::Tcp => libc::IPPROTO_TCP as u8,
        Transport::Udp => libc::IPPROTO_UDP as u8,
    }
}

/// Offset and length of an address in the IP header.
fn field(v6: bool, source: bool) -> (u32, u32) {
    match (v6, source) {
        (false, true) => (12, 4),
        (false, false) => (16, 4),
        (true, true) => (8, 16),
        (true, false) => (24, 16),
    }
}

fn address(m: &mut Message, known: &mut Known, net: IpNet, source: bool, operator: u32) {
    let v6 = matches!(net, IpNet::V6(_));
    known.require(if v6 { Version::V6 } else { Version::V4 }, m);
    let (offset, length) = field(v6, source);
    load_payload(m, NETWORK_HEADER, offset, length);
    if net.prefix_len() < net.max_prefix_len() {
        mask(m, &octets(net.netmask()));
    }
    compare(m, operator, &octets(net.network()));
}

fn port(m: &mut Message, operator: u32, port: u16) {
    load_payload(m, TRANSPORT_HEADER, 2, 2);
    compare(m, operator, &port.to_be_bytes());
}

fn link(m: &mut Message, key: u32, name: &str, whole: bool) {
    load_meta(m, key);
    let mut bytes = name.as_bytes().to_vec();
    if whole {
        bytes.resize(libc::IFNAMSIZ, 0);
    }
    compare(m, CMP_EQ, &bytes);
}

/// Any of `wanted` is set in a field of the connection.
fn bits(m: &mut Message, key: u32, wanted: u32) {
    expression(m, "ct", |m| {
        m.be32(1, REG).be32(2, key);
    });
    mask(m, &wanted.to_ne_bytes());
    compare(m, CMP_NEQ, &0_u32.to_ne_bytes());
}

fn load_meta(m: &mut Message, key: u32) {
    expression(m, "meta", |m| {
        m.be32(1, REG).be32(2, key);
    });
}

fn load_payload(m: &mut Message, base: u32, offset: u32, length: u32) {
    expression(m, "payload", |m| {
        m.be32(1, REG).be32(2, base).be32(3, offset).be32(4, length);
    });
}

fn compare(m: &mut Message, operator: u32, value: &[u8]) {
    expression(m, "cmp", |m| {
        m.be32(1, REG).be32(2, operator).nest(3, |m| {
            m.bytes(NFTA_DATA_VALUE, value);
        });
    });
}

fn mask(m: &mut Message, mask: &[u8]) {
    expression(m, "bitwise", |m| {
        m.be32(1, REG)
            .be32(2, REG)
            .be32(3, mask.len() as u32)
            .nest(4, |m| {
                m.bytes(NFTA_DATA_VALUE, mask);
            })
            .nest(5, |m| {
                m.bytes(NFTA_DATA_VALUE, &vec![0; mask.len()]);
            });
    });
}

fn lookup(m: &mut Message, id: u32, into: Option<u32>) {
    expression(m, "lookup", |m| {
        m.text(1, ANONYMOUS).be32(2, REG);
        if let Some(register) = into {
            m.be32(3, register);
        }
        m.be32(4, id);
    });
}

/// The kernel gives anonymous sets numbers in the place of `%d`.
pub(super) const ANONYMOUS: &str = "__set%d";

fn immediate(m: &mut Message, register: u32, value: &[u8]) {
    expression(m, "immediate", |m| {
        m.be32(1, register).nest(2, |m| {
            m.bytes(NFTA_DATA_VALUE, value);
        });
    });
}

fn decide(m: &mut Message, code: i32, chain: Option<&str>) {
    expression(m, "immediate", |m| {
        m.be32(1, REG_VERDICT).nest(2, |m| {
            m.nest(NFTA_DATA_VERDICT, |m| {
                m.be32(NFTA_VERDICT_CODE, code as u32);
                if let Some(c) = chain {
                    m.text(NFTA_VERDICT_CHAIN, c);
                }
            });
        });
    });
}

fn reject(m: &mut Message, kind: u32, code: Option<u8>) {
    expression(m, "reject", |m| {
        m.be32(1, kind);
        if let Some(c) = code {
            m.bytes(2, &[c]);
        }
    });
}

fn expression(m: &mut Message, name: &str, data: impl FnOnce(&mut Message)) {
    m.nest(NFTA_LIST_ELEM, |m| {
        m.text(NFTA_EXPR_NAME, name).nest(NFTA_EXPR_DATA, data);
    });
}
