//! Sidecars of one namespace that are for the same workloads.

use std::collections::BTreeMap;

use isthmus_model::Labels;

use super::{Set, finding};
use crate::codes;
use crate::finding::Finding;
use crate::istio::Sidecar;
use crate::object::Object;

pub(super) fn analyze(set: &Set<'_>, findings: &mut Vec<Finding>) {
    let mut first: BTreeMap<(String, Labels), &Object> = BTreeMap::new();
    for (object, sidecar) in set.each::<Sidecar>() {
        let labels = sidecar.workload_selector.clone().unwrap_or_default().labels;
        let whole_namespace = labels.is_empty();
        let key = (object.meta.namespace.clone(), labels);
        match first.get(&key) {
            None => {
                first.insert(key, object);
            }
            Some(earlier) if whole_namespace => {
                let message = format!(
                    "{} at {} is for the whole namespace as well",
                    earlier.key(),
                    earlier.origin
                );
                let remedy = "keep one, or add workloadSelector";
                findings.push(finding(
                    object,
                    "spec",
                    &codes::SIDECARS_WITHOUT_SELECTOR,
                    message,
                    remedy,
                ));
            }
            Some(earlier) => {
                let message = format!(
                    "{} at {} selects the same workloads",
                    earlier.key(),
                    earlier.origin
                );
                let at = "spec.workloadSelector";
                findings.push(finding(
                    object,
                    at,
                    &codes::SIDECAR_SELECTORS,
                    message,
                    "make the selectors disjoint",
                ));
            }
        }
    }
}
