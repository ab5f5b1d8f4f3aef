//! Hosts for which several DestinationRules of one namespace speak. The oldest one that has a trafficPolicy
//! gives it, and the oldest definition of a subset counts; subsets of different names are merged.

use std::collections::BTreeMap;

use super::{Set, finding, resolve};
use crate::codes;
use crate::finding::Finding;
use crate::istio::DestinationRule;
use crate::object::Object;

/// What the rules for one host have said so far.
#[derive(Default)]
struct Said<'a> {
    policy: Option<&'a Object>,
    subsets: BTreeMap<&'a str, &'a Object>,
}

pub(super) fn analyze(set: &Set<'_>, findings: &mut Vec<Finding>) {
    let mut hosts: BTreeMap<(String, String), Said<'_>> = BTreeMap::new();
    for (object, rule) in set.each::<DestinationRule>() {
        let Some(host) = resolve(&rule.host, &object.meta.namespace, set) else {
            continue;
        };
        // Who is selected by its labels hears of that rule alone.
        if rule.workload_selector.is_some() {
            continue;
        }
        let said = hosts
            .entry((object.meta.namespace.clone(), host.to_string()))
            .or_default();
        if rule.traffic_policy.is_some() {
            match said.policy {
                Some(first) => findings.push(finding(
                    object,
                    "spec.trafficPolicy",
                    &codes::CONFLICTING_RULES,
                    format_args!(
                        "not used, since {} at {} has a trafficPolicy for {host} already",
                        first.key(),
                        first.reference("spec.trafficPolicy")
                    ),
                    "merge the two DestinationRules",
                )),
                None => said.policy = Some(object),
            }
        }
        for (i, subset) in rule.subsets.iter().enumerate() {
            match said.subsets.get(subset.name.as_str()) {
                // Within one DestinationRule validation has said it.
                Some(first) if first.key() == object.key() => {}
                Some(first) => findings.push(finding(
                    object,
                    &format!("spec.subsets[{i}]"),
                    &codes::CONFLICTING_RULES,
                    format_args!(
                        "not used, since {} at {} defines the subset {:?} of {host} already",
                        first.key(),
                        first.reference("spec.subsets"),
                        subset.name
                    ),
                    "merge the two DestinationRules, or rename the subset",
                )),
                None => {
                    said.subsets.insert(&subset.name, object);
                }
            }
        }
    }
}
