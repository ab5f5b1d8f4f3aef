//! Links: veth, bridge, loopback.

use std::os::fd::AsRawFd;

use super::{Handle, PeerNamespace};
use crate::netlink::{Message, Subject};
use crate::{Error, Result};

const RTM_NEWLINK: u16 = libc::RTM_NEWLINK;
const RTM_DELLINK: u16 = libc::RTM_DELLINK;
const RTM_GETLINK: u16 = libc::RTM_GETLINK;
const IFLA_ADDRESS: u16 = libc::IFLA_ADDRESS;
const IFLA_IFNAME: u16 = libc::IFLA_IFNAME;
const IFLA_MTU: u16 = libc::IFLA_MTU;
const IFLA_MASTER: u16 = libc::IFLA_MASTER;
const IFLA_LINKINFO: u16 = libc::IFLA_LINKINFO;
const IFLA_NET_NS_FD: u16 = libc::IFLA_NET_NS_FD;
const IFLA_INFO_KIND: u16 = libc::IFLA_INFO_KIND;
const IFLA_INFO_DATA: u16 = libc::IFLA_INFO_DATA;
const VETH_INFO_PEER: u16 = 1;
const NLM_F_CREATE_EXCL: u16 = (libc::NLM_F_CREATE | libc::NLM_F_EXCL) as u16;
/// Size of `ifinfomsg`.
const IFINFO: usize = 16;
/// `IFNAMSIZ` without its NUL.
const NAME_MAX: usize = 15;

/// One link as the kernel lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Index, unique in its namespace.
    pub index: u32,
    /// Name.
    pub name: String,
    /// Administratively up.
    pub up: bool,
    /// Largest packet, bytes.
    pub mtu: u32,
    /// Index of the bridge it belongs to.
    pub master: Option<u32>,
    /// Hardware address; empty for links without one.
    pub hardware: Vec<u8>,
}

impl Handle {
    /// All links.
    pub fn links(&mut self) -> Result<Vec<Link>> {
        let mut m = Message::new(RTM_GETLINK, 0);
        m.fixed(&info(0, 0, 0));
        let mut links = Vec::new();
        self.socket.dump(
            m,
            Subject {
                operation: "list",
                object: "links",
            },
            |frame| {
                if frame.kind == RTM_NEWLINK {
                    let (fixed, attributes) = frame.split(IFINFO)?;
                    let field = |at: usize| -> u32 {
                        fixed
                            .get(at..at + 4)
                            .and_then(|s| s.try_into().ok())
                            .map_or(0, u32::from_ne_bytes)
                    };
                    let mut link = Link {
                        index: field(4),
                        name: String::new(),
                        up: field(8) & libc::IFF_UP as u32 != 0,
                        mtu: 0,
                        master: None,
                        hardware: Vec::new(),
                    };
                    for a in attributes {
                        let a = a?;
                        match a.kind {
                            IFLA_IFNAME => link.name = a.text()?.to_owned(),
                            IFLA_MTU => link.mtu = a.u32()?,
                            IFLA_MASTER => link.master = Some(a.u32()?),
                            IFLA_ADDRESS => link.hardware = a.value.to_vec(),
                            _ => {}
                        }
                    }
                    links.push(link);
                }
                Ok(())
            },
        )?;
        Ok(links)
    }

    /// The link of this name.
    pub fn link(&mut self, name: &str) -> Result<Link> {
        self.links()?
            .into_iter()
            .find(|l| l.name == name)
            .ok_or_else(|| Error::NoLink(name.to_owned()))
    }

    /// Creates two links that are the ends of one wire; `peer` may be born in another namespace.
    pub fn add_veth(&mut self, name: &str, peer: &str, peer_namespace: PeerNamespace<'_>) -> Result<()> {
        check(name)?;
        check(peer)?;
        let mut m = Message::new(RTM_NEWLINK, NLM_F_CREATE_EXCL);
        m.fixed(&info(0, 0, 0))
            .text(IFLA_IFNAME, name)
            .nest(IFLA_LINKINFO, |m| {
                m.text(IFLA_INFO_KIND, "veth").nest(IFLA_INFO_DATA, |m| {
                    m.nest(VETH_INFO_PEER, |m| {
                        m.fixed(&info(0, 0, 0)).text(IFLA_IFNAME, peer);
                        if let PeerNamespace::Fd(fd) = peer_namespace {
                            m.u32(IFLA_NET_NS_FD, fd.as_raw_fd() as u32);
                        }
                    });
                });
            });
        let object = format!("{name} (peer {peer})");
        self.socket.acknowledged(
            m,
            Subject {
                operation: "add veth",
                object: &object,
            },
        )
    }

    /// Creates a bridge.
    pub fn add_bridge(&mut self, name: &str) -> Result<()> {
        check(name)?;
        let mut m = Message::new(RTM_NEWLINK, NLM_F_CREATE_EXCL);
        m.fixed(&info(0, 0, 0))
            .text(IFLA_IFNAME, name)
            .nest(IFLA_LINKINFO, |m| {
                m.text(IFLA_INFO_KIND, "bridge");
            });
        self.socket.acknowledged(
            m,
            Subject {
                operation: "add bridge",
                object: name,
            },
        )
    }

    /// Brings a link up.
    pub fn set_up(&mut self, name: &str) -> Result<()> {
        self.change(
            name,
            "set up link",
            libc::IFF_UP as u32,
            libc::IFF_UP as u32,
            |_| {},
        )
    }

    /// Takes a link down.
    pub fn set_down(&mut self, name: &str) -> Result<()> {
        self.change(name, "set down link", 0, libc::IFF_UP as u32, |_| {})
    }

    /// Makes a link a port of a bridge.
    pub fn set_master(&mut self, name: &str, bridge: &str) -> Result<()> {
        let master = self.link(bridge)?.index;
        self.change(name, "set master of link", 0, 0, |m| {
            m.u32(IFLA_MASTER, master);
        })
    }

    /// Renames a link, which must be down on kernels before 6.2.
    pub fn rename(&mut self, name: &str, to: &str) -> Result<()> {
        check(to)?;
        self.change(name, "rename link", 0, 0, |m| {
            m.text(IFLA_IFNAME, to);
        })
    }

    /// Sets the largest packet, bytes.
    pub fn set_mtu(&mut self, name: &str, mtu: u32) -> Result<()> {
        self.change(name, "set MTU of link", 0, 0, |m| {
            m.u32(IFLA_MTU, mtu);
        })
    }

    /// Moves a link into another namespace; its addresses and routes are lost.
    pub fn move_to(&mut self, name: &str, namespace: std::os::fd::BorrowedFd<'_>) -> Result<()> {
        self.change(name, "move link", 0, 0, |m| {
            m.u32(IFLA_NET_NS_FD, namespace.as_raw_fd() as u32);
        })
    }

    /// Deletes a link, and with one end of a veth pair the other. One that is gone is no error.
    pub fn delete_link(&mut self, name: &str) -> Result<()> {
        let index = match self.link(name) {
            Ok(l) => l.index,
            Err(Error::NoLink(_)) => return Ok(()),
            Err(e) => return Err(e),
        };
        let mut m = Message::new(RTM_DELLINK, 0);
        m.fixed(&info(index, 0, 0));
        match self.socket.acknowledged(
            m,
            Subject {
                operation: "delete link",
                object: name,
            },
        ) {
            Err(e) if e.errno() == Some(nix::errno::Errno::ENODEV) => Ok(()),
            r => r,
        }
    }

    fn change(
        &mut self,
        name: &str,
        operation: &'static str,
        flags: u32,
        mask: u32,
        content: impl FnOnce(&mut Message),
    ) -> Result<()> {
        let index = self.link(name)?.index;
        let mut m = Message::new(RTM_NEWLINK, 0);
        m.fixed(&info(index, flags, mask));
        content(&mut m);
        self.socket.acknowledged(
            m,
            Subject {
                operation,
                object: name,
            },
        )
    }
}

/// `ifinfomsg`.
fn info(index: u32, flags: u32, mask: u32) -> [u8; IFINFO] {
    let mut b = [0; IFINFO];
    b[4..8].copy_from_slice(&index.to_ne_bytes());
    b[8..12].copy_from_slice(&flags.to_ne_bytes());
    b[12..16].copy_from_slice(&mask.to_ne_bytes());
    b
}

/// The kernel's rules for the name of a link, said before it answers with EINVAL.
fn check(name: &str) -> Result<()> {
    let wrong = |reason| {
        Err(Error::Name {
            what: "link",
            name: name.to_owned(),
            reason,
        })
    };
    match name {
        "" | "." | ".." => wrong("it must not be empty, \".\" or \"..\""),
        n if n.len() > NAME_MAX => wrong("at most 15 bytes fit"),
        n if n
            .bytes()
            .any(|b| b == b'/' || b == b':' || b.is_ascii_whitespace() || b == 0) =>
        {
            wrong("it must not contain '/', ':' or white space")
        }
        _ => Ok(()),
    }
}
