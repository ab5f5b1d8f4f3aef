//! Route tables of a gateway.

use std::collections::{BTreeMap, BTreeSet};

use isthmus_xds::envoy::route as envoy;
use isthmus_xds::envoy::route::virtual_host::TlsRequirementType;
use isthmus_xds::envoy::route::{RouteConfiguration, VirtualHost};

use super::virtual_service;
use crate::generate::context::Context;
use crate::generate::listener::gateway::{Bound, applied, place, servers};
use crate::generate::wire;

/// Every table that the gateway's listeners name.
pub fn tables(context: &Context<'_>) -> Vec<RouteConfiguration> {
    let mut by_name: BTreeMap<String, Vec<Bound<'_>>> = BTreeMap::new();
    for bound in servers(context).into_iter().filter(Bound::is_http) {
        by_name.entry(bound.table()).or_default().push(bound);
    }
    by_name
        .into_iter()
        .map(|(name, bounds)| table(context, name, &bounds))
        .collect()
}

fn table(context: &Context<'_>, name: String, bounds: &[Bound<'_>]) -> RouteConfiguration {
    let mut hosts: BTreeMap<String, VirtualHost> = BTreeMap::new();
    for bound in bounds {
        let gateways = bound.names();
        let place = place(context, bound, &gateways);
        let redirects = bound.server.tls.as_ref().is_some_and(|t| t.https_redirect);
        let mut routed: BTreeSet<String> = BTreeSet::new();
        for written in applied(context, bound, &place) {
            let routes = virtual_service::routes(context, written, &place);
            for host in &written.hosts {
                let served = bound
                    .hosts()
                    .filter(|(ns, _)| ns.is_none_or(|n| n == written.namespace()));
                for (_, server_host) in served.filter(|(_, h)| h.overlaps(host)) {
                    // Of two overlapping names the narrower is what both agree on.
                    let domain = if server_host.covers(host) {
                        host
                    } else {
                        &server_host
                    }
                    .to_string();
                    routed.insert(domain.clone());
                    let entry = hosts.entry(domain.clone()).or_insert_with(|| {
                        super::virtual_host(
                            format!("{domain}:{}", bound.number),
                            vec![domain.clone()],
                            Vec::new(),
                        )
                    });
                    if redirects {
                        entry.require_tls = TlsRequirementType::All as i32;
                    }
                    entry.routes.extend(routes.iter().cloned());
                }
            }
        }
        if redirects {
            // Redirected also where nothing is routed.
            for (_, host) in bound.hosts().filter(|(_, h)| !routed.contains(h.as_str())) {
                let domain = host.to_string();
                hosts.entry(domain.clone()).or_insert_with(|| VirtualHost {
                    name: format!("{domain}:{}", bound.number),
                    domains: vec![domain],
                    require_tls: TlsRequirementType::All as i32,
                    ..Default::default()
                });
            }
        }
    }
    let mut hosts: Vec<VirtualHost> = hosts.into_values().collect();
    for host in &mut hosts {
        host.routes = reachable(std::mem::take(&mut host.routes));
    }
    if hosts.is_empty() {
        hosts.push(super::virtual_host(
            "blackhole:0".to_owned(),
            vec!["*".to_owned()],
            Vec::new(),
        ));
    }
    RouteConfiguration {
        name,
        virtual_hosts: hosts,
        validate_clusters: wire::boolean(false),
        max_direct_response_body_size_bytes: wire::uint(1024 * 1024),
        ignore_port_in_host_matching: true,
        ..Default::default()
    }
}

/// Routes of several VirtualServices for one host: those that take everything go last, and only one counts.
fn reachable(routes: Vec<envoy::Route>) -> Vec<envoy::Route> {
    let all = |r: &envoy::Route| {
        r.r#match.as_ref().is_some_and(|m| {
            m.headers.is_empty()
                && m.query_parameters.is_empty()
                && matches!(&m.path_specifier, Some(envoy::route_match::PathSpecifier::Prefix(p)) if p == "/")
        })
    };
    let (everything, mut some): (Vec<_>, Vec<_>) = routes.into_iter().partition(all);
    some.extend(everything.into_iter().take(1));
    some
}
