//! EnvoyFilter: refused, since a patch may hold a security rule.

use super::{Context, Validate};
use crate::enforcement;
use crate::istio::EnvoyFilter;

impl Validate for EnvoyFilter {
    fn validate(&self, context: &Context<'_>) {
        enforcement::require("EnvoyFilter", &context.at("spec"));
    }
}
