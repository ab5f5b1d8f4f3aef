//! The listener for what is sent to a workload: one filter chain for each port and way in.

use std::collections::BTreeMap;

use isthmus_model::{ClusterName, Hostname, Protocol};
use isthmus_xds::envoy::core;
use isthmus_xds::envoy::listener::{FilterChain, FilterChainMatch, Listener};

use super::filters::{self, Facing, Routes};
use super::outbound::PLAIN_HTTP;
use super::{HTTP_INSPECTOR, ORIGINAL_DST, TLS_INSPECTOR};
use crate::generate::cluster::{BLACK_HOLE, INBOUND_PASSTHROUGH};
use crate::generate::context::Context;
use crate::generate::rbac::Authorization;
use crate::generate::tls::{self, MESH_ALPN, MESH_HTTP_ALPN, MESH_TCP_ALPN};
use crate::generate::{route, wire};
use crate::snapshot::peer_authentication::MtlsMode;

/// Where captured inbound traffic arrives.
const CAPTURE_PORT: u16 = 15006;

/// A port of the workload as its sidecar takes it.
struct Way<'a> {
    port: Option<u16>,
    protocol: Protocol,
    mode: MtlsMode,
    cluster: String,
    host: Option<&'a Hostname>,
}

/// `virtualInbound`.
pub fn listener(context: &Context<'_>, ports: &BTreeMap<u16, Protocol>) -> Listener {
    let authorization = Authorization::of(context);
    let mut chains = vec![FilterChain {
        name: "virtualInbound-blackhole".to_owned(),
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
    }];
    for (port, protocol) in ports {
        let way = Way {
            port: Some(*port),
            protocol: *protocol,
            mode: context.mtls.port(*port),
            cluster: ClusterName::inbound(*port).to_string(),
            host: context.inbound.get(port).map(|s| s.service.host()),
        };
        chains.extend(way.chains(context, &authorization));
    }
    // Ports that no service declares, but for which somebody wrote how they take mTLS.
    for (port, mode) in context.mtls.ports.iter().filter(|(p, _)| !ports.contains_key(p)) {
        chains.extend(undeclared(Some(*port), *mode).chains(context, &authorization));
    }
    chains.extend(undeclared(None, context.mtls.mode).chains(context, &authorization));
    // A server that speaks first is not kept waiting for a client that would only be looked at in vain.
    let declared: Vec<u16> = (ports.iter())
        .filter(|(_, protocol)| **protocol != Protocol::Auto)
        .map(|(port, _)| *port)
        .collect();
    let never_tls: Vec<u16> = (ports.iter())
        .filter(|(port, protocol)| {
            let bytes = **protocol != Protocol::Auto && !protocol.is_http();
            bytes && context.mtls.port(**port) == MtlsMode::Disable
        })
        .map(|(port, _)| *port)
        .collect();
    Listener {
        name: "virtualInbound".to_owned(),
        address: Some(wire::socket("0.0.0.0", CAPTURE_PORT)),
        traffic_direction: core::TrafficDirection::Inbound as i32,
        listener_filters: vec![
            wire::listener_filter("envoy.filters.listener.original_dst", ORIGINAL_DST),
            wire::listener_filter_except("envoy.filters.listener.tls_inspector", TLS_INSPECTOR, &never_tls),
            wire::listener_filter_except("envoy.filters.listener.http_inspector", HTTP_INSPECTOR, &declared),
        ],
        listener_filters_timeout: wire::duration(context.mesh().detection_timeout),
        continue_on_listener_filters_timeout: !context.mesh().detection_timeout.is_zero(),
        filter_chains: chains,
        ..Default::default()
    }
}

fn undeclared(port: Option<u16>, mode: MtlsMode) -> Way<'static> {
    Way {
        port,
        protocol: Protocol::Auto,
        mode,
        cluster: INBOUND_PASSTHROUGH.to_owned(),
        host: None,
    }
}

impl Way<'_> {
    fn chains(&self, context: &Context<'_>, authorization: &Authorization) -> Vec<FilterChain> {
        let http = self.protocol.is_http();
        let auto = self.protocol == Protocol::Auto;
        let mut out = Vec::new();
        if self.mode != MtlsMode::Disable {
            if http || auto {
                let alpn: &[&str] = if http { &MESH_ALPN } else { &MESH_HTTP_ALPN };
                out.push(self.chain(
                    "mtls-http",
                    Some("tls"),
                    alpn,
                    true,
                    self.http(context, authorization),
                ));
            }
            if !http {
                let alpn: &[&str] = if auto { &MESH_TCP_ALPN } else { &MESH_ALPN };
                out.push(self.chain(
                    "mtls-tcp",
                    Some("tls"),
                    alpn,
                    true,
                    self.tcp(context, authorization),
                ));
            }
            if self.mode == MtlsMode::Strict {
                // A certificate is what counts, whatever the ALPN.
                let filters = if http {
                    self.http(context, authorization)
                } else {
                    self.tcp(context, authorization)
                };
                out.push(self.chain("mtls", Some("tls"), &[], true, filters));
                return out;
            }
        }
        if http {
            out.push(self.chain(
                "http",
                Some("raw_buffer"),
                &[],
                false,
                self.http(context, authorization),
            ));
        } else {
            if auto {
                let filters = self.http(context, authorization);
                out.push(self.chain("http", Some("raw_buffer"), &PLAIN_HTTP, false, filters));
            }
            out.push(self.chain(
                "tcp",
                Some("raw_buffer"),
                &[],
                false,
                self.tcp(context, authorization),
            ));
        }
        // TLS of the application's own is bytes here.
        out.push(self.chain("tls", Some("tls"), &[], false, self.tcp(context, authorization)));
        out
    }

    fn chain(
        &self,
        what: &str,
        transport: Option<&str>,
        alpn: &[&str],
        terminates: bool,
        filters: Vec<isthmus_xds::envoy::listener::Filter>,
    ) -> FilterChain {
        let prefix = match self.port {
            Some(port) if self.cluster != INBOUND_PASSTHROUGH => format!("0.0.0.0_{port}"),
            Some(port) => format!("virtualInbound-{port}"),
            None => "virtualInbound-catchall".to_owned(),
        };
        FilterChain {
            name: format!("{prefix}-{what}"),
            filter_chain_match: Some(FilterChainMatch {
                destination_port: self.port.and_then(|p| wire::uint(u32::from(p))),
                transport_protocol: transport.unwrap_or_default().to_owned(),
                application_protocols: alpn.iter().map(|a| (*a).to_owned()).collect(),
                ..Default::default()
            }),
            transport_socket: terminates.then(tls::mesh_server),
            filters,
            ..Default::default()
        }
    }

    fn http(
        &self,
        context: &Context<'_>,
        authorization: &Authorization,
    ) -> Vec<isthmus_xds::envoy::listener::Filter> {
        let port = self.port.unwrap_or(0);
        let table = route::inbound(self.cluster.clone(), port, self.host);
        let stat = format!("inbound_0.0.0.0_{port}");
        vec![filters::http(
            context,
            Facing::Inbound,
            &stat,
            Routes::Inline(Box::new(table)),
            authorization.http(),
        )]
    }

    fn tcp(
        &self,
        context: &Context<'_>,
        authorization: &Authorization,
    ) -> Vec<isthmus_xds::envoy::listener::Filter> {
        let mut out = authorization.network();
        out.push(filters::tcp(
            context,
            &self.cluster,
            &[(self.cluster.clone(), 1)],
            None,
        ));
        out
    }
}
