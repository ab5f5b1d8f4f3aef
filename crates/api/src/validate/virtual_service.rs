//! VirtualService: hosts, gateways, and every kind of route.

mod http;

use super::field::{address_or_cidr, export_to, host, optional_port, port};
use super::metadata::{clip, is_dns_label, labels};
use super::{At, Context, Validate};
use crate::istio::VirtualService;
use crate::istio::virtual_service::{Destination, L4MatchAttributes, RouteDestination, TlsMatchAttributes};
use isthmus_model::Hostname;

impl Validate for VirtualService {
    fn validate(&self, context: &Context<'_>) {
        let at = context.at("spec");
        self.hosts(&at);
        gateways(&self.gateways, &at.field("gateways"));
        if self.http.is_empty() && self.tls.is_empty() && self.tcp.is_empty() {
            at.error("the VirtualService has no routes", "add http, tls or tcp");
        }
        let delegate = self.hosts.is_empty();
        http::routes(&self.http, delegate, &at.field("http"));
        for (i, route) in self.tls.iter().enumerate() {
            let at = at.field("tls").index(i);
            if route.matches.is_empty() {
                at.error("a TLS route needs a match", "add match with sniHosts");
            }
            for (j, m) in route.matches.iter().enumerate() {
                self.tls_match(m, &at.field("match").index(j));
            }
            destinations(&route.route, &at.field("route"));
        }
        for (i, route) in self.tcp.iter().enumerate() {
            let at = at.field("tcp").index(i);
            for (j, m) in route.matches.iter().enumerate() {
                tcp_match(m, &at.field("match").index(j));
            }
            destinations(&route.route, &at.field("route"));
        }
        export_to(&self.export_to, &at.field("exportTo"));
    }
}

impl VirtualService {
    fn on_mesh(&self) -> bool {
        self.gateways.is_empty() || self.gateways.iter().any(|g| g == "mesh")
    }

    fn hosts(&self, at: &At<'_>) {
        if self.hosts.is_empty() {
            if !self.gateways.is_empty() {
                at.field("gateways").error(
                    "a VirtualService without hosts is a delegate and has no gateways",
                    "add hosts, or remove gateways",
                );
            }
            if !self.tls.is_empty() || !self.tcp.is_empty() {
                at.error(
                    "a VirtualService without hosts is a delegate and may only have http",
                    "add hosts",
                );
            }
            return;
        }
        let at = at.field("hosts");
        for (i, name) in self.hosts.iter().enumerate() {
            let at = at.index(i);
            if name == "*" && self.on_mesh() {
                at.error(
                    "\"*\" is not allowed on the mesh gateway",
                    "name the hosts, or name a gateway other than mesh",
                );
            } else if name.parse::<std::net::IpAddr>().is_err() {
                host(name, true, &at);
            }
        }
        let names: Vec<Option<Hostname>> = self.hosts.iter().map(|h| h.parse().ok()).collect();
        for (i, later) in names.iter().enumerate() {
            let Some(later) = later else { continue };
            let earlier = names[..i]
                .iter()
                .flatten()
                .find(|earlier| earlier.overlaps(later));
            if let Some(earlier) = earlier {
                at.index(i).error(
                    format_args!("the host {later} is a duplicate of {earlier}"),
                    "remove one; a wildcard takes in every host below it",
                );
            }
        }
    }

    fn tls_match(&self, m: &TlsMatchAttributes, at: &At<'_>) {
        if m.sni_hosts.is_empty() {
            at.error("a TLS match names no sniHosts", "add sniHosts");
        }
        for (i, sni) in m.sni_hosts.iter().enumerate() {
            let at = at.field("sniHosts").index(i);
            host(sni, true, &at);
            let Ok(name) = sni.parse::<Hostname>() else {
                continue;
            };
            let within = self
                .hosts
                .iter()
                .filter_map(|h| h.parse::<Hostname>().ok())
                .any(|h| h.covers(&name));
            if !within {
                at.error(
                    format_args!("{sni} is within none of the hosts"),
                    "add it to hosts",
                );
            }
        }
        subnets(&m.destination_subnets, &at.field("destinationSubnets"));
        optional_port(m.port, &at.field("port"));
        labels(&m.source_labels, &at.field("sourceLabels"));
        gateways(&m.gateways, &at.field("gateways"));
    }
}

fn tcp_match(m: &L4MatchAttributes, at: &At<'_>) {
    subnets(&m.destination_subnets, &at.field("destinationSubnets"));
    if !m.source_subnet.is_empty() {
        at.field("sourceSubnet")
            .finding(&crate::codes::NO_EFFECT, "sourceSubnet does nothing", "remove it");
    }
    optional_port(m.port, &at.field("port"));
    labels(&m.source_labels, &at.field("sourceLabels"));
    gateways(&m.gateways, &at.field("gateways"));
}

fn subnets(list: &[String], at: &At<'_>) {
    for (i, text) in list.iter().enumerate() {
        address_or_cidr(text, &at.index(i));
    }
}

/// `mesh`, `name` or `namespace/name`.
fn gateways(names: &[String], at: &At<'_>) {
    for (i, name) in names.iter().enumerate() {
        let parts: Vec<&str> = name.split('/').collect();
        let named = |s: &str| !s.is_empty() && s.len() <= 253 && s.split('.').all(is_dns_label);
        let fine = match parts.as_slice() {
            [name] => named(name),
            [namespace, name] => (*namespace == "." || is_dns_label(namespace)) && named(name),
            _ => false,
        };
        if !fine {
            at.index(i).error(
                format_args!("{:?} is not a gateway", clip(name)),
                "write mesh, name or namespace/name",
            );
        }
    }
}

fn destinations(routes: &[RouteDestination], at: &At<'_>) {
    if routes.is_empty() {
        at.error("the route leads nowhere", "add route with a destination");
    }
    for (i, route) in routes.iter().enumerate() {
        destination(&route.destination, &at.index(i).field("destination"));
    }
    weights(routes.iter().map(|r| r.weight), at);
}

/// Where traffic goes.
fn destination(d: &Destination, at: &At<'_>) {
    if d.host.is_empty() {
        at.error("the destination has no host", "add host");
    } else if d.host.parse::<std::net::IpAddr>().is_err() {
        host(&d.host, false, &at.field("host"));
    }
    if !d.subset.is_empty() && !is_dns_label(&d.subset) {
        at.field("subset").error(
            format_args!("{:?} is not a subset's name", clip(&d.subset)),
            "use at most 63 lower-case letters, digits and '-'",
        );
    }
    if let Some(selector) = &d.port {
        port(selector.number, &at.field("port").field("number"));
    }
}

/// Weights are shares of their sum; they need not add up to 100.
fn weights(weights: impl Iterator<Item = i32>, at: &At<'_>) {
    let mut sum = 0i64;
    let mut count = 0;
    for (i, weight) in weights.enumerate() {
        count += 1;
        sum += i64::from(weight);
        if weight < 0 {
            at.index(i)
                .field("weight")
                .error(format_args!("the weight {weight} is negative"), "write 0 or more");
        }
    }
    if count > 1 && sum == 0 {
        at.error(
            "the weights of the destinations add up to 0",
            "give each destination a weight",
        );
    }
    if sum > i64::from(u32::MAX) {
        at.error(
            "the weights of the destinations are too large",
            "use smaller numbers; only their ratio counts",
        );
    }
}
