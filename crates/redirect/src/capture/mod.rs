//! Traffic capture: which of a pod's packets go through its proxy.
//!
//! [`Plan`] says it, purely, from the pod's annotations; [`Plan::table`] is the nf_tables program,
//! whose `Display` is nft text, and [`Plan::iptables`] the same for iptables-restore. The rules and the
//! names of the chains are Istio's, so that whoever knows `ISTIO_OUTPUT` can read them. Inbound TCP goes
//! to port 15006, outbound TCP to 15001, DNS to 15053; the original destination is what
//! `SO_ORIGINAL_DST` says.
//!
//! ```text
//!  prerouting ──tcp──> ISTIO_INBOUND ──> ISTIO_IN_REDIRECT ──> :15006
//!                        └─ 15008, 15020, 15021, 15090, excluded ports: untouched
//!  output ──> ISTIO_OUTPUT ─┬─ from 127.0.0.6 over lo (the proxy hands a request to the app): untouched
//!                           ├─ proxy over lo to the pod's own address ──> ISTIO_IN_REDIRECT
//!                           ├─ proxy (by mark, uid or gid): untouched
//!                           ├─ app over lo, except DNS: untouched
//!                           ├─ DNS to a resolver of resolv.conf ──> :15053
//!                           └─ included and not excluded ──> ISTIO_REDIRECT ──> :15001
//! ```

mod annotations;
mod iptables;
mod program;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

pub use annotations::{ANNOTATION_PREFIX, downward_annotations, resolvers};

use crate::{Result, nft};

/// The mark on the sockets of a proxy (Istio's ztunnel uses the same; it is 1337).
pub const MARK: u32 = 0x539;
/// The user and group of Istio's proxies.
pub const PROXY_ID: u32 = 1337;
/// Name of the table in which a pod's capture lives.
pub const TABLE: &str = "isthmus_capture";
/// Ports of the proxy itself, never captured inbound: HBONE, merged metrics and probes, readiness, Prometheus.
pub const NEVER_INBOUND: [u16; 4] = [15008, 15020, 15021, 15090];

/// Where the proxy listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProxyPorts {
    /// Outbound TCP.
    pub outbound: u16,
    /// Inbound TCP.
    pub inbound: u16,
    /// DNS over UDP and TCP; `None` leaves DNS alone. The UDP socket has to be bound to 127.0.0.1 (and
    /// another to ::1), not to every address: only then does an answer leave from the address to which
    /// the question was redirected, and is translated back.
    pub dns: Option<u16>,
}

impl Default for ProxyPorts {
    fn default() -> Self {
        Self {
            outbound: 15001,
            inbound: 15006,
            dns: Some(15053),
        }
    }
}

/// By what the proxy's own traffic is told from the application's. Any of them exempts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exempt {
    /// Socket mark; the only one that works where all processes are one user (a rootless namespace).
    pub mark: Option<u32>,
    /// User ids.
    pub uids: Vec<u32>,
    /// Group ids.
    pub gids: Vec<u32>,
}

impl Default for Exempt {
    fn default() -> Self {
        Self {
            mark: Some(MARK),
            uids: Vec::new(),
            gids: Vec::new(),
        }
    }
}

/// A choice of ports or addresses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Selection<T> {
    /// `*`.
    All,
    /// These; none when empty.
    Only(Vec<T>),
}

/// Which traffic of a pod is captured.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// Where the proxy listens.
    pub ports: ProxyPorts,
    /// What of the pod's traffic is the proxy's own.
    pub exempt: Exempt,
    /// Inbound ports captured (`includeInboundPorts`).
    pub inbound: Selection<u16>,
    /// Inbound ports left alone besides [`NEVER_INBOUND`] (`excludeInboundPorts`).
    pub exclude_inbound: BTreeSet<u16>,
    /// Destinations captured (`includeOutboundIPRanges`).
    pub outbound: Selection<IpNet>,
    /// Destinations left alone (`excludeOutboundIPRanges`).
    pub exclude_outbound: Vec<IpNet>,
    /// Ports captured whatever the destination (`includeOutboundPorts`).
    pub include_outbound_ports: BTreeSet<u16>,
    /// Ports left alone (`excludeOutboundPorts`).
    pub exclude_outbound_ports: BTreeSet<u16>,
    /// Links whose traffic is left alone, both ways (`excludeInterfaces`).
    pub exclude_links: Vec<String>,
    /// Resolvers whose traffic on port 53 is captured.
    pub resolvers: Selection<IpAddr>,
    /// Whether IPv6 is captured; when not, it is left alone.
    pub ipv6: bool,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            ports: ProxyPorts::default(),
            exempt: Exempt::default(),
            inbound: Selection::All,
            exclude_inbound: BTreeSet::new(),
            outbound: Selection::All,
            exclude_outbound: Vec::new(),
            include_outbound_ports: BTreeSet::new(),
            exclude_outbound_ports: BTreeSet::new(),
            exclude_links: Vec::new(),
            resolvers: Selection::All,
            ipv6: true,
        }
    }
}

impl Plan {
    /// Programs the plan in the calling thread's network namespace, in the place of an older one.
    pub fn apply(&self) -> Result<()> {
        nft::replace(&self.table())
    }

    /// Whether the kernel holds exactly this plan.
    pub fn verify(&self) -> Result<()> {
        nft::verify(&self.table())
    }
}

/// Removes capture from the calling thread's network namespace. None is no error.
pub fn clean() -> Result<()> {
    nft::delete(TABLE)
}
