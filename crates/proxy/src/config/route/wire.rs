//! From Envoy's route configuration: tables, virtual hosts and domains.

use std::collections::HashSet;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use isthmus_xds::envoy::{core, route as e};

use super::{DomainIndex, HeaderOperation, HeaderOperations, Route, RouteTable, VirtualHost, action};
use crate::config::field::{because, header_name, name, number_or, runtime_fraction, variant};
use crate::config::http_filter::wire::{PerRoute, route_cors};
use crate::config::matcher::{QueryMatcher, wire as matcher};
use crate::config::refusal::{At, Refusal, refuse_set};
use crate::config::route::{Mirror, RouteMatch};

impl TryFrom<&e::RouteConfiguration> for RouteTable {
    type Error = Refusal;

    fn try_from(t: &e::RouteConfiguration) -> Result<Self, Refusal> {
        route_table(t, &t.name)
    }
}

/// A table; an inline one bears the listener's name.
pub fn route_table(t: &e::RouteConfiguration, called: &str) -> Result<RouteTable, Refusal> {
    refuse_set!(t; vhds, internal_only_headers, cluster_specifier_plugins, vhost_header,
        ignore_path_parameters_in_path_matching, most_specific_header_mutations_wins, route_specifiers);
    let per_route = PerRoute::read(&t.typed_per_filter_config, &PerRoute::default())?;
    let mirrors = action::mirrors(&t.request_mirror_policies)?;
    let max_direct_response_body = number_or(&t.max_direct_response_body_size_bytes, 4096) as usize;
    let outer = Outer {
        per_route: &per_route,
        mirrors: &mirrors,
        max_direct_response_body,
    };
    let mut domains = DomainIndex::default();
    let mut virtual_hosts = Vec::with_capacity(t.virtual_hosts.len());
    let mut names = HashSet::new();
    for (i, v) in t.virtual_hosts.iter().enumerate() {
        if !names.insert(v.name.as_str()) {
            return Err(Refusal::new(
                "name",
                format!("another virtual host is called {:?}", v.name),
            ))
            .nth("virtual_hosts", i);
        }
        for (j, d) in v.domains.iter().enumerate() {
            domains.add(d, i).nth("domains", j).nth("virtual_hosts", i)?;
        }
        virtual_hosts.push(Arc::new(virtual_host(v, &outer).nth("virtual_hosts", i)?));
    }
    domains.sort();
    Ok(RouteTable {
        name: called.into(),
        virtual_hosts,
        domains,
        ignore_port_in_host: t.ignore_port_in_host_matching,
        max_direct_response_body,
        headers: operations(t)?,
    })
}

/// What routes inherit.
struct Outer<'a> {
    per_route: &'a PerRoute,
    mirrors: &'a [Mirror],
    max_direct_response_body: usize,
}

impl DomainIndex {
    fn add(&mut self, domain: &str, host: usize) -> Result<(), Refusal> {
        let domain = domain.to_ascii_lowercase();
        let twice = || {
            Err(Refusal::new(
                "",
                format!("{domain:?} belongs to two virtual hosts"),
            ))
        };
        let stars = domain.matches('*').count();
        if domain.is_empty() || stars > 1 {
            return Err(Refusal::new(
                "",
                format!("{domain:?} is no domain: a host name, '*', '*.example.com' or 'example.*'"),
            ));
        }
        if domain == "*" {
            if self.any.is_some_and(|h| h != host) {
                return twice();
            }
            self.any = Some(host);
        } else if let Some(suffix) = domain.strip_prefix('*') {
            if self.suffixes.iter().any(|(s, _)| s == suffix) {
                return twice();
            }
            self.suffixes.push((suffix.to_owned(), host));
        } else if let Some(prefix) = domain.strip_suffix('*') {
            if self.prefixes.iter().any(|(p, _)| p == prefix) {
                return twice();
            }
            self.prefixes.push((prefix.to_owned(), host));
        } else if stars == 1 {
            return Err(Refusal::new(
                "",
                format!("{domain:?}: '*' may stand only at the beginning or the end"),
            ));
        } else {
            match self.exact.entry(domain.clone()) {
                Entry::Occupied(_) => return twice(),
                Entry::Vacant(v) => v.insert(host),
            };
        }
        Ok(())
    }

    /// Longest first, which is Envoy's order of precedence.
    fn sort(&mut self) {
        for list in [&mut self.suffixes, &mut self.prefixes] {
            list.sort_by(|a, b| b.0.len().cmp(&a.0.len()).then_with(|| a.0.cmp(&b.0)));
        }
    }
}

fn virtual_host(v: &e::VirtualHost, outer: &Outer<'_>) -> Result<VirtualHost, Refusal> {
    refuse_set!(v; matcher, include_attempt_count_in_response, retry_policy_typed_config, hedge_policy,
        include_is_timeout_retry_header, route_specifiers);
    if v.domains.is_empty() {
        return Err(Refusal::new("domains", "may not be empty"));
    }
    let mut per_route = PerRoute::read(&v.typed_per_filter_config, outer.per_route)?;
    if let Some(c) = v.cors.as_ref() {
        per_route.cors = route_cors(c).at("cors")?.map(Arc::new);
    }
    let own = action::mirrors(&v.request_mirror_policies)?;
    let inner = Outer {
        per_route: &per_route,
        mirrors: if own.is_empty() { outer.mirrors } else { &own },
        max_direct_response_body: outer.max_direct_response_body,
    };
    let mut routes = Vec::with_capacity(v.routes.len());
    for (i, r) in v.routes.iter().enumerate() {
        routes.push(Arc::new(route(r, &inner).nth("routes", i)?));
    }
    use e::virtual_host::TlsRequirementType as T;
    Ok(VirtualHost {
        name: name("name", &v.name)?,
        routes,
        headers: operations(v)?,
        retry: v
            .retry_policy
            .as_ref()
            .map(action::retry)
            .transpose()
            .at("retry_policy")?
            .map(Arc::new),
        require_tls: variant::<T>("require_tls", v.require_tls)? != T::None,
        include_attempt_count: v.include_request_attempt_count,
    })
}

fn route(r: &e::Route, outer: &Outer<'_>) -> Result<Route, Refusal> {
    refuse_set!(r; route_specifiers);
    let mut per_route = PerRoute::read(&r.typed_per_filter_config, outer.per_route)?;
    if let Some(e::route::Action::Route(a)) = r.action.as_ref()
        && let Some(c) = a.cors.as_ref()
    {
        per_route.cors = route_cors(c).at("route.cors")?.map(Arc::new);
    }
    let matches = r
        .r#match
        .as_ref()
        .ok_or_else(|| Refusal::new("match", "is required and not set"))?;
    Ok(Route {
        name: r.name.as_str().into(),
        matches: route_match(matches).at("match")?,
        action: action::action(r.action.as_ref(), outer.mirrors, outer.max_direct_response_body)?,
        headers: operations(r)?,
        rbac: per_route.rbac,
        fault: per_route.fault,
        cors: per_route.cors,
        because: because(&r.metadata),
    })
}

fn route_match(m: &e::RouteMatch) -> Result<RouteMatch, Refusal> {
    refuse_set!(m; cookies, tls_context, dynamic_metadata, filter_state);
    let mut query = Vec::with_capacity(m.query_parameters.len());
    for (i, q) in m.query_parameters.iter().enumerate() {
        query.push(QueryMatcher::try_from(q).nth("query_parameters", i)?);
    }
    Ok(RouteMatch {
        path: m.path_specifier.as_ref().try_into()?,
        case_sensitive: m.case_sensitive.as_ref().is_none_or(|c| c.value),
        headers: matcher::headers("headers", &m.headers)?,
        query,
        runtime_fraction: runtime_fraction("runtime_fraction", m.runtime_fraction.as_ref())?,
        grpc: m.grpc.is_some(),
    })
}

/// The four fields of header operations, which many messages have.
pub trait HeaderFields {
    /// `request_headers_to_add`.
    fn request_add(&self) -> &[core::HeaderValueOption];
    /// `request_headers_to_remove`.
    fn request_remove(&self) -> &[String];
    /// `response_headers_to_add`.
    fn response_add(&self) -> &[core::HeaderValueOption];
    /// `response_headers_to_remove`.
    fn response_remove(&self) -> &[String];
}

macro_rules! header_fields {
    ($($message:ty),+) => {$(
        impl HeaderFields for $message {
            fn request_add(&self) -> &[core::HeaderValueOption] {
                &self.request_headers_to_add
            }
            fn request_remove(&self) -> &[String] {
                &self.request_headers_to_remove
            }
            fn response_add(&self) -> &[core::HeaderValueOption] {
                &self.response_headers_to_add
            }
            fn response_remove(&self) -> &[String] {
                &self.response_headers_to_remove
            }
        }
    )+};
}
header_fields!(
    e::RouteConfiguration,
    e::VirtualHost,
    e::Route,
    e::weighted_cluster::ClusterWeight
);

/// Header operations, removals first.
pub fn operations(m: &impl HeaderFields) -> Result<HeaderOperations, Refusal> {
    Ok(HeaderOperations {
        request: direction("request_headers", m.request_add(), m.request_remove())?,
        response: direction("response_headers", m.response_add(), m.response_remove())?,
    })
}

fn direction(
    field: &str,
    add: &[core::HeaderValueOption],
    remove: &[String],
) -> Result<Vec<HeaderOperation>, Refusal> {
    let mut out = Vec::with_capacity(add.len() + remove.len());
    for (i, n) in remove.iter().enumerate() {
        out.push(HeaderOperation::Remove(header_name(
            &format!("{field}_to_remove[{i}]"),
            n,
        )?));
    }
    for (i, o) in add.iter().enumerate() {
        if let Some(op) = addition(o).nth(&format!("{field}_to_add"), i)? {
            out.push(op);
        }
    }
    Ok(out)
}

fn addition(o: &core::HeaderValueOption) -> Result<Option<HeaderOperation>, Refusal> {
    use core::header_value_option::HeaderAppendAction as A;
    let header = o
        .header
        .as_ref()
        .ok_or_else(|| Refusal::new("header", "is required and not set"))?;
    let key = header_name("header.key", &header.key)?;
    if key == http::header::HOST {
        return Err(Refusal::new(
            "header.key",
            "the host is changed by host_rewrite_literal, not by a header operation",
        ));
    }
    let value = match (header.value.as_str(), header.raw_value.as_slice()) {
        (v, []) => v.to_owned(),
        ("", raw) => String::from_utf8(raw.to_vec())
            .map_err(|_| Refusal::new("header.raw_value", "is not UTF-8 text"))?,
        _ => {
            return Err(Refusal::new(
                "header.raw_value",
                "cannot stand together with value",
            ));
        }
    };
    if http::HeaderValue::from_str(&value).is_err() {
        return Err(Refusal::new(
            "header.value",
            format!("{value:?} cannot stand in a header"),
        ));
    }
    if value.is_empty() && !o.keep_empty_value {
        return Ok(None);
    }
    Ok(Some(match o.append.as_ref().map(|a| a.value) {
        Some(true) => HeaderOperation::Append(key, value),
        Some(false) => HeaderOperation::Set(key, value),
        None => match variant::<A>("append_action", o.append_action)? {
            A::AppendIfExistsOrAdd => HeaderOperation::Append(key, value),
            A::AddIfAbsent => HeaderOperation::AddIfAbsent(key, value),
            A::OverwriteIfExistsOrAdd => HeaderOperation::Set(key, value),
            A::OverwriteIfExists => return Err(Refusal::unsupported("append_action")),
        },
    }))
}
