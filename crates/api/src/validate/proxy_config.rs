//! ProxyConfig: threads and environment.

use super::field::label_selector;
use super::{Context, Validate};
use crate::codes;
use crate::istio::ProxyConfig;

impl Validate for ProxyConfig {
    fn validate(&self, context: &Context<'_>) {
        let at = context.at("spec");
        at.finding(
            &codes::NO_EFFECT,
            "ProxyConfig is not acted on yet",
            "use defaultConfig of the MeshConfig",
        );
        label_selector(self.selector.as_ref(), &at.field("selector"));
        if self.concurrency.is_some_and(|n| n < 0) {
            at.field("concurrency")
                .error("the number of threads is negative", "write 0 for one per core");
        }
    }
}
