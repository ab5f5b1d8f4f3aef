//! TCP and TLS rules of VirtualServices: which connections go to which clusters.

use isthmus_api::istio::VirtualService;
use isthmus_api::istio::virtual_service::{L4MatchAttributes, RouteDestination, TlsMatchAttributes};
use isthmus_model::{Hostname, Labels};
use isthmus_xds::envoy::listener::FilterChainMatch;

use crate::generate::context::Context;
use crate::generate::route::action::Destinations;
use crate::generate::route::virtual_service::{Place, Seen};
use crate::generate::wire;
use crate::snapshot::config::Written;

/// One rule under one of its matches.
#[derive(Debug)]
pub struct TcpRule {
    /// When it applies, beside the listener's own conditions.
    pub matches: FilterChainMatch,
    /// Clusters and weights.
    pub clusters: Vec<(String, u32)>,
    /// The object behind it.
    pub because: String,
}

impl TcpRule {
    /// Whether it takes every connection.
    pub fn is_everything(&self) -> bool {
        self.matches.prefix_ranges.is_empty() && self.matches.server_names.is_empty()
    }
}

/// What matches of TCP and of TLS have in common.
struct Condition<'c> {
    sni_hosts: &'c [String],
    subnets: &'c [String],
    gateways: &'c [String],
    port: Option<u16>,
    source_labels: &'c Labels,
    source_namespace: &'c str,
}

impl<'c> From<&'c L4MatchAttributes> for Condition<'c> {
    fn from(written: &'c L4MatchAttributes) -> Self {
        Self {
            sni_hosts: &[],
            subnets: &written.destination_subnets,
            gateways: &written.gateways,
            port: written.port,
            source_labels: &written.source_labels,
            source_namespace: &written.source_namespace,
        }
    }
}

impl<'c> From<&'c TlsMatchAttributes> for Condition<'c> {
    fn from(written: &'c TlsMatchAttributes) -> Self {
        Self {
            sni_hosts: &written.sni_hosts,
            subnets: &written.destination_subnets,
            gateways: &written.gateways,
            port: written.port,
            source_labels: &written.source_labels,
            source_namespace: &written.source_namespace,
        }
    }
}

impl Condition<'_> {
    /// Whether it can hold at a place.
    fn holds_at(&self, place: &Place<'_>, namespace: &str) -> bool {
        (self.gateways.is_empty() || place.is_at(self.gateways, namespace))
            && self.port.is_none_or(|p| p == place.port)
            && (self.source_labels.is_empty()
                || place
                    .source_labels
                    .is_some_and(|own| own.matches(self.source_labels)))
            && (self.source_namespace.is_empty() || self.source_namespace == place.namespace)
    }

    /// What of it is decided by the connection.
    fn matches(&self) -> FilterChainMatch {
        FilterChainMatch {
            server_names: self
                .sni_hosts
                .iter()
                .filter(|h| *h != "*")
                .map(|h| h.to_ascii_lowercase())
                .collect(),
            prefix_ranges: subnets(self.subnets),
            ..Default::default()
        }
    }
}

/// The TCP rules of a VirtualService at a place.
pub fn tcp_rules(
    context: &Context<'_>,
    written: &Written<VirtualService>,
    place: &Place<'_>,
) -> Vec<TcpRule> {
    let mut out = Vec::new();
    for (i, rule) in written.spec.tcp.iter().enumerate() {
        let path = format!("spec.tcp[{i}]");
        let conditions = rule.matches.iter().map(Condition::from);
        out.extend(under(context, written, place, &path, &rule.route, conditions));
        if rule.matches.is_empty() {
            out.push(TcpRule {
                matches: FilterChainMatch::default(),
                clusters: weighted(context, written, &rule.route, place),
                because: written.because(&path),
            });
            break;
        }
    }
    out
}

/// The TLS rules of a VirtualService at a place.
pub fn tls_rules(
    context: &Context<'_>,
    written: &Written<VirtualService>,
    place: &Place<'_>,
) -> Vec<TcpRule> {
    let mut out = Vec::new();
    for (i, rule) in written.spec.tls.iter().enumerate() {
        let path = format!("spec.tls[{i}]");
        let conditions = rule.matches.iter().map(Condition::from);
        out.extend(under(context, written, place, &path, &rule.route, conditions));
    }
    out
}

/// One rule under each of its conditions that can hold at a place.
fn under<'c>(
    context: &Context<'_>,
    written: &Written<VirtualService>,
    place: &Place<'_>,
    path: &str,
    route: &[RouteDestination],
    conditions: impl Iterator<Item = Condition<'c>>,
) -> Vec<TcpRule> {
    conditions
        .filter(|condition| condition.holds_at(place, written.namespace()))
        .map(|condition| TcpRule {
            matches: condition.matches(),
            clusters: weighted(context, written, route, place),
            because: written.because(path),
        })
        .collect()
}

/// Whether a VirtualService has a rule of a kind for a host.
pub fn covers(written: &Written<VirtualService>, host: &Hostname) -> bool {
    written.hosts.iter().any(|h| h.covers(host))
}

fn weighted(
    context: &Context<'_>,
    written: &Written<VirtualService>,
    route: &[RouteDestination],
    place: &Place<'_>,
) -> Vec<(String, u32)> {
    let seen = Seen {
        context,
        namespace: written.namespace(),
        port: place.port,
    };
    route
        .iter()
        .filter(|d| route.len() == 1 || d.weight > 0)
        .map(|d| {
            (
                seen.cluster(&d.destination),
                u32::try_from(d.weight)
                    .unwrap_or(0)
                    .max(u32::from(route.len() == 1)),
            )
        })
        .collect()
}

fn subnets(written: &[String]) -> Vec<isthmus_xds::envoy::core::CidrRange> {
    written
        .iter()
        .filter_map(|text| {
            if let Ok(net) = text.parse::<ipnet::IpNet>() {
                return Some(wire::range(&net));
            }
            text.parse().ok().map(wire::host_range)
        })
        .collect()
}
