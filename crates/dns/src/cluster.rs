//! A cluster's own DNS, as kube-dns answers it: Services and pods below the cluster's domain, stub
//! domains elsewhere, the rest upstream.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use arc_swap::ArcSwap;
use hickory_proto::op::ResponseCode;

use crate::forward::Forwarder;
use crate::mesh::push_addresses;
use crate::server::{Decision, Denial, Handler};
use crate::table::{Addresses, NameTable};
use crate::wire::{Question, Reply};
use crate::zone;

/// Seconds for which an answer holds (the default of CoreDNS's kubernetes plug-in).
const TTL: u32 = 5;

/// Answers for one cluster.
#[derive(Debug)]
pub struct ClusterNames {
    domain: String,
    table: Arc<ArcSwap<NameTable>>,
    stubs: Vec<(String, Forwarder)>,
    upstream: Forwarder,
    turn: AtomicUsize,
}

impl ClusterNames {
    /// `table` holds full host names below `domain` (`cluster.local`); short names are the business of
    /// the pods' resolv.conf.
    pub fn new(domain: &str, table: Arc<ArcSwap<NameTable>>, upstream: Forwarder) -> Self {
        let domain = domain.trim_matches('.').to_ascii_lowercase();
        Self {
            domain,
            table,
            stubs: Vec::new(),
            upstream,
            turn: AtomicUsize::new(0),
        }
    }

    /// Sends names below `domain` to resolvers of their own (`stubDomains` of kube-dns's ConfigMap).
    pub fn with_stub(mut self, domain: &str, to: Forwarder) -> Self {
        self.stubs
            .push((domain.trim_matches('.').to_ascii_lowercase(), to));
        self.stubs.sort_by_key(|(d, _)| usize::MAX - d.len());
        self
    }

    fn denial(&self, code: ResponseCode) -> Decision {
        let mut reply = Reply::authoritative(Vec::new());
        reply.code = code;
        reply.authorities.extend(zone::soa(&self.domain, TTL));
        Decision::Answer(reply)
    }
}

impl Handler for ClusterNames {
    fn decide(&self, question: &Question) -> Decision {
        let name = question.name.as_str();
        if let Some((_, stub)) = self.stubs.iter().find(|(domain, _)| is_below(name, domain)) {
            return Decision::Forward(stub.clone(), Denial::Keep);
        }
        if !is_below(name, &self.domain) {
            return Decision::Forward(self.upstream.clone(), Denial::Keep);
        }
        let table = self.table.load();
        let (mut v4, mut v6) = ([Ipv4Addr::UNSPECIFIED], [Ipv6Addr::UNSPECIFIED]);
        let addresses = match (table.host(name), pod_address(name, &self.domain)) {
            (Some(addresses), _) => addresses,
            (None, Some(IpAddr::V4(ip))) => {
                v4[0] = ip;
                Addresses { v4: &v4, v6: &[] }
            }
            (None, Some(IpAddr::V6(ip))) => {
                v6[0] = ip;
                Addresses { v4: &[], v6: &v6 }
            }
            (None, None) => {
                let exists = name == self.domain || table.has_below(name);
                return self.denial(if exists {
                    ResponseCode::NoError
                } else {
                    ResponseCode::NXDomain
                });
            }
        };
        let mut answers = Vec::new();
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        push_addresses(&mut answers, question, question.owner(), addresses, turn, TTL);
        match answers.is_empty() {
            true => self.denial(ResponseCode::NoError),
            false => Decision::Answer(Reply::authoritative(answers)),
        }
    }
}

fn is_below(name: &str, domain: &str) -> bool {
    name.strip_suffix(domain)
        .is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

/// `10-1-2-3.default.pod.cluster.local` (CoreDNS's `pods insecure`).
fn pod_address(name: &str, domain: &str) -> Option<IpAddr> {
    let rest = name.strip_suffix(domain)?.strip_suffix(".pod.")?;
    let (dashed, namespace) = rest.split_once('.')?;
    if namespace.is_empty() || namespace.contains('.') {
        return None;
    }
    let v4 = dashed.replace('-', ".").parse::<Ipv4Addr>().map(IpAddr::V4);
    v4.or_else(|_| dashed.replace('-', ":").parse::<Ipv6Addr>().map(IpAddr::V6))
        .ok()
}

#[cfg(test)]
mod tests;
