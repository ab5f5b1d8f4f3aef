//! Endpoints of other networks are replaced by the gateways of those networks.
//!
//! A gateway stands for the endpoints behind it: it keeps their locality, and its weight is theirs. Where
//! several gateways lead into one network they share that weight exactly, which needs weights that divide:
//! everything is multiplied by the least common multiple of the gateways' numbers.

use std::collections::{BTreeMap, BTreeSet};

use isthmus_model::{Endpoint, Labels, Locality, NetworkGateway, NetworkId, TlsMode};

/// One address that a proxy may send to.
#[derive(Debug, Clone, PartialEq)]
pub struct Candidate<'a> {
    /// What it is.
    pub target: Target<'a>,
    /// Where the answer comes from (for a gateway: what stands behind it).
    pub locality: Locality,
    /// Labels that failover priorities look at (for a gateway: of what stands behind it, with its network
    /// and cluster).
    pub labels: Labels,
    /// Share of requests.
    pub weight: u64,
}

/// An endpoint, or a gateway in place of some.
#[derive(Debug, Clone, PartialEq)]
pub enum Target<'a> {
    /// Directly reachable.
    Direct(&'a Endpoint),
    /// A gateway of another network and how many endpoints stand behind it.
    Gateway(&'a NetworkGateway, u32),
}

/// The candidates, and the networks for which no gateway is known.
#[derive(Debug, Default)]
pub struct Split<'a> {
    /// In the order of their localities.
    pub candidates: Vec<Candidate<'a>>,
    /// Networks that could not be reached, with the number of endpoints left out.
    pub unreachable: BTreeMap<NetworkId, u32>,
    /// How many endpoints of other networks were left out because they do not take mTLS.
    pub plaintext: u32,
}

/// Splits `endpoints` as a proxy on `network` sees them.
///
/// `regroup` names the labels by which endpoints behind a gateway are kept apart besides their locality
/// (those of `failoverPriority`), so that a priority is never shared by what should be told apart.
pub fn split<'a>(
    endpoints: impl IntoIterator<Item = &'a Endpoint>,
    gateways: &'a [NetworkGateway],
    network: &NetworkId,
    regroup: &BTreeSet<String>,
) -> Split<'a> {
    let mut out = Split::default();
    // (network, locality, labels that matter) -> (weight, count)
    let mut remote: BTreeMap<(&NetworkId, &Locality, Labels), (u64, u32)> = BTreeMap::new();
    for endpoint in endpoints {
        if endpoint.network.is_empty() || &endpoint.network == network {
            out.candidates.push(Candidate {
                target: Target::Direct(endpoint),
                locality: endpoint.locality.clone(),
                labels: topology(endpoint, &endpoint.labels),
                weight: u64::from(endpoint.weight.max(1)),
            });
            continue;
        }
        if endpoint.tls_mode != TlsMode::Istio {
            out.plaintext += 1;
            continue;
        }
        let kept: Labels = endpoint
            .labels
            .iter()
            .filter(|(k, _)| regroup.contains(*k))
            .map(|(k, v)| (k.clone(), v.clone()))
            .collect();
        let key = (&endpoint.network, &endpoint.locality, topology(endpoint, &kept));
        let (weight, count) = remote.entry(key).or_default();
        *weight += u64::from(endpoint.weight.max(1));
        *count += 1;
    }

    let reach = |network: &NetworkId| {
        gateways
            .iter()
            .filter(|g| &g.network == network)
            .collect::<Vec<_>>()
    };
    let multiple = remote
        .keys()
        .map(|(n, _, _)| reach(n).len().max(1) as u64)
        .fold(1, least_common_multiple);
    for candidate in &mut out.candidates {
        candidate.weight *= multiple;
    }
    for ((network, locality, labels), (weight, count)) in remote {
        let through = reach(network);
        if through.is_empty() {
            *out.unreachable.entry(network.clone()).or_default() += count;
            continue;
        }
        let share = weight * multiple / through.len() as u64;
        for gateway in through {
            out.candidates.push(Candidate {
                target: Target::Gateway(gateway, count),
                locality: locality.clone(),
                labels: labels.clone(),
                weight: share,
            });
        }
    }
    out
}

/// Labels by which Istio's `failoverPriority` may name topology, beside the workload's own.
fn topology(endpoint: &Endpoint, labels: &Labels) -> Labels {
    let mut labels = labels.clone();
    for (key, value) in [
        ("topology.kubernetes.io/region", &endpoint.locality.region),
        ("topology.kubernetes.io/zone", &endpoint.locality.zone),
        ("topology.istio.io/subzone", &endpoint.locality.subzone),
        ("topology.istio.io/network", &endpoint.network.0),
        ("topology.istio.io/cluster", &endpoint.cluster.0),
    ] {
        if !value.is_empty() {
            labels.0.insert(key.to_owned(), value.clone());
        }
    }
    labels
}

fn least_common_multiple(a: u64, b: u64) -> u64 {
    let mut gcd = (a, b);
    while gcd.1 != 0 {
        gcd = (gcd.1, gcd.0 % gcd.1);
    }
    a / gcd.0.max(1) * b
}

#[cfg(test)]
mod tests {
    use super::*;
    use isthmus_model::{ClusterId, EndpointAddress, EndpointHealth};

    fn endpoint(ip: &str, network: &str, locality: &str) -> Endpoint {
        Endpoint {
            address: ip.parse().unwrap(),
            port: 8080,
            port_name: "http".into(),
            labels: Labels::default(),
            locality: locality.parse().unwrap(),
            network: network.into(),
            cluster: ClusterId::from(network.trim_end_matches("-net")),
            identity: None,
            tls_mode: TlsMode::Istio,
            weight: 1,
            health: EndpointHealth::Healthy,
            workload: ip.into(),
            owner: String::new(),
            namespace: "default".into(),
        }
    }

    fn gateway(ip: &str, network: &str) -> NetworkGateway {
        NetworkGateway {
            network: network.into(),
            cluster: network.trim_end_matches("-net").into(),
            address: EndpointAddress::Ip(ip.parse().unwrap()),
            port: 15443,
            locality: Locality::default(),
        }
    }

    fn weights(split: &Split<'_>) -> Vec<(String, u64)> {
        split
            .candidates
            .iter()
            .map(|c| match &c.target {
                Target::Direct(e) => (e.address.to_string(), c.weight),
                Target::Gateway(g, _) => (g.address.to_string(), c.weight),
            })
            .collect()
    }

    #[test]
    fn a_gateway_weighs_what_stands_behind_it() {
        let endpoints = [
            endpoint("10.0.0.1", "us-net", "us"),
            endpoint("10.1.0.1", "eu-net", "eu"),
            endpoint("10.1.0.2", "eu-net", "eu"),
            endpoint("10.1.0.3", "eu-net", "eu"),
        ];
        let gateways = [gateway("203.0.113.1", "eu-net")];
        let split = split(&endpoints, &gateways, &"us-net".into(), &BTreeSet::new());
        assert_eq!(
            weights(&split),
            [("10.0.0.1".to_owned(), 1), ("203.0.113.1".to_owned(), 3)]
        );
        assert_eq!(split.candidates[1].locality, "eu".parse().unwrap());
        assert!(matches!(split.candidates[1].target, Target::Gateway(_, 3)));
    }

    #[test]
    fn several_gateways_share_exactly() {
        let endpoints = [
            endpoint("10.0.0.1", "us-net", "us"),
            endpoint("10.1.0.1", "eu-net", "eu"),
            endpoint("10.2.0.1", "ap-net", "ap"),
        ];
        let gateways = [
            gateway("203.0.113.1", "eu-net"),
            gateway("203.0.113.2", "eu-net"),
            gateway("203.0.113.3", "ap-net"),
            gateway("203.0.113.4", "ap-net"),
            gateway("203.0.113.5", "ap-net"),
        ];
        let split = split(&endpoints, &gateways, &"us-net".into(), &BTreeSet::new());
        let by: BTreeMap<_, _> = weights(&split).into_iter().collect();
        assert_eq!(by["10.0.0.1"], 6);
        assert_eq!((by["203.0.113.1"], by["203.0.113.2"]), (3, 3));
        assert_eq!(
            (by["203.0.113.3"], by["203.0.113.4"], by["203.0.113.5"]),
            (2, 2, 2)
        );
    }

    #[test]
    fn localities_behind_one_gateway_stay_apart() {
        let endpoints = [
            endpoint("10.1.0.1", "eu-net", "eu/a"),
            endpoint("10.1.0.2", "eu-net", "eu/b"),
        ];
        let gateways = [gateway("203.0.113.1", "eu-net")];
        let split = split(&endpoints, &gateways, &"us-net".into(), &BTreeSet::new());
        let localities: Vec<_> = split.candidates.iter().map(|c| c.locality.to_string()).collect();
        assert_eq!(localities, ["eu/a", "eu/b"]);
    }

    #[test]
    fn what_cannot_be_reached_is_left_out_and_told() {
        let mut plaintext = endpoint("10.1.0.2", "eu-net", "eu");
        plaintext.tls_mode = TlsMode::Disabled;
        let endpoints = [
            endpoint("10.2.0.1", "ap-net", "ap"),
            plaintext,
            endpoint("10.9.0.1", "", ""),
        ];
        let gateways = [gateway("203.0.113.1", "eu-net")];
        let split = split(&endpoints, &gateways, &"us-net".into(), &BTreeSet::new());
        assert_eq!(weights(&split), [("10.9.0.1".to_owned(), 1)]);
        assert_eq!(
            split.unreachable,
            BTreeMap::from([(NetworkId::from("ap-net"), 1)])
        );
        assert_eq!(split.plaintext, 1);
    }
}
