//! Host names as services, VirtualServices and Gateways write them, with leading wildcards.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Why a host name was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HostnameError {
    /// Empty, or longer than 253 bytes.
    #[error("{0:?} is not a host name: it must have 1 to 253 characters")]
    Length(String),
    /// A label is empty, too long, or has a character that DNS does not allow.
    #[error("{0:?} is not a host name: label {1:?} must be 1 to 63 letters, digits, '-' or '_'")]
    Label(String, String),
    /// `*` stands anywhere but as the whole first label.
    #[error("{0:?}: '*' may stand only as the whole first label, as in *.example.com")]
    Wildcard(String),
}

/// A lower-case DNS name without the final dot; the first label may be `*`, and `*` alone matches all.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Hostname(String);

impl Hostname {
    /// The name as text, lower case, no final dot.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether the name begins with `*`.
    pub fn is_wildcard(&self) -> bool {
        self.0.starts_with('*')
    }

    /// Whether every name that `other` stands for is one that `self` stands for.
    ///
    /// `*` covers all; `*.a.b` covers `x.a.b`, `x.y.a.b` and `*.x.a.b`, but not `a.b`.
    pub fn covers(&self, other: &Hostname) -> bool {
        match self.0.strip_prefix('*') {
            None => self.0 == other.0,
            Some("") => true,
            Some(suffix) => {
                let name = other.0.strip_prefix('*').unwrap_or(&other.0);
                name.len() >= suffix.len()
                    && name.ends_with(suffix)
                    && (name.len() > suffix.len() || other.is_wildcard())
            }
        }
    }

    /// Whether some name is matched by both (Istio `host.Name.Matches`).
    pub fn overlaps(&self, other: &Hostname) -> bool {
        self.covers(other) || other.covers(self)
    }

    /// Order of precedence when several names match: exact before wildcard, longer suffix first.
    pub fn specificity(&self, other: &Hostname) -> Ordering {
        let key = |h: &Hostname| (h.is_wildcard(), usize::MAX - h.0.len());
        key(self).cmp(&key(other)).then_with(|| self.0.cmp(&other.0))
    }

    /// Resolves a short name the way Istio does: a name without a dot belongs to `namespace`.
    pub fn qualified(name: &str, namespace: &str, domain: &str) -> Result<Self, HostnameError> {
        if name.contains('.') || name == "*" {
            name.parse()
        } else {
            format!("{name}.{namespace}.svc.{domain}").parse()
        }
    }
}

impl FromStr for Hostname {
    type Err = HostnameError;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let name = s.strip_suffix('.').unwrap_or(s).to_ascii_lowercase();
        if name.is_empty() || name.len() > 253 {
            return Err(HostnameError::Length(s.to_owned()));
        }
        for (i, label) in name.split('.').enumerate() {
            if label == "*" && i == 0 {
                continue;
            }
            if label.contains('*') {
                return Err(HostnameError::Wildcard(s.to_owned()));
            }
            let legal = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
            if label.is_empty() || label.len() > 63 || !label.bytes().all(legal) {
                return Err(HostnameError::Label(s.to_owned(), label.to_owned()));
            }
        }
        Ok(Self(name))
    }
}

impl TryFrom<String> for Hostname {
    type Error = HostnameError;

    fn try_from(s: String) -> Result<Self, Self::Error> {
        s.parse()
    }
}

impl From<Hostname> for String {
    fn from(h: Hostname) -> Self {
        h.0
    }
}

impl AsRef<str> for Hostname {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Hostname {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn h(s: &str) -> Hostname {
        s.parse().unwrap()
    }

    #[test]
    fn wildcards_cover_what_istio_says() {
        assert!(h("*").covers(&h("a.b")));
        assert!(h("*.a.b").covers(&h("x.a.b")));
        assert!(h("*.a.b").covers(&h("x.y.a.b")));
        assert!(h("*.a.b").covers(&h("*.x.a.b")));
        assert!(h("*.a.b").covers(&h("*.a.b")));
        assert!(!h("*.a.b").covers(&h("a.b")));
        assert!(!h("*.a.b").covers(&h("xa.b")));
        assert!(!h("x.a.b").covers(&h("*.a.b")));
        assert!(h("x.a.b").overlaps(&h("*.a.b")));
    }

    #[test]
    fn exact_sorts_before_longer_wildcards_before_shorter() {
        let mut names = [h("*"), h("*.b"), h("x.a.b"), h("*.a.b")];
        names.sort_by(|a, b| a.specificity(b));
        assert_eq!(names.map(|n| n.to_string()), ["x.a.b", "*.a.b", "*.b", "*"]);
    }

    #[test]
    fn bad_names_are_refused() {
        for bad in ["", "a..b", "a.*.b", "*a.b", "a b", "a/b"] {
            assert!(bad.parse::<Hostname>().is_err(), "{bad:?}");
        }
        assert_eq!(h("Echo.EU.mesh.local.").as_str(), "echo.eu.mesh.local");
    }
}
