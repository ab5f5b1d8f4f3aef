//! WasmPlugin: refused, since a module may authenticate or authorise.

use super::{Context, Validate};
use crate::enforcement;
use crate::istio::WasmPlugin;

impl Validate for WasmPlugin {
    fn validate(&self, context: &Context<'_>) {
        enforcement::require("WasmPlugin", &context.at("spec"));
    }
}
