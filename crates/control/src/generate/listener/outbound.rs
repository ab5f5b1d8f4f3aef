//! Listeners for what a workload sends: one that takes all captured traffic, and one for each destination
//! that traffic can have.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;
use isthmus_api::istio::VirtualService;
use isthmus_model::{ClusterName, EndpointAddress, Port, Protocol};
use isthmus_xds::envoy::core;
use isthmus_xds::envoy::listener::{FilterChain, FilterChainMatch, Listener};

use super::filters::{self, Facing, Routes};
use super::tcp::{self, TcpRule};
use super::{HTTP_INSPECTOR, TLS_INSPECTOR};
use crate::generate::cluster::{BLACK_HOLE, PASSTHROUGH};
use crate::generate::context::Context;
use crate::generate::route::mesh_gateway;
use crate::generate::route::virtual_service::{self, Place};
use crate::generate::wire;
use crate::mesh::OutboundPolicy;
use crate::registry::MeshService;
use crate::snapshot::config::Written;

/// Where captured outbound traffic arrives.
const CAPTURE_PORT: u16 = 15001;

/// ALPN values that the HTTP inspector gives to plaintext HTTP.
pub const PLAIN_HTTP: [&str; 3] = ["http/1.0", "http/1.1", "h2c"];

/// What was made of the visible services.
#[derive(Debug, Default)]
pub struct Outbound {
    /// The listeners.
    pub listeners: Vec<Listener>,
    /// Ports with a shared RDS table.
    pub tables: BTreeSet<u16>,
    /// Services whose port's protocol is detected: host and port.
    pub detected: Vec<(isthmus_model::Hostname, u16)>,
    /// Services whose port cannot be told from an HTTP port: host and port.
    pub conflicts: Vec<(isthmus_model::Hostname, u16)>,
}

/// Every outbound listener of a sidecar.
pub fn listeners(context: &Context<'_>) -> Outbound {
    let mut out = Outbound::default();
    let mesh_gateway = mesh_gateway();
    let services: Vec<(&MeshService, &Port)> = context.scope.ports().map(|(s, p)| (&**s, p)).collect();
    out.tables = services
        .iter()
        .filter(|(_, p)| p.protocol.is_http())
        .map(|(_, p)| p.number)
        .collect();
    // Listeners for connections without a virtual address share their port: chains told apart by SNI.
    let mut wildcard: BTreeMap<u16, Vec<FilterChain>> = BTreeMap::new();
    let mut taken: BTreeSet<(IpAddr, u16)> = BTreeSet::new();
    for (service, port) in services {
        if port.protocol == Protocol::Udp || port.protocol.is_http() {
            continue;
        }
        let place = Place {
            gateways: &mesh_gateway,
            port: port.number,
            source_labels: Some(context.labels),
            namespace: &context.proxy.namespace,
            tls: false,
        };
        let addresses = addresses(context, service);
        if addresses.is_empty() || !service.ranges.is_empty() {
            let chains = chains(context, service, port, &place, &service.ranges);
            let told_apart = chains.iter().all(|c| {
                c.filter_chain_match
                    .as_ref()
                    .is_some_and(|m| !m.server_names.is_empty() || !m.prefix_ranges.is_empty())
            });
            if addresses.is_empty() && out.tables.contains(&port.number) && !told_apart {
                out.conflicts.push((service.host().clone(), port.number));
                continue;
            }
            wildcard.entry(port.number).or_default().extend(chains);
        }
        for ip in addresses {
            if !taken.insert((ip, port.number)) {
                continue;
            }
            let made = if port.protocol == Protocol::Auto {
                detected(context, service, port, ip, &place)
            } else {
                let chains = chains(context, service, port, &place, &[]);
                listener(
                    context,
                    &format!("{ip}_{}", port.number),
                    ip.to_string(),
                    port.number,
                    chains,
                )
            };
            out.listeners.push(made);
        }
        if port.protocol == Protocol::Auto {
            out.detected.push((service.host().clone(), port.number));
        }
    }
    let ports: BTreeSet<u16> = out.tables.iter().chain(wildcard.keys()).copied().collect();
    for port in ports {
        let mut chains = wildcard.remove(&port).unwrap_or_default();
        let http = out.tables.contains(&port);
        if http {
            chains.push(http_chain(context, port));
        }
        let mut made = listener(
            context,
            &format!("0.0.0.0_{port}"),
            "0.0.0.0".to_owned(),
            port,
            chains,
        );
        if made.default_filter_chain.is_none() {
            made.default_filter_chain = Some(others(context));
        }
        if http {
            made.listener_filters = vec![
                wire::listener_filter("envoy.filters.listener.tls_inspector", TLS_INSPECTOR),
                wire::listener_filter("envoy.filters.listener.http_inspector", HTTP_INSPECTOR),
            ];
            waits(&mut made, context);
        }
        out.listeners.push(made);
    }
    out.listeners.push(capture(context));
    out
}

/// The listener that captured traffic arrives at, and that takes what no other is for.
fn capture(context: &Context<'_>) -> Listener {
    let loops = FilterChain {
        name: "virtualOutbound-blackhole".to_owned(),
        filter_chain_match: Some(FilterChainMatch {
            destination_port: wire::uint(u32::from(CAPTURE_PORT)),
            ..Default::default()
        }),
        filters: vec![filters::tcp(
            context,
            BLACK_HOLE,
            &[(BLACK_HOLE.to_owned(), 1)],
            None,
        )],
        ..Default::default()
    };
    Listener {
        name: "virtualOutbound".to_owned(),
        address: Some(wire::socket("0.0.0.0", CAPTURE_PORT)),
        use_original_dst: wire::boolean(true),
        traffic_direction: core::TrafficDirection::Outbound as i32,
        filter_chains: vec![loops],
        default_filter_chain: Some(FilterChain {
            name: "virtualOutbound-catchall-tcp".to_owned(),
            ..others(context)
        }),
        ..Default::default()
    }
}

/// What happens with destinations that nobody declared.
fn others(context: &Context<'_>) -> FilterChain {
    let cluster = match context.scope.outbound {
        OutboundPolicy::AllowAny => PASSTHROUGH,
        OutboundPolicy::RegistryOnly => BLACK_HOLE,
    };
    FilterChain {
        name: "PassthroughFilterChain".to_owned(),
        filters: vec![filters::tcp(context, cluster, &[(cluster.to_owned(), 1)], None)],
        ..Default::default()
    }
}

fn http_chain(context: &Context<'_>, port: u16) -> FilterChain {
    FilterChain {
        name: format!("outbound_0.0.0.0_{port}"),
        filter_chain_match: Some(FilterChainMatch {
            transport_protocol: "raw_buffer".to_owned(),
            application_protocols: PLAIN_HTTP.map(str::to_owned).to_vec(),
            ..Default::default()
        }),
        filters: vec![filters::http(
            context,
            Facing::Outbound,
            &format!("outbound_0.0.0.0_{port}"),
            Routes::Named(port.to_string()),
            Vec::new(),
        )],
        ..Default::default()
    }
}

/// A port whose protocol nobody said: HTTP if it looks like it, else bytes.
fn detected(
    context: &Context<'_>,
    service: &MeshService,
    port: &Port,
    ip: IpAddr,
    place: &Place<'_>,
) -> Listener {
    let name = format!("{ip}_{}", port.number);
    let mut made = listener(
        context,
        &name,
        ip.to_string(),
        port.number,
        chains(context, service, port, place, &[]),
    );
    let table = format!("{}:{}", service.host(), port.number);
    made.filter_chains.insert(
        0,
        FilterChain {
            name: format!("outbound_{name}_http"),
            filter_chain_match: Some(FilterChainMatch {
                transport_protocol: "raw_buffer".to_owned(),
                application_protocols: PLAIN_HTTP.map(str::to_owned).to_vec(),
                ..Default::default()
            }),
            filters: vec![filters::http(
                context,
                Facing::Outbound,
                &format!("outbound_{name}"),
                Routes::Named(table),
                Vec::new(),
            )],
            ..Default::default()
        },
    );
    made.listener_filters = vec![
        wire::listener_filter("envoy.filters.listener.tls_inspector", TLS_INSPECTOR),
        wire::listener_filter("envoy.filters.listener.http_inspector", HTTP_INSPECTOR),
    ];
    waits(&mut made, context);
    made
}

/// How long sniffing may take; a server that speaks first is waited for no longer.
fn waits(listener: &mut Listener, context: &Context<'_>) {
    listener.listener_filters_timeout = wire::duration(context.mesh().detection_timeout);
    listener.continue_on_listener_filters_timeout = context.mesh().detection_timeout > Duration::ZERO;
}

/// Addresses that callers use for a service here; those of the pods for a headless one.
fn addresses(context: &Context<'_>, service: &MeshService) -> Vec<IpAddr> {
    let mesh = context.mesh();
    if let Some(own) = service.service.addresses.get(&mesh.cluster) {
        return own.clone();
    }
    if !service.service.headless {
        return Vec::new();
    }
    let listed = context.snapshot.aside.listed.get(&service.service.key);
    let reachable = listed
        .into_iter()
        .flatten()
        .filter(|e| e.network == context.network || e.network.is_empty());
    let ips: BTreeSet<IpAddr> = reachable
        .filter_map(|e| match e.address {
            EndpointAddress::Ip(ip) => Some(ip),
            _ => None,
        })
        .collect();
    ips.into_iter().collect()
}

/// Chains of a TCP or TLS port; the one without conditions is the last. With `ranges` they hold for addresses
/// in these alone, since the listener is that of every address.
fn chains(
    context: &Context<'_>,
    service: &MeshService,
    port: &Port,
    place: &Place<'_>,
    ranges: &[IpNet],
) -> Vec<FilterChain> {
    let rules = context
        .scope
        .virtual_services
        .iter()
        .filter(|v| virtual_service::applies(v, place) && tcp::covers(v, service.host()));
    let rules: Vec<&Written<VirtualService>> = rules.copied().collect();
    let default = ClusterName::outbound(port.number, "", service.host().clone()).to_string();
    let policy = context.policy(service, "", port.number);
    let idle = policy.tcp().and_then(|t| t.idle_timeout).map(|d| *d);
    let chain = |rule: TcpRule| FilterChain {
        name: default.clone(),
        filters: vec![filters::tcp(context, &default, &rule.clusters, idle)],
        metadata: wire::because(&rule.because),
        filter_chain_match: (!rule.is_everything()).then_some(rule.matches),
        ..Default::default()
    };
    let mut made: Vec<TcpRule> = Vec::new();
    if port.protocol.is_tls() {
        made.extend(rules.iter().flat_map(|r| tcp::tls_rules(context, r, place)));
    }
    if !port.protocol.is_tls() || made.is_empty() {
        made.extend(rules.iter().flat_map(|r| tcp::tcp_rules(context, r, place)));
    }
    let done = made.iter().position(TcpRule::is_everything);
    match done {
        Some(last) => made.truncate(last + 1),
        None => {
            let by_name =
                port.protocol.is_tls() && service.ranges.is_empty() && addresses(context, service).is_empty();
            let matches = FilterChainMatch {
                server_names: if by_name && service.host().as_str() != "*" {
                    vec![service.host().to_string()]
                } else {
                    Vec::new()
                },
                ..Default::default()
            };
            made.push(TcpRule {
                matches,
                clusters: vec![(default.clone(), 1)],
                because: service.declared.to_string(),
            });
        }
    }
    for rule in &mut made {
        if rule.matches.prefix_ranges.is_empty() {
            rule.matches.prefix_ranges = ranges.iter().map(wire::range).collect();
        }
    }
    made.into_iter().map(chain).collect()
}

/// A listener that binds nothing: captured traffic is handed to it.
fn listener(
    context: &Context<'_>,
    name: &str,
    address: String,
    port: u16,
    mut chains: Vec<FilterChain>,
) -> Listener {
    let default = chains
        .iter()
        .position(|c| c.filter_chain_match.is_none())
        .map(|i| chains.remove(i));
    let by_name = chains.iter().any(|c| {
        c.filter_chain_match
            .as_ref()
            .is_some_and(|m| !m.server_names.is_empty())
    });
    let mut made = Listener {
        name: name.to_owned(),
        address: Some(wire::socket(address, port)),
        bind_to_port: wire::boolean(false),
        traffic_direction: core::TrafficDirection::Outbound as i32,
        filter_chains: chains,
        default_filter_chain: default,
        ..Default::default()
    };
    if by_name {
        made.listener_filters = vec![wire::listener_filter(
            "envoy.filters.listener.tls_inspector",
            TLS_INSPECTOR,
        )];
        waits(&mut made, context);
    }
    made
}
