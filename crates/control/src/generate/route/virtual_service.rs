//! The HTTP rules of a VirtualService as routes.

use isthmus_api::istio::VirtualService;
use isthmus_api::istio::virtual_service::{Destination, HttpMatchRequest, HttpRoute};
use isthmus_model::{ClusterName, Hostname, Labels};
use isthmus_xds::envoy::route as envoy;
use isthmus_xds::envoy::route::route_action::HashPolicy;

use super::action::{self, Destinations};
use super::matches;
use crate::generate::context::Context;
use crate::generate::wire;
use crate::mesh::Mesh;
use crate::snapshot::config::Written;

/// Where the rules of a VirtualService are applied.
#[derive(Debug, Clone, Copy)]
pub struct Place<'a> {
    /// The gateways that count: `mesh`, or `namespace/name` of the Gateways of a listener.
    pub gateways: &'a [String],
    /// Port that callers address.
    pub port: u16,
    /// Labels of the caller's workload, for sidecars.
    pub source_labels: Option<&'a Labels>,
    /// Namespace of the caller.
    pub namespace: &'a str,
    /// Whether callers come over TLS that this proxy terminates.
    pub tls: bool,
}

impl Place<'_> {
    /// Whether one of the gateways written in a VirtualService of `namespace` is one of these.
    pub fn is_at(&self, written: &[String], namespace: &str) -> bool {
        written.iter().any(|name| {
            let full = if name == "mesh" || name.contains('/') {
                name.clone()
            } else {
                format!("{namespace}/{name}")
            };
            self.gateways.contains(&full)
        })
    }

    fn takes(&self, condition: &HttpMatchRequest, namespace: &str) -> bool {
        let labels = condition.source_labels.is_empty()
            || self
                .source_labels
                .is_some_and(|own| own.matches(&condition.source_labels));
        (condition.gateways.is_empty() || self.is_at(&condition.gateways, namespace))
            && condition.port.is_none_or(|port| port == self.port)
            && labels
            && (condition.source_namespace.is_empty() || condition.source_namespace == self.namespace)
    }
}

/// Whether a VirtualService applies to a place at all.
pub fn applies(written: &Written<VirtualService>, place: &Place<'_>) -> bool {
    let mesh = ["mesh".to_owned()];
    let gateways = if written.spec.gateways.is_empty() {
        &mesh[..]
    } else {
        &written.spec.gateways
    };
    place.is_at(gateways, written.namespace())
}

/// Destinations of a VirtualService as a proxy sees them.
pub struct Seen<'a, 'b> {
    /// The proxy.
    pub context: &'b Context<'a>,
    /// Namespace of the VirtualService, to which short names belong.
    pub namespace: &'b str,
    /// Port that callers address.
    pub port: u16,
}

impl Seen<'_, '_> {
    /// The cluster of a destination.
    pub fn name(&self, destination: &Destination) -> Option<ClusterName> {
        let host =
            Hostname::qualified(&destination.host, self.namespace, &self.context.mesh().domain).ok()?;
        let service = self.context.scope.service(&host);
        let port = match (&destination.port, service.map(|s| s.service.ports.as_slice())) {
            (Some(port), _) => port.number,
            (None, Some([only])) => only.number,
            (None, _) => self.port,
        };
        let host = service.map_or(host, |s| s.host().clone());
        Some(ClusterName::outbound(port, destination.subset.as_str(), host))
    }
}

impl Destinations for Seen<'_, '_> {
    fn cluster(&self, destination: &Destination) -> String {
        self.name(destination)
            .map_or_else(|| super::super::cluster::BLACK_HOLE.to_owned(), |n| n.to_string())
    }

    fn mesh(&self) -> &Mesh {
        self.context.mesh()
    }

    fn hash(&self, destination: &Destination) -> Vec<HashPolicy> {
        let Some(name) = self.name(destination) else {
            return Vec::new();
        };
        let Some(service) = name.host.as_ref().and_then(|h| self.context.scope.service(h)) else {
            return Vec::new();
        };
        let policy = self.context.policy(service, &name.subset, name.port);
        policy.hash().map(action::hash_policies).unwrap_or_default()
    }
}

/// Routes of a VirtualService at a place, in order; what stands behind a rule that takes everything is left
/// out.
pub fn routes(
    context: &Context<'_>,
    written: &Written<VirtualService>,
    place: &Place<'_>,
) -> Vec<envoy::Route> {
    let mut out = Vec::new();
    for (i, rule) in written.spec.http.iter().enumerate() {
        let because = written.because(&format!("spec.http[{i}]"));
        let done = match &rule.delegate {
            Some(delegate) => {
                let namespace = if delegate.namespace.is_empty() {
                    written.namespace()
                } else {
                    &delegate.namespace
                };
                let target = context.scope.virtual_services.iter().find(|v| {
                    v.namespace() == namespace
                        && v.object.meta.name == delegate.name
                        && v.spec.hosts.is_empty()
                });
                let Some(target) = target else { continue };
                let mut done = false;
                for (j, inner) in target.spec.http.iter().enumerate() {
                    let Some(merged) = merge(rule, inner) else {
                        continue;
                    };
                    let because = format!("{because}; {}", target.because(&format!("spec.http[{j}]")));
                    if rule_routes(context, target.namespace(), &merged, place, &because, &mut out) {
                        done = true;
                        break;
                    }
                }
                done
            }
            None => rule_routes(context, written.namespace(), rule, place, &because, &mut out),
        };
        if done {
            break;
        }
    }
    out
}

/// Adds a rule's routes; whether it takes everything.
fn rule_routes(
    context: &Context<'_>,
    namespace: &str,
    rule: &HttpRoute,
    place: &Place<'_>,
    because: &str,
    out: &mut Vec<envoy::Route>,
) -> bool {
    let to = Seen {
        context,
        namespace,
        port: place.port,
    };
    let mut add = |condition: Option<&HttpMatchRequest>, matched: envoy::RouteMatch| {
        let parts = action::parts(rule, condition, &to, place.tls);
        let suffix = condition.map(|c| c.name.as_str()).filter(|n| !n.is_empty());
        out.push(envoy::Route {
            name: match suffix {
                Some(suffix) if !rule.name.is_empty() => format!("{}.{suffix}", rule.name),
                Some(suffix) => suffix.to_owned(),
                None => rule.name.clone(),
            },
            r#match: Some(matched),
            metadata: wire::because(because),
            typed_per_filter_config: parts.per_filter,
            request_headers_to_add: parts.request_add,
            request_headers_to_remove: parts.request_remove,
            response_headers_to_add: parts.response_add,
            response_headers_to_remove: parts.response_remove,
            stat_prefix: condition.map(|c| c.stat_prefix.clone()).unwrap_or_default(),
            action: parts.action,
            ..Default::default()
        });
    };
    if rule.matches.is_empty() {
        add(None, matches::everything());
        return true;
    }
    for condition in &rule.matches {
        if !place.takes(condition, namespace) {
            continue;
        }
        add(Some(condition), matches::route_match(condition));
        if matches::is_everything(condition) {
            return true;
        }
    }
    false
}

/// A delegate's rule under the conditions of the rule that delegates: both must hold. `None` where they
/// exclude each other or cannot be written as one condition.
fn merge(outer: &HttpRoute, inner: &HttpRoute) -> Option<HttpRoute> {
    let mut merged = inner.clone();
    merged.matches = match (outer.matches.as_slice(), inner.matches.as_slice()) {
        ([], inner) => inner.to_vec(),
        (outer, []) => outer.to_vec(),
        (outer, inner) => {
            let both: Vec<_> = outer
                .iter()
                .flat_map(|o| inner.iter().filter_map(move |i| merge_match(o, i)))
                .collect();
            if both.is_empty() {
                return None;
            }
            both
        }
    };
    merged.timeout = inner.timeout.or(outer.timeout);
    merged.retries = inner.retries.clone().or_else(|| outer.retries.clone());
    merged.rewrite = inner.rewrite.clone().or_else(|| outer.rewrite.clone());
    merged.headers = inner.headers.clone().or_else(|| outer.headers.clone());
    merged.fault = inner.fault.clone().or_else(|| outer.fault.clone());
    merged.cors_policy = inner.cors_policy.clone().or_else(|| outer.cors_policy.clone());
    merged.mirror = inner.mirror.clone().or_else(|| outer.mirror.clone());
    Some(merged)
}

fn merge_match(outer: &HttpMatchRequest, inner: &HttpMatchRequest) -> Option<HttpMatchRequest> {
    use isthmus_api::istio::StringMatch;
    let one = |x: &Option<StringMatch>, y: &Option<StringMatch>| match (x, y) {
        (None, y) => Some(y.clone()),
        (x, None) => Some(x.clone()),
        (Some(a), Some(b)) if a == b => Some(Some(a.clone())),
        // Of two prefixes the longer holds both, if it begins with the other.
        (Some(StringMatch::Prefix(a)), Some(StringMatch::Prefix(b) | StringMatch::Exact(b)))
            if b.starts_with(a) =>
        {
            Some(y.clone())
        }
        _ => None,
    };
    let mut merged = inner.clone();
    merged.uri = one(&outer.uri, &inner.uri)?;
    merged.method = one(&outer.method, &inner.method)?;
    merged.authority = one(&outer.authority, &inner.authority)?;
    merged.scheme = one(&outer.scheme, &inner.scheme)?;
    for (name, value) in &outer.headers {
        match merged.headers.get(name) {
            Some(other) if other != value => return None,
            _ => merged.headers.insert(name.clone(), value.clone()),
        };
    }
    for (name, value) in &outer.query_params {
        match merged.query_params.get(name) {
            Some(other) if other != value => return None,
            _ => merged.query_params.insert(name.clone(), value.clone()),
        };
    }
    merged.without_headers.extend(outer.without_headers.clone());
    merged.port = match (outer.port, inner.port) {
        (Some(a), Some(b)) if a != b => return None,
        (a, b) => a.or(b),
    };
    merged.ignore_uri_case |= outer.ignore_uri_case;
    if merged.gateways.is_empty() {
        merged.gateways = outer.gateways.clone();
    }
    for (name, value) in outer.source_labels.iter() {
        merged
            .source_labels
            .0
            .entry(name.clone())
            .or_insert_with(|| value.clone());
    }
    if merged.source_namespace.is_empty() {
        merged.source_namespace = outer.source_namespace.clone();
    }
    Some(merged)
}
