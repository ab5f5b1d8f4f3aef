//! `v1` Namespace: its labels say the network and whether sidecars are injected.

use crate::message::message;

message! {
    /// A namespace.
    pub struct Namespace {
        /// Finalizers, not used.
        spec: serde_json::Map<String, serde_json::Value>,
        /// Phase, not used.
        status: serde_json::Map<String, serde_json::Value>,
    }
}
