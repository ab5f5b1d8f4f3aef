//! `networking.istio.io` EnvoyFilter: patches of generated configuration. Read so that it can be refused
//! with reasons; it can hold security rules that would silently not apply.

use super::{TargetRef, WorkloadSelector};
use crate::message::message;

message! {
    /// Patches of Envoy configuration.
    pub struct EnvoyFilter {
        /// Which workloads.
        workload_selector: Option<WorkloadSelector>,
        /// Resources that it is attached to.
        target_refs: Vec<TargetRef>,
        /// The patches, not looked into.
        config_patches: Vec<serde_json::Value>,
        /// Order among EnvoyFilters.
        priority: i32,
    }
}
