//! Which endpoints are taken first: priorities by locality, or shares by locality.
//!
//! Source: Istio `LocalityLoadBalancerSetting`. Unlike Istio, priorities are given even where no
//! `outlierDetection` is written, since ejection on local-origin failures is always on; with
//! `compatibility: istio` upstream's condition holds.

use std::collections::BTreeMap;

use isthmus_model::{Labels, Locality};

use super::network_split::{Candidate, Target};
use crate::mesh::LocalitySetting;

/// Candidates of one locality and priority.
#[derive(Debug, PartialEq)]
pub struct Group<'a> {
    /// Where.
    pub locality: Locality,
    /// 0 is taken first; without gaps.
    pub priority: u32,
    /// Share of the group among the groups of its priority.
    pub weight: u64,
    /// Its members.
    pub candidates: Vec<Candidate<'a>>,
}

/// Groups the candidates as a caller at `from` with `labels` takes them. `None` for `setting`: locality is
/// not regarded.
pub fn groups<'a>(
    candidates: Vec<Candidate<'a>>,
    from: &Locality,
    labels: &Labels,
    setting: Option<&LocalitySetting>,
) -> Vec<Group<'a>> {
    let rank = |c: &Candidate<'_>| setting.map_or_else(Vec::new, |s| rank(s, from, labels, c));
    let shares = setting.and_then(|s| s.distribute.iter().find(|d| covers(&d.from, from)));
    let mut by: BTreeMap<(Vec<u32>, Locality), Vec<Candidate<'a>>> = BTreeMap::new();
    for candidate in candidates {
        let rank = if shares.is_some() {
            Vec::new()
        } else {
            rank(&candidate)
        };
        by.entry((rank, candidate.locality.clone()))
            .or_default()
            .push(candidate);
    }
    let mut ranks: Vec<_> = by.keys().map(|(rank, _)| rank.clone()).collect();
    ranks.dedup();
    let mut groups: Vec<Group<'a>> = by
        .into_iter()
        .map(|((rank, locality), candidates)| Group {
            locality,
            priority: ranks.iter().position(|r| *r == rank).unwrap_or_default() as u32,
            weight: candidates.iter().map(|c| c.weight).sum(),
            candidates,
        })
        .collect();
    if let Some(shares) = shares {
        distribute(&mut groups, &shares.to);
    }
    groups
}

/// Less is nearer. Compared part by part: labels that have to agree, then region, zone and sub-zone with the
/// explicit order of regions.
fn rank(setting: &LocalitySetting, from: &Locality, labels: &Labels, candidate: &Candidate<'_>) -> Vec<u32> {
    if !setting.failover_priority.is_empty() {
        let total = setting.failover_priority.len();
        let agree = setting.failover_priority.iter().take_while(|entry| {
            let (key, wanted) = match entry.split_once('=') {
                Some((key, value)) => (key, Some(value)),
                None => (entry.as_str(), labels.value(entry)),
            };
            candidate.labels.value(key).unwrap_or_default() == wanted.unwrap_or_default()
        });
        let mut rank = vec![(total - agree.count()) as u32];
        if !setting.failover.is_empty() {
            rank.push(distance(setting, from, &candidate.locality));
        }
        return rank;
    }
    if from.is_empty() {
        // Nobody said where the caller runs: what it reaches directly is nearer than what it does not.
        return vec![u32::from(matches!(candidate.target, Target::Gateway(..)))];
    }
    vec![distance(setting, from, &candidate.locality)]
}

fn distance(setting: &LocalitySetting, from: &Locality, to: &Locality) -> u32 {
    let distance = from.distance(to);
    if distance < 3 {
        return distance;
    }
    match setting.failover.iter().find(|f| f.from == from.region) {
        Some(failover) if failover.to != to.region => 4,
        _ => 3,
    }
}

/// Gives every locality its share; what no entry covers gets nothing (Istio `applyLocalityWeight`).
fn distribute(groups: &mut Vec<Group<'_>>, to: &BTreeMap<String, u32>) {
    let mut given = vec![None; groups.len()];
    for (pattern, share) in to {
        let covered: Vec<usize> = (0..groups.len())
            .filter(|i| given[*i].is_none() && covers(pattern, &groups[*i].locality))
            .collect();
        let total: u64 = covered.iter().map(|i| groups[*i].weight).sum();
        for i in covered {
            given[i] = Some((groups[i].weight * u64::from(*share)).div_ceil(total.max(1)));
        }
    }
    let mut given = given.into_iter();
    groups.retain_mut(|group| match given.next().flatten() {
        Some(weight) if weight > 0 => {
            group.weight = weight;
            true
        }
        _ => false,
    });
}

/// Whether a pattern `region/zone/subzone`, cut off anywhere or ending in `*`, covers a locality.
fn covers(pattern: &str, locality: &Locality) -> bool {
    let mut parts = [&locality.region, &locality.zone, &locality.subzone].into_iter();
    for wanted in pattern.split('/') {
        match (wanted, parts.next()) {
            ("*", _) => return true,
            (wanted, Some(part)) if wanted == part => {}
            _ => return false,
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mesh::{Distribute, Failover};
    use isthmus_model::{ClusterId, Endpoint, EndpointHealth, NetworkId, TlsMode};

    fn endpoint() -> &'static Endpoint {
        static ONE: std::sync::OnceLock<Endpoint> = std::sync::OnceLock::new();
        ONE.get_or_init(|| Endpoint {
            address: "10.0.0.1".parse().unwrap(),
            port: 1,
            port_name: String::new(),
            labels: Labels::default(),
            locality: Locality::default(),
            network: NetworkId::default(),
            cluster: ClusterId::default(),
            identity: None,
            tls_mode: TlsMode::Istio,
            weight: 1,
            health: EndpointHealth::Healthy,
            workload: String::new(),
            owner: String::new(),
            namespace: String::new(),
        })
    }

    fn at(locality: &str, labels: &[(&str, &str)]) -> Candidate<'static> {
        Candidate {
            target: Target::Direct(endpoint()),
            locality: locality.parse().unwrap(),
            labels: labels.iter().copied().collect(),
            weight: 1,
        }
    }

    fn priorities(from: &str, setting: &LocalitySetting, localities: &[&str]) -> Vec<(String, u32)> {
        let candidates = localities.iter().map(|l| at(l, &[])).collect();
        groups(
            candidates,
            &from.parse().unwrap(),
            &Labels::default(),
            Some(setting),
        )
        .into_iter()
        .map(|g| (g.locality.to_string(), g.priority))
        .collect()
    }

    #[test]
    fn nearer_first_without_gaps() {
        let got = priorities(
            "us/a/1",
            &LocalitySetting::default(),
            &["eu/x", "us/b", "us/a/1", "us/a/2"],
        );
        let want = [("us/a/1", 0), ("us/a/2", 1), ("us/b", 2), ("eu/x", 3)];
        assert_eq!(got, want.map(|(l, p)| (l.to_owned(), p)));
        // Nothing of one's own region: the rest is first.
        assert_eq!(
            priorities("us", &LocalitySetting::default(), &["eu"]),
            [("eu".to_owned(), 0)]
        );
    }

    #[test]
    fn failover_names_the_next_region() {
        let setting = LocalitySetting {
            failover: vec![Failover {
                from: "us".into(),
                to: "ap".into(),
            }],
            ..Default::default()
        };
        let got = priorities("us", &setting, &["eu", "ap", "us"]);
        assert_eq!(
            got,
            [("us", 0), ("ap", 1), ("eu", 2)].map(|(l, p)| (l.to_owned(), p))
        );
    }

    #[test]
    fn failover_priority_counts_labels_that_agree_from_the_first() {
        let setting = LocalitySetting {
            failover_priority: vec!["version".into(), "topology.istio.io/network".into()],
            ..Default::default()
        };
        let caller: Labels = [("version", "v1"), ("topology.istio.io/network", "us-net")]
            .into_iter()
            .collect();
        let candidates = vec![
            at("a", &[("version", "v2"), ("topology.istio.io/network", "us-net")]),
            at("b", &[("version", "v1"), ("topology.istio.io/network", "eu-net")]),
            at("c", &[("version", "v1"), ("topology.istio.io/network", "us-net")]),
        ];
        let got: Vec<_> = groups(candidates, &Locality::default(), &caller, Some(&setting))
            .into_iter()
            .map(|g| (g.locality.to_string(), g.priority))
            .collect();
        assert_eq!(
            got,
            [("c", 0), ("b", 1), ("a", 2)].map(|(l, p)| (l.to_owned(), p))
        );
    }

    #[test]
    fn distribute_gives_shares_and_leaves_out_the_rest() {
        let setting = LocalitySetting {
            distribute: vec![Distribute {
                from: "us/*".into(),
                to: BTreeMap::from([("us/*".to_owned(), 80), ("eu".to_owned(), 20)]),
            }],
            ..Default::default()
        };
        let candidates = vec![at("us/a", &[]), at("us/b", &[]), at("eu/x", &[]), at("ap", &[])];
        let got: Vec<_> = groups(
            candidates,
            &"us/a".parse().unwrap(),
            &Labels::default(),
            Some(&setting),
        )
        .into_iter()
        .map(|g| (g.locality.to_string(), g.priority, g.weight))
        .collect();
        assert_eq!(
            got,
            [("eu/x", 0, 20), ("us/a", 0, 40), ("us/b", 0, 40)].map(|(l, p, w)| (l.to_owned(), p, w))
        );
    }

    #[test]
    fn without_a_setting_all_share_one_priority() {
        let candidates = vec![at("us", &[]), at("eu", &[])];
        let got = groups(candidates, &"us".parse().unwrap(), &Labels::default(), None);
        assert!(got.iter().all(|g| g.priority == 0));
    }
}
