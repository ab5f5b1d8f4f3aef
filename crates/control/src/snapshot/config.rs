//! Istio's traffic and security objects of the own cluster, in the order in which they are consulted.

use std::cmp::Ordering;
use std::sync::Arc;

use isthmus_api::Typed;
use isthmus_api::istio::{AuthorizationPolicy, DestinationRule, Gateway, Sidecar, VirtualService};
use isthmus_api::kubernetes::Secret;
use isthmus_api::object::Object;
use isthmus_model::{ExportTo, Hostname, Labels};

use super::peer_authentication::PeerAuthentications;
use crate::ingest::store::Store;
use crate::mesh::Mesh;
use crate::registry::kubernetes::export_to;

/// An object with its typed content.
#[derive(Debug)]
pub struct Written<T> {
    /// Metadata and positions.
    pub object: Arc<Object>,
    /// Content.
    pub spec: Arc<T>,
    /// Hosts, short names made whole. For a DestinationRule its one host.
    pub hosts: Vec<Hostname>,
    /// Who sees it.
    pub export_to: ExportTo,
}

impl<T> Clone for Written<T> {
    fn clone(&self) -> Self {
        Self {
            object: Arc::clone(&self.object),
            spec: Arc::clone(&self.spec),
            hosts: self.hosts.clone(),
            export_to: self.export_to.clone(),
        }
    }
}

impl<T> PartialEq for Written<T> {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.object, &other.object)
            && self.hosts == other.hosts
            && self.export_to == other.export_to
    }
}

impl<T> Written<T> {
    /// Its namespace.
    pub fn namespace(&self) -> &str {
        &self.object.meta.namespace
    }

    /// `Kind namespace/name file:line` of a field, for `explain`.
    pub fn because(&self, path: &str) -> String {
        let reference = self.object.reference(path);
        if reference.is_empty() {
            self.object.key().to_string()
        } else {
            format!("{} {reference}", self.object.key())
        }
    }
}

/// Every object that decides about traffic.
#[derive(Debug, Default, PartialEq)]
pub struct Config {
    /// Oldest first.
    pub virtual_services: Vec<Written<VirtualService>>,
    /// Oldest first.
    pub destination_rules: Vec<Written<DestinationRule>>,
    /// Oldest first.
    pub gateways: Vec<Written<Gateway>>,
    /// Oldest first.
    pub sidecars: Vec<Written<Sidecar>>,
    /// By namespace and name, as policies are named in RBAC.
    pub authorization: Vec<Written<AuthorizationPolicy>>,
    /// Who insists on mTLS.
    pub authentication: PeerAuthentications,
    /// For gateways' certificates.
    pub secrets: Vec<Written<Secret>>,
}

impl Config {
    /// Reads the objects.
    pub fn read(store: &Store, mesh: &Mesh) -> Self {
        let qualified = |name: &str, namespace: &str| Hostname::qualified(name, namespace, &mesh.domain).ok();
        let virtual_services = read::<VirtualService>(
            store,
            |s, ns| s.hosts.iter().filter_map(|h| qualified(h, ns)).collect(),
            |s| &s.export_to,
            &mesh.virtual_services_export_to,
        );
        let destination_rules = read::<DestinationRule>(
            store,
            |s, ns| qualified(&s.host, ns).into_iter().collect(),
            |s| &s.export_to,
            &mesh.destination_rules_export_to,
        );
        let mut authorization = read::<AuthorizationPolicy>(store, |_, _| Vec::new(), |_| &[], &[]);
        authorization
            .sort_by(|a, b| (a.namespace(), &a.object.meta.name).cmp(&(b.namespace(), &b.object.meta.name)));
        Self {
            virtual_services,
            destination_rules,
            gateways: read::<Gateway>(store, |_, _| Vec::new(), |_| &[], &[]),
            sidecars: read::<Sidecar>(store, |_, _| Vec::new(), |_| &[], &[]),
            authorization,
            authentication: PeerAuthentications::read(store, &mesh.root_namespace),
            secrets: read::<Secret>(store, |_, _| Vec::new(), |_| &[], &[]),
        }
    }

    /// The DestinationRules for a host as a caller in `namespace` with `labels` sees them: from its own
    /// namespace, else from the service's, else from the root namespace; the most specific host of the
    /// first of these that has one. The first of them gives the policy, all of them subsets.
    pub fn destination_rules_of(
        &self,
        host: &Hostname,
        service_namespace: &str,
        namespace: &str,
        labels: &Labels,
        root_namespace: &str,
    ) -> Vec<&Written<DestinationRule>> {
        for (i, place) in [namespace, service_namespace, root_namespace]
            .into_iter()
            .enumerate()
        {
            let here = self.destination_rules.iter().filter(|r| {
                let chosen = r.spec.workload_selector.as_ref().map(|s| &s.match_labels);
                let for_caller = match chosen.filter(|l| !l.is_empty()) {
                    // A rule with a selector speaks to callers of its own namespace alone.
                    Some(wanted) => i == 0 && labels.matches(wanted),
                    None => true,
                };
                r.namespace() == place
                    && for_caller
                    && (place == namespace || r.export_to.visible_from(namespace))
                    && r.hosts.iter().any(|h| h.covers(host))
            });
            let mut here: Vec<_> = here.collect();
            here.sort_by(|a, b| match (a.hosts.first(), b.hosts.first()) {
                (Some(a), Some(b)) => a.specificity(b),
                _ => Ordering::Equal,
            });
            if let Some(best) = here.first().and_then(|r| r.hosts.first()).cloned() {
                here.retain(|r| r.hosts.first() == Some(&best));
                return here;
            }
        }
        Vec::new()
    }

    /// The AuthorizationPolicies for a workload.
    pub fn authorization_of<'a>(
        &'a self,
        namespace: &'a str,
        labels: &'a Labels,
        root_namespace: &'a str,
    ) -> impl Iterator<Item = &'a Written<AuthorizationPolicy>> {
        self.authorization.iter().filter(move |p| {
            let selected = p
                .spec
                .selector
                .as_ref()
                .is_none_or(|s| labels.matches(&s.match_labels));
            let refs = p.spec.target_refs.iter().chain(&p.spec.target_ref).count();
            (p.namespace() == namespace || p.namespace() == root_namespace) && selected && refs == 0
        })
    }
}

fn read<T: Typed>(
    store: &Store,
    hosts: impl Fn(&T, &str) -> Vec<Hostname>,
    export: impl Fn(&T) -> &[String],
    default_export: &[String],
) -> Vec<Written<T>> {
    let mut all: Vec<Written<T>> = store
        .iter::<T>()
        .map(|(object, spec)| Written {
            hosts: hosts(spec, &object.meta.namespace),
            export_to: export_to(export(spec), default_export, &object.meta.namespace),
            object: Arc::clone(object),
            spec: Arc::clone(spec),
        })
        .collect();
    all.sort_by(|a, b| a.object.age().cmp(&b.object.age()));
    all
}
