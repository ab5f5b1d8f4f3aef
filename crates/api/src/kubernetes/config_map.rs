//! `v1` ConfigMap.

use std::collections::BTreeMap;

use crate::message::message;

message! {
    /// Named texts.
    pub struct ConfigMap {
        /// Texts by key.
        data: BTreeMap<String, String>,
        /// Base64 by key.
        binary_data: BTreeMap<String, String>,
        /// Whether it may not change.
        immutable: Option<bool>,
    }
}
