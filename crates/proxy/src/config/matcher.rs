//! String, header, query and path matchers (Envoy `type.matcher.v3`).

pub mod wire;

use regex::Regex;

/// Envoy `StringMatcher`.
#[derive(Debug, Clone)]
pub enum StringMatcher {
    /// The whole value.
    Exact(String),
    /// The start of the value.
    Prefix(String),
    /// The end of the value.
    Suffix(String),
    /// Anywhere in the value.
    Contains(String),
    /// The whole value; the expression is anchored at both ends.
    Regex(Regex),
    /// The whole value, ASCII case ignored.
    ExactIgnoreCase(String),
    /// The start, ASCII case ignored.
    PrefixIgnoreCase(String),
    /// The end, ASCII case ignored.
    SuffixIgnoreCase(String),
    /// Anywhere, ASCII case ignored.
    ContainsIgnoreCase(String),
}

impl StringMatcher {
    /// Whether `value` matches.
    pub fn matches(&self, value: &str) -> bool {
        match self {
            Self::Exact(s) => value == s,
            Self::Prefix(s) => value.starts_with(s.as_str()),
            Self::Suffix(s) => value.ends_with(s.as_str()),
            Self::Contains(s) => value.contains(s.as_str()),
            Self::Regex(r) => r.is_match(value),
            Self::ExactIgnoreCase(s) => value.eq_ignore_ascii_case(s),
            Self::PrefixIgnoreCase(s) => starts_ignoring_case(value.as_bytes(), s.as_bytes()),
            Self::SuffixIgnoreCase(s) => {
                value.len() >= s.len()
                    && value.as_bytes()[value.len() - s.len()..].eq_ignore_ascii_case(s.as_bytes())
            }
            Self::ContainsIgnoreCase(s) => {
                s.is_empty()
                    || value
                        .as_bytes()
                        .windows(s.len())
                        .any(|w| w.eq_ignore_ascii_case(s.as_bytes()))
            }
        }
    }
}

/// Whether `value` starts with `prefix`, ASCII case ignored.
pub fn starts_ignoring_case(value: &[u8], prefix: &[u8]) -> bool {
    value.len() >= prefix.len() && value[..prefix.len()].eq_ignore_ascii_case(prefix)
}

/// Envoy `route.v3.HeaderMatcher`; also used for `:method`, `:authority`, `:scheme` and `:path`.
#[derive(Debug, Clone)]
pub struct HeaderMatcher {
    /// Lower-case name.
    pub name: String,
    /// What the value has to be.
    pub value: HeaderValueMatch,
    /// Turns the result round.
    pub invert: bool,
    /// An absent header counts as an empty one.
    pub treat_missing_as_empty: bool,
}

/// The condition of a [`HeaderMatcher`].
#[derive(Debug, Clone)]
pub enum HeaderValueMatch {
    /// Present (`true`) or absent (`false`).
    Present(bool),
    /// A string condition; several headers of the name are joined with `,`.
    String(StringMatcher),
    /// An integer in `[start, end)`.
    Range(i64, i64),
}

/// Envoy `route.v3.QueryParameterMatcher`.
#[derive(Debug, Clone)]
pub struct QueryMatcher {
    /// Parameter name.
    pub name: String,
    /// `None`: present is enough.
    pub value: Option<StringMatcher>,
}

/// Envoy `RouteMatch.path_specifier`. Paths are compared without the query.
#[derive(Debug, Clone)]
pub enum PathMatch {
    /// `prefix`.
    Prefix(String),
    /// `path`.
    Exact(String),
    /// `safe_regex`, anchored.
    Regex(Regex),
    /// `path_separated_prefix`: `/a` matches `/a` and `/a/b`, not `/ab`.
    SeparatedPrefix(String),
    /// `connect_matcher`.
    Connect,
}
