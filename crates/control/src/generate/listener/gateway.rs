//! Listeners of a gateway: one for each port that Gateway resources open on its pods, and the passthrough
//! of sealed TLS between clusters.

use std::collections::{BTreeMap, BTreeSet};

use isthmus_api::istio::gateway::{Server, ServerTlsMode};
use isthmus_api::istio::{Gateway, VirtualService};
use isthmus_model::{ClusterName, Hostname, Protocol, ServiceOrigin};
use isthmus_xds::envoy::core;
use isthmus_xds::envoy::listener::{FilterChain, FilterChainMatch, Listener};

use super::TLS_INSPECTOR;
use super::filters::{self, Facing, Routes};
use super::tcp;
use crate::generate::context::Context;
use crate::generate::rbac::Authorization;
use crate::generate::route::virtual_service::{self, Place};
use crate::generate::tls::{self, MESH_ALPN};
use crate::generate::wire;
use crate::registry::gateways::{PASSTHROUGH_PORT, is_east_west};
use crate::registry::kubernetes::target_port;
use crate::snapshot::config::Written;

/// Control planes reach each other through this service's name.
pub const CONTROL_PLANE: (&str, u16) = ("istiod", 15012);

/// A server of a Gateway resource on a port of this proxy.
#[derive(Debug, Clone, Copy)]
pub struct Bound<'a> {
    /// The Gateway resource.
    pub gateway: &'a Written<Gateway>,
    /// Index into its servers.
    pub index: usize,
    /// The server.
    pub server: &'a Server,
    /// Port that callers address: that of the gateway's Service.
    pub number: u16,
    /// Port of the pod.
    pub target: u16,
}

impl<'a> Bound<'a> {
    /// What is spoken.
    pub fn protocol(&self) -> Protocol {
        let said = self
            .server
            .port
            .as_ref()
            .map(|p| p.protocol.as_str())
            .unwrap_or_default();
        Protocol::select("", Some(said), None)
    }

    /// How TLS is treated.
    pub fn tls_mode(&self) -> Option<ServerTlsMode> {
        self.server
            .tls
            .as_ref()
            .filter(|t| !t.https_redirect || self.protocol().is_tls())
            .map(|t| t.mode)
    }

    /// Whether this proxy terminates TLS here.
    pub fn terminates(&self) -> bool {
        let sealed = matches!(
            self.tls_mode(),
            Some(ServerTlsMode::Passthrough | ServerTlsMode::AutoPassthrough)
        );
        self.tls_mode().is_some() && !sealed && self.protocol().is_tls()
    }

    /// Whether requests are visible here.
    pub fn is_http(&self) -> bool {
        match self.protocol() {
            Protocol::Https => self.terminates(),
            protocol => protocol.is_http(),
        }
    }

    /// Hosts with the namespace they are restricted to: `None` for any.
    pub fn hosts(&self) -> impl Iterator<Item = (Option<&'a str>, Hostname)> + use<'a> {
        let own = self.gateway.namespace();
        let server = self.server;
        server
            .hosts
            .iter()
            .filter_map(move |text| match text.split_once('/') {
                Some(("*", host)) => Some((None, host.parse().ok()?)),
                Some((".", host)) => Some((Some(own), host.parse().ok()?)),
                Some((namespace, host)) => Some((Some(namespace), host.parse().ok()?)),
                None => Some((None, text.parse().ok()?)),
            })
    }

    /// Names by which VirtualServices name the gateway.
    pub fn names(&self) -> [String; 1] {
        [format!(
            "{}/{}",
            self.gateway.namespace(),
            self.gateway.object.meta.name
        )]
    }

    /// `http.TARGET`, shared by all plaintext servers of a port; `https.NUMBER.NAME.GATEWAY.NAMESPACE`.
    pub fn table(&self) -> String {
        if self.terminates() {
            let meta = &self.gateway.object.meta;
            let name = self
                .server
                .port
                .as_ref()
                .map(|p| p.name.as_str())
                .unwrap_or_default();
            let name = if self.server.name.is_empty() {
                name
            } else {
                &self.server.name
            };
            format!("https.{}.{name}.{}.{}", self.number, meta.name, meta.namespace)
        } else {
            format!("http.{}", self.target)
        }
    }
}

/// The servers that Gateway resources open on this proxy.
pub fn servers<'a>(context: &Context<'a>) -> Vec<Bound<'a>> {
    let mut out = Vec::new();
    for gateway in &context.snapshot.config.gateways {
        if gateway.spec.selector.is_empty() || !context.labels.matches(&gateway.spec.selector) {
            continue;
        }
        for (index, server) in gateway.spec.servers.iter().enumerate() {
            let Some(port) = &server.port else { continue };
            let target = target_of(context, port.number);
            out.push(Bound {
                gateway,
                index,
                server,
                number: port.number,
                target,
            });
        }
    }
    out
}

/// The pod's port behind a port of the gateway's Services.
fn target_of(context: &Context<'_>, number: u16) -> u16 {
    let Some(instance) = context.instance else {
        return number;
    };
    let services = context.snapshot.registry.services.values().filter(|s| {
        !s.selector.is_empty()
            && s.namespace() == instance.workload.key.namespace
            && instance.workload.labels.matches(&s.selector)
    });
    services
        .filter_map(|s| target_port(s, number, instance))
        .next()
        .unwrap_or(number)
}

/// What was made of the servers.
#[derive(Debug, Default)]
pub struct Made {
    /// The listeners.
    pub listeners: Vec<Listener>,
    /// Sealed TLS: cluster names by SNI, and whether plaintext endpoints stay.
    pub passthrough: BTreeMap<ClusterName, bool>,
}

/// Every listener of a gateway.
pub fn listeners(context: &Context<'_>) -> Made {
    let mut made = Made::default();
    let authorization = Authorization::of(context);
    let mut ports: BTreeMap<u16, Vec<Bound<'_>>> = BTreeMap::new();
    for bound in servers(context) {
        ports.entry(bound.target).or_default().push(bound);
    }
    if is_east_west(context.labels) {
        ports.entry(target_of(context, PASSTHROUGH_PORT)).or_default();
    }
    let east_west = is_east_west(context.labels).then(|| target_of(context, PASSTHROUGH_PORT));
    for (port, bounds) in ports {
        let mut chains: Vec<FilterChain> = Vec::new();
        let mut names: BTreeSet<String> = BTreeSet::new();
        let mut plaintext_table = None;
        let mut auto: Vec<Hostname> = Vec::new();
        for bound in &bounds {
            if bound.tls_mode() == Some(ServerTlsMode::AutoPassthrough) {
                auto.extend(bound.hosts().map(|(_, host)| host));
            } else if bound.is_http() && !bound.terminates() {
                plaintext_table = Some(bound.table());
            } else if bound.terminates() {
                chains.extend(terminated(context, bound, &authorization, &mut names));
            } else {
                chains.extend(routed(context, bound, &authorization));
            }
        }
        let passes = !auto.is_empty() || (east_west == Some(port) && bounds.is_empty());
        if auto.is_empty() && passes {
            auto = ["*.local", "*.global"]
                .iter()
                .filter_map(|h| h.parse().ok())
                .collect();
        }
        if passes {
            chains.extend(passthrough(context, &auto, &mut made.passthrough));
        }
        let sniffs = chains.iter().any(|c| {
            c.filter_chain_match
                .as_ref()
                .is_some_and(|m| !m.server_names.is_empty() || !m.application_protocols.is_empty())
        });
        if let Some(table) = plaintext_table {
            chains.push(FilterChain {
                name: format!("0.0.0.0_{port}"),
                filters: vec![filters::http(
                    context,
                    Facing::Gateway,
                    &format!("outbound_0.0.0.0_{port}"),
                    Routes::Named(table),
                    authorization.http(),
                )],
                ..Default::default()
            });
        }
        if chains.is_empty() {
            continue;
        }
        let default = chains
            .iter()
            .position(|c| c.filter_chain_match.is_none())
            .map(|i| chains.remove(i));
        // Envoy wants at least one chain; the default alone serves as it.
        let (chains, default) = match (chains.is_empty(), default) {
            (true, Some(only)) => (vec![only], None),
            (_, default) => (chains, default),
        };
        made.listeners.push(Listener {
            name: format!("0.0.0.0_{port}"),
            address: Some(wire::socket("0.0.0.0", port)),
            traffic_direction: core::TrafficDirection::Outbound as i32,
            filter_chains: chains,
            default_filter_chain: default,
            listener_filters: if sniffs || passes {
                vec![wire::listener_filter(
                    "envoy.filters.listener.tls_inspector",
                    TLS_INSPECTOR,
                )]
            } else {
                Vec::new()
            },
            ..Default::default()
        });
    }
    made
}

/// A server whose TLS ends here.
fn terminated(
    context: &Context<'_>,
    bound: &Bound<'_>,
    authorization: &Authorization,
    names: &mut BTreeSet<String>,
) -> Vec<FilterChain> {
    let Some(settings) = &bound.server.tls else {
        return Vec::new();
    };
    let Some(socket) = tls::gateway_server(settings, bound.is_http()) else {
        return Vec::new();
    };
    let mut server_names: Vec<String> = bound
        .hosts()
        .map(|(_, h)| h.to_string())
        .filter(|h| h != "*")
        .filter(|h| names.insert(h.clone()))
        .collect();
    let any = bound.hosts().any(|(_, h)| h.as_str() == "*");
    if any {
        server_names.clear();
    } else if server_names.is_empty() {
        return Vec::new();
    }
    let matches = (!server_names.is_empty()).then(|| FilterChainMatch {
        server_names,
        ..Default::default()
    });
    let because = wire::because(&bound.gateway.because(&format!("spec.servers[{}]", bound.index)));
    let name = bound.table();
    if bound.is_http() {
        let stat = format!("outbound_0.0.0.0_{}", bound.target);
        let routes = Routes::Named(bound.table());
        return vec![FilterChain {
            name,
            filter_chain_match: matches,
            transport_socket: Some(socket),
            metadata: because,
            filters: vec![filters::http(
                context,
                Facing::Gateway,
                &stat,
                routes,
                authorization.http(),
            )],
            ..Default::default()
        }];
    }
    let gateways = bound.names();
    let place = place(context, bound, &gateways);
    let rule =
        applied(context, bound, &place).find_map(|v| tcp::tcp_rules(context, v, &place).into_iter().next());
    let Some(rule) = rule else { return Vec::new() };
    let mut chain_filters = authorization.network();
    chain_filters.push(filters::tcp(context, &name, &rule.clusters, None));
    vec![FilterChain {
        name,
        filter_chain_match: matches,
        transport_socket: Some(socket),
        metadata: wire::because(&rule.because),
        filters: chain_filters,
        ..Default::default()
    }]
}

/// A server whose bytes are routed as they are: TCP, or TLS by SNI.
fn routed(context: &Context<'_>, bound: &Bound<'_>, authorization: &Authorization) -> Vec<FilterChain> {
    let gateways = bound.names();
    let place = place(context, bound, &gateways);
    let mut out = Vec::new();
    for written in applied(context, bound, &place) {
        let rules = if bound.protocol().is_tls() {
            tcp::tls_rules(context, written, &place)
        } else {
            tcp::tcp_rules(context, written, &place)
        };
        for rule in rules {
            let mut chain_filters = authorization.network();
            let stat = format!("outbound_0.0.0.0_{}", bound.target);
            chain_filters.push(filters::tcp(context, &stat, &rule.clusters, None));
            out.push(FilterChain {
                name: format!("{}-{}", bound.table(), out.len()),
                metadata: wire::because(&rule.because),
                filters: chain_filters,
                filter_chain_match: (!rule.is_everything()).then_some(rule.matches),
                ..Default::default()
            });
        }
    }
    out
}

/// Where a server's VirtualServices are applied.
pub fn place<'p>(context: &'p Context<'_>, bound: &Bound<'_>, gateways: &'p [String]) -> Place<'p> {
    Place {
        gateways,
        port: bound.number,
        source_labels: None,
        namespace: &context.proxy.namespace,
        tls: bound.terminates(),
    }
}

/// VirtualServices of a server: those that name its Gateway and share a host with it.
pub fn applied<'a, 'p>(
    context: &'p Context<'a>,
    bound: &'p Bound<'_>,
    place: &'p Place<'_>,
) -> impl Iterator<Item = &'a Written<VirtualService>> + 'p {
    context.scope.virtual_services.iter().copied().filter(move |v| {
        virtual_service::applies(v, place)
            && bound.hosts().any(|(namespace, host)| {
                namespace.is_none_or(|n| n == v.namespace()) && v.hosts.iter().any(|h| h.overlaps(&host))
            })
    })
}

/// Chains for sealed TLS: one for each service, port and subset, by the SNI that its callers send.
fn passthrough(
    context: &Context<'_>,
    hosts: &[Hostname],
    clusters: &mut BTreeMap<ClusterName, bool>,
) -> Vec<FilterChain> {
    let mut out = Vec::new();
    for (service, port) in context.scope.ports() {
        let covered = |host: &Hostname| hosts.iter().any(|h| h.covers(host));
        let internal = service.service.origin != ServiceOrigin::MeshExternal;
        let control_plane = service.namespace() == context.mesh().root_namespace
            && service
                .host()
                .as_str()
                .starts_with(&format!("{}.", CONTROL_PLANE.0))
            && port.number == CONTROL_PLANE.1;
        if !internal || port.protocol == Protocol::Udp || service.external_name.is_some() {
            continue;
        }
        if !control_plane && !covered(service.host()) && !service.aliases.iter().any(covered) {
            continue;
        }
        // A hop's endpoints are other clusters' gateways: nothing circles between gateways.
        if service.hop(port.number).is_some() {
            continue;
        }
        let rules = context.rules(service);
        let subsets: BTreeSet<&str> = rules
            .iter()
            .flat_map(|r| &r.spec.subsets)
            .map(|s| s.name.as_str())
            .collect();
        for subset in std::iter::once("").chain(subsets) {
            let name = ClusterName::outbound(port.number, subset, service.host().clone());
            let aliases = service.aliases.iter();
            let aliases = aliases.map(|a| ClusterName::outbound(port.number, subset, a.clone()).sni());
            let sni = name.sni();
            out.push(FilterChain {
                name: sni.clone(),
                filter_chain_match: Some(FilterChainMatch {
                    server_names: std::iter::once(sni.clone()).chain(aliases).collect(),
                    transport_protocol: "tls".to_owned(),
                    application_protocols: MESH_ALPN.map(str::to_owned).to_vec(),
                    ..Default::default()
                }),
                filters: vec![filters::tcp(context, &sni, &[(sni.clone(), 1)], None)],
                ..Default::default()
            });
            clusters.insert(name, control_plane);
        }
    }
    out
}
