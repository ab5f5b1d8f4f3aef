//! `networking.istio.io` ProxyConfig: start-up settings of proxies.

use std::collections::BTreeMap;

use super::LabelSelector;
use crate::message::message;

message! {
    /// Settings of the selected workloads' proxies, read when they start.
    pub struct ProxyConfig {
        /// Which workloads.
        selector: Option<LabelSelector>,
        /// Worker threads; 0 for one per core.
        concurrency: Option<i32>,
        /// Environment of the proxy.
        environment_variables: BTreeMap<String, String>,
        /// Image of the proxy.
        image: Option<ProxyImage>,
    }

    /// Image of the proxy.
    pub struct ProxyImage {
        /// default, debug or distroless.
        image_type: String,
    }
}
