//! What only several objects together show, one file per analyzer.
//!
//! Analysis never refuses an object; it says what will not work as written. What is not in the set is
//! taken not to exist, so give it everything that belongs together.

mod destinations;
mod gateways;
mod port_names;
mod service_entry_hosts;
mod sidecars;
mod subsets;
#[cfg(test)]
mod tests;
mod virtual_service_gateways;
mod virtual_service_hosts;

use std::collections::HashMap;
use std::fmt::Display;
use std::sync::Arc;

use isthmus_model::Hostname;

use crate::codes::Code;
use crate::finding::Finding;
use crate::istio::{DestinationRule, ServiceEntry, VirtualService};
use crate::kinds::Typed;
use crate::kubernetes::Service;
use crate::object::Object;

/// The name under which Kubernetes' services are known.
const DOMAIN: &str = "cluster.local";

/// Every finding about the set, by file and line.
pub fn analyze(objects: &[Arc<Object>]) -> Vec<Finding> {
    let set = Set::new(objects);
    let mut findings = Vec::new();
    for analyzer in [
        destinations::analyze,
        gateways::analyze,
        port_names::analyze,
        service_entry_hosts::analyze,
        sidecars::analyze,
        subsets::analyze,
        virtual_service_gateways::analyze,
        virtual_service_hosts::analyze,
    ] {
        analyzer(&set, &mut findings);
    }
    findings.sort();
    findings
}

/// The objects under analysis, and which hosts they declare.
struct Set<'a> {
    objects: &'a [Arc<Object>],
    /// Ports by exact host, of Services and ServiceEntries.
    hosts: HashMap<Hostname, Vec<u16>>,
    /// Wildcard hosts of ServiceEntries.
    wildcards: Vec<Hostname>,
}

impl<'a> Set<'a> {
    fn new(objects: &'a [Arc<Object>]) -> Self {
        let mut set = Set {
            objects,
            hosts: HashMap::new(),
            wildcards: Vec::new(),
        };
        for (object, service) in set.each::<Service>() {
            if let Ok(host) = Hostname::qualified(&object.meta.name, &object.meta.namespace, DOMAIN) {
                let ports = service.spec.ports.iter().map(|p| p.port).collect();
                set.hosts.insert(host, ports);
            }
        }
        for (_, entry) in set.each::<ServiceEntry>() {
            for host in entry.hosts.iter().filter_map(|h| h.parse::<Hostname>().ok()) {
                if host.is_wildcard() {
                    set.wildcards.push(host);
                } else {
                    set.hosts
                        .entry(host)
                        .or_default()
                        .extend(entry.ports.iter().map(|p| p.number));
                }
            }
        }
        set
    }

    fn each<T: Typed>(&self) -> impl Iterator<Item = (&'a Object, &'a T)> + use<'a, T> {
        self.objects
            .iter()
            .filter_map(|o| Some((&**o, &**o.typed::<T>()?)))
    }

    /// Whether anything declares the host.
    fn knows(&self, host: &Hostname) -> bool {
        self.hosts.contains_key(host) || self.wildcards.iter().any(|w| w.covers(host))
    }
}

/// The full host that a short name stands for: `reviews`, `reviews.prod`, `reviews.prod.svc` are
/// Kubernetes' services when the set has them, anything else is taken as it is.
fn resolve(name: &str, namespace: &str, set: &Set<'_>) -> Option<Hostname> {
    let exact = Hostname::qualified(name, namespace, DOMAIN).ok()?;
    if set.knows(&exact) {
        return Some(exact);
    }
    let longer = match name.split('.').collect::<Vec<_>>().as_slice() {
        [service, namespace] | [service, namespace, "svc"] => {
            format!("{service}.{namespace}.svc.{DOMAIN}").parse().ok()
        }
        _ => None,
    };
    Some(longer.filter(|host| set.knows(host)).unwrap_or(exact))
}

/// Every destination of a VirtualService with its path.
fn destinations_of(
    service: &VirtualService,
) -> impl Iterator<Item = (String, &crate::istio::virtual_service::Destination)> {
    let http = service.http.iter().enumerate().flat_map(|(i, route)| {
        let routes = route.route.iter().enumerate();
        let routes =
            routes.map(move |(j, r)| (format!("spec.http[{i}].route[{j}].destination"), &r.destination));
        let mirror = route
            .mirror
            .iter()
            .map(move |m| (format!("spec.http[{i}].mirror"), m));
        let mirrors = route.mirrors.iter().enumerate();
        let mirrors =
            mirrors.map(move |(j, m)| (format!("spec.http[{i}].mirrors[{j}].destination"), &m.destination));
        routes.chain(mirror).chain(mirrors)
    });
    let tls = service.tls.iter().enumerate().flat_map(|(i, route)| {
        let routes = route.route.iter().enumerate();
        routes.map(move |(j, r)| (format!("spec.tls[{i}].route[{j}].destination"), &r.destination))
    });
    let tcp = service.tcp.iter().enumerate().flat_map(|(i, route)| {
        let routes = route.route.iter().enumerate();
        routes.map(move |(j, r)| (format!("spec.tcp[{i}].route[{j}].destination"), &r.destination))
    });
    http.chain(tls).chain(tcp)
}

/// DestinationRules by the host that they are for, as seen from their own namespace.
fn rules_by_host<'a>(set: &Set<'a>) -> Vec<(Hostname, &'a Object, &'a DestinationRule)> {
    set.each::<DestinationRule>()
        .filter_map(|(object, rule)| Some((resolve(&rule.host, &object.meta.namespace, set)?, object, rule)))
        .collect()
}

/// A finding about one field of an object.
fn finding(
    object: &Object,
    path: &str,
    code: &'static Code,
    message: impl Display,
    remedy: impl Into<String>,
) -> Finding {
    let line = match object.positions.line(path) {
        0 => object.origin.line,
        line => line,
    };
    Finding::new(code, format!("{path}: {message}"), remedy)
        .at(&object.origin.file, line)
        .about(object.key())
}
