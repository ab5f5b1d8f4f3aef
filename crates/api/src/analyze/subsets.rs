//! Subsets that routes use and no DestinationRule defines.

use super::{Set, destinations_of, finding, resolve, rules_by_host};
use crate::codes;
use crate::finding::Finding;
use crate::istio::VirtualService;
use crate::suggest::nearest;

pub(super) fn analyze(set: &Set<'_>, findings: &mut Vec<Finding>) {
    let rules = rules_by_host(set);
    for (object, service) in set.each::<VirtualService>() {
        for (path, destination) in destinations_of(service) {
            if destination.subset.is_empty() {
                continue;
            }
            let Some(host) = resolve(&destination.host, &object.meta.namespace, set) else {
                continue;
            };
            let names: Vec<&str> = rules
                .iter()
                .filter(|(of, _, _)| of.covers(&host))
                .flat_map(|(_, _, rule)| rule.subsets.iter().map(|s| s.name.as_str()))
                .collect();
            if names.contains(&destination.subset.as_str()) {
                continue;
            }
            let remedy = match nearest(&destination.subset, names.iter().copied()) {
                Some(name) => format!("did you mean {name}?"),
                None if names.is_empty() => format!("add a DestinationRule for {host} with this subset"),
                None => format!(
                    "use one of {}, or add it to the DestinationRule",
                    names.join(", ")
                ),
            };
            let message = format!(
                "no DestinationRule of {host} defines the subset {:?}",
                destination.subset
            );
            let at = format!("{path}.subset");
            findings.push(finding(
                object,
                &at,
                &codes::REFERENCED_RESOURCE_NOT_FOUND,
                message,
                remedy,
            ));
        }
    }
}
