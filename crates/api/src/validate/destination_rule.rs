//! DestinationRule: host, subsets, and the policies of [`super::traffic_policy`].

use super::field::{export_to, host, label_selector, repeated};
use super::metadata::{clip, is_dns_label, labels};
use super::{Context, Validate, traffic_policy};
use crate::enforcement;
use crate::istio::DestinationRule;

impl Validate for DestinationRule {
    fn validate(&self, context: &Context<'_>) {
        let at = context.at("spec");
        if self.host.is_empty() {
            at.error("the DestinationRule has no host", "add host");
        } else {
            host(&self.host, true, &at.field("host"));
        }
        if let Some(policy) = &self.traffic_policy {
            traffic_policy::validate(policy, &at.field("trafficPolicy"));
        }
        for (i, subset) in self.subsets.iter().enumerate() {
            let at = at.field("subsets").index(i);
            if subset.name.is_empty() {
                at.error("the subset has no name", "add name");
            } else if !is_dns_label(&subset.name) {
                at.field("name").error(
                    format_args!("{:?} is not a subset's name", clip(&subset.name)),
                    "use at most 63 lower-case letters, digits and '-'",
                );
            }
            labels(&subset.labels, &at.field("labels"));
            if let Some(policy) = &subset.traffic_policy {
                traffic_policy::validate(policy, &at.field("trafficPolicy"));
            }
        }
        for i in repeated(self.subsets.iter().map(|s| &s.name)) {
            at.field("subsets").index(i).field("name").error(
                format_args!("the subset {:?} is defined twice", clip(&self.subsets[i].name)),
                "rename or remove one",
            );
        }
        if self.workload_selector.is_some() {
            let at = at.field("workloadSelector");
            label_selector(self.workload_selector.as_ref(), &at);
            enforcement::require("DestinationRule.workloadSelector", &at);
        }
        export_to(&self.export_to, &at.field("exportTo"));
    }
}
