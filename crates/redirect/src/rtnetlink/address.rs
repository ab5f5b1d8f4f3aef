//! Addresses and routes.

use std::net::IpAddr;

use ipnet::IpNet;

use super::Handle;
use crate::Result;
use crate::netlink::{Message, Subject};

const NLM_F_CREATE_REPLACE: u16 = (libc::NLM_F_CREATE | libc::NLM_F_REPLACE) as u16;

impl Handle {
    /// Gives a link an address with its prefix; one that is there already is left.
    pub fn add_address(&mut self, link: &str, address: IpNet) -> Result<()> {
        let index = self.link(link)?.index;
        let bytes = octets(address.addr());
        // ifaddrmsg: family, prefix length, flags, scope, index.
        let mut fixed = [0; 8];
        fixed[0] = family(address.addr());
        fixed[1] = address.prefix_len();
        fixed[2] = libc::IFA_F_NODAD as u8;
        fixed[4..8].copy_from_slice(&index.to_ne_bytes());
        let mut m = Message::new(libc::RTM_NEWADDR, NLM_F_CREATE_REPLACE);
        m.fixed(&fixed)
            .bytes(libc::IFA_LOCAL, &bytes)
            .bytes(libc::IFA_ADDRESS, &bytes);
        let object = format!("{address} to {link}");
        self.socket.acknowledged(
            m,
            Subject {
                operation: "add address",
                object: &object,
            },
        )
    }

    /// Sends what is for `to` out of `link`, whose other end has it; an older route to `to` is replaced.
    pub fn add_link_route(&mut self, to: IpNet, link: &str) -> Result<()> {
        let index = self.link(link)?.index;
        let object = format!("{to} dev {link}");
        self.route(to, None, Some(index), libc::RTN_UNICAST, &object)
    }

    /// Sends what is for `to` to `gateway`; an older route to `to` is replaced.
    pub fn add_route(&mut self, to: IpNet, gateway: IpAddr) -> Result<()> {
        let object = format!("{to} via {gateway}");
        self.route(to, Some(gateway), None, libc::RTN_UNICAST, &object)
    }

    /// Sends everything without a better route to `gateway`.
    pub fn add_default_route(&mut self, gateway: IpAddr) -> Result<()> {
        let to = match gateway {
            IpAddr::V4(_) => IpNet::V4(ipnet::Ipv4Net::default()),
            IpAddr::V6(_) => IpNet::V6(ipnet::Ipv6Net::default()),
        };
        self.add_route(to, gateway)
    }

    /// Makes every address in `to` this namespace's own: what is for it is taken in, and may be bound.
    pub fn add_local(&mut self, to: IpNet) -> Result<()> {
        let index = self.link("lo")?.index;
        let object = format!("local {to}");
        self.route(to, None, Some(index), libc::RTN_LOCAL, &object)
    }

    /// Answers what is for `to`, and has no better route, with "unreachable".
    pub fn add_unreachable(&mut self, to: IpNet) -> Result<()> {
        let object = format!("{to} unreachable");
        self.route(to, None, None, libc::RTN_UNREACHABLE, &object)
    }

    /// Deletes the route to `to`; one that is gone is no error.
    pub fn delete_route(&mut self, to: IpNet) -> Result<()> {
        let mut m = Message::new(libc::RTM_DELROUTE, 0);
        m.fixed(&route_header(to, libc::RT_SCOPE_NOWHERE, 0))
            .bytes(libc::RTA_DST, &octets(to.network()));
        match self.socket.acknowledged(
            m,
            Subject {
                operation: "delete route",
                object: &to.to_string(),
            },
        ) {
            Err(e) if e.errno() == Some(nix::errno::Errno::ESRCH) => Ok(()),
            r => r,
        }
    }

    fn route(
        &mut self,
        to: IpNet,
        gateway: Option<IpAddr>,
        link: Option<u32>,
        kind: u8,
        object: &str,
    ) -> Result<()> {
        let (scope, table) = match kind {
            libc::RTN_LOCAL => (libc::RT_SCOPE_HOST, libc::RT_TABLE_LOCAL),
            libc::RTN_UNICAST if gateway.is_none() => (libc::RT_SCOPE_LINK, libc::RT_TABLE_MAIN),
            _ => (libc::RT_SCOPE_UNIVERSE, libc::RT_TABLE_MAIN),
        };
        let mut header = route_header(to, scope, kind);
        header[4] = table;
        let mut m = Message::new(libc::RTM_NEWROUTE, NLM_F_CREATE_REPLACE);
        m.fixed(&header);
        if to.prefix_len() > 0 {
            m.bytes(libc::RTA_DST, &octets(to.network()));
        }
        if let Some(g) = gateway {
            m.bytes(libc::RTA_GATEWAY, &octets(g));
        }
        if let Some(index) = link {
            m.u32(libc::RTA_OIF, index);
        }
        self.socket.acknowledged(
            m,
            Subject {
                operation: "add route",
                object,
            },
        )
    }
}

/// `rtmsg`: family, prefix lengths, TOS, table, protocol, scope, type, flags.
fn route_header(to: IpNet, scope: u8, kind: u8) -> [u8; 12] {
    let mut b = [0; 12];
    b[0] = family(to.addr());
    b[1] = to.prefix_len();
    b[4] = libc::RT_TABLE_MAIN;
    b[5] = libc::RTPROT_STATIC;
    b[6] = scope;
    b[7] = kind;
    b
}

pub(crate) fn octets(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(a) => a.octets().to_vec(),
        IpAddr::V6(a) => a.octets().to_vec(),
    }
}

fn family(ip: IpAddr) -> u8 {
    match ip {
        IpAddr::V4(_) => libc::AF_INET as u8,
        IpAddr::V6(_) => libc::AF_INET6 as u8,
    }
}
