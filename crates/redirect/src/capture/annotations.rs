//! From a pod's annotations, and its resolv.conf, to a plan.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;

use super::{Plan, Selection};
use crate::{Error, Result};

/// What the names of all annotations about capture begin with.
pub const ANNOTATION_PREFIX: &str = "traffic.sidecar.istio.io/";
/// An annotation with more entries than this is refused rather than programmed.
const ENTRIES_MAX: usize = 4096;

impl Plan {
    /// `self` as changed by the annotations `traffic.sidecar.istio.io/*`; others are not looked at, an
    /// unknown one under this prefix is an error, since it would be silently without effect.
    pub fn with_annotations(mut self, annotations: &BTreeMap<String, String>) -> Result<Self> {
        for (key, value) in annotations {
            let Some(name) = key.strip_prefix(ANNOTATION_PREFIX) else {
                continue;
            };
            let wrong = |value: &str, reason| Error::Annotation {
                annotation: key.clone(),
                value: value.to_owned(),
                reason,
            };
            let ports = || -> Result<BTreeSet<u16>> {
                entries(value)
                    .map(|p| {
                        p.parse()
                            .map_err(|_| wrong(p, "a port is a number from 0 to 65535"))
                    })
                    .collect()
            };
            let ranges = || -> Result<Vec<IpNet>> {
                entries(value)
                    .map(|r| range(r).ok_or_else(|| wrong(r, "a range is written 10.0.0.0/8 or 10.1.2.3")))
                    .collect()
            };
            if entries(value).count() > ENTRIES_MAX {
                return Err(wrong("", "at most 4096 entries are taken"));
            }
            match name {
                "includeInboundPorts" if value.trim() == "*" => self.inbound = Selection::All,
                "includeInboundPorts" => self.inbound = Selection::Only(ports()?.into_iter().collect()),
                "excludeInboundPorts" => self.exclude_inbound = ports()?,
                "includeOutboundIPRanges" if value.trim() == "*" => self.outbound = Selection::All,
                "includeOutboundIPRanges" => self.outbound = Selection::Only(ranges()?),
                "excludeOutboundIPRanges" => self.exclude_outbound = ranges()?,
                "includeOutboundPorts" => self.include_outbound_ports = ports()?,
                "excludeOutboundPorts" => self.exclude_outbound_ports = ports()?,
                "excludeInterfaces" => {
                    let links: Vec<String> = entries(value).map(str::to_owned).collect();
                    if let Some(l) = links.iter().find(|l| l.len() >= libc::IFNAMSIZ) {
                        return Err(wrong(l, "the name of an interface has at most 15 bytes"));
                    }
                    self.exclude_links = links;
                }
                _ => {
                    return Err(wrong(
                        value,
                        "there is no such annotation; known are {include,exclude}OutboundIPRanges, \
                         {include,exclude}OutboundPorts, {include,exclude}InboundPorts, excludeInterfaces",
                    ));
                }
            }
        }
        Ok(self)
    }
}

/// The name servers of a resolv.conf, whose DNS is captured.
pub fn resolvers(resolv_conf: &str) -> Selection<IpAddr> {
    let mut servers: Vec<IpAddr> = Vec::new();
    for line in resolv_conf.lines() {
        let mut words = line.split_whitespace();
        if words.next() == Some("nameserver")
            && let Some(address) = words.next()
            // A link-local server carries its zone: fe80::1%eth0.
            && let Ok(ip) = address.split('%').next().unwrap_or(address).parse()
            && !servers.contains(&ip)
        {
            servers.push(ip);
        }
    }
    Selection::Only(servers)
}

/// Annotations as Kubernetes' downward API writes them to a file: `NAME="VALUE"`, a line each, the value
/// quoted as Go quotes strings. Lines of another form are not annotations about capture and are passed over.
pub fn downward_annotations(text: &str) -> BTreeMap<String, String> {
    text.lines()
        .filter_map(|line| {
            let (name, value) = line.split_once('=')?;
            let value = value.trim().strip_prefix('"')?.strip_suffix('"')?;
            // What is escaped stays so: nothing about capture holds it, and the plan refuses it by name.
            Some((name.trim().to_owned(), value.to_owned()))
        })
        .collect()
}

fn entries(value: &str) -> impl Iterator<Item = &str> {
    value.split(',').map(str::trim).filter(|v| !v.is_empty())
}

fn range(text: &str) -> Option<IpNet> {
    text.parse::<IpNet>()
        .map(|n| n.trunc())
        .ok()
        .or_else(|| text.parse::<IpAddr>().map(IpNet::from).ok())
}
