//! A request's head as rules and routes look at it.

use http::HeaderMap;

use crate::config::matcher::{HeaderMatcher, HeaderValueMatch, QueryMatcher};

/// What rules and routes may look at. Borrowed, so that matching allocates next to nothing.
#[derive(Debug, Clone, Copy)]
pub struct HeadView<'a> {
    /// `:method`.
    pub method: &'a str,
    /// `:scheme`.
    pub scheme: &'a str,
    /// `:authority`, as the client sent it.
    pub authority: &'a str,
    /// `:path` with the query.
    pub path: &'a str,
    /// Everything else.
    pub headers: &'a HeaderMap,
}

impl<'a> HeadView<'a> {
    /// The path without query and fragment.
    pub fn path_only(&self) -> &'a str {
        let end = self.path.find(['?', '#']).unwrap_or(self.path.len());
        &self.path[..end]
    }

    /// The query without its question mark.
    pub fn query(&self) -> Option<&'a str> {
        self.path
            .split_once('?')
            .map(|(_, q)| q.split_once('#').map_or(q, |(q, _)| q))
    }

    /// Whether a header condition holds.
    pub fn matches(&self, matcher: &HeaderMatcher) -> bool {
        let pseudo = match matcher.name.as_str() {
            ":method" => Some(self.method),
            ":scheme" => Some(self.scheme),
            ":authority" | "host" => Some(self.authority),
            ":path" => Some(self.path),
            _ => None,
        };
        if let Some(value) = pseudo {
            return holds(matcher, Some(value)) != matcher.invert;
        }
        let mut values = self
            .headers
            .get_all(matcher.name.as_str())
            .iter()
            .map(|v| String::from_utf8_lossy(v.as_bytes()));
        let Some(first) = values.next() else {
            let missing = matcher.treat_missing_as_empty.then_some("");
            // A value condition on an absent header fails, inverted or not, as in Envoy; unless absent
            // counts as empty, or presence itself is asked for.
            return match (&matcher.value, missing) {
                (HeaderValueMatch::Present(_), _) | (_, Some(_)) => holds(matcher, missing) != matcher.invert,
                (_, None) => false,
            };
        };
        match values.next() {
            None => holds(matcher, Some(&first)) != matcher.invert,
            Some(second) => {
                let mut joined = format!("{first},{second}");
                for value in values {
                    joined.push(',');
                    joined.push_str(&value);
                }
                holds(matcher, Some(&joined)) != matcher.invert
            }
        }
    }

    /// Whether a query condition holds. Names and values are compared as they stand, as Envoy does.
    pub fn query_matches(&self, matcher: &QueryMatcher) -> bool {
        self.query_value(&matcher.name)
            .is_some_and(|v| matcher.value.as_ref().is_none_or(|m| m.matches(v)))
    }

    /// The first value of a query parameter.
    pub fn query_value(&self, name: &str) -> Option<&'a str> {
        self.query()?
            .split('&')
            .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
            .find(|(n, _)| *n == name)
            .map(|(_, v)| v)
    }
}

fn holds(matcher: &HeaderMatcher, value: Option<&str>) -> bool {
    match (&matcher.value, value) {
        (HeaderValueMatch::Present(expected), value) => value.is_some() == *expected,
        (HeaderValueMatch::String(m), Some(value)) => m.matches(value),
        (HeaderValueMatch::Range(start, end), Some(value)) => {
            value.parse::<i64>().is_ok_and(|n| (*start..*end).contains(&n))
        }
        (_, None) => false,
    }
}
