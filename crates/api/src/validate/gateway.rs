//! Gateway: servers, their ports, hosts and TLS.

use super::field::{namespaced_host, port, port_name, protocol, repeated};
use super::metadata::{clip, labels};
use super::{At, Context, Validate, server_tls};
use crate::istio::Gateway;
use crate::istio::gateway::{Server, ServerTlsMode};

impl Validate for Gateway {
    fn validate(&self, context: &Context<'_>) {
        let at = context.at("spec");
        labels(&self.selector, &at.field("selector"));
        if self.selector.is_empty() {
            at.warn(
                "without a selector the Gateway applies to every gateway",
                "add selector, as in istio: ingressgateway",
            );
        }
        if self.servers.is_empty() {
            at.error("the Gateway has no servers", "add servers");
        }
        let at = at.field("servers");
        for (i, server) in self.servers.iter().enumerate() {
            validate(server, &at.index(i));
        }
        for i in repeated(self.servers.iter().map(|s| s.port.as_ref().map(|p| &p.name))) {
            if let Some(p) = &self.servers[i].port {
                at.index(i).field("port").field("name").error(
                    format_args!("the port name {:?} is taken by another server", clip(&p.name)),
                    "give each server's port a name of its own",
                );
            }
        }
        self.hosts_once(&at);
    }
}

impl Gateway {
    /// The same host on the same port and address twice: only one could answer.
    fn hosts_once(&self, at: &At<'_>) {
        let mut places = Vec::new();
        for (i, server) in self.servers.iter().enumerate() {
            let number = server.port.as_ref().map(|p| p.number).unwrap_or_default();
            for (j, host) in server.hosts.iter().enumerate() {
                places.push(((number, &server.bind, host.to_ascii_lowercase()), (i, j)));
            }
        }
        for twice in repeated(places.iter().map(|(place, _)| place)) {
            let ((number, _, host), (i, j)) = &places[twice];
            at.index(*i).field("hosts").index(*j).finding(
                &crate::codes::DUPLICATE_HOST,
                format_args!("the host {:?} is served on port {number} already", clip(host)),
                "remove one of the two",
            );
        }
    }
}

fn validate(server: &Server, at: &At<'_>) {
    if server.hosts.is_empty() {
        at.error("the server has no hosts", "add hosts; \"*\" takes all");
    }
    for (i, host) in server.hosts.iter().enumerate() {
        namespaced_host(host, false, &at.field("hosts").index(i));
    }
    bind(&server.bind, &at.field("bind"));
    if !server.default_endpoint.is_empty() {
        at.field("defaultEndpoint")
            .error("defaultEndpoint is not supported", "route by a VirtualService");
    }
    let Some(p) = &server.port else {
        at.error(
            "the server has no port",
            "add port with number, name and protocol",
        );
        return;
    };
    let at_port = at.field("port");
    port(p.number, &at_port.field("number"));
    port_name(&p.name, &at_port.field("name"));
    protocol(&p.protocol, &at_port.field("protocol"));
    if p.target_port.is_some() {
        at_port.field("targetPort").finding(
            &crate::codes::NO_EFFECT,
            "targetPort does nothing in a Gateway",
            "remove it",
        );
    }
    let upper = p.protocol.to_ascii_uppercase();
    let speaks_tls = matches!(upper.as_str(), "HTTPS" | "TLS");
    let Some(tls) = &server.tls else {
        if speaks_tls {
            at.error(
                format_args!("a server of {upper} needs tls"),
                "add tls with a mode",
            );
        }
        return;
    };
    let at = at.field("tls");
    if speaks_tls {
        if tls.https_redirect {
            at.field("httpsRedirect").error(
                "only a server of HTTP can redirect to HTTPS",
                "move it to the HTTP server",
            );
        }
        server_tls::validate(tls, &at);
    } else {
        let plain = crate::istio::gateway::ServerTlsSettings {
            https_redirect: tls.https_redirect,
            ..Default::default()
        };
        // MUTUAL and others on a TCP port are how Istio terminates TLS for plain TCP.
        if upper == "TCP" && tls.mode != ServerTlsMode::Passthrough {
            server_tls::validate(tls, &at);
        } else if *tls != plain {
            at.error(
                format_args!("a server of {upper} has no TLS"),
                "set protocol to HTTPS or TLS, or remove tls",
            );
        }
    }
}

/// An address or a Unix socket.
pub(super) fn bind(bind: &str, at: &At<'_>) {
    let unix = bind
        .strip_prefix("unix://")
        .is_some_and(|path| path.starts_with(['/', '@']));
    if !bind.is_empty() && !unix && bind.parse::<std::net::IpAddr>().is_err() {
        at.error(
            format_args!("{:?} cannot be bound", clip(bind)),
            "write an IP address or unix:///path",
        );
    }
}
