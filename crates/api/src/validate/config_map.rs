//! ConfigMap: any content, but `istio` of the root namespace must hold a MeshConfig.

use super::{Context, Validate};
use crate::kubernetes::ConfigMap;
use crate::mesh_config::{CONFIG_MAP, ROOT_NAMESPACE, from_config_map};

impl Validate for ConfigMap {
    fn validate(&self, context: &Context<'_>) {
        let meta = context.meta();
        if meta.name != CONFIG_MAP || meta.namespace != ROOT_NAMESPACE {
            return;
        }
        // The text of a block begins on the line after its key.
        let first_line = |key: &str| context.line(&format!("data.{key}")).saturating_add(1);
        let (_, findings) = from_config_map(self, context.file(), first_line);
        context.extend(findings);
    }
}
