//! nf_tables: a table as a value, programmed in one atomic batch, shown as nft text, read back.
//!
//! [`Table`] is the program. [`replace`] puts it in the place of whatever had its name: packets see the
//! old rules or the new ones, never a mixture and never none. Connections that are already translated
//! keep their translation. A base chain's policy is always accept and what is to be dropped says so in
//! a last rule, because a policy takes effect before the batch is committed, the rules only with it.

mod batch;
mod expression;
mod readback;
#[cfg(test)]
mod tests;
mod text;

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

pub use batch::{delete, replace};
pub use readback::{Installed, InstalledRule, list_tables, read, verify};

/// Longest name of a table or chain, bytes (`NFT_NAME_MAXLEN` without its NUL).
pub const NAME_MAX: usize = 255;
/// Most targets of one rule; their map has to fit one message.
pub const TARGETS_MAX: usize = 1024;

/// A table of family `inet`: its chains see IPv4 and IPv6.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Table {
    /// Name, the table's identity.
    pub name: String,
    /// Chains; one that others jump to may stand anywhere.
    pub chains: Vec<Chain>,
}

/// A chain; with a hook the kernel calls it, without one other chains jump to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain {
    /// Name, unique in its table.
    pub name: String,
    /// Where the kernel calls it.
    pub hook: Option<Hook>,
    /// Rules, first match with a final verdict wins.
    pub rules: Vec<Rule>,
}

impl Chain {
    /// A chain that the kernel calls.
    pub fn base(name: &str, kind: Kind, point: Point, priority: i32) -> Self {
        Self {
            name: name.to_owned(),
            hook: Some(Hook {
                kind,
                point,
                priority,
            }),
            rules: Vec::new(),
        }
    }

    /// A chain that others jump to.
    pub fn regular(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            hook: None,
            rules: Vec::new(),
        }
    }

    /// Appends a rule.
    pub fn rule(&mut self, matches: impl Into<Vec<Match>>, verdict: Verdict) -> &mut Self {
        self.rules.push(Rule {
            matches: matches.into(),
            counter: false,
            verdict,
        });
        self
    }

    /// Appends a rule that counts what it matches.
    pub fn counted(&mut self, matches: impl Into<Vec<Match>>, verdict: Verdict) -> &mut Self {
        self.rules.push(Rule {
            matches: matches.into(),
            counter: true,
            verdict,
        });
        self
    }
}

/// Where and when the kernel calls a base chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hook {
    /// What the chain may do.
    pub kind: Kind,
    /// At which point of a packet's way.
    pub point: Point,
    /// Order among chains at the same point, ascending. -100 is destination NAT, 0 filter, 100 source NAT.
    pub priority: i32,
}

/// What a base chain may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Translate addresses; sees the first packet of a connection.
    Nat,
    /// Accept, drop, reject; sees every packet.
    Filter,
}

/// A point of a packet's way through the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Point {
    /// Came in, not yet routed.
    Prerouting,
    /// For this namespace.
    Input,
    /// For another.
    Forward,
    /// Made here.
    Output,
    /// About to leave.
    Postrouting,
}

/// One rule: when all matches hold, the verdict.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// What must hold, all of it.
    pub matches: Vec<Match>,
    /// Whether packets and bytes are counted.
    pub counter: bool,
    /// What then happens.
    pub verdict: Verdict,
}

/// A transport protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Transport {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// IPv4 or IPv6.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// A condition on a packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Match {
    /// IP version.
    Version(Version),
    /// Transport protocol.
    Transport(Transport),
    /// Source address within.
    Source(IpNet),
    /// Destination address within.
    Destination(IpNet),
    /// Destination address not within; packets of the other IP version do not match.
    NotDestination(IpNet),
    /// Destination is one of these addresses, all of one IP version.
    Destinations(BTreeSet<IpAddr>),
    /// Destination port, after a transport protocol.
    Port(u16),
    /// Destination port is another, after a transport protocol.
    NotPort(u16),
    /// Destination port is one of these, after a transport protocol.
    Ports(BTreeSet<u16>),
    /// Destination port in first..=last, after a transport protocol.
    PortRange(u16, u16),
    /// The packet's mark (`SO_MARK` of the socket that made it).
    Mark(u32),
    /// Any other mark.
    NotMark(u32),
    /// User of the socket that made it.
    Uid(u32),
    /// Another user, or none.
    NotUid(u32),
    /// Group of the socket that made it.
    Gid(u32),
    /// Another group, or none.
    NotGid(u32),
    /// Came in by the link of this name.
    InLink(String),
    /// Came in by a link whose name begins so.
    InLinkPrefix(String),
    /// Leaves by the link of this name.
    OutLink(String),
    /// Leaves by a link whose name begins so.
    OutLinkPrefix(String),
    /// Belongs to a connection seen before, or is related to one.
    Established,
    /// Belongs to a connection whose destination was translated.
    DestinationTranslated,
    /// The destination is an address of this namespace.
    DestinationLocal,
}

/// What happens to a packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It goes on; chains at later priorities still see it.
    Accept,
    /// It is gone.
    Drop,
    /// Back to the chain that jumped here; the end of a base chain.
    Return,
    /// On in another chain, and back here when that ends.
    Jump(String),
    /// On in another chain, and not back.
    Goto(String),
    /// The sender of a TCP segment gets a reset.
    RejectTcpReset,
    /// The sender gets "port unreachable".
    Reject,
    /// To this namespace, at this port (nat, after a transport protocol).
    Redirect(u16),
    /// To one of these, in turn by connection (nat, after a transport protocol, all of one IP version).
    Dnat(Vec<SocketAddr>),
    /// From the address of the link by which it leaves (nat postrouting).
    Masquerade,
    /// The packet gets this mark, and the next rule is tried.
    SetMark(u32),
    /// Nothing; the next rule is tried.
    Continue,
}
