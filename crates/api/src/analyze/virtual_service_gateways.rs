//! Gateways that VirtualServices name: whether they exist and serve the hosts.

use isthmus_model::Hostname;

use super::{Set, finding};
use crate::codes;
use crate::finding::Finding;
use crate::istio::{Gateway, VirtualService};
use crate::object::Object;

pub(super) fn analyze(set: &Set<'_>, findings: &mut Vec<Finding>) {
    let gateways: Vec<(&Object, &Gateway)> = set.each::<Gateway>().collect();
    for (object, service) in set.each::<VirtualService>() {
        let in_routes = service.http.iter().enumerate().flat_map(|(i, route)| {
            route.matches.iter().enumerate().flat_map(move |(j, m)| {
                m.gateways
                    .iter()
                    .enumerate()
                    .map(move |(k, g)| (format!("spec.http[{i}].match[{j}].gateways[{k}]"), g))
            })
        });
        let named = service
            .gateways
            .iter()
            .enumerate()
            .map(|(i, g)| (format!("spec.gateways[{i}]"), g));
        for (path, name) in named.chain(in_routes) {
            if name == "mesh" {
                continue;
            }
            let (namespace, short) = match name.split_once('/') {
                None | Some((".", _)) => (object.meta.namespace.as_str(), name.trim_start_matches("./")),
                Some((namespace, short)) => (namespace, short),
            };
            let found = gateways
                .iter()
                .find(|(g, _)| g.meta.namespace == namespace && g.meta.name == short);
            let Some((_, gateway)) = found else {
                let elsewhere = gateways.iter().find(|(g, _)| g.meta.name == short);
                let remedy = match elsewhere {
                    Some((g, _)) => format!("write {}/{short}", g.meta.namespace),
                    None => "correct the name, or add the Gateway".to_owned(),
                };
                let message = format!("there is no Gateway {namespace}/{short}");
                findings.push(finding(
                    object,
                    &path,
                    &codes::REFERENCED_RESOURCE_NOT_FOUND,
                    message,
                    remedy,
                ));
                continue;
            };
            for (i, host) in service.hosts.iter().enumerate() {
                if !serves(gateway, host, &object.meta.namespace) {
                    let message = format!("no server of Gateway {namespace}/{short} has the host {host:?}");
                    let at = format!("spec.hosts[{i}]");
                    findings.push(finding(
                        object,
                        &at,
                        &codes::HOST_NOT_IN_GATEWAY,
                        message,
                        "add it to the Gateway's server",
                    ));
                }
            }
        }
    }
}

/// Whether a server takes requests for the host from a VirtualService of this namespace.
fn serves(gateway: &Gateway, host: &str, namespace: &str) -> bool {
    let Ok(host) = Hostname::qualified(host, namespace, super::DOMAIN) else {
        return true;
    };
    gateway.servers.iter().flat_map(|s| &s.hosts).any(|served| {
        let (scope, name) = served.split_once('/').unwrap_or(("*", served));
        let visible = matches!(scope, "*" | ".") || scope == namespace;
        visible
            && name
                .parse::<Hostname>()
                .is_ok_and(|served| served.overlaps(&host))
    })
}
