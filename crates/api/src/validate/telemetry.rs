//! Telemetry: providers, sampling, filters.

use super::field::{attachment, label_selector, percent};
use super::{Context, Validate};
use crate::codes;
use crate::istio::Telemetry;

impl Validate for Telemetry {
    fn validate(&self, context: &Context<'_>) {
        let at = context.at("spec");
        at.finding(
            &codes::NO_EFFECT,
            "Telemetry is not acted on yet",
            "use accessLogFile and accessLogEncoding of the MeshConfig",
        );
        label_selector(self.selector.as_ref(), &at.field("selector"));
        attachment(
            self.selector.is_some(),
            self.target_ref.as_ref(),
            &self.target_refs,
            &at,
        );
        for (i, tracing) in self.tracing.iter().enumerate() {
            let at = at.field("tracing").index(i);
            if let Some(share) = tracing.random_sampling_percentage {
                percent(share, &at.field("randomSamplingPercentage"));
            }
            if tracing.providers.len() > 1 {
                at.field("providers")
                    .error("only one tracing provider is supported", "keep one of them");
            }
            for (name, tag) in &tracing.custom_tags {
                let ways = [
                    tag.literal.is_some(),
                    tag.environment.is_some(),
                    tag.header.is_some(),
                    tag.formatter.is_some(),
                ];
                if ways.into_iter().filter(|set| *set).count() != 1 {
                    at.field("customTags").field(name).error(
                        "a tag has exactly one source",
                        "write one of literal, environment, header and formatter",
                    );
                }
            }
        }
        for (i, logging) in self.access_logging.iter().enumerate() {
            if logging.filter.as_ref().is_some_and(|f| f.expression.is_empty()) {
                at.field("accessLogging")
                    .index(i)
                    .field("filter")
                    .error("the filter has no expression", "add expression");
            }
        }
    }
}
