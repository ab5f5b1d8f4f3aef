//! `outbound|9080|v1|host` and its form as an SNI, both ways.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::Hostname;

/// Why the name of an xDS cluster or an SNI was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ClusterNameError {
    /// Not four parts separated by `|` (cluster) or `_.` (SNI).
    #[error("{0:?} is not of the form direction|port|subset|host")]
    Parts(String),
    /// Neither `inbound` nor `outbound`.
    #[error("{0:?}: the direction must be inbound or outbound")]
    Direction(String),
    /// The port is not a number of 16 bits.
    #[error("{0:?}: the port must be a number from 0 to 65535")]
    Port(String),
    /// The host is not a host name.
    #[error("{0:?}: the host is not a host name")]
    Host(String),
}

/// From the workload's point of view.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// Towards the workload.
    Inbound,
    /// Away from the workload.
    Outbound,
}

/// The name of an xDS cluster that stands for one port of one service, or a subset of it.
///
/// `Display` gives Istio's cluster name; [`ClusterName::sni`] what a client puts into the SNI so that
/// a passthrough gateway knows where to go.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ClusterName {
    /// Towards or away from the workload.
    pub direction: Direction,
    /// The service's port (outbound) or the workload's port (inbound).
    pub port: u16,
    /// DestinationRule subset; empty for all endpoints.
    pub subset: String,
    /// The service; `None` for `inbound|PORT||`.
    pub host: Option<Hostname>,
}

impl ClusterName {
    /// `outbound|PORT|SUBSET|HOST`.
    pub fn outbound(port: u16, subset: impl Into<String>, host: Hostname) -> Self {
        Self {
            direction: Direction::Outbound,
            port,
            subset: subset.into(),
            host: Some(host),
        }
    }

    /// `inbound|PORT||`.
    pub fn inbound(port: u16) -> Self {
        Self {
            direction: Direction::Inbound,
            port,
            subset: String::new(),
            host: None,
        }
    }

    /// `outbound_.PORT_.SUBSET_.HOST`: the SNI across the east-west gateway.
    pub fn sni(&self) -> String {
        self.joined("_.")
    }

    /// Reads an SNI. TLS gives it in lower case.
    pub fn from_sni(sni: &str) -> Result<Self, ClusterNameError> {
        Self::split(sni, "_.")
    }

    fn joined(&self, separator: &str) -> String {
        let direction = match self.direction {
            Direction::Inbound => "inbound",
            Direction::Outbound => "outbound",
        };
        let host = self.host.as_ref().map_or("", Hostname::as_str);
        [direction, &self.port.to_string(), &self.subset, host].join(separator)
    }

    fn split(s: &str, separator: &str) -> Result<Self, ClusterNameError> {
        let mut parts = s.splitn(4, separator);
        let (Some(direction), Some(port), Some(subset), Some(host)) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(ClusterNameError::Parts(s.to_owned()));
        };
        let direction = match direction {
            "inbound" => Direction::Inbound,
            "outbound" => Direction::Outbound,
            _ => return Err(ClusterNameError::Direction(s.to_owned())),
        };
        let port = port.parse().map_err(|_| ClusterNameError::Port(s.to_owned()))?;
        let host = match host {
            "" => None,
            h => Some(h.parse().map_err(|_| ClusterNameError::Host(s.to_owned()))?),
        };
        Ok(Self {
            direction,
            port,
            subset: subset.to_owned(),
            host,
        })
    }
}

impl fmt::Display for ClusterName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.joined("|"))
    }
}

impl FromStr for ClusterName {
    type Err = ClusterNameError;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        Self::split(s, "|")
    }
}

impl TryFrom<String> for ClusterName {
    type Error = ClusterNameError;

    fn try_from(s: String) -> Result<Self, Self::Error> {
        s.parse()
    }
}

impl From<ClusterName> for String {
    fn from(n: ClusterName) -> Self {
        n.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_round_trip() {
        for (name, sni) in [
            (
                "outbound|80||echo.echo.svc.cluster.local",
                "outbound_.80_._.echo.echo.svc.cluster.local",
            ),
            (
                "outbound|9080|v1|reviews.default.svc.cluster.local",
                "outbound_.9080_.v1_.reviews.default.svc.cluster.local",
            ),
            ("inbound|8080||", "inbound_.8080_._."),
        ] {
            let parsed: ClusterName = name.parse().unwrap();
            assert_eq!(parsed.to_string(), name);
            assert_eq!(parsed.sni(), sni);
            assert_eq!(ClusterName::from_sni(sni).unwrap(), parsed);
        }
    }

    #[test]
    fn others_are_refused() {
        for bad in [
            "",
            "outbound_.80_.host",
            "sideways_.80_._.h",
            "outbound_.x_._.h",
            "echo.example.com",
        ] {
            assert!(ClusterName::from_sni(bad).is_err(), "{bad}");
        }
    }
}
