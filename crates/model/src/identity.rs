//! Trust domains and SPIFFE identities (SPIFFE-ID standard; Istio's form of the path).

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Why a trust domain or SPIFFE id was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// The trust domain is empty, longer than 255 bytes, or has a character outside `[a-z0-9.-_]`.
    #[error("{0:?} is not a trust domain: use lower-case letters, digits, '.', '-' and '_', at most 255")]
    TrustDomain(String),
    /// The URI does not start with `spiffe://`.
    #[error("{0:?} is not a SPIFFE id: it must start with spiffe://")]
    Scheme(String),
    /// The path is not `/ns/NAMESPACE/sa/SERVICE_ACCOUNT`.
    #[error(
        "{0:?} is not a workload's SPIFFE id: expected spiffe://TRUST_DOMAIN/ns/NAMESPACE/sa/SERVICE_ACCOUNT"
    )]
    Path(String),
}

/// The root of a set of identities, e.g. `corp.local`. Istio: `meshConfig.trustDomain`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TrustDomain(String);

impl TrustDomain {
    /// The trust domain as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for TrustDomain {
    /// Istio's default, `cluster.local`.
    fn default() -> Self {
        Self("cluster.local".to_owned())
    }
}

impl FromStr for TrustDomain {
    type Err = IdentityError;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'-' | b'_');
        if s.is_empty() || s.len() > 255 || !s.bytes().all(allowed) {
            return Err(IdentityError::TrustDomain(s.to_owned()));
        }
        Ok(Self(s.to_owned()))
    }
}

impl TryFrom<String> for TrustDomain {
    type Error = IdentityError;

    fn try_from(s: String) -> Result<Self, Self::Error> {
        s.parse()
    }
}

impl From<TrustDomain> for String {
    fn from(t: TrustDomain) -> Self {
        t.0
    }
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A workload's identity, `spiffe://TRUST_DOMAIN/ns/NAMESPACE/sa/SERVICE_ACCOUNT`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SpiffeId {
    /// Whose root vouches for it.
    pub trust_domain: TrustDomain,
    /// Kubernetes namespace.
    pub namespace: String,
    /// Kubernetes service account.
    pub service_account: String,
}

impl SpiffeId {
    /// Builds an identity from its parts; namespace and account are Kubernetes names already.
    pub fn new(
        trust_domain: TrustDomain,
        namespace: impl Into<String>,
        service_account: impl Into<String>,
    ) -> Self {
        Self {
            trust_domain,
            namespace: namespace.into(),
            service_account: service_account.into(),
        }
    }

    /// The form AuthorizationPolicy principals are written in: without the scheme.
    pub fn principal(&self) -> String {
        format!(
            "{}/ns/{}/sa/{}",
            self.trust_domain, self.namespace, self.service_account
        )
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "spiffe://{}/ns/{}/sa/{}",
            self.trust_domain, self.namespace, self.service_account
        )
    }
}

impl FromStr for SpiffeId {
    type Err = IdentityError;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let rest = s
            .strip_prefix("spiffe://")
            .ok_or_else(|| IdentityError::Scheme(s.to_owned()))?;
        let path = || IdentityError::Path(s.to_owned());
        let mut parts = rest.split('/');
        let trust_domain = parts.next().ok_or_else(path)?.parse()?;
        let segment = |p: Option<&str>| {
            p.filter(|v| {
                !v.is_empty()
                    && v.bytes()
                        .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'))
            })
            .map(str::to_owned)
            .ok_or_else(path)
        };
        if parts.next() != Some("ns") {
            return Err(path());
        }
        let namespace = segment(parts.next())?;
        if parts.next() != Some("sa") {
            return Err(path());
        }
        let service_account = segment(parts.next())?;
        if parts.next().is_some() {
            return Err(path());
        }
        Ok(Self {
            trust_domain,
            namespace,
            service_account,
        })
    }
}

impl TryFrom<String> for SpiffeId {
    type Error = IdentityError;

    fn try_from(s: String) -> Result<Self, Self::Error> {
        s.parse()
    }
}

impl From<SpiffeId> for String {
    fn from(id: SpiffeId) -> Self {
        id.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identity_round_trips() {
        let text = "spiffe://corp.local/ns/echo/sa/default";
        let id: SpiffeId = text.parse().unwrap();
        assert_eq!(id.to_string(), text);
        assert_eq!(id.principal(), "corp.local/ns/echo/sa/default");
    }

    #[test]
    fn malformed_identities_are_refused() {
        for bad in [
            "https://corp.local/ns/a/sa/b",
            "spiffe://corp.local/ns/a",
            "spiffe://corp.local/ns/a/sa/",
            "spiffe://corp.local/ns/a/sa/b/c",
            "spiffe://Corp/ns/a/sa/b",
            "spiffe:///ns/a/sa/b",
            "spiffe://corp.local/ns/a%2f/sa/b",
        ] {
            assert!(bad.parse::<SpiffeId>().is_err(), "{bad}");
        }
    }
}
