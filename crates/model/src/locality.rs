//! Where something runs: region, zone, sub-zone (Envoy `core.v3.Locality`).

use std::convert::Infallible;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// `region/zone/subzone`; missing parts are empty.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub struct Locality {
    /// Label `topology.kubernetes.io/region`.
    pub region: String,
    /// Label `topology.kubernetes.io/zone`.
    pub zone: String,
    /// Label `topology.istio.io/subzone`.
    pub subzone: String,
}

impl Locality {
    /// Whether nothing is known.
    pub fn is_empty(&self) -> bool {
        self.region.is_empty() && self.zone.is_empty() && self.subzone.is_empty()
    }

    /// How far `other` is, as Istio's default failover counts: 0 same sub-zone, 1 same zone,
    /// 2 same region, 3 elsewhere.
    pub fn distance(&self, other: &Locality) -> u32 {
        if self.region != other.region {
            3
        } else if self.zone != other.zone {
            2
        } else if self.subzone != other.subzone {
            1
        } else {
            0
        }
    }

    /// Reads the value of the label `istio-locality`, where `.` stands for `/`.
    pub fn from_label(value: &str) -> Self {
        if value.contains('/') {
            Self::parse(value, '/')
        } else {
            Self::parse(value, '.')
        }
    }

    fn parse(s: &str, separator: char) -> Self {
        let mut parts = s.splitn(3, separator).map(str::to_owned);
        let mut next = || parts.next().unwrap_or_default();
        Self {
            region: next(),
            zone: next(),
            subzone: next(),
        }
    }
}

impl FromStr for Locality {
    type Err = Infallible;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        Ok(Self::parse(s, '/'))
    }
}

impl From<String> for Locality {
    fn from(s: String) -> Self {
        Self::parse(&s, '/')
    }
}

impl From<Locality> for String {
    fn from(l: Locality) -> Self {
        l.to_string()
    }
}

impl fmt::Display for Locality {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.region)?;
        if !self.zone.is_empty() || !self.subzone.is_empty() {
            write!(f, "/{}", self.zone)?;
        }
        if !self.subzone.is_empty() {
            write!(f, "/{}", self.subzone)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_and_measures() {
        let a: Locality = "eu/eu-a/1".parse().unwrap();
        assert_eq!(a.to_string(), "eu/eu-a/1");
        assert_eq!(Locality::from_label("eu.eu-a"), "eu/eu-a".parse().unwrap());
        assert_eq!(a.distance(&"eu/eu-b".parse().unwrap()), 2);
        assert_eq!(a.distance(&"eu/eu-a/2".parse().unwrap()), 1);
        assert_eq!(a.distance(&"us".parse().unwrap()), 3);
        assert_eq!(Locality::default().to_string(), "");
    }
}
