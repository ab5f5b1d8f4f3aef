//! From Envoy's route actions: forward, redirect, answer; with retries, rewrites, mirrors.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderValue, StatusCode};
use isthmus_xds::envoy::route::{self as e, route_action as ra};

use super::{
    Action, Forward, HashPolicy, HostRewrite, Mirror, PathRewrite, Redirect, RedirectPath, RetryOn,
    RetryPolicy, Target, WeightedCluster, wire,
};
use crate::config::field::{
    bool_or, data, duration, header_name, name, number_or, port, positive_or, runtime_fraction, timeout,
    variant,
};
use crate::config::http_filter::wire::status;
use crate::config::matcher::wire::substitution;
use crate::config::refusal::{At, Refusal, refuse_set};

/// Envoy's timeout of a route that has none.
const ROUTE_TIMEOUT: Duration = Duration::from_secs(15);
const BACKOFF: Duration = Duration::from_millis(25);

/// What a route does.
pub fn action(
    a: Option<&e::route::Action>,
    inherited: &[Mirror],
    max_body: usize,
) -> Result<Action, Refusal> {
    match a {
        Some(e::route::Action::Route(r)) => forward(r, inherited)
            .at("route")
            .map(|f| Action::Forward(Box::new(f))),
        Some(e::route::Action::Redirect(r)) => redirect(r).at("redirect").map(Action::Redirect),
        Some(e::route::Action::DirectResponse(d)) => respond(d, max_body).at("direct_response"),
        Some(e::route::Action::FilterAction(_)) => Err(Refusal::unsupported("filter_action")),
        Some(e::route::Action::NonForwardingAction(_)) => Err(Refusal::unsupported("non_forwarding_action")),
        None => Err(Refusal::new(
            "action",
            "is required: route, redirect or direct_response",
        )),
    }
}

fn forward(r: &e::RouteAction, inherited: &[Mirror]) -> Result<Forward, Refusal> {
    refuse_set!(r; metadata_match, path_rewrite_policy, path_rewrite, append_x_forwarded_host,
        retry_policy_typed_config, priority, internal_redirect_policy, internal_redirect_action, hedge_policy);
    if r.grpc_timeout_offset.is_some() {
        return Err(Refusal::unsupported("grpc_timeout_offset"));
    }
    let not_found = match variant::<ra::ClusterNotFoundResponseCode>(
        "cluster_not_found_response_code",
        r.cluster_not_found_response_code,
    )? {
        ra::ClusterNotFoundResponseCode::ServiceUnavailable => StatusCode::SERVICE_UNAVAILABLE,
        ra::ClusterNotFoundResponseCode::NotFound => StatusCode::NOT_FOUND,
        ra::ClusterNotFoundResponseCode::InternalServerError => StatusCode::INTERNAL_SERVER_ERROR,
    };
    let own = mirrors(&r.request_mirror_policies)?;
    let mut upgrades = Vec::new();
    for (i, u) in r.upgrade_configs.iter().enumerate() {
        upgrades.push((
            upgrade(&u.upgrade_type, u.connect_config.is_some()).nth("upgrade_configs", i)?,
            bool_or(&u.enabled, true),
        ));
    }
    let mut hash_policy = Vec::new();
    for (i, h) in r.hash_policy.iter().enumerate() {
        hash_policy.push(hash(h).nth("hash_policy", i)?);
    }
    Ok(Forward {
        target: target(r.cluster_specifier.as_ref())?,
        timeout: timeout("timeout", r.timeout.as_ref(), Some(ROUTE_TIMEOUT))?,
        idle_timeout: unlimited("idle_timeout", r.idle_timeout.as_ref())?,
        max_grpc_timeout: grpc_timeout(r)?,
        retry: r
            .retry_policy
            .as_ref()
            .map(retry)
            .transpose()
            .at("retry_policy")?
            .map(Arc::new),
        path_rewrite: path_rewrite(r)?,
        host_rewrite: host_rewrite(r.host_rewrite_specifier.as_ref())?,
        mirrors: if own.is_empty() { inherited.to_vec() } else { own },
        hash_policy,
        upgrades,
        cluster_not_found: not_found,
    })
}

/// A timeout whose zero means never, said as the longest there is.
fn unlimited(field: &str, d: Option<&isthmus_xds::envoy::Duration>) -> Result<Option<Duration>, Refusal> {
    d.map(|d| duration(field, d).map(|d| if d.is_zero() { Duration::MAX } else { d }))
        .transpose()
}

fn grpc_timeout(r: &e::RouteAction) -> Result<Option<Duration>, Refusal> {
    let Some(m) = r.max_stream_duration.as_ref() else {
        return unlimited("max_grpc_timeout", r.max_grpc_timeout.as_ref());
    };
    let at = "max_stream_duration";
    for (field, d) in [
        ("max_stream_duration", &m.max_stream_duration),
        ("grpc_timeout_header_offset", &m.grpc_timeout_header_offset),
    ] {
        if let Some(d) = d
            && !duration(field, d).at(at)?.is_zero()
        {
            return Err(Refusal::unsupported(field)).at(at);
        }
    }
    unlimited("grpc_timeout_header_max", m.grpc_timeout_header_max.as_ref()).at(at)
}

/// A protocol to upgrade to, lower case.
pub fn upgrade(kind: &str, has_connect_config: bool) -> Result<String, Refusal> {
    let kind = kind.to_ascii_lowercase();
    if kind.is_empty() || has_connect_config || kind.starts_with("connect") {
        return Err(Refusal::new(
            "upgrade_type",
            format!("{kind:?} is not an upgrade that this proxy passes on; websocket is"),
        ));
    }
    Ok(kind)
}

fn target(c: Option<&ra::ClusterSpecifier>) -> Result<Target, Refusal> {
    match c {
        Some(ra::ClusterSpecifier::Cluster(c)) => name("cluster", c).map(Target::Cluster),
        Some(ra::ClusterSpecifier::ClusterHeader(h)) => header_name("cluster_header", h).map(Target::Header),
        Some(ra::ClusterSpecifier::WeightedClusters(w)) => weighted(w).at("weighted_clusters"),
        Some(ra::ClusterSpecifier::ClusterSpecifierPlugin(_)) => {
            Err(Refusal::unsupported("cluster_specifier_plugin"))
        }
        Some(ra::ClusterSpecifier::InlineClusterSpecifierPlugin(_)) => {
            Err(Refusal::unsupported("inline_cluster_specifier_plugin"))
        }
        None => Err(Refusal::new(
            "cluster_specifier",
            "is required: cluster, cluster_header or weighted_clusters",
        )),
    }
}

fn weighted(w: &e::WeightedCluster) -> Result<Target, Refusal> {
    refuse_set!(w; random_value_specifier);
    let mut clusters = Vec::with_capacity(w.clusters.len());
    let mut total = 0u32;
    for (i, c) in w.clusters.iter().enumerate() {
        let c = member(c).nth("clusters", i)?;
        total = total
            .checked_add(c.weight)
            .ok_or_else(|| Refusal::new("clusters", "their weights add up to more than 4294967295"))?;
        clusters.push(c);
    }
    if total == 0 {
        return Err(Refusal::new(
            "clusters",
            "at least one must have a weight greater than 0",
        ));
    }
    if let Some(said) = w.total_weight.as_ref()
        && said.value != total
    {
        return Err(Refusal::new(
            "total_weight",
            format!("is {}, and the weights add up to {total}", said.value),
        ));
    }
    Ok(Target::Weighted { clusters, total })
}

fn member(c: &e::weighted_cluster::ClusterWeight) -> Result<WeightedCluster, Refusal> {
    use e::weighted_cluster::cluster_weight::HostRewriteSpecifier;
    refuse_set!(c; cluster_header, metadata_match, typed_per_filter_config);
    Ok(WeightedCluster {
        name: name("name", &c.name)?,
        weight: number_or(&c.weight, 0),
        headers: wire::operations(c)?,
        host_rewrite: match c.host_rewrite_specifier.as_ref() {
            Some(HostRewriteSpecifier::HostRewriteLiteral(h)) => {
                authority("host_rewrite_literal", h)?;
                Some(h.clone())
            }
            None => None,
        },
    })
}

fn authority(field: &str, v: &str) -> Result<HeaderValue, Refusal> {
    if v.is_empty() {
        return Err(Refusal::new(field, "may not be empty"));
    }
    v.parse()
        .map_err(|_| Refusal::new(field, format!("{v:?} cannot be a host")))
}

fn path_rewrite(r: &e::RouteAction) -> Result<Option<PathRewrite>, Refusal> {
    match (r.prefix_rewrite.as_str(), r.regex_rewrite.as_ref()) {
        ("", None) => Ok(None),
        (prefix, None) => Ok(Some(PathRewrite::Prefix(prefix.to_owned()))),
        ("", Some(s)) => {
            let (regex, substitution) = substitution(s).at("regex_rewrite")?;
            Ok(Some(PathRewrite::Regex(regex, substitution)))
        }
        _ => Err(Refusal::new(
            "regex_rewrite",
            "cannot stand together with prefix_rewrite",
        )),
    }
}

fn host_rewrite(h: Option<&ra::HostRewriteSpecifier>) -> Result<Option<HostRewrite>, Refusal> {
    use ra::HostRewriteSpecifier as H;
    Ok(match h {
        None => None,
        Some(H::HostRewriteLiteral(v)) => Some(HostRewrite::Literal(authority("host_rewrite_literal", v)?)),
        Some(H::AutoHostRewrite(b)) => b.value.then_some(HostRewrite::Auto),
        Some(H::HostRewriteHeader(n)) => Some(HostRewrite::Header(header_name("host_rewrite_header", n)?)),
        Some(H::HostRewritePathRegex(_)) => {
            return Err(Refusal::unsupported("host_rewrite_path_regex"));
        }
        Some(H::HostRewrite(_)) => return Err(Refusal::unsupported("host_rewrite")),
    })
}

/// Where copies go.
pub fn mirrors(list: &[ra::RequestMirrorPolicy]) -> Result<Vec<Mirror>, Refusal> {
    let one = |m: &ra::RequestMirrorPolicy| -> Result<Mirror, Refusal> {
        refuse_set!(m; cluster_header, request_headers_mutations, host_rewrite_literal);
        Ok(Mirror {
            cluster: name("cluster", &m.cluster)?,
            fraction: runtime_fraction("runtime_fraction", m.runtime_fraction.as_ref())?.unwrap_or(1_000_000),
            shadow_suffix: !m.disable_shadow_host_suffix_append,
        })
    };
    list.iter()
        .enumerate()
        .map(|(i, m)| one(m).nth("request_mirror_policies", i))
        .collect()
}

fn hash(h: &ra::HashPolicy) -> Result<HashPolicy, Refusal> {
    use ra::hash_policy::PolicySpecifier as P;
    refuse_set!(h; terminal);
    Ok(match h.policy_specifier.as_ref() {
        Some(P::Header(h)) => {
            refuse_set!(h; regex_rewrite);
            HashPolicy::Header(header_name("header.header_name", &h.header_name)?)
        }
        Some(P::Cookie(c)) => {
            if c.name.is_empty() {
                return Err(Refusal::new("cookie.name", "may not be empty"));
            }
            HashPolicy::Cookie {
                name: c.name.clone(),
                ttl: c.ttl.as_ref().map(|d| duration("cookie.ttl", d)).transpose()?,
                path: c.path.clone(),
                attributes: attributes(&c.attributes)?,
            }
        }
        Some(P::ConnectionProperties(c)) if c.source_ip => HashPolicy::SourceIp,
        Some(P::ConnectionProperties(_)) => {
            return Err(Refusal::new("connection_properties.source_ip", "must be true"));
        }
        Some(P::QueryParameter(q)) => HashPolicy::Query(q.name.clone()),
        Some(P::FilterState(_)) => return Err(Refusal::unsupported("filter_state")),
        None => return Err(Refusal::new("policy_specifier", "is required and not set")),
    })
}

fn attributes(list: &[ra::hash_policy::CookieAttribute]) -> Result<String, Refusal> {
    let mut out = String::new();
    for (i, attribute) in list.iter().enumerate() {
        let text = match attribute.value.as_str() {
            "" => attribute.name.clone(),
            value => format!("{}={value}", attribute.name),
        };
        if attribute.name.is_empty() || text.contains(';') || HeaderValue::from_str(&text).is_err() {
            return Err(Refusal::new(
                format!("cookie.attributes[{i}]"),
                format!("{text:?} cannot stand in a cookie"),
            ));
        }
        out.push_str("; ");
        out.push_str(&text);
    }
    Ok(out)
}

/// A retry policy.
pub fn retry(r: &e::RetryPolicy) -> Result<RetryPolicy, Refusal> {
    refuse_set!(r; per_try_idle_timeout, retry_priority, retry_options_predicates, rate_limited_retry_back_off,
        retriable_headers, retriable_request_headers);
    let mut avoid_previous_hosts = false;
    for (i, p) in r.retry_host_predicate.iter().enumerate() {
        match p.name.as_str() {
            "envoy.retry_host_predicates.previous_hosts" => avoid_previous_hosts = true,
            other => {
                return Err(Refusal::new(
                    format!("retry_host_predicate[{i}]"),
                    format!("{other:?} is not known here; envoy.retry_host_predicates.previous_hosts is"),
                ));
            }
        }
    }
    let mut status_codes = Vec::with_capacity(r.retriable_status_codes.len());
    for (i, code) in r.retriable_status_codes.iter().enumerate() {
        match u16::try_from(*code) {
            Ok(code @ 100..=599) => status_codes.push(code),
            _ => {
                return Err(Refusal::new(
                    format!("retriable_status_codes[{i}]"),
                    format!("{code} is no status from 100 to 599"),
                ));
            }
        }
    }
    let base = r.retry_back_off.as_ref().and_then(|b| b.base_interval.as_ref());
    let max = r.retry_back_off.as_ref().and_then(|b| b.max_interval.as_ref());
    let backoff_base = positive_or("retry_back_off.base_interval", base, BACKOFF)?;
    let backoff_max = positive_or(
        "retry_back_off.max_interval",
        max,
        backoff_base.saturating_mul(10),
    )?;
    if backoff_max < backoff_base {
        return Err(Refusal::new(
            "retry_back_off.max_interval",
            "is shorter than base_interval",
        ));
    }
    Ok(RetryPolicy {
        retries: number_or(&r.num_retries, 1),
        on: retry_on(&r.retry_on)?,
        status_codes,
        per_try_timeout: timeout("per_try_timeout", r.per_try_timeout.as_ref(), None)?,
        avoid_previous_hosts,
        host_selection_attempts: u32::try_from(r.host_selection_retry_max_attempts)
            .unwrap_or(1)
            .max(1),
        backoff_base,
        backoff_max,
    })
}

fn retry_on(s: &str) -> Result<RetryOn, Refusal> {
    let mut on = RetryOn::default();
    for token in s.split(',').map(str::trim).filter(|t| !t.is_empty()) {
        let flag = match token {
            "5xx" => &mut on.server_error,
            "gateway-error" => &mut on.gateway_error,
            "connect-failure" => &mut on.connect_failure,
            "refused-stream" => &mut on.refused_stream,
            "reset" => &mut on.reset,
            "reset-before-request" => &mut on.reset_before_request,
            "retriable-4xx" => &mut on.retriable_4xx,
            "retriable-status-codes" => &mut on.status_codes,
            "cancelled" => &mut on.grpc_cancelled,
            "deadline-exceeded" => &mut on.grpc_deadline_exceeded,
            "internal" => &mut on.grpc_internal,
            "resource-exhausted" => &mut on.grpc_resource_exhausted,
            "unavailable" => &mut on.grpc_unavailable,
            // HTTP/3 is never tried, so it cannot have failed.
            "http3-post-connect-failure" => continue,
            other => {
                return Err(Refusal::new(
                    "retry_on",
                    format!("{other:?} is not a condition that is known here"),
                ));
            }
        };
        *flag = true;
    }
    Ok(on)
}

fn redirect(r: &e::RedirectAction) -> Result<Redirect, Refusal> {
    use e::redirect_action::{
        PathRewriteSpecifier as P, RedirectResponseCode as C, SchemeRewriteSpecifier as S,
    };
    let status = match variant::<C>("response_code", r.response_code)? {
        C::MovedPermanently => StatusCode::MOVED_PERMANENTLY,
        C::Found => StatusCode::FOUND,
        C::SeeOther => StatusCode::SEE_OTHER,
        C::TemporaryRedirect => StatusCode::TEMPORARY_REDIRECT,
        C::PermanentRedirect => StatusCode::PERMANENT_REDIRECT,
    };
    let text = |field: &str, v: &String| {
        HeaderValue::from_str(v)
            .map(|_| v.clone())
            .map_err(|_| Refusal::new(field, format!("{v:?} cannot stand in a location")))
    };
    Ok(Redirect {
        status,
        scheme: match r.scheme_rewrite_specifier.as_ref() {
            Some(S::HttpsRedirect(true)) => Some("https".to_owned()),
            Some(S::HttpsRedirect(false)) | None => None,
            Some(S::SchemeRedirect(s)) => Some(text("scheme_redirect", s)?),
        },
        host: if r.host_redirect.is_empty() {
            None
        } else {
            Some(text("host_redirect", &r.host_redirect)?)
        },
        port: Some(port("port_redirect", r.port_redirect)?).filter(|p| *p != 0),
        path: match r.path_rewrite_specifier.as_ref() {
            None => None,
            Some(P::PathRedirect(p)) => Some(RedirectPath::Full(text("path_redirect", p)?)),
            Some(P::PrefixRewrite(p)) => Some(RedirectPath::Prefix(text("prefix_rewrite", p)?)),
            Some(P::RegexRewrite(s)) => {
                let (regex, substitution) = substitution(s).at("regex_rewrite")?;
                Some(RedirectPath::Regex(regex, substitution))
            }
            Some(P::PathRewrite(_)) => return Err(Refusal::unsupported("path_rewrite")),
        },
        strip_query: r.strip_query,
    })
}

fn respond(d: &e::DirectResponseAction, max_body: usize) -> Result<Action, Refusal> {
    refuse_set!(d; body_format);
    let body = d
        .body
        .as_ref()
        .map(data)
        .transpose()
        .at("body")?
        .unwrap_or_default();
    if body.len() > max_body {
        return Err(Refusal::new(
            "body",
            format!("has {} bytes, and at most {max_body} are allowed", body.len()),
        ));
    }
    Ok(Action::Respond(status("status", d.status)?, body.into()))
}
