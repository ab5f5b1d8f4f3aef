//! What the tests of the kubelet's parts share.

use isthmus_model::Locality;
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

use crate::kubernetes::node::NodeFacts;

pub(super) fn node() -> NodeFacts {
    NodeFacts {
        name: "us-node-1".into(),
        locality: Locality {
            region: "us".into(),
            zone: "us-a".into(),
            subzone: String::new(),
        },
        address: "10.10.0.1".parse().unwrap(),
        public: "198.51.100.65".parse().unwrap(),
    }
}

pub(super) fn pod(spec: Value) -> Pod {
    serde_json::from_value(json!({
        "metadata": {"name": "p", "namespace": "default", "uid": "1-2", "labels": {"app": "p"}},
        "spec": spec,
    }))
    .unwrap()
}
