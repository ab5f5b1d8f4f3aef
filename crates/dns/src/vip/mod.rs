//! Automatic addresses for hosts that have none: 240.240.0.0/16 and, with the same number, 2001:2::/48.
//!
//! An address is found by hashing the host and probing from there, so that control planes that never
//! spoke to each other mostly agree; what was given is remembered, so that it never changes afterwards.
//! A host's address survives restarts (the state is persisted), additions and removals of others, and
//! even its own removal as long as other addresses are free. No two live hosts ever share one.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};

/// Numbers that are given: the last two octets from 0.1 to 255.254, without those ending in 0 or 255.
const GIVEN_OUT: usize = 256 * 254;

/// One number in both families.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Vip(u16);

impl Vip {
    /// 240.240.x.y.
    pub fn v4(self) -> Ipv4Addr {
        let [x, y] = self.0.to_be_bytes();
        Ipv4Addr::new(240, 240, x, y)
    }

    /// 2001:2::f0f0:xxyy, as Istio writes the same number in its IPv6 range.
    pub fn v6(self) -> Ipv6Addr {
        Ipv6Addr::new(0x2001, 2, 0, 0, 0, 0, 0xf0f0, self.0)
    }

    /// The number behind an address of either range; `None` for any other address.
    pub fn of(address: IpAddr) -> Option<Self> {
        let vip = match address {
            IpAddr::V4(ip) => Self(u16::from_be_bytes([ip.octets()[2], ip.octets()[3]])),
            IpAddr::V6(ip) => Self(ip.segments()[7]),
        };
        let same = match address {
            IpAddr::V4(ip) => vip.v4() == ip,
            IpAddr::V6(ip) => vip.v6() == ip,
        };
        (same && usable(vip.0)).then_some(vip)
    }
}

fn usable(number: u16) -> bool {
    !matches!(number & 0xff, 0 | 0xff)
}

/// The allocator in its persisted form, for a file or a ConfigMap.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VipState {
    /// Address by live host.
    #[serde(default)]
    pub assigned: BTreeMap<String, Ipv4Addr>,
    /// Hosts that are gone and what they had, longest gone first.
    #[serde(default)]
    pub released: Vec<Released>,
}

/// An address that was given back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Released {
    /// Who had it; gets it back when it returns.
    pub host: String,
    /// The address.
    pub address: Ipv4Addr,
}

/// Gives addresses to hosts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct VipAllocator {
    assigned: BTreeMap<String, Vip>,
    taken: VipSet,
    /// Longest gone first.
    released: VecDeque<(String, Vip)>,
    resting: VipSet,
    reserved: VipSet,
}

impl VipAllocator {
    /// Nothing given yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes up where a persisted state left off. What cannot be right (an address outside the range, or
    /// given twice) is dropped and named in the second value; its host gets a new address.
    pub fn from_state(state: &VipState) -> (Self, Vec<String>) {
        let mut allocator = Self::new();
        let mut dropped = Vec::new();
        for (host, address) in &state.assigned {
            match Vip::of(IpAddr::V4(*address)) {
                Some(vip) if allocator.taken.insert(vip) => {
                    allocator.assigned.insert(host.clone(), vip);
                }
                Some(_) => dropped.push(format!("{host}: {address} is another host's")),
                None => dropped.push(format!(
                    "{host}: {address} is not an address of 240.240.0.0/16 that is given out"
                )),
            }
        }
        for Released { host, address } in &state.released {
            match Vip::of(IpAddr::V4(*address)) {
                Some(vip) if !allocator.taken.contains(vip) && !allocator.assigned.contains_key(host) => {
                    if allocator.resting.insert(vip) {
                        allocator.released.push_back((host.clone(), vip));
                    }
                }
                _ => dropped.push(format!("{host}: {address} cannot be resting")),
            }
        }
        (allocator, dropped)
    }

    /// The state to persist. Persist before the addresses are used, and nothing is ever given twice.
    pub fn to_state(&self) -> VipState {
        VipState {
            assigned: self
                .assigned
                .iter()
                .map(|(host, vip)| (host.clone(), vip.v4()))
                .collect(),
            released: (self.released.iter())
                .map(|(host, vip)| Released {
                    host: host.clone(),
                    address: vip.v4(),
                })
                .collect(),
        }
    }

    /// Addresses of the range that users wrote in `addresses` themselves: never given from now on. A live
    /// host that has one already gets another at the next [`VipAllocator::assign`].
    pub fn reserve(&mut self, addresses: impl IntoIterator<Item = IpAddr>) {
        self.reserved = VipSet::default();
        for vip in addresses.into_iter().filter_map(Vip::of) {
            self.reserved.insert(vip);
        }
    }

    /// Gives every host of `live` an address and takes back those of all others. Hosts for which none is
    /// left (more than 65,024 live hosts) are missing in the answer. The answer depends on the state and
    /// on the set of hosts, not on their order.
    pub fn assign<S: AsRef<str>>(&mut self, live: impl IntoIterator<Item = S>) -> BTreeMap<String, Vip> {
        let live: BTreeSet<String> = live
            .into_iter()
            .map(|h| h.as_ref().to_ascii_lowercase())
            .collect();
        let gone: Vec<(String, Vip)> = (self.assigned.iter())
            .filter(|(host, vip)| !live.contains(*host) || self.reserved.contains(**vip))
            .map(|(host, vip)| (host.clone(), *vip))
            .collect();
        for (host, vip) in gone {
            self.assigned.remove(&host);
            self.taken.remove(vip);
            if !self.reserved.contains(vip) {
                self.resting.insert(vip);
                self.released.push_back((host, vip));
            }
        }
        // Who returns is served first, so that a new host cannot take what is about to be asked back.
        let mut rested: BTreeMap<String, Vip> = self
            .released
            .iter()
            .filter(|(_, vip)| !self.reserved.contains(*vip))
            .cloned()
            .collect();
        let homeless: Vec<&String> = live
            .iter()
            .filter(|host| !self.assigned.contains_key(*host))
            .collect();
        let (returning, new): (Vec<&String>, Vec<&String>) =
            homeless.into_iter().partition(|host| rested.contains_key(*host));
        for host in returning {
            if let Some(vip) = rested.remove(host) {
                self.give(host, vip);
            }
        }
        self.released.retain(|(_, vip)| !self.taken.contains(*vip));
        for host in new {
            if let Some(vip) = self.free(host).or_else(|| self.longest_gone()) {
                self.give(host, vip);
            }
        }
        self.assigned.clone()
    }

    /// The address of a live host.
    pub fn vip(&self, host: &str) -> Option<Vip> {
        self.assigned.get(host).copied()
    }

    fn give(&mut self, host: &str, vip: Vip) {
        self.resting.remove(vip);
        self.taken.insert(vip);
        self.assigned.insert(host.to_owned(), vip);
    }

    fn free(&self, host: &str) -> Option<Vip> {
        if self.taken.len() + self.resting.len() >= GIVEN_OUT {
            return None;
        }
        let start = hash(host);
        let out = |v: Vip| self.taken.contains(v) || self.resting.contains(v) || self.reserved.contains(v);
        (0..=u16::MAX)
            .map(|step| Vip(start.wrapping_add(step)))
            .find(|v| usable(v.0) && !out(*v))
    }

    fn longest_gone(&mut self) -> Option<Vip> {
        let at = self
            .released
            .iter()
            .position(|(_, vip)| !self.reserved.contains(*vip))?;
        self.released.remove(at).map(|(_, vip)| vip)
    }
}

/// A set of numbers, one bit each: probing a nearly full range stays cheap.
#[derive(Debug, Clone, PartialEq, Eq)]
struct VipSet {
    bits: Box<[u64]>,
    len: usize,
}

impl Default for VipSet {
    fn default() -> Self {
        Self {
            bits: vec![0; (1 << 16) / 64].into(),
            len: 0,
        }
    }
}

impl VipSet {
    fn contains(&self, vip: Vip) -> bool {
        self.bits[usize::from(vip.0 / 64)] & (1 << (vip.0 % 64)) != 0
    }

    /// Whether it was not in the set before.
    fn insert(&mut self, vip: Vip) -> bool {
        let new = !self.contains(vip);
        self.bits[usize::from(vip.0 / 64)] |= 1 << (vip.0 % 64);
        self.len += usize::from(new);
        new
    }

    fn remove(&mut self, vip: Vip) {
        self.len -= usize::from(self.contains(vip));
        self.bits[usize::from(vip.0 / 64)] &= !(1 << (vip.0 % 64));
    }

    fn len(&self) -> usize {
        self.len
    }
}

/// FNV-1a, folded to 16 bits: it must give the same number in every version on every machine.
fn hash(host: &str) -> u16 {
    let h = host.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |h, b| {
        (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3)
    });
    let h = h ^ (h >> 32);
    (h ^ (h >> 16)) as u16
}

#[cfg(test)]
mod tests;
