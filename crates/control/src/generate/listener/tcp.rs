//! TCP and TLS rules of VirtualServices: which connections go to which clusters.

use isthmus_api::istio::VirtualService;
use isthmus_api::istio::virtual_service::RouteDestination;
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

/// The TCP rules of a VirtualService at a place.
pub fn tcp_rules(
    context: &Context<'_>,
    written: &Written<VirtualService>,
    place: &Place<'_>,
) -> Vec<TcpRule> {
    let mut out = Vec::new();
    for (i, rule) in written.spec.tcp.iter().enumerate() {
        let because = written.because(&format!("spec.tcp[{i}]"));
        let clusters = weighted(context, written, &rule.route, place);
        if rule.matches.is_empty() {
            out.push(TcpRule {
                matches: FilterChainMatch::default(),
                clusters,
                because,
            });
            break;
        }
        for condition in &rule.matches {
            if takes(
                place,
                written.namespace(),
                &condition.gateways,
                condition.port,
                &condition.source_labels,
                &condition.source_namespace,
            ) {
                out.push(TcpRule {
                    matches: FilterChainMatch {
                        prefix_ranges: subnets(&condition.destination_subnets),
                        ..Default::default()
                    },
                    clusters: clusters.clone(),
                    because: because.clone(),
                });
            }
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
        let because = written.because(&format!("spec.tls[{i}]"));
        let clusters = weighted(context, written, &rule.route, place);
        for condition in &rule.matches {
            if takes(
                place,
                written.namespace(),
                &condition.gateways,
                condition.port,
                &condition.source_labels,
                &condition.source_namespace,
            ) {
                out.push(TcpRule {
                    matches: FilterChainMatch {
                        server_names: condition
                            .sni_hosts
                            .iter()
                            .filter(|h| *h != "*")
                            .map(|h| h.to_ascii_lowercase())
                            .collect(),
                        prefix_ranges: subnets(&condition.destination_subnets),
                        ..Default::default()
                    },
                    clusters: clusters.clone(),
                    because: because.clone(),
                });
            }
        }
    }
    out
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

fn takes(
    place: &Place<'_>,
    namespace: &str,
    gateways: &[String],
    port: Option<u16>,
    labels: &Labels,
    source_namespace: &str,
) -> bool {
    (gateways.is_empty() || place.is_at(gateways, namespace))
        && port.is_none_or(|p| p == place.port)
        && (labels.is_empty() || place.source_labels.is_some_and(|own| own.matches(labels)))
        && (source_namespace.is_empty() || source_namespace == place.namespace)
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
