//! From Envoy's matchers.

use isthmus_xds::envoy::matcher as m;
use isthmus_xds::envoy::route::{self, header_matcher::HeaderMatchSpecifier};
use regex::{Regex, RegexBuilder};

use super::{HeaderMatcher, HeaderValueMatch, PathMatch, QueryMatcher, StringMatcher};
use crate::config::field::header_name;
use crate::config::refusal::{At, Refusal};

/// Compiled size of one expression; Envoy bounds the program of RE2 in the same way.
const MAX_REGEX: usize = 256 << 10;
const MAX_PATTERN: usize = 8 << 10;

/// An expression that has to match the whole value.
pub fn full_regex(field: &str, r: &m::RegexMatcher) -> Result<Regex, Refusal> {
    compile(field, &format!("^(?:{})$", r.regex), &r.regex)
}

/// An expression that may match anywhere.
pub fn search_regex(field: &str, r: &m::RegexMatcher) -> Result<Regex, Refusal> {
    compile(field, &r.regex, &r.regex)
}

fn compile(field: &str, pattern: &str, written: &str) -> Result<Regex, Refusal> {
    if written.is_empty() {
        return Err(Refusal::new(field, "the regular expression may not be empty"));
    }
    if written.len() > MAX_PATTERN {
        return Err(Refusal::new(
            field,
            format!("the regular expression is longer than {MAX_PATTERN} bytes"),
        ));
    }
    // Compiling a part alone first: otherwise `a)(b` would become valid through the anchors.
    let build = |p: &str| RegexBuilder::new(p).size_limit(MAX_REGEX).build();
    if pattern != written {
        build(written).map_err(|e| regex_refusal(field, written, &e))?;
    }
    build(pattern).map_err(|e| regex_refusal(field, written, &e))
}

fn regex_refusal(field: &str, written: &str, e: &regex::Error) -> Refusal {
    let why = e.to_string();
    let last = why.lines().last().unwrap_or_default();
    Refusal::new(field, format!("{written:?} is no regular expression: {last}"))
}

/// `RegexMatchAndSubstitute`: the expression and its substitution with `\1` turned into `${1}`.
pub fn substitution(s: &m::RegexMatchAndSubstitute) -> Result<(Regex, String), Refusal> {
    let pattern = s
        .pattern
        .as_ref()
        .ok_or_else(|| Refusal::new("pattern", "is required and not set"))?;
    let regex = search_regex("pattern.regex", pattern)?;
    let mut out = String::with_capacity(s.substitution.len());
    let mut chars = s.substitution.chars();
    while let Some(c) = chars.next() {
        match c {
            '$' => out.push_str("$$"),
            '\\' => match chars.next() {
                Some('\\') => out.push('\\'),
                Some(d) if d.is_ascii_digit() => {
                    let group = d as usize - '0' as usize;
                    if group >= regex.captures_len() {
                        return Err(Refusal::new(
                            "substitution",
                            format!("\\{group} refers to a group that the expression does not have"),
                        ));
                    }
                    out.push_str(&format!("${{{group}}}"));
                }
                _ => {
                    return Err(Refusal::new(
                        "substitution",
                        r"a backslash must be followed by a digit or a backslash",
                    ));
                }
            },
            c => out.push(c),
        }
    }
    Ok((regex, out))
}

impl TryFrom<&m::StringMatcher> for StringMatcher {
    type Error = Refusal;

    fn try_from(s: &m::StringMatcher) -> Result<Self, Refusal> {
        use m::string_matcher::MatchPattern as P;
        let ic = s.ignore_case;
        let non_empty = |field: &str, v: &String| {
            if v.is_empty() {
                Err(Refusal::new(field, "may not be empty"))
            } else {
                Ok(v.clone())
            }
        };
        Ok(match s.match_pattern.as_ref() {
            Some(P::Exact(v)) if ic => Self::ExactIgnoreCase(v.clone()),
            Some(P::Exact(v)) => Self::Exact(v.clone()),
            Some(P::Prefix(v)) if ic => Self::PrefixIgnoreCase(non_empty("prefix", v)?),
            Some(P::Prefix(v)) => Self::Prefix(non_empty("prefix", v)?),
            Some(P::Suffix(v)) if ic => Self::SuffixIgnoreCase(non_empty("suffix", v)?),
            Some(P::Suffix(v)) => Self::Suffix(non_empty("suffix", v)?),
            Some(P::Contains(v)) if ic => Self::ContainsIgnoreCase(non_empty("contains", v)?),
            Some(P::Contains(v)) => Self::Contains(non_empty("contains", v)?),
            // Envoy ignores `ignore_case` of an expression.
            Some(P::SafeRegex(r)) => Self::Regex(full_regex("safe_regex", r)?),
            Some(P::Custom(_)) => return Err(Refusal::unsupported("custom")),
            None => return Err(Refusal::new("match_pattern", "is required and not set")),
        })
    }
}

impl TryFrom<&route::HeaderMatcher> for HeaderMatcher {
    type Error = Refusal;

    fn try_from(h: &route::HeaderMatcher) -> Result<Self, Refusal> {
        use HeaderMatchSpecifier as S;
        use HeaderValueMatch as V;
        let text = |m: StringMatcher| V::String(m);
        let value = match h.header_match_specifier.as_ref() {
            None => V::Present(true),
            Some(S::PresentMatch(present)) => V::Present(*present),
            Some(S::ExactMatch(v)) => text(StringMatcher::Exact(v.clone())),
            Some(S::PrefixMatch(v)) => text(StringMatcher::Prefix(v.clone())),
            Some(S::SuffixMatch(v)) => text(StringMatcher::Suffix(v.clone())),
            Some(S::ContainsMatch(v)) => text(StringMatcher::Contains(v.clone())),
            Some(S::SafeRegexMatch(r)) => text(StringMatcher::Regex(full_regex("safe_regex_match", r)?)),
            Some(S::RangeMatch(r)) => V::Range(r.start, r.end),
            Some(S::StringMatch(s)) => text(s.try_into().at("string_match")?),
        };
        Ok(Self {
            name: matched_header(&h.name)?,
            value,
            invert: h.invert_match,
            treat_missing_as_empty: h.treat_missing_header_as_empty,
        })
    }
}

/// Lower case; `Host` is what HTTP/2 calls `:authority`.
fn matched_header(name: &str) -> Result<String, Refusal> {
    let lower = name.to_ascii_lowercase();
    match lower.as_str() {
        "host" => Ok(":authority".to_owned()),
        ":method" | ":authority" | ":scheme" | ":path" | ":protocol" => Ok(lower),
        _ => header_name("name", &lower).map(|_| lower),
    }
}

/// Several header conditions.
pub fn headers(field: &str, list: &[route::HeaderMatcher]) -> Result<Vec<HeaderMatcher>, Refusal> {
    list.iter()
        .enumerate()
        .map(|(i, h)| HeaderMatcher::try_from(h).nth(field, i))
        .collect()
}

impl TryFrom<&route::QueryParameterMatcher> for QueryMatcher {
    type Error = Refusal;

    fn try_from(q: &route::QueryParameterMatcher) -> Result<Self, Refusal> {
        use route::query_parameter_matcher::QueryParameterMatchSpecifier as S;
        if q.name.is_empty() {
            return Err(Refusal::new("name", "may not be empty"));
        }
        let value = match q.query_parameter_match_specifier.as_ref() {
            None | Some(S::PresentMatch(true)) => None,
            Some(S::PresentMatch(false)) => return Err(Refusal::unsupported("present_match")),
            Some(S::StringMatch(s)) => Some(s.try_into().at("string_match")?),
        };
        Ok(Self {
            name: q.name.clone(),
            value,
        })
    }
}

impl TryFrom<Option<&route::route_match::PathSpecifier>> for PathMatch {
    type Error = Refusal;

    fn try_from(p: Option<&route::route_match::PathSpecifier>) -> Result<Self, Refusal> {
        use route::route_match::PathSpecifier as S;
        Ok(match p {
            Some(S::Prefix(v)) => Self::Prefix(v.clone()),
            Some(S::Path(v)) => Self::Exact(v.clone()),
            Some(S::SafeRegex(r)) => Self::Regex(full_regex("safe_regex", r)?),
            Some(S::ConnectMatcher(_)) => Self::Connect,
            Some(S::PathSeparatedPrefix(v)) => {
                if !v.starts_with('/') || v.ends_with('/') || v.contains(['?', '#']) {
                    return Err(Refusal::new(
                        "path_separated_prefix",
                        format!("{v:?} must begin with '/', not end with it, and hold no '?' or '#'"),
                    ));
                }
                Self::SeparatedPrefix(v.clone())
            }
            Some(S::PathMatchPolicy(_)) => return Err(Refusal::unsupported("path_match_policy")),
            None => return Err(Refusal::new("path_specifier", "is required and not set")),
        })
    }
}
