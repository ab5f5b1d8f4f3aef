//! ServiceEntry endpoints that are gateways of the mesh.
//!
//! Such an endpoint takes mesh mTLS for the service that stands behind it and nothing else: sending it
//! plaintext, as upstream does, ends in a reset. So the endpoint becomes a hop: ISTIO_MUTUAL, with the SNI
//! and the identities of the service behind. Which service that is: annotation `isthmus.io/target-service`,
//! else `<name>.<namespace>.global`, else the host's first label in the ServiceEntry's own namespace.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use isthmus_api::codes;
use isthmus_api::finding::{Finding, Level};
use isthmus_api::object::Object;
use isthmus_model::{Endpoint, EndpointAddress, Hostname, NetworkId, Port, Protocol, ServiceKey, SpiffeId};

use super::gateways::PASSTHROUGH_PORT;
use super::service::{MeshHop, MeshService, ServiceEndpoints};
use crate::mesh::Mesh;

/// Annotation of a ServiceEntry with the service behind the gateway: a host, or `name` or `name.namespace`.
pub const TARGET_ANNOTATION: &str = "isthmus.io/target-service";

/// Addresses that are known to be gateways of the mesh.
#[derive(Debug, Default, PartialEq)]
pub struct KnownGateways {
    addresses: BTreeSet<(EndpointAddress, u16)>,
    ips: BTreeSet<(IpAddr, u16)>,
}

/// What names resolve to, as far as it was looked up.
pub type ResolvedNames = BTreeMap<Hostname, BTreeSet<IpAddr>>;

impl KnownGateways {
    /// Gathers addresses; a name counts as itself and as what it resolves to.
    pub fn new<'a>(
        addresses: impl IntoIterator<Item = (&'a EndpointAddress, u16)>,
        resolved: &ResolvedNames,
    ) -> Self {
        let mut known = Self::default();
        for (address, port) in addresses {
            known.addresses.insert((address.clone(), port));
            known.ips.extend(ips_of(address, resolved).map(|ip| (ip, port)));
        }
        known
    }

    /// Whether an endpoint is one of them.
    pub fn contains(&self, address: &EndpointAddress, port: u16, resolved: &ResolvedNames) -> bool {
        self.addresses.contains(&(address.clone(), port))
            || ips_of(address, resolved).any(|ip| self.ips.contains(&(ip, port)))
    }
}

fn ips_of<'a>(
    address: &'a EndpointAddress,
    resolved: &'a ResolvedNames,
) -> impl Iterator<Item = IpAddr> + 'a {
    let (own, looked_up) = match address {
        EndpointAddress::Ip(ip) => (Some(*ip), None),
        EndpointAddress::Host(host) => (None, resolved.get(host)),
        EndpointAddress::Unix(_) => (None, None),
    };
    own.into_iter().chain(looked_up.into_iter().flatten().copied())
}

/// What the search for hops looks at.
pub struct Scene<'a> {
    /// This cluster.
    pub mesh: &'a Mesh,
    /// Every merged service.
    pub services: &'a BTreeMap<ServiceKey, MeshService>,
    /// What answers for them.
    pub endpoints: &'a BTreeMap<ServiceKey, Arc<ServiceEndpoints>>,
    /// Gateways.
    pub known: &'a KnownGateways,
    /// Looked-up names.
    pub resolved: &'a ResolvedNames,
}

/// The hops of one host of a ServiceEntry, by service port.
pub fn hops(
    scene: &Scene<'_>,
    object: &Object,
    service: &MeshService,
    endpoints: &[Endpoint],
    findings: &mut Vec<Finding>,
) -> BTreeMap<u16, Arc<MeshHop>> {
    let mut out = BTreeMap::new();
    for port in &service.service.ports {
        let mine = || endpoints.iter().filter(|e| e.port_name == port.name);
        let is_known = |e: &Endpoint| scene.known.contains(&e.address, e.port, scene.resolved);
        let known: BTreeSet<_> = mine().filter(|e| is_known(e)).map(place).collect();
        let unknown: BTreeSet<_> = mine()
            .filter(|e| e.port == PASSTHROUGH_PORT && !is_known(e))
            .map(place)
            .collect();
        if known.is_empty() && unknown.is_empty() {
            continue;
        }
        let tell = |code, level, message: String, remedy: &str| {
            let line = object.positions.line("spec.endpoints");
            Finding::new(code, message, remedy)
                .level(level)
                .at(&object.origin.file, line)
                .about(object.key())
        };
        if !matches!(
            port.protocol,
            Protocol::Http | Protocol::Http2 | Protocol::Grpc | Protocol::Tcp
        ) {
            continue;
        }
        let annotated = object.meta.annotations.contains_key(TARGET_ANNOTATION);
        let Some((target, rule)) = target(object, service.host(), scene.mesh) else {
            findings.push(tell(
                &codes::INVALID_ANNOTATION,
                Level::Error,
                format!("{TARGET_ANNOTATION} is not the name of a service"),
                "write a host such as echo.echo.svc.cluster.local, or name.namespace",
            ));
            continue;
        };
        let found = scene
            .services
            .values()
            .find(|s| s.host() == &target && s.host() != service.host());
        for (address, number) in &unknown {
            findings.push(tell(
                &codes::UNKNOWN_GATEWAY,
                Level::Warning,
                format!("{address}:{number} looks like a gateway of the mesh, but no cluster is known to have it"),
                if found.is_some() || annotated {
                    "nothing, if the address is right: it is taken as a gateway because the target is known"
                } else {
                    "correct the address, peer with its cluster, or name the service behind it in the annotation isthmus.io/target-service"
                },
            ));
        }
        let mut gateways = known;
        if found.is_some() || annotated {
            gateways.extend(unknown);
        }
        if gateways.is_empty() {
            continue;
        }
        let Some(target_port) = behind_port(port, found.map(|s| s.service.ports.as_slice())) else {
            findings.push(tell(
                &codes::GATEWAY_TARGET_PORT,
                Level::Error,
                format!(
                    "port {} ({}) has no counterpart in {target}, which stands behind the gateway",
                    port.number, port.name
                ),
                "use a port number or port name of the target service",
            ));
            continue;
        };
        let rule = format!("{rule}; port {target_port}");
        findings.push(tell(
            &codes::GATEWAY_HOP,
            Level::Info,
            format!(
                "port {} of {} leads through a gateway of the mesh to {target}:{target_port} ({rule})",
                port.number,
                service.host()
            ),
            "",
        ));
        let (behind, accounts) = stand_behind(scene, &target, target_port, found);
        out.insert(
            port.number,
            Arc::new(MeshHop {
                namespace: namespace_of(&target).unwrap_or_else(|| service.namespace().to_owned()),
                host: target,
                port: target_port,
                gateways,
                behind,
                accounts,
                rule,
            }),
        );
    }
    out
}

fn place(endpoint: &Endpoint) -> (EndpointAddress, u16) {
    (endpoint.address.clone(), endpoint.port)
}

/// The service behind the gateway and the rule that named it.
fn target(object: &Object, host: &Hostname, mesh: &Mesh) -> Option<(Hostname, String)> {
    let namespace = &object.meta.namespace;
    let full = |name: &str, ns: &str| {
        format!("{name}.{ns}.svc.{}", mesh.domain)
            .parse::<Hostname>()
            .ok()
    };
    if let Some(written) = object.meta.annotations.get(TARGET_ANNOTATION) {
        let target = match written.split('.').collect::<Vec<_>>()[..] {
            [name] => full(name, namespace),
            [name, ns] => full(name, ns),
            [name, ns, "svc"] => full(name, ns),
            _ => written.parse().ok(),
        };
        return target.map(|t| (t, format!("annotation {TARGET_ANNOTATION}")));
    }
    let labels: Vec<&str> = host.as_str().split('.').collect();
    if let [name, ns, "global"] = labels[..] {
        return full(name, ns).map(|t| (t, "<name>.<namespace>.global".to_owned()));
    }
    let first = labels.first()?;
    full(first, namespace).map(|t| {
        (
            t,
            "the host's first label in the ServiceEntry's namespace".to_owned(),
        )
    })
}

/// The same number, else the same name, else the only port. A service nobody told of yet is taken to have
/// the same number.
fn behind_port(port: &Port, target: Option<&[Port]>) -> Option<u16> {
    let Some(ports) = target else {
        return Some(port.number);
    };
    let by_number = ports.iter().find(|p| p.number == port.number);
    let by_name = || ports.iter().find(|p| p.name == port.name);
    let only = || (ports.len() == 1).then(|| &ports[0]);
    by_number.or_else(by_name).or_else(only).map(|p| p.number)
}

fn stand_behind(
    scene: &Scene<'_>,
    target: &Hostname,
    port: u16,
    found: Option<&MeshService>,
) -> (u32, BTreeSet<SpiffeId>) {
    let Some(service) = found else {
        return (0, BTreeSet::new());
    };
    debug_assert_eq!(service.host(), target);
    let Some(endpoints) = scene.endpoints.get(&service.service.key) else {
        return (0, BTreeSet::new());
    };
    let name = service
        .service
        .port(port)
        .map(|p| p.name.as_str())
        .unwrap_or_default();
    let elsewhere = |network: &NetworkId| !network.is_empty() && *network != scene.mesh.network;
    let behind = endpoints
        .endpoints
        .iter()
        .filter(|e| e.port_name == name && elsewhere(&e.network))
        .count();
    (
        u32::try_from(behind).unwrap_or(u32::MAX),
        (*endpoints.accounts).clone(),
    )
}

fn namespace_of(host: &Hostname) -> Option<String> {
    let mut labels = host.as_str().split('.');
    let namespace = labels.nth(1)?;
    (labels.next() == Some("svc")).then(|| namespace.to_owned())
}
