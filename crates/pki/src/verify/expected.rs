//! What names are expected of a peer (Envoy: `match_typed_subject_alt_names`).

use std::fmt;

use isthmus_model::SpiffeId;
use regex::{Regex, RegexBuilder};

use crate::certificate::Certificate;

/// Memory that a compiled pattern may take, in bytes.
const PATTERN_MEMORY: usize = 1 << 20;
/// How many expectations a message names before it says "and N more".
const NAMED_IN_MESSAGES: usize = 8;

/// Why a pattern was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{pattern:?} is not a regular expression (RE2 syntax): {reason}")]
pub struct PatternError {
    /// The pattern.
    pub pattern: String,
    /// What is wrong with it.
    pub reason: String,
}

/// How to compare a name (Envoy: `type.matcher.v3.StringMatcher`).
#[derive(Debug, Clone)]
pub enum StringMatcher {
    /// The same text.
    Exact(String),
    /// Begins with.
    Prefix(String),
    /// Ends with.
    Suffix(String),
    /// Has it anywhere.
    Contains(String),
    /// Matches as a whole; see [`StringMatcher::regex`].
    Regex(Regex),
}

impl StringMatcher {
    /// A regular expression that must match the whole name (Envoy: `safe_regex`).
    pub fn regex(pattern: &str) -> Result<Self, PatternError> {
        RegexBuilder::new(&format!("^(?:{pattern})$"))
            .size_limit(PATTERN_MEMORY)
            .build()
            .map(Self::Regex)
            .map_err(|e| PatternError {
                pattern: pattern.to_owned(),
                reason: e.to_string(),
            })
    }

    /// Whether `name` matches; `ignore_case` compares ASCII letters alike (never for expressions, as in Envoy).
    fn matches(&self, name: &str, ignore_case: bool) -> bool {
        let bytes = name.as_bytes();
        let alike = |a: &[u8], b: &[u8]| {
            if ignore_case {
                a.eq_ignore_ascii_case(b)
            } else {
                a == b
            }
        };
        match self {
            Self::Exact(text) => alike(bytes, text.as_bytes()),
            Self::Prefix(text) => bytes
                .get(..text.len())
                .is_some_and(|head| alike(head, text.as_bytes())),
            Self::Suffix(text) => bytes
                .len()
                .checked_sub(text.len())
                .is_some_and(|at| alike(&bytes[at..], text.as_bytes())),
            Self::Contains(text) if text.is_empty() => true,
            Self::Contains(text) => bytes
                .windows(text.len())
                .any(|window| alike(window, text.as_bytes())),
            Self::Regex(regex) => regex.is_match(name),
        }
    }
}

impl fmt::Display for StringMatcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(text) => f.write_str(text),
            Self::Prefix(text) => write!(f, "{text}*"),
            Self::Suffix(text) => write!(f, "*{text}"),
            Self::Contains(text) => write!(f, "*{text}*"),
            Self::Regex(regex) => write!(f, "/{}/", regex.as_str()),
        }
    }
}

/// Which kind of subject alternative name a matcher looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SanKind {
    /// URI, as SPIFFE ids are.
    Uri,
    /// DNS name; `*.example.com` in the certificate stands for one label under an exact matcher.
    Dns,
    /// IP address in its usual text form.
    IpAddress,
}

/// One acceptable name.
#[derive(Debug, Clone)]
pub struct SanMatcher {
    /// Kind of name.
    pub kind: SanKind,
    /// How it is compared.
    pub matcher: StringMatcher,
    /// Compare ASCII letters without case (Envoy: `ignore_case`).
    pub ignore_case: bool,
}

impl SanMatcher {
    /// Exactly this workload.
    pub fn spiffe(id: &SpiffeId) -> Self {
        Self::new(SanKind::Uri, StringMatcher::Exact(id.to_string()))
    }

    /// A matcher that minds case.
    pub fn new(kind: SanKind, matcher: StringMatcher) -> Self {
        Self {
            kind,
            matcher,
            ignore_case: false,
        }
    }

    fn accepts(&self, certificate: &Certificate) -> bool {
        let matches = |name: &str| self.matcher.matches(name, self.ignore_case);
        match self.kind {
            SanKind::Uri => certificate.uris.iter().any(|uri| matches(uri)),
            SanKind::IpAddress => certificate.addresses.iter().any(|ip| matches(&ip.to_string())),
            SanKind::Dns => certificate.dns_names.iter().any(|dns| match &self.matcher {
                StringMatcher::Exact(name) => wildcard_covers(dns, name) || matches(dns),
                _ => matches(dns),
            }),
        }
    }
}

/// Whether the certificate's `pattern` (`a.b` or `*.b`) stands for `name`; DNS minds no case.
fn wildcard_covers(pattern: &str, name: &str) -> bool {
    match pattern.strip_prefix("*.") {
        None => pattern.eq_ignore_ascii_case(name),
        Some(rest) => name
            .split_once('.')
            .is_some_and(|(first, tail)| !first.is_empty() && tail.eq_ignore_ascii_case(rest)),
    }
}

/// The names of which a peer must prove one, and on whose behalf it is asked.
#[derive(Debug, Clone)]
pub struct Expected {
    /// For messages: the cluster or listener that expects, e.g. `outbound|80||echo.echo.svc.cluster.local`.
    whom: String,
    /// Empty: any name that the roots vouch for.
    matchers: Vec<SanMatcher>,
}

impl Expected {
    /// Any name that the roots vouch for.
    pub fn anyone() -> Self {
        Self {
            whom: String::new(),
            matchers: Vec::new(),
        }
    }

    /// One of `matchers`, on behalf of `whom` (an xDS cluster or listener). No matchers means anyone, as in Envoy.
    pub fn one_of(whom: impl Into<String>, matchers: Vec<SanMatcher>) -> Self {
        Self {
            whom: whom.into(),
            matchers,
        }
    }

    /// On whose behalf; empty when nobody's in particular.
    pub fn whom(&self) -> &str {
        &self.whom
    }

    /// Whether the certificate has one of the names. Says nothing about its chain.
    pub fn accepts(&self, certificate: &Certificate) -> bool {
        self.matchers.is_empty() || self.matchers.iter().any(|m| m.accepts(certificate))
    }
}

impl fmt::Display for Expected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[")?;
        for (i, m) in self.matchers.iter().take(NAMED_IN_MESSAGES).enumerate() {
            let comma = if i == 0 { "" } else { ", " };
            write!(f, "{comma}{}", m.matcher)?;
        }
        match self.matchers.len().saturating_sub(NAMED_IN_MESSAGES) {
            0 => f.write_str("]"),
            more => write!(f, " and {more} more]"),
        }
    }
}
