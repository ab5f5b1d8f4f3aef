//! One address behind a service.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::{ClusterId, Hostname, HostnameError, Labels, Locality, NetworkId, SpiffeId};

/// An address or a name that resolves to one.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum EndpointAddress {
    /// IPv4 or IPv6.
    Ip(IpAddr),
    /// A DNS name.
    Host(Hostname),
    /// A Unix domain socket path, absolute.
    Unix(String),
}

impl FromStr for EndpointAddress {
    type Err = HostnameError;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        if let Some(path) = s.strip_prefix("unix://") {
            return Ok(Self::Unix(path.to_owned()));
        }
        if let Ok(ip) = s.parse() {
            return Ok(Self::Ip(ip));
        }
        s.parse().map(Self::Host)
    }
}

impl TryFrom<String> for EndpointAddress {
    type Error = HostnameError;

    fn try_from(s: String) -> Result<Self, Self::Error> {
        s.parse()
    }
}

impl From<EndpointAddress> for String {
    fn from(a: EndpointAddress) -> Self {
        a.to_string()
    }
}

impl fmt::Display for EndpointAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(ip) => ip.fmt(f),
            Self::Host(h) => h.fmt(f),
            Self::Unix(p) => write!(f, "unix://{p}"),
        }
    }
}

/// Whether the endpoint takes mesh mTLS (label `security.istio.io/tlsMode`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TlsMode {
    /// A sidecar terminates mTLS.
    Istio,
    /// Plaintext only.
    #[default]
    Disabled,
}

/// What the registry knows of an endpoint's readiness.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EndpointHealth {
    /// Ready.
    #[default]
    Healthy,
    /// Listed, but not ready.
    Unhealthy,
    /// Terminating; finishes what it has.
    Draining,
}

/// One address behind one port of a service.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Endpoint {
    /// Where it listens.
    pub address: EndpointAddress,
    /// Port it listens on.
    pub port: u16,
    /// Name of the service port that this serves.
    pub port_name: String,
    /// Labels of the workload; subsets select on them.
    pub labels: Labels,
    /// Where it runs.
    pub locality: Locality,
    /// Network on which the address is valid.
    pub network: NetworkId,
    /// Member cluster that runs it.
    pub cluster: ClusterId,
    /// Identity it proves, when it has one.
    pub identity: Option<SpiffeId>,
    /// Whether it takes mesh mTLS.
    pub tls_mode: TlsMode,
    /// Share of requests relative to its siblings; 1 unless the user said otherwise.
    pub weight: u32,
    /// Readiness.
    pub health: EndpointHealth,
    /// Name of the workload (pod), for metrics and `explain`.
    pub workload: String,
    /// Owner of the workload (Deployment), for metrics.
    pub owner: String,
    /// Namespace of the workload.
    pub namespace: String,
}
