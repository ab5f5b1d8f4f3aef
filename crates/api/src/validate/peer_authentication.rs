//! PeerAuthentication: port rules need workloads.

use super::field::{label_selector, port};
use super::{Context, Validate};
use crate::enforcement;
use crate::istio::PeerAuthentication;

impl Validate for PeerAuthentication {
    fn validate(&self, context: &Context<'_>) {
        let at = context.at("spec");
        enforcement::require("PeerAuthentication", &at);
        label_selector(self.selector.as_ref(), &at.field("selector"));
        let selects = self.selector.as_ref().is_some_and(|s| !s.match_labels.is_empty());
        if !self.port_level_mtls.is_empty() && !selects {
            at.field("portLevelMtls")
                .error("ports belong to workloads", "add selector.matchLabels");
        }
        for number in self.port_level_mtls.keys() {
            port(*number, &at.field("portLevelMtls").field(&number.to_string()));
        }
    }
}
