//! Which filter chain serves a connection (Envoy `FilterChainMatch`).
//!
//! The criteria decide one after the other, the most specific match of each narrowing the field, without
//! going back: destination port, destination address, server name, transport, application protocol, source.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use crate::config::listener::{ChainMatch, FilterChain, Listener};

use super::facts::Facts;

/// The chain that serves the connection; the default chain when none matches.
pub fn find<'a>(listener: &'a Listener, facts: &Facts) -> Option<&'a Arc<FilterChain>> {
    let mut field: Vec<&Arc<FilterChain>> = listener.chains.iter().collect();
    narrow(&mut field, |m| match m.destination_port {
        None => Some(0),
        Some(port) => (port == facts.destination.port()).then_some(1),
    });
    narrow(&mut field, |m| {
        prefix_rank(&m.destination, facts.destination.ip())
    });
    narrow(&mut field, |m| {
        server_name_rank(&m.server_names, facts.server_name.as_deref())
    });
    narrow(&mut field, |m| match m.transport {
        None => Some(0),
        Some(t) => (t == facts.transport).then_some(1),
    });
    narrow(&mut field, |m| {
        if m.application_protocols.is_empty() {
            return Some(0);
        }
        // The client's first choice weighs most.
        facts
            .application_protocols
            .iter()
            .position(|p| m.application_protocols.iter().any(|a| **a == **p))
            .map(|at| usize::MAX - at)
    });
    narrow(&mut field, |m| prefix_rank(&m.source, facts.source.ip()));
    field.first().copied().or(listener.default_chain.as_ref())
}

/// Keeps the chains of the highest rank; those without one do not match.
fn narrow(field: &mut Vec<&Arc<FilterChain>>, rank: impl Fn(&ChainMatch) -> Option<usize>) {
    let best = field.iter().filter_map(|c| rank(&c.matches)).max();
    field.retain(|c| {
        let rank = rank(&c.matches);
        rank.is_some() && rank == best
    });
}

fn prefix_rank(nets: &[IpNet], ip: IpAddr) -> Option<usize> {
    if nets.is_empty() {
        return Some(0);
    }
    nets.iter()
        .filter(|n| n.contains(&ip))
        .map(|n| n.prefix_len() as usize + 1)
        .max()
}

/// Exact beats `*.suffix`, a longer suffix a shorter one, any a chain without names.
fn server_name_rank(names: &[Box<str>], sni: Option<&str>) -> Option<usize> {
    if names.is_empty() {
        return Some(0);
    }
    let sni = sni?;
    names
        .iter()
        .filter_map(|name| {
            if &**name == sni {
                return Some(usize::MAX);
            }
            let suffix = name.strip_prefix('*')?;
            (suffix.starts_with('.') && sni.len() > suffix.len() && sni.ends_with(suffix))
                .then_some(suffix.len())
        })
        .max()
}
