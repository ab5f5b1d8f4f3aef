//! RDS: which request goes to which cluster.

pub mod action;
pub mod gateway;
pub mod matches;
pub mod virtual_service;

use std::collections::BTreeSet;

use isthmus_api::istio::VirtualService;
use isthmus_model::{ClusterName, Hostname, Port, Protocol, ServiceOrigin};
use isthmus_xds::envoy::route as envoy;
use isthmus_xds::envoy::route::route::Action;
use isthmus_xds::envoy::route::{DirectResponseAction, RouteAction, RouteConfiguration, VirtualHost};

use self::virtual_service::Place;
use super::cluster::PASSTHROUGH;
use super::context::Context;
use super::wire;
use crate::mesh::OutboundPolicy;
use crate::registry::MeshService;
use crate::snapshot::config::Written;

/// The gateway that stands for sidecars in a VirtualService.
pub fn mesh_gateway() -> [String; 1] {
    ["mesh".to_owned()]
}

/// The table of an outbound HTTP port: every host that has it, and what happens to others.
pub fn outbound(context: &Context<'_>, port: u16) -> RouteConfiguration {
    let services: Vec<(&MeshService, &Port)> = context
        .scope
        .ports()
        .filter(|(_, p)| p.number == port && p.protocol.is_http())
        .map(|(s, p)| (&**s, p))
        .collect();
    table(context, port.to_string(), port, &services, true)
}

/// The table of one service's port whose protocol is detected.
pub fn detected(context: &Context<'_>, service: &MeshService, port: &Port) -> RouteConfiguration {
    table(
        context,
        format!("{}:{}", service.host(), port.number),
        port.number,
        &[(service, port)],
        false,
    )
}

fn table(
    context: &Context<'_>,
    name: String,
    port: u16,
    services: &[(&MeshService, &Port)],
    shared: bool,
) -> RouteConfiguration {
    let gateways = mesh_gateway();
    let place = Place {
        gateways: &gateways,
        port,
        source_labels: Some(context.labels),
        namespace: &context.proxy.namespace,
        tls: false,
    };
    let rules: Vec<&Written<VirtualService>> = context
        .scope
        .virtual_services
        .iter()
        .copied()
        .filter(|v| virtual_service::applies(v, &place))
        .collect();
    let mut taken = BTreeSet::new();
    let mut hosts = Vec::new();
    for (service, port) in services {
        let mut routes = rule_for(&rules, service.host(), &service.aliases)
            .map(|rule| virtual_service::routes(context, rule, &place))
            .unwrap_or_default();
        if routes.is_empty() {
            routes.push(default_route(context, service, port.number));
        }
        let mut domains = domains(context, service);
        domains.retain(|d| taken.insert(d.clone()));
        if !domains.is_empty() {
            hosts.push(virtual_host(
                format!("{}:{}", service.host(), port.number),
                domains,
                routes,
            ));
        }
    }
    if shared && port == 80 {
        // Hosts that only a VirtualService knows are served on port 80, as upstream does.
        for rule in &rules {
            for host in &rule.hosts {
                let domain = host.to_string();
                if domain == "*" || context.scope.service(host).is_some() || taken.contains(&domain) {
                    continue;
                }
                let routes = virtual_service::routes(context, rule, &place);
                if !routes.is_empty() && taken.insert(domain.clone()) {
                    hosts.push(virtual_host(format!("{host}:{port}"), vec![domain], routes));
                }
            }
        }
    }
    if shared {
        hosts.push(others(context.scope.outbound));
    } else if let Some(only) = hosts.first_mut() {
        // The listener belongs to this service alone, whatever name it is called by.
        only.domains = vec!["*".to_owned()];
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

/// The VirtualService for a host: the one with the most specific matching host, the oldest of equals.
pub fn rule_for<'a>(
    rules: &[&'a Written<VirtualService>],
    host: &Hostname,
    aliases: &[Hostname],
) -> Option<&'a Written<VirtualService>> {
    let best = |rule: &Written<VirtualService>| {
        let covering = rule
            .hosts
            .iter()
            .filter(|h| h.covers(host) || aliases.iter().any(|a| h.covers(a)));
        covering.min_by(|a, b| a.specificity(b)).cloned()
    };
    let mut found: Option<(Hostname, &Written<VirtualService>)> = None;
    for rule in rules {
        if let Some(candidate) = best(rule) {
            let better = found
                .as_ref()
                .is_none_or(|(old, _)| candidate.specificity(old).is_lt());
            if better {
                found = Some((candidate, rule));
            }
        }
    }
    found.map(|(_, rule)| rule)
}

/// A virtual host as Istio makes them.
pub fn virtual_host(name: String, domains: Vec<String>, routes: Vec<envoy::Route>) -> VirtualHost {
    VirtualHost {
        name,
        domains,
        routes,
        include_request_attempt_count: true,
        ..Default::default()
    }
}

/// Everything to the service itself.
pub fn default_route(context: &Context<'_>, service: &MeshService, port: u16) -> envoy::Route {
    let name = ClusterName::outbound(port, "", service.host().clone());
    let policy = context.policy(service, "", port);
    let hash = policy.hash().map(action::hash_policies).unwrap_or_default();
    envoy::Route {
        name: "default".to_owned(),
        r#match: Some(matches::everything()),
        metadata: wire::because(&service.declared),
        action: Some(Action::Route(action::forward(
            name.to_string(),
            hash,
            action::retries(context.mesh()),
        ))),
        ..Default::default()
    }
}

/// Names by which callers of a namespace call a service: full, the short forms of Kubernetes, addresses,
/// and `.global`.
fn domains(context: &Context<'_>, service: &MeshService) -> Vec<String> {
    let host = service.host().as_str();
    let mut out = vec![host.to_owned()];
    if service.service.origin == ServiceOrigin::Kubernetes {
        let domain = &context.mesh().domain;
        if let Some(short) = host.strip_suffix(&format!(".svc.{domain}")) {
            if service.namespace() == context.proxy.namespace {
                out.extend(short.split('.').next().map(str::to_owned));
            }
            out.push(short.to_owned());
            out.push(format!("{short}.svc"));
        }
    }
    out.extend(service.aliases.iter().map(Hostname::to_string));
    if let Some(addresses) = service.service.addresses.get(&context.mesh().cluster) {
        out.extend(addresses.iter().map(|ip| {
            if ip.is_ipv6() {
                format!("[{ip}]")
            } else {
                ip.to_string()
            }
        }));
    }
    if service.service.headless {
        // A pod of a headless service is called by its own name below the service's.
        out.push(format!("*.{host}"));
    }
    out
}

fn others(policy: OutboundPolicy) -> VirtualHost {
    let (name, action) = match policy {
        OutboundPolicy::AllowAny => (
            "allow_any",
            Action::Route(RouteAction {
                cluster_specifier: Some(envoy::route_action::ClusterSpecifier::Cluster(
                    PASSTHROUGH.to_owned(),
                )),
                timeout: wire::duration(std::time::Duration::ZERO),
                ..Default::default()
            }),
        ),
        OutboundPolicy::RegistryOnly => (
            "block_all",
            Action::DirectResponse(DirectResponseAction {
                status: 502,
                ..Default::default()
            }),
        ),
    };
    let route = envoy::Route {
        name: name.to_owned(),
        r#match: Some(matches::everything()),
        action: Some(action),
        ..Default::default()
    };
    virtual_host(name.to_owned(), vec!["*".to_owned()], vec![route])
}

/// The inline table of an inbound HTTP port.
pub fn inbound(cluster: String, port: u16, host: Option<&Hostname>) -> RouteConfiguration {
    // What never reached the application may be tried again; nothing else, since the caller retries.
    let retries = envoy::RetryPolicy {
        retry_on: "reset-before-request".to_owned(),
        num_retries: wire::uint(2),
        ..Default::default()
    };
    let action = action::forward(cluster.clone(), Vec::new(), Some(retries));
    let decorator = host.map(|h| envoy::Decorator {
        operation: format!("{h}:{port}/*"),
        propagate: None,
    });
    let route = envoy::Route {
        name: "default".to_owned(),
        r#match: Some(matches::everything()),
        decorator,
        action: Some(Action::Route(action)),
        ..Default::default()
    };
    RouteConfiguration {
        name: cluster,
        virtual_hosts: vec![VirtualHost {
            name: format!("inbound|http|{port}"),
            domains: vec!["*".to_owned()],
            routes: vec![route],
            ..Default::default()
        }],
        validate_clusters: wire::boolean(false),
        ..Default::default()
    }
}

/// Whether a port's requests are routed by RDS table of its number.
pub fn is_shared(protocol: Protocol) -> bool {
    protocol.is_http()
}
