//! Conditions of a VirtualService's HTTP rule, as a route's match.

use isthmus_api::istio::StringMatch;
use isthmus_api::istio::virtual_service::HttpMatchRequest;
use isthmus_xds::envoy::matcher::StringMatcher;
use isthmus_xds::envoy::route as envoy;
use isthmus_xds::envoy::route::header_matcher::HeaderMatchSpecifier;
use isthmus_xds::envoy::route::query_parameter_matcher::QueryParameterMatchSpecifier;
use isthmus_xds::envoy::route::route_match::PathSpecifier;

use crate::generate::wire;

/// Takes every request.
pub fn everything() -> envoy::RouteMatch {
    envoy::RouteMatch {
        path_specifier: Some(PathSpecifier::Prefix("/".to_owned())),
        ..Default::default()
    }
}

/// The match of a rule's condition; what depends on the listener or the proxy is decided before.
pub fn route_match(written: &HttpMatchRequest) -> envoy::RouteMatch {
    let path = match &written.uri {
        Some(StringMatch::Exact(path)) => PathSpecifier::Path(path.clone()),
        Some(StringMatch::Prefix(prefix)) => PathSpecifier::Prefix(prefix.clone()),
        Some(StringMatch::Regex(regex)) => PathSpecifier::SafeRegex(wire::regex(regex)),
        Some(StringMatch::Present) | None => PathSpecifier::Prefix("/".to_owned()),
    };
    let pseudo = [
        (":method", &written.method),
        (":authority", &written.authority),
        (":scheme", &written.scheme),
    ];
    let mut headers: Vec<envoy::HeaderMatcher> = pseudo
        .into_iter()
        .filter_map(|(name, m)| m.as_ref().map(|m| header(name, m, false)))
        .collect();
    headers.extend(written.headers.iter().map(|(name, m)| header(name, m, false)));
    headers.extend(
        written
            .without_headers
            .iter()
            .map(|(name, m)| header(name, m, true)),
    );
    envoy::RouteMatch {
        case_sensitive: wire::boolean(!written.ignore_uri_case),
        headers,
        query_parameters: written
            .query_params
            .iter()
            .map(|(name, m)| query(name, m))
            .collect(),
        path_specifier: Some(path),
        ..Default::default()
    }
}

/// Whether a match takes every request, so that nothing behind it is reached.
pub fn is_everything(written: &HttpMatchRequest) -> bool {
    let any_path = match &written.uri {
        None | Some(StringMatch::Present) => true,
        Some(StringMatch::Prefix(p)) => p == "/",
        Some(StringMatch::Regex(r)) => r == ".*" || r == "*",
        Some(StringMatch::Exact(_)) => false,
    };
    any_path
        && written.method.is_none()
        && written.authority.is_none()
        && written.scheme.is_none()
        && written.headers.is_empty()
        && written.without_headers.is_empty()
        && written.query_params.is_empty()
}

fn header(name: &str, written: &StringMatch, absent: bool) -> envoy::HeaderMatcher {
    let specifier = match string(written) {
        None => HeaderMatchSpecifier::PresentMatch(true),
        Some(matcher) => HeaderMatchSpecifier::StringMatch(matcher),
    };
    envoy::HeaderMatcher {
        name: name.to_ascii_lowercase(),
        invert_match: absent,
        // A header that is not there does not have the value either.
        treat_missing_header_as_empty: absent && *written != StringMatch::Present,
        header_match_specifier: Some(specifier),
    }
}

fn query(name: &str, written: &StringMatch) -> envoy::QueryParameterMatcher {
    let specifier = match string(written) {
        None => QueryParameterMatchSpecifier::PresentMatch(true),
        Some(matcher) => QueryParameterMatchSpecifier::StringMatch(matcher),
    };
    envoy::QueryParameterMatcher {
        name: name.to_owned(),
        query_parameter_match_specifier: Some(specifier),
    }
}

/// `None` for a match on presence alone.
pub fn string(written: &StringMatch) -> Option<StringMatcher> {
    match written {
        StringMatch::Present => None,
        StringMatch::Exact(s) => Some(wire::exact(s)),
        StringMatch::Prefix(s) => Some(wire::prefix(s)),
        StringMatch::Regex(s) if s == "*" => None,
        StringMatch::Regex(s) => Some(wire::regex_matcher(s)),
    }
}
