//! What only several objects together show, one file per analyzer.
//!
//! Analysis never refuses an object; it says what will not work as written. What is neither in the set nor
//! among the hosts of other clusters is taken not to exist, so give it everything that belongs together.

mod destination_rule_hosts;
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

use std::collections::{BTreeMap, HashMap};
use std::fmt::Display;
use std::sync::Arc;

use isthmus_model::Hostname;

use crate::codes::{self, Code};
use crate::finding::{Finding, Level};
use crate::istio::{DestinationRule, ServiceEntry, VirtualService};
use crate::kinds::{Kind, Typed};
use crate::kubernetes::Service;
use crate::object::Object;
use crate::parse::Parsed;

/// The name under which Kubernetes' services are known.
const DOMAIN: &str = "cluster.local";

/// The kinds that analysis looks at; a change of others changes no finding.
pub const KINDS: &[Kind] = &[
    Kind::Service,
    Kind::ServiceEntry,
    Kind::VirtualService,
    Kind::DestinationRule,
    Kind::Gateway,
    Kind::Sidecar,
];

/// What is known beside the objects of the cluster.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Elsewhere {
    /// Ports by host, of services that other clusters tell of.
    pub hosts: BTreeMap<Hostname, Vec<u16>>,
    /// Other clusters have not been heard yet: a host that nothing declares may be one of theirs.
    pub incomplete: bool,
}

/// Every finding about the set, by file and line.
pub fn analyze(objects: &[Arc<Object>]) -> Vec<Finding> {
    analyze_within(objects, &Elsewhere::default())
}

/// What is wrong with objects as they stand, without regard to what they refer to: that may stand elsewhere.
/// Besides errors, hosts that two of them claim.
pub fn by_themselves(parsed: Parsed) -> Vec<Finding> {
    let mut findings = parsed.findings;
    findings.extend(analyze(&parsed.objects).into_iter().filter(|finding| {
        let refers = finding.code == &codes::REFERENCED_RESOURCE_NOT_FOUND;
        !refers && (finding.level == Level::Error || finding.code == &codes::DUPLICATE_HOST)
    }));
    findings.sort();
    findings
}

/// Every finding about the objects of one cluster among others, by file and line.
pub fn analyze_within(objects: &[Arc<Object>], elsewhere: &Elsewhere) -> Vec<Finding> {
    let set = Set::new(objects, elsewhere);
    let mut findings = Vec::new();
    for analyzer in [
        destination_rule_hosts::analyze,
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
    /// In the order in which they are consulted: the oldest first, as the control plane takes them.
    objects: Vec<&'a Arc<Object>>,
    /// Ports by exact host, of Services and ServiceEntries.
    hosts: HashMap<Hostname, Vec<u16>>,
    /// Wildcard hosts of ServiceEntries.
    wildcards: Vec<Hostname>,
    /// Whether hosts that are not known may exist all the same.
    incomplete: bool,
}

impl<'a> Set<'a> {
    fn new(objects: &'a [Arc<Object>], elsewhere: &Elsewhere) -> Self {
        let mut objects: Vec<_> = objects.iter().collect();
        objects.sort_by(|a, b| a.age().cmp(&b.age()));
        let mut hosts: HashMap<Hostname, Vec<u16>> = elsewhere.hosts.clone().into_iter().collect();
        let mut wildcards = Vec::new();
        for (object, service) in of_kind::<Service>(&objects) {
            if let Ok(host) = Hostname::qualified(&object.meta.name, &object.meta.namespace, DOMAIN) {
                let ports = hosts.entry(host).or_default();
                ports.extend(service.spec.ports.iter().map(|p| p.port));
            }
        }
        for (_, entry) in of_kind::<ServiceEntry>(&objects) {
            for host in entry.hosts.iter().filter_map(|h| h.parse::<Hostname>().ok()) {
                if host.is_wildcard() {
                    wildcards.push(host);
                } else {
                    let ports = hosts.entry(host).or_default();
                    ports.extend(entry.ports.iter().map(|p| p.number));
                }
            }
        }
        for ports in hosts.values_mut() {
            ports.sort_unstable();
            ports.dedup();
        }
        Set {
            objects,
            hosts,
            wildcards,
            incomplete: elsewhere.incomplete,
        }
    }

    fn each<T: Typed>(&self) -> impl Iterator<Item = (&'a Object, &'a T)> {
        of_kind(&self.objects)
    }

    /// Whether anything declares the host.
    fn knows(&self, host: &Hostname) -> bool {
        self.hosts.contains_key(host) || self.wildcards.iter().any(|w| w.covers(host))
    }
}

/// Objects of one kind with their content.
fn of_kind<'a, T: Typed>(objects: &[&'a Arc<Object>]) -> impl Iterator<Item = (&'a Object, &'a T)> {
    objects.iter().filter_map(|o| Some((&***o, &**o.typed::<T>()?)))
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
