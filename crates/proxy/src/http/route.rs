//! Which route a request takes. Pure, and used by `explain` as well as by traffic.

use std::sync::Arc;

use http::HeaderMap;

use crate::config::RouteTable;
use crate::config::matcher::{PathMatch, starts_ignoring_case};
use crate::config::route::{PathRewrite, RedirectPath, Route, RouteMatch, Target, VirtualHost};
use crate::upstream::rng::Rng;

use super::grpc::is_grpc;
use super::head::HeadView;

/// Where a request goes.
#[derive(Debug, Clone, Copy)]
pub struct Match<'a> {
    /// Its virtual host.
    pub host: &'a Arc<VirtualHost>,
    /// Its route.
    pub route: &'a Arc<Route>,
}

/// Why there is no route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoMatch {
    /// No virtual host takes this authority.
    Host,
    /// No route of the virtual host matches.
    Route,
}

/// Finds the virtual host and route of a request.
pub fn find<'a>(table: &'a RouteTable, head: &HeadView<'_>, rng: &Rng) -> Result<Match<'a>, NoMatch> {
    let host = virtual_host(table, head.authority).ok_or(NoMatch::Host)?;
    let route = host
        .routes
        .iter()
        .find(|r| matches(&r.matches, head, rng))
        .ok_or(NoMatch::Route)?;
    Ok(Match { host, route })
}

/// The virtual host of an authority: exact, longest suffix, longest prefix, any. The port counts unless
/// the table ignores it.
pub fn virtual_host<'a>(table: &'a RouteTable, authority: &str) -> Option<&'a Arc<VirtualHost>> {
    let lower;
    let mut name = if authority.bytes().any(|b| b.is_ascii_uppercase()) {
        lower = authority.to_ascii_lowercase();
        lower.as_str()
    } else {
        authority
    };
    if table.ignore_port_in_host {
        name = without_port(name);
    }
    let index = &table.domains;
    let at = index
        .exact
        .get(name)
        .copied()
        .or_else(|| {
            let fits = |(s, _): &&(String, usize)| name.len() > s.len() && name.ends_with(s.as_str());
            index.suffixes.iter().find(fits).map(|(_, at)| *at)
        })
        .or_else(|| {
            let fits = |(p, _): &&(String, usize)| name.len() > p.len() && name.starts_with(p.as_str());
            index.prefixes.iter().find(fits).map(|(_, at)| *at)
        })
        .or(index.any)?;
    table.virtual_hosts.get(at)
}

/// An authority without its port.
pub fn without_port(authority: &str) -> &str {
    match authority.rsplit_once(':') {
        Some((host, port))
            if !port.is_empty()
                && port.bytes().all(|b| b.is_ascii_digit())
                && (!host.contains(':') || host.ends_with(']')) =>
        {
            host
        }
        _ => authority,
    }
}

fn matches(matches: &RouteMatch, head: &HeadView<'_>, rng: &Rng) -> bool {
    path_matches(&matches.path, matches.case_sensitive, head)
        && (!matches.grpc || is_grpc(head.headers))
        && matches.headers.iter().all(|m| head.matches(m))
        && matches.query.iter().all(|m| head.query_matches(m))
        && matches.runtime_fraction.is_none_or(|ppm| rng.happens(ppm))
}

fn path_matches(matcher: &PathMatch, case_sensitive: bool, head: &HeadView<'_>) -> bool {
    let path = head.path_only();
    let starts = |prefix: &str| {
        if case_sensitive {
            path.starts_with(prefix)
        } else {
            starts_ignoring_case(path.as_bytes(), prefix.as_bytes())
        }
    };
    match matcher {
        PathMatch::Prefix(prefix) => starts(prefix),
        PathMatch::Exact(exact) if case_sensitive => path == exact,
        PathMatch::Exact(exact) => path.eq_ignore_ascii_case(exact),
        PathMatch::Regex(regex) => regex.is_match(path),
        PathMatch::SeparatedPrefix(prefix) => {
            starts(prefix) && matches!(path.as_bytes().get(prefix.len()), None | Some(b'/'))
        }
        PathMatch::Connect => head.method == "CONNECT",
    }
}

/// What the route's path condition matched of a path, for prefix rewrites.
fn matched_length(matches: &RouteMatch, path: &str) -> usize {
    match &matches.path {
        PathMatch::Prefix(p) | PathMatch::SeparatedPrefix(p) => p.len().min(path.len()),
        _ => path.len(),
    }
}

/// The path and query after a rewrite.
pub fn rewrite_path(rewrite: &PathRewrite, matches: &RouteMatch, path_and_query: &str) -> String {
    let end = path_and_query.find('?').unwrap_or(path_and_query.len());
    let (path, query) = path_and_query.split_at(end);
    match rewrite {
        PathRewrite::Prefix(new) => {
            let rest = path.get(matched_length(matches, path)..).unwrap_or_default();
            format!("{new}{rest}{query}")
        }
        PathRewrite::Regex(regex, substitution) => {
            format!("{}{query}", regex.replace_all(path, substitution.as_str()))
        }
    }
}

/// `location` of a redirect.
pub fn location(
    redirect: &crate::config::route::Redirect,
    matches: &RouteMatch,
    head: &HeadView<'_>,
) -> String {
    let scheme = redirect.scheme.as_deref().unwrap_or(head.scheme);
    let given_host = without_port(head.authority);
    let given_port = head
        .authority
        .strip_prefix(given_host)
        .and_then(|p| p.strip_prefix(':'));
    let host = redirect.host.as_deref().unwrap_or(given_host);
    let port = match (redirect.port, given_port) {
        (Some(port), _) => match (scheme, port) {
            ("http", 80) | ("https", 443) => String::new(),
            _ => format!(":{port}"),
        },
        (None, None) => String::new(),
        // A new scheme drops the port that was the old one's default, as Envoy does.
        (None, Some("80")) if head.scheme == "http" && scheme == "https" => String::new(),
        (None, Some("443")) if head.scheme == "https" && scheme == "http" => String::new(),
        (None, Some(_)) if redirect.host.is_some() => String::new(),
        (None, Some(port)) => format!(":{port}"),
    };
    let end = head.path.find('?').unwrap_or(head.path.len());
    let (path, query) = head.path.split_at(end);
    let query = if redirect.strip_query { "" } else { query };
    let path = match &redirect.path {
        None => format!("{path}{query}"),
        Some(RedirectPath::Full(new)) if new.contains('?') => new.clone(),
        Some(RedirectPath::Full(new)) => format!("{new}{query}"),
        Some(RedirectPath::Prefix(new)) => {
            let rest = path.get(matched_length(matches, path)..).unwrap_or_default();
            format!("{new}{rest}{query}")
        }
        Some(RedirectPath::Regex(regex, substitution)) => {
            format!("{}{query}", regex.replace_all(path, substitution.as_str()))
        }
    };
    format!("{scheme}://{host}{port}{path}")
}

/// The cluster of a request, and its index among weighted ones.
pub fn cluster(target: &Target, headers: &HeaderMap, rng: &Rng) -> Option<(Arc<str>, Option<usize>)> {
    match target {
        Target::Cluster(name) => Some((name.clone(), None)),
        Target::Weighted { clusters, total } => {
            let mut point = rng.below(u64::from((*total).max(1))) as u32;
            for (at, cluster) in clusters.iter().enumerate() {
                if point < cluster.weight {
                    return Some((cluster.name.clone(), Some(at)));
                }
                point -= cluster.weight;
            }
            clusters
                .last()
                .map(|c| (c.name.clone(), Some(clusters.len() - 1)))
        }
        Target::Header(name) => {
            let value = headers.get(name)?.to_str().ok()?;
            Some((value.into(), None))
        }
    }
}
