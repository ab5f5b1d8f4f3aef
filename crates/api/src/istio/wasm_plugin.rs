//! `extensions.istio.io` WasmPlugin: a filter of the user's own. Read so that it can be refused with
//! reasons; it can authenticate or authorise.

use super::{LabelSelector, TargetRef};
use crate::message::message;

message! {
    /// A WebAssembly filter.
    pub struct WasmPlugin {
        /// Which workloads.
        selector: Option<LabelSelector>,
        /// Deprecated form of `targetRefs`.
        target_ref: Option<TargetRef>,
        /// Resources that it is attached to.
        target_refs: Vec<TargetRef>,
        /// Where the module is.
        url: String,
        /// Digest of the module.
        sha256: String,
        /// When the module is fetched.
        image_pull_policy: String,
        /// Secret for fetching.
        image_pull_secret: String,
        /// Key for verification.
        verification_key: String,
        /// Configuration of the module.
        plugin_config: Option<serde_json::Value>,
        /// Name within the module.
        plugin_name: String,
        /// AUTHN, AUTHZ or STATS.
        phase: String,
        /// Order within the phase.
        priority: Option<i32>,
        /// What happens when it fails.
        fail_strategy: String,
        /// Environment of the module.
        vm_config: Option<serde_json::Value>,
        /// Traffic that it sees.
        #[serde(rename = "match")]
        matches: Vec<serde_json::Value>,
        /// HTTP or NETWORK.
        #[serde(rename = "type")]
        plugin_type: String,
    }
}
