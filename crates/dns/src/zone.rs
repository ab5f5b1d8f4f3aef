//! Static zones: A, AAAA and CNAME records, and honest denials with an SOA.
//!
//! The demo's public DNS is made of these. They are immutable; a change is a new [`Zones`].

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use arc_swap::ArcSwap;
use hickory_proto::op::ResponseCode;
use hickory_proto::rr::rdata::{CNAME, SOA};
use hickory_proto::rr::{Name, RData, Record, RecordType};

use crate::forward::Forwarder;
use crate::mesh::push_addresses;
use crate::server::{Decision, Denial, Handler};
use crate::table::Addresses;
use crate::wire::{Question, Reply};

/// CNAMEs that are followed within our zones at most.
const MOST_ALIASES: usize = 8;

/// Why a record was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ZoneError {
    /// Not a DNS name.
    #[error("{0:?} is not a DNS name")]
    Name(String),
    /// A CNAME beside other records, or a second one.
    #[error("{0}: a name with a CNAME may have no other record (RFC 1034 section 3.6.2)")]
    Alias(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Node {
    Addresses(Vec<Ipv4Addr>, Vec<Ipv6Addr>),
    Alias(String),
}

/// One zone and its records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Zone {
    origin: String,
    ttl: u32,
    nodes: BTreeMap<String, Node>,
}

impl Zone {
    /// An empty zone. `ttl` (seconds) is that of all its records and of its denials.
    pub fn new(origin: &str, ttl: u32) -> Result<Self, ZoneError> {
        Ok(Self {
            origin: plain(origin)?,
            ttl,
            nodes: BTreeMap::new(),
        })
    }

    /// Adds an address. `name` is taken below the origin unless it ends with it; `@` is the origin; a
    /// first label `*` stands for all names that have no record of their own.
    pub fn address(mut self, name: &str, ip: IpAddr) -> Result<Self, ZoneError> {
        let name = self.absolute(name)?;
        match self
            .nodes
            .entry(name.clone())
            .or_insert_with(|| Node::Addresses(Vec::new(), Vec::new()))
        {
            Node::Alias(_) => return Err(ZoneError::Alias(name)),
            Node::Addresses(v4, v6) => match ip {
                IpAddr::V4(ip) => v4.push(ip),
                IpAddr::V6(ip) => v6.push(ip),
            },
        }
        Ok(self)
    }

    /// Adds an alias. `target` is absolute.
    pub fn alias(mut self, name: &str, target: &str) -> Result<Self, ZoneError> {
        let (name, target) = (self.absolute(name)?, plain(target)?);
        if self.nodes.contains_key(&name) {
            return Err(ZoneError::Alias(name));
        }
        self.nodes.insert(name, Node::Alias(target));
        Ok(self)
    }

    fn absolute(&self, name: &str) -> Result<String, ZoneError> {
        let name = plain(name)?;
        Ok(match name.as_str() {
            "@" => self.origin.clone(),
            n if self.contains(n) => name,
            n => format!("{n}.{}", self.origin),
        })
    }

    fn contains(&self, name: &str) -> bool {
        name.strip_suffix(self.origin.as_str())
            .is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
            || self.origin.is_empty()
    }

    /// The node for a name, its own or the closest wildcard's (RFC 4592: a name that exists, even
    /// without records, is covered by no wildcard).
    fn node(&self, name: &str) -> Option<&Node> {
        if let Some(node) = self.nodes.get(name) {
            return Some(node);
        }
        let mut rest = name;
        while !self.exists(rest) {
            let (_, parent) = rest.split_once('.')?;
            if let Some(node) = self.nodes.get(&format!("*.{parent}")) {
                return Some(node);
            }
            if parent == self.origin {
                return None;
            }
            rest = parent;
        }
        None
    }

    fn exists(&self, name: &str) -> bool {
        let below = format!(".{name}");
        name == self.origin || self.nodes.keys().any(|n| n == name || n.ends_with(&below))
    }

    fn soa(&self) -> Option<Record> {
        soa(&self.origin, self.ttl)
    }
}

/// The record of authority for an origin, whose TTL is also that of denials.
pub(crate) fn soa(origin: &str, ttl: u32) -> Option<Record> {
    let owner = Name::from_ascii(format!("{origin}.")).ok()?;
    let master = Name::from_ascii("ns.dns.").ok()?.append_domain(&owner).ok()?;
    let mailbox = Name::from_ascii("hostmaster.").ok()?.append_domain(&owner).ok()?;
    let soa = SOA::new(master, mailbox, 1, 7200, 1800, 86400, ttl);
    Some(Record::from_rdata(owner, ttl, RData::SOA(soa)))
}

fn plain(name: &str) -> Result<String, ZoneError> {
    let bad = || ZoneError::Name(name.to_owned());
    let plain = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
    if plain != "@" {
        Name::from_ascii(format!("{plain}.")).map_err(|_| bad())?;
    }
    Ok(plain)
}

/// Zones by origin, and what becomes of names outside them.
#[derive(Debug)]
pub struct Zones {
    zones: ArcSwap<Vec<Zone>>,
    elsewhere: Option<Forwarder>,
    turn: AtomicUsize,
}

impl Zones {
    /// Names outside the zones go to `elsewhere`, or are refused without one.
    pub fn new(zones: Vec<Zone>, elsewhere: Option<Forwarder>) -> Self {
        let served = Self {
            zones: ArcSwap::default(),
            elsewhere,
            turn: AtomicUsize::new(0),
        };
        served.replace(zones);
        served
    }

    /// Serves other zones from the next question on.
    pub fn replace(&self, mut zones: Vec<Zone>) {
        // The most specific origin answers.
        zones.sort_by_key(|z| usize::MAX - z.origin.len());
        self.zones.store(Arc::new(zones));
    }
}

impl Handler for Zones {
    fn decide(&self, question: &Question) -> Decision {
        let zones = self.zones.load();
        let Some(mut zone) = zones.iter().find(|z| z.contains(&question.name)) else {
            return match &self.elsewhere {
                Some(forwarder) => Decision::Forward(forwarder.clone(), Denial::Keep),
                None => Decision::Answer(Reply::code(ResponseCode::Refused)),
            };
        };
        let mut reply = Reply::authoritative(Vec::new());
        let mut name = question.name.clone();
        let mut owner = question.owner().clone();
        let mut leads_out = false;
        for _ in 0..MOST_ALIASES {
            match zone.node(&name) {
                Some(Node::Addresses(v4, v6)) => {
                    let turn = self.turn.fetch_add(1, Ordering::Relaxed);
                    let addresses = Addresses { v4, v6 };
                    push_addresses(&mut reply.answers, question, &owner, addresses, turn, zone.ttl);
                }
                Some(Node::Alias(target)) => {
                    let Ok(next) = Name::from_ascii(format!("{target}.")) else {
                        break;
                    };
                    let alias = RData::CNAME(CNAME(next.clone()));
                    reply
                        .answers
                        .push(Record::from_rdata(owner.clone(), zone.ttl, alias));
                    if question.kind == RecordType::CNAME {
                        break;
                    }
                    // A target outside our zones is the resolver's to follow.
                    let Some(home) = zones.iter().find(|z| z.contains(target)) else {
                        leads_out = true;
                        break;
                    };
                    (zone, name, owner) = (home, target.clone(), next);
                    continue;
                }
                None if !zone.exists(&name) => reply.code = ResponseCode::NXDomain,
                None => {}
            }
            break;
        }
        if question.kind == RecordType::SOA && name == zone.origin {
            reply.answers.extend(zone.soa());
        }
        // An SOA beside an alias says that its target has no such record; a target outside our zones is
        // the resolver's to follow.
        let aliases = reply.answers.iter().all(|r| r.record_type() == RecordType::CNAME);
        let denies = reply.answers.is_empty() || (aliases && question.kind != RecordType::CNAME);
        if denies && !leads_out {
            reply.authorities.extend(zone.soa());
        }
        Decision::Answer(reply)
    }
}

#[cfg(test)]
mod tests;
