//! What a proxy may see: `exportTo` of objects and the `egress` of its Sidecar resource.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use isthmus_api::istio::sidecar::OutboundTrafficPolicyMode;
use isthmus_api::istio::{Sidecar, VirtualService};
use isthmus_model::{Hostname, Labels, ServiceOrigin};

use super::Snapshot;
use super::config::Written;
use crate::mesh::OutboundPolicy;
use crate::registry::MeshService;

/// The part of the mesh that is visible from one workload.
#[derive(Debug)]
pub struct Scope<'a> {
    /// One service for each host, with the ports that are visible (`None`: all).
    pub services: BTreeMap<&'a Hostname, (&'a Arc<MeshService>, Option<BTreeSet<u16>>)>,
    /// Oldest first.
    pub virtual_services: Vec<&'a Written<VirtualService>>,
    /// What happens with everything else.
    pub outbound: OutboundPolicy,
    /// The Sidecar resource that holds.
    pub sidecar: Option<&'a Written<Sidecar>>,
}

/// One `namespace/host` of an egress listener.
struct Egress<'a> {
    namespace: &'a str,
    host: Hostname,
    port: Option<u16>,
}

impl<'a> Scope<'a> {
    /// The scope of a workload in `namespace` with `labels`. Gateways have no Sidecar resource.
    pub fn of(snapshot: &'a Snapshot, namespace: &'a str, labels: &Labels, sidecar: bool) -> Self {
        let config = &snapshot.config;
        let root = snapshot.mesh.root_namespace.as_str();
        let resource = sidecar
            .then(|| find(&config.sidecars, namespace, labels, root))
            .flatten();
        let egress: Option<Vec<Egress<'a>>> = resource.filter(|s| !s.spec.egress.is_empty()).map(|s| {
            let listeners = s.spec.egress.iter();
            listeners
                .flat_map(|l| {
                    l.hosts
                        .iter()
                        .map(move |h| (h, l.port.as_ref().map(|p| p.number)))
                })
                .filter_map(|(text, port)| {
                    let (place, host) = text.split_once('/')?;
                    let place = if place == "." { namespace } else { place };
                    let port = port.filter(|p| *p != 0);
                    (place != "~").then_some(Egress {
                        namespace: place,
                        host: host.parse().ok()?,
                        port,
                    })
                })
                .collect()
        });

        let mut services: BTreeMap<&Hostname, (&Arc<MeshService>, Option<BTreeSet<u16>>)> = BTreeMap::new();
        for service in snapshot.registry.services.values() {
            let own = service.namespace() == namespace;
            if !own && !service.service.export_to.visible_from(namespace) {
                continue;
            }
            if service.service.export_to == isthmus_model::ExportTo::Nobody {
                continue;
            }
            let Some(ports) = admitted(&egress, service.namespace(), |e| {
                e.host.covers(service.host()) || service.aliases.iter().any(|a| e.host.covers(a))
            }) else {
                continue;
            };
            let better = match services.get(service.host()) {
                None => true,
                Some((other, _)) => precedence(service, namespace) < precedence(other, namespace),
            };
            if better {
                services.insert(service.host(), (service, ports));
            }
        }
        let virtual_services = config
            .virtual_services
            .iter()
            .filter(|v| v.namespace() == namespace || v.export_to.visible_from(namespace))
            .filter(|v| {
                admitted(&egress, v.namespace(), |e| {
                    v.hosts.iter().any(|h| h.overlaps(&e.host))
                })
                .is_some()
                    || egress.is_none()
            })
            .collect();
        let said = resource
            .and_then(|s| s.spec.outbound_traffic_policy.as_ref())
            .map(|p| p.mode);
        Self {
            services,
            virtual_services,
            outbound: match said {
                Some(OutboundTrafficPolicyMode::RegistryOnly) => OutboundPolicy::RegistryOnly,
                Some(OutboundTrafficPolicyMode::AllowAny) => OutboundPolicy::AllowAny,
                None => snapshot.mesh.outbound_policy,
            },
            sidecar: resource,
        }
    }

    /// A visible service by its host or one of its aliases.
    pub fn service(&self, host: &Hostname) -> Option<&'a Arc<MeshService>> {
        if let Some((service, _)) = self.services.get(host) {
            return Some(service);
        }
        self.services
            .values()
            .map(|(s, _)| *s)
            .find(|s| s.aliases.contains(host))
    }

    /// Visible services with their visible ports.
    pub fn ports(&self) -> impl Iterator<Item = (&'a Arc<MeshService>, &'a isthmus_model::Port)> + '_ {
        self.services.values().flat_map(|(service, ports)| {
            let visible =
                move |p: &&isthmus_model::Port| ports.as_ref().is_none_or(|set| set.contains(&p.number));
            service
                .service
                .ports
                .iter()
                .filter(visible)
                .map(move |port| (*service, port))
        })
    }
}

/// `None`: not admitted. `Some(None)`: with all ports.
fn admitted<'a>(
    egress: &Option<Vec<Egress<'a>>>,
    namespace: &str,
    holds: impl Fn(&Egress<'a>) -> bool,
) -> Option<Option<BTreeSet<u16>>> {
    let Some(egress) = egress else {
        return Some(None);
    };
    let mine: Vec<_> = egress
        .iter()
        .filter(|e| (e.namespace == "*" || e.namespace == namespace) && holds(e))
        .collect();
    if mine.is_empty() {
        return None;
    }
    if mine.iter().any(|e| e.port.is_none()) {
        return Some(None);
    }
    Some(Some(mine.iter().filter_map(|e| e.port).collect()))
}

/// Less wins among services with one host: the caller's own namespace, Kubernetes, the older, the name.
fn precedence<'s>(service: &'s MeshService, namespace: &str) -> (bool, bool, &'s str, &'s str) {
    (
        service.namespace() != namespace,
        service.service.origin != ServiceOrigin::Kubernetes,
        &service.created,
        service.namespace(),
    )
}

/// The Sidecar of a workload: one that selects it, else its namespace's, else the root namespace's.
fn find<'a>(
    sidecars: &'a [Written<Sidecar>],
    namespace: &str,
    labels: &Labels,
    root: &str,
) -> Option<&'a Written<Sidecar>> {
    let selector = |s: &Written<Sidecar>| {
        s.spec
            .workload_selector
            .as_ref()
            .map(|w| w.labels.clone())
            .filter(|l| !l.is_empty())
    };
    let of = |place: &str, wanted: &dyn Fn(&Written<Sidecar>) -> bool| {
        sidecars.iter().find(|s| s.namespace() == place && wanted(s))
    };
    of(namespace, &|s| selector(s).is_some_and(|l| labels.matches(&l)))
        .or_else(|| of(namespace, &|s| selector(s).is_none()))
        .or_else(|| of(root, &|s| selector(s).is_none()))
}
