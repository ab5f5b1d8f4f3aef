//! From the entries of `http_filters` and of `typed_per_filter_config`.

use std::collections::HashMap;
use std::sync::Arc;

use http::StatusCode;
use isthmus_xds::any;
use isthmus_xds::envoy::hcm::{self, http_filter::ConfigType};
use isthmus_xds::envoy::http_filters as f;
use isthmus_xds::envoy::route;
use isthmus_xds::envoy::{Any, core};
use prost::{Message, Name};

use super::{Abort, Cors, Fault, HttpFilter};
use crate::config::field::{bool_or, duration, fraction, runtime_fraction};
use crate::config::matcher::StringMatcher;
use crate::config::rbac::{Rbac, wire as rbac};
use crate::config::refusal::{At, Refusal, refuse_set};

/// Filters of Istio that are known by the full name of their configuration.
const ISTIO_STATS: &str = "stats.PluginConfig";
const ISTIO_PEER_METADATA: &str = "io.istio.http.peer_metadata.Config";
const ISTIO_ALPN: &str = "istio.envoy.config.filter.http.alpn.v2alpha1.FilterConfig";

/// Reads a filter chain; the router must be its last entry.
pub fn chain(filters: &[hcm::HttpFilter]) -> Result<Vec<HttpFilter>, Refusal> {
    let mut out = Vec::with_capacity(filters.len());
    let mut router = false;
    for (i, filter) in filters.iter().enumerate() {
        if router {
            return Err(Refusal::new(
                format!("http_filters[{i}]"),
                "stands behind the router, which must be the last filter",
            ));
        }
        match one(filter).nth("http_filters", i)? {
            Known::Filter(f) => out.push(f),
            Known::Router => router = true,
            Known::Nothing => {}
        }
    }
    if !router {
        return Err(Refusal::new(
            "http_filters",
            "the last filter must be envoy.filters.http.router",
        ));
    }
    Ok(out)
}

enum Known {
    Filter(HttpFilter),
    Router,
    /// Accepted, and nothing is left for it to do here.
    Nothing,
}

fn one(filter: &hcm::HttpFilter) -> Result<Known, Refusal> {
    let config = match filter.config_type.as_ref() {
        Some(ConfigType::TypedConfig(any)) => any,
        Some(ConfigType::ConfigDiscovery(_)) => return Err(Refusal::unsupported("config_discovery")),
        None => return Err(Refusal::new("typed_config", "is required and not set")),
    };
    let known = known(filter, config)?;
    if filter.disabled {
        return match known {
            Known::Filter(HttpFilter::Rbac(_)) | Known::Router => Err(Refusal::unsupported("disabled")),
            _ => Ok(Known::Nothing),
        };
    }
    Ok(known)
}

fn known(filter: &hcm::HttpFilter, config: &Any) -> Result<Known, Refusal> {
    let at = "typed_config";
    let type_name = inner_type(config).at(at)?;
    Ok(match type_name.as_str() {
        ISTIO_STATS => Known::Filter(HttpFilter::Stats),
        ISTIO_PEER_METADATA => Known::Filter(HttpFilter::PeerMetadata),
        // The control plane says the ALPN per cluster, and the proxy offers what it speaks.
        ISTIO_ALPN => Known::Nothing,
        n if n == f::rbac::Rbac::full_name() => {
            let r: f::rbac::Rbac = read(config).at(at)?;
            Known::Filter(HttpFilter::Rbac(Arc::new(Rbac::try_from(&r).at(at)?)))
        }
        n if n == f::fault::HttpFault::full_name() => {
            let r: f::fault::HttpFault = read(config).at(at)?;
            if r.delay.is_some() || r.abort.is_some() {
                return Err(Refusal::new(
                    at,
                    "faults stand at routes (typed_per_filter_config), not at the filter",
                ));
            }
            Known::Filter(HttpFilter::Fault)
        }
        n if n == f::cors::Cors::full_name() => Known::Filter(HttpFilter::Cors),
        n if n == f::grpc_stats::FilterConfig::full_name() => Known::Filter(HttpFilter::GrpcStats),
        n if n == f::router::Router::full_name() => {
            let r: f::router::Router = read(config).at(at)?;
            router(&r).at(at)?;
            Known::Router
        }
        _ if filter.name == "istio.stats" => Known::Filter(HttpFilter::Stats),
        _ if filter.name == "istio.metadata_exchange" => Known::Filter(HttpFilter::PeerMetadata),
        _ if filter.is_optional => Known::Nothing,
        n => {
            return Err(Refusal::new(
                "",
                format!("the filter {:?} of type {n} is not known here", filter.name),
            ));
        }
    })
}

fn router(r: &f::router::Router) -> Result<(), Refusal> {
    refuse_set!(r; strict_check_headers, respect_expected_rq_timeout);
    for (i, filter) in r.upstream_http_filters.iter().enumerate() {
        if !filter.name.starts_with("istio.") && filter.name != "envoy.filters.http.upstream_codec" {
            return Err(Refusal::new(
                format!("upstream_http_filters[{i}]"),
                format!("the filter {:?} is not known here", filter.name),
            ));
        }
    }
    Ok(())
}

/// The full name of a configuration's type, also when it travels as a `TypedStruct`.
fn inner_type(config: &Any) -> Result<String, Refusal> {
    let name = any::full_name(&config.type_url);
    if !TYPED_STRUCTS.contains(&name) {
        return Ok(name.to_owned());
    }
    let inner = TypedStruct::decode(config.value.as_slice())
        .map_err(|e| Refusal::new("", format!("the bytes are not a {name}: {e}")))?;
    Ok(any::full_name(&inner.type_url).to_owned())
}

/// The two names of the message that carries a configuration without its schema.
const TYPED_STRUCTS: [&str; 2] = ["udpa.type.v1.TypedStruct", "xds.type.v3.TypedStruct"];

/// `xds.type.v3.TypedStruct`; the struct itself is not looked at.
#[derive(Clone, PartialEq, prost::Message)]
struct TypedStruct {
    #[prost(string, tag = "1")]
    type_url: String,
}

fn read<M: Message + Name + Default>(config: &Any) -> Result<M, Refusal> {
    any::unpack(config).map_err(|e| Refusal::new("", e.to_string()))
}

/// What stands at a table, a virtual host or a route instead of the filters' own configuration.
#[derive(Debug, Clone, Default)]
pub struct PerRoute {
    /// Authorisation instead of the listener's.
    pub rbac: Option<Arc<Rbac>>,
    /// Fault injection.
    pub fault: Option<Arc<Fault>>,
    /// CORS policy.
    pub cors: Option<Arc<Cors>>,
}

impl PerRoute {
    /// Reads `typed_per_filter_config`; what is not said is `outer`'s.
    pub fn read(configs: &HashMap<String, Any>, outer: &PerRoute) -> Result<Self, Refusal> {
        let mut out = outer.clone();
        for (name, config) in configs {
            out.add(name, config)
                .at(&format!("typed_per_filter_config[{name:?}]"))?;
        }
        Ok(out)
    }

    fn add(&mut self, name: &str, config: &Any) -> Result<(), Refusal> {
        let mut config = config;
        let mut optional = false;
        let wrapper: route::FilterConfig;
        if any::is::<route::FilterConfig>(config) {
            wrapper = read(config)?;
            optional = wrapper.is_optional;
            if wrapper.disabled {
                return self.disable(name);
            }
            match wrapper.config.as_ref() {
                Some(inner) => config = inner,
                None => return Err(Refusal::new("config", "is required and not set")),
            }
        }
        let type_name = inner_type(config)?;
        match type_name.as_str() {
            n if n == f::rbac::RbacPerRoute::full_name() => {
                self.rbac = Some(rbac::per_route(&read(config)?)?);
            }
            n if n == f::fault::HttpFault::full_name() => {
                self.fault = Some(Arc::new(fault(&read(config)?)?));
            }
            n if n == f::cors::CorsPolicy::full_name() => {
                self.cors = cors(&read(config)?)?.map(Arc::new);
            }
            ISTIO_STATS | ISTIO_PEER_METADATA | ISTIO_ALPN => {}
            _ if optional || name.starts_with("istio.") => {}
            n => return Err(Refusal::new("", format!("{n} is not known here"))),
        }
        Ok(())
    }

    fn disable(&mut self, name: &str) -> Result<(), Refusal> {
        match name {
            "envoy.filters.http.rbac" => {
                self.rbac = Some(Arc::new(Rbac {
                    rules: None,
                    shadow: None,
                }));
            }
            "envoy.filters.http.fault" => self.fault = None,
            "envoy.filters.http.cors" => self.cors = None,
            _ => return Err(Refusal::unsupported("disabled")),
        }
        Ok(())
    }
}

fn fault(h: &f::fault::HttpFault) -> Result<Fault, Refusal> {
    use f::fault::fault_abort::ErrorType;
    use isthmus_xds::envoy::pb::envoy::extensions::filters::common::fault::v3::fault_delay::FaultDelaySecifier;
    refuse_set!(h; upstream_cluster, headers, downstream_nodes, max_active_faults, response_rate_limit);
    let delay = match h.delay.as_ref() {
        None => None,
        Some(d) => {
            let share = match d.percentage.as_ref() {
                Some(p) => fraction("delay.percentage", p)?,
                None => 0,
            };
            match d.fault_delay_secifier.as_ref() {
                Some(FaultDelaySecifier::FixedDelay(t)) => Some((duration("delay.fixed_delay", t)?, share)),
                Some(FaultDelaySecifier::HeaderDelay(_)) => {
                    return Err(Refusal::unsupported("delay.header_delay"));
                }
                None => return Err(Refusal::new("delay.fixed_delay", "is required and not set")),
            }
        }
    };
    let abort = match h.abort.as_ref() {
        None => None,
        Some(a) => {
            refuse_set!(a; response_body);
            let share = match a.percentage.as_ref() {
                Some(p) => fraction("abort.percentage", p)?,
                None => 0,
            };
            let answer = match a.error_type.as_ref() {
                Some(ErrorType::HttpStatus(s)) => Abort::Http(status("abort.http_status", *s)?),
                Some(ErrorType::GrpcStatus(s)) => Abort::Grpc(*s),
                Some(ErrorType::HeaderAbort(_)) => return Err(Refusal::unsupported("abort.header_abort")),
                None => return Err(Refusal::new("abort.http_status", "is required and not set")),
            };
            Some((answer, share))
        }
    };
    Ok(Fault { delay, abort })
}

/// A status that a proxy may answer with.
pub fn status(field: &str, v: u32) -> Result<StatusCode, Refusal> {
    u16::try_from(v)
        .ok()
        .filter(|v| (200..600).contains(v))
        .and_then(|v| StatusCode::from_u16(v).ok())
        .ok_or_else(|| Refusal::new(field, format!("{v} is no status from 200 to 599")))
}

fn cors(c: &f::cors::CorsPolicy) -> Result<Option<Cors>, Refusal> {
    if bool_or(&c.allow_private_network_access, false) {
        return Err(Refusal::unsupported("allow_private_network_access"));
    }
    enabled(c.filter_enabled.as_ref(), c.shadow_enabled.as_ref(), || {
        Ok(Cors {
            origins: origins(&c.allow_origin_string_match)?,
            methods: c.allow_methods.clone(),
            headers: c.allow_headers.clone(),
            expose: c.expose_headers.clone(),
            max_age: c.max_age.clone(),
            credentials: bool_or(&c.allow_credentials, false),
            forward_unmatched_preflights: bool_or(&c.forward_not_matching_preflights, true),
        })
    })
}

/// The policy as routes and virtual hosts hold it in Envoy's earlier form.
pub fn route_cors(c: &route::CorsPolicy) -> Result<Option<Cors>, Refusal> {
    use route::cors_policy::EnabledSpecifier;
    if bool_or(&c.allow_private_network_access, false) {
        return Err(Refusal::unsupported("allow_private_network_access"));
    }
    let on = c
        .enabled_specifier
        .as_ref()
        .map(|EnabledSpecifier::FilterEnabled(f)| f);
    enabled(on, c.shadow_enabled.as_ref(), || {
        Ok(Cors {
            origins: origins(&c.allow_origin_string_match)?,
            methods: c.allow_methods.clone(),
            headers: c.allow_headers.clone(),
            expose: c.expose_headers.clone(),
            max_age: c.max_age.clone(),
            credentials: bool_or(&c.allow_credentials, false),
            forward_unmatched_preflights: bool_or(&c.forward_not_matching_preflights, true),
        })
    })
}

fn enabled(
    on: Option<&core::RuntimeFractionalPercent>,
    shadow: Option<&core::RuntimeFractionalPercent>,
    policy: impl FnOnce() -> Result<Cors, Refusal>,
) -> Result<Option<Cors>, Refusal> {
    // A shadow policy changes nothing but counters.
    let _ = shadow;
    match runtime_fraction("filter_enabled", on)? {
        Some(0) => Ok(None),
        None | Some(1_000_000) => policy().map(Some),
        Some(_) => Err(Refusal::new("filter_enabled", "must be 0 or 100 percent")),
    }
}

fn origins(list: &[isthmus_xds::envoy::matcher::StringMatcher]) -> Result<Vec<StringMatcher>, Refusal> {
    list.iter()
        .enumerate()
        .map(|(i, m)| StringMatcher::try_from(m).nth("allow_origin_string_match", i))
        .collect()
}
