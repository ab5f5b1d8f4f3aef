//! `v1` ServiceAccount: its name is the last part of a workload's identity.

use crate::message::message;

message! {
    /// An account.
    pub struct ServiceAccount {
        /// Secrets, not used.
        secrets: Vec<serde_json::Value>,
        /// Secrets for fetching images, not used.
        image_pull_secrets: Vec<serde_json::Value>,
        /// Whether tokens are mounted.
        automount_service_account_token: Option<bool>,
    }
}
