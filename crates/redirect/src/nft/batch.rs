//! A table as one transaction.

use std::net::IpAddr;

use super::expression::{ANONYMOUS, Set, Sets, sets_of, write};
use super::{Chain, Kind, Match, NAME_MAX, Point, Rule, TARGETS_MAX, Table, Verdict};
use crate::netlink::{Batch, Message, Protocol, Socket, Subject};
use crate::{Error, Result};

pub(super) const NFTA_TABLE_NAME: u16 = 1;
pub(super) const NFTA_CHAIN_TABLE: u16 = 1;
pub(super) const NFTA_CHAIN_NAME: u16 = 3;
pub(super) const NFTA_CHAIN_HOOK: u16 = 4;
pub(super) const NFTA_CHAIN_POLICY: u16 = 5;
pub(super) const NFTA_CHAIN_TYPE: u16 = 7;
pub(super) const NFTA_HOOK_HOOKNUM: u16 = 1;
pub(super) const NFTA_HOOK_PRIORITY: u16 = 2;
pub(super) const NFTA_RULE_TABLE: u16 = 1;
pub(super) const NFTA_RULE_CHAIN: u16 = 2;
pub(super) const NFTA_RULE_EXPRESSIONS: u16 = 4;
pub(super) const NFTA_SET_TABLE: u16 = 1;
pub(super) const NFTA_SET_NAME: u16 = 2;
pub(super) const NFTA_SET_FLAGS: u16 = 3;
pub(super) const NFTA_SET_KEY_TYPE: u16 = 4;
pub(super) const NFTA_SET_KEY_LEN: u16 = 5;
pub(super) const NFTA_SET_DATA_TYPE: u16 = 6;
pub(super) const NFTA_SET_DATA_LEN: u16 = 7;
pub(super) const NFTA_SET_ID: u16 = 10;
pub(super) const NFTA_SET_ELEM_LIST_TABLE: u16 = 1;
pub(super) const NFTA_SET_ELEM_LIST_SET: u16 = 2;
pub(super) const NFTA_SET_ELEM_LIST_ELEMENTS: u16 = 3;
pub(super) const NFTA_SET_ELEM_LIST_SET_ID: u16 = 4;
pub(super) const NFTA_SET_ELEM_KEY: u16 = 1;
pub(super) const NFTA_SET_ELEM_DATA: u16 = 2;

const CREATE: u16 = libc::NLM_F_CREATE as u16;
const APPEND: u16 = (libc::NLM_F_CREATE | libc::NLM_F_APPEND) as u16;
/// Size of `nfgenmsg`.
pub(super) const NFGEN: usize = 4;
/// Elements are sent in messages of at most this many.
const ELEMENTS_AT_ONCE: usize = 500;
/// Most that one rule may look up.
const ELEMENTS_MAX: usize = 65_536;

/// Puts `table` in the place of whatever has its name, in the calling thread's network namespace: the
/// whole of it or, on an error, nothing.
pub fn replace(table: &Table) -> Result<()> {
    check(table)?;
    let mut batch = Transaction::begin();
    // Created so that it can be deleted whether or not it was there.
    batch.table(libc::NFT_MSG_NEWTABLE, table);
    batch.table(libc::NFT_MSG_DELTABLE, table);
    batch.table(libc::NFT_MSG_NEWTABLE, table);
    for chain in &table.chains {
        batch.chain(table, chain);
    }
    let mut sets = Sets::default();
    for chain in &table.chains {
        for (i, rule) in chain.rules.iter().enumerate() {
            batch.rule(table, chain, i, rule, &mut sets);
        }
    }
    batch.commit("program table", &table.name)
}

/// Removes a table with all it holds. One that is not there is no error.
pub fn delete(name: &str) -> Result<()> {
    let table = Table {
        name: name.to_owned(),
        chains: Vec::new(),
    };
    check(&table)?;
    let mut batch = Transaction::begin();
    batch.table(libc::NFT_MSG_NEWTABLE, &table);
    batch.table(libc::NFT_MSG_DELTABLE, &table);
    batch.commit("delete table", name)
}

/// `nfnl_msg_type` of an nf_tables message.
pub(super) fn kind(message: i32) -> u16 {
    ((libc::NFNL_SUBSYS_NFTABLES << 8) | message) as u16
}

/// `nfgenmsg` for family `inet`.
pub(super) fn inet() -> [u8; NFGEN] {
    [libc::NFPROTO_INET as u8, libc::NFNETLINK_V0 as u8, 0, 0]
}

struct Transaction {
    batch: Batch,
    /// What each message is about, for errors.
    about: Vec<String>,
}

impl Transaction {
    fn begin() -> Self {
        let mut t = Self {
            batch: Batch::default(),
            about: Vec::new(),
        };
        t.boundary(libc::NFNL_MSG_BATCH_BEGIN);
        t
    }

    fn boundary(&mut self, kind: i32) {
        let mut m = Message::new(kind as u16, 0);
        let subsystem = (libc::NFNL_SUBSYS_NFTABLES as u16).to_be_bytes();
        m.fixed(&[
            libc::AF_UNSPEC as u8,
            libc::NFNETLINK_V0 as u8,
            subsystem[0],
            subsystem[1],
        ]);
        self.push(m, "the transaction".to_owned());
    }

    fn push(&mut self, m: Message, about: String) {
        self.batch.push(m);
        self.about.push(about);
    }

    fn table(&mut self, message: i32, table: &Table) {
        let mut m = Message::new(
            kind(message),
            if message == libc::NFT_MSG_NEWTABLE {
                CREATE
            } else {
                0
            },
        );
        m.fixed(&inet()).text(NFTA_TABLE_NAME, &table.name);
        self.push(m, "the table itself".to_owned());
    }

    fn chain(&mut self, table: &Table, chain: &Chain) {
        let mut m = Message::new(kind(libc::NFT_MSG_NEWCHAIN), CREATE);
        m.fixed(&inet())
            .text(NFTA_CHAIN_TABLE, &table.name)
            .text(NFTA_CHAIN_NAME, &chain.name);
        if let Some(hook) = chain.hook {
            m.nest(NFTA_CHAIN_HOOK, |m| {
                m.be32(NFTA_HOOK_HOOKNUM, hook_number(hook.point))
                    .be32(NFTA_HOOK_PRIORITY, hook.priority as u32);
            });
            m.be32(NFTA_CHAIN_POLICY, libc::NF_ACCEPT as u32)
                .text(NFTA_CHAIN_TYPE, hook_kind(hook.kind));
        }
        self.push(m, format!("chain {}", chain.name));
    }

    fn rule(&mut self, table: &Table, chain: &Chain, index: usize, rule: &Rule, sets: &mut Sets) {
        let about = || format!("chain {}, rule {} `{rule}`", chain.name, index + 1);
        let before = sets.last;
        sets_of(rule, sets);
        for set in std::mem::take(&mut sets.wanted) {
            self.set(table, &set, &about());
        }
        let mut m = Message::new(kind(libc::NFT_MSG_NEWRULE), APPEND);
        m.fixed(&inet())
            .text(NFTA_RULE_TABLE, &table.name)
            .text(NFTA_RULE_CHAIN, &chain.name);
        // The second writing gives the same sets the same numbers.
        let mut again = Sets {
            last: before,
            wanted: Vec::new(),
        };
        m.nest(NFTA_RULE_EXPRESSIONS, |m| write(rule, &mut again, m));
        self.push(m, about());
    }

    fn set(&mut self, table: &Table, set: &Set, about: &str) {
        const NFT_SET_ANONYMOUS: u32 = 0x1;
        const NFT_SET_CONSTANT: u32 = 0x2;
        const NFT_SET_MAP: u32 = 0x8;
        let mut flags = NFT_SET_ANONYMOUS | NFT_SET_CONSTANT;
        let mut m = Message::new(kind(libc::NFT_MSG_NEWSET), CREATE);
        m.fixed(&inet())
            .text(NFTA_SET_TABLE, &table.name)
            .text(NFTA_SET_NAME, ANONYMOUS);
        if let Some((data_type, length)) = set.data {
            flags |= NFT_SET_MAP;
            m.be32(NFTA_SET_DATA_TYPE, data_type)
                .be32(NFTA_SET_DATA_LEN, length);
        }
        m.be32(NFTA_SET_FLAGS, flags)
            .be32(NFTA_SET_KEY_TYPE, set.key_type)
            .be32(NFTA_SET_KEY_LEN, set.key_length)
            .be32(NFTA_SET_ID, set.id);
        self.push(m, about.to_owned());
        for some in set.elements.chunks(ELEMENTS_AT_ONCE) {
            let mut m = Message::new(kind(libc::NFT_MSG_NEWSETELEM), CREATE);
            m.fixed(&inet())
                .text(NFTA_SET_ELEM_LIST_TABLE, &table.name)
                .text(NFTA_SET_ELEM_LIST_SET, ANONYMOUS)
                .be32(NFTA_SET_ELEM_LIST_SET_ID, set.id)
                .nest(NFTA_SET_ELEM_LIST_ELEMENTS, |m| {
                    for (key, data) in some {
                        m.nest(1, |m| {
                            m.nest(NFTA_SET_ELEM_KEY, |m| {
                                m.bytes(1, key);
                            });
                            if let Some(d) = data {
                                m.nest(NFTA_SET_ELEM_DATA, |m| {
                                    m.bytes(1, d);
                                });
                            }
                        });
                    }
                });
            self.push(m, about.to_owned());
        }
    }

    fn commit(mut self, operation: &'static str, name: &str) -> Result<()> {
        // The last message before the end is confirmed: the confirmation comes once all is committed.
        let confirmed = self.batch.len() - 1;
        self.batch.confirm_last();
        self.boundary(libc::NFNL_MSG_BATCH_END);
        let mut socket = Socket::open(Protocol::Netfilter)?;
        let Self { batch, about } = self;
        socket.batch(
            batch,
            confirmed,
            Subject {
                operation,
                object: name,
            },
            |i| about.get(i).cloned().unwrap_or_default(),
        )
    }
}

pub(super) fn hook_number(point: Point) -> u32 {
    (match point {
        Point::Prerouting => libc::NF_INET_PRE_ROUTING,
        Point::Input => libc::NF_INET_LOCAL_IN,
        Point::Forward => libc::NF_INET_FORWARD,
        Point::Output => libc::NF_INET_LOCAL_OUT,
        Point::Postrouting => libc::NF_INET_POST_ROUTING,
    }) as u32
}

pub(super) fn hook_kind(kind: Kind) -> &'static str {
    match kind {
        Kind::Nat => "nat",
        Kind::Filter => "filter",
    }
}

/// What the kernel would refuse without saying why, or accept and never match.
pub(super) fn check(table: &Table) -> Result<()> {
    let wrong = |reason: String| {
        Err(Error::Program {
            table: table.name.clone(),
            reason,
        })
    };
    let name_ok = |n: &str| !n.is_empty() && n.len() <= NAME_MAX && !n.bytes().any(|b| b == 0 || b == b'/');
    if !name_ok(&table.name) {
        return wrong("a table's name has 1 to 255 bytes, without '/'".to_owned());
    }
    for (i, chain) in table.chains.iter().enumerate() {
        if !name_ok(&chain.name) {
            return wrong(format!("chain {:?}: a name has 1 to 255 bytes", chain.name));
        }
        if table.chains[..i].iter().any(|c| c.name == chain.name) {
            return wrong(format!("chain {} is there twice", chain.name));
        }
        for rule in &chain.rules {
            if let Err(reason) = check_rule(table, chain, rule) {
                return wrong(format!("chain {}, rule `{rule}`: {reason}", chain.name));
            }
        }
    }
    Ok(())
}

fn check_rule(table: &Table, chain: &Chain, rule: &Rule) -> std::result::Result<(), &'static str> {
    let transport = rule.matches.iter().any(|m| matches!(m, Match::Transport(_)));
    for m in &rule.matches {
        match m {
            Match::Port(_) | Match::NotPort(_) | Match::Ports(_) | Match::PortRange(..) if !transport => {
                return Err("a port needs a transport protocol");
            }
            Match::Ports(p) if p.is_empty() => return Err("a set of ports is empty"),
            Match::Destinations(a) if a.is_empty() => return Err("a set of addresses is empty"),
            Match::Destinations(a) if a.len() > ELEMENTS_MAX => {
                return Err("a set has more than 65536 addresses");
            }
            Match::Destinations(a) if a.iter().any(IpAddr::is_ipv6) && !a.iter().all(IpAddr::is_ipv6) => {
                return Err("a set mixes IPv4 and IPv6");
            }
            Match::InLink(n) | Match::OutLink(n) | Match::InLinkPrefix(n) | Match::OutLinkPrefix(n)
                if n.is_empty() || n.len() >= libc::IFNAMSIZ =>
            {
                return Err("a link's name has 1 to 15 bytes");
            }
            _ => {}
        }
    }
    match &rule.verdict {
        Verdict::Jump(to) | Verdict::Goto(to)
            if !table.chains.iter().any(|c| c.name == *to && c.hook.is_none()) =>
        {
            Err("it jumps to a chain that is not in the table")
        }
        Verdict::Redirect(_) | Verdict::Dnat(_) | Verdict::Masquerade
            if chain.hook.is_some_and(|h| h.kind != Kind::Nat) =>
        {
            Err("addresses are translated in chains of kind nat alone")
        }
        Verdict::Redirect(_) if !transport => Err("a redirect to a port needs a transport protocol"),
        Verdict::RejectTcpReset
            if !rule
                .matches
                .iter()
                .any(|m| matches!(m, Match::Transport(super::Transport::Tcp))) =>
        {
            Err("a reset answers TCP alone")
        }
        Verdict::Dnat(_) if !transport => Err("a translation to a port needs a transport protocol"),
        Verdict::Dnat(t) if t.is_empty() => Err("a translation needs a target"),
        Verdict::Dnat(t) if t.len() > TARGETS_MAX => Err("a translation has at most 1024 targets"),
        Verdict::Dnat(t) if t.iter().any(|a| a.is_ipv6() != t[0].is_ipv6()) => {
            Err("the targets mix IPv4 and IPv6")
        }
        _ => Ok(()),
    }
}
