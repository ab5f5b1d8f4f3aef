//! The node message by which the proxy tells a control plane who it is.

use std::collections::BTreeMap;

use isthmus_xds::envoy::core;
use isthmus_xds::envoy::google::protobuf::{ListValue, Struct, Value, value::Kind};

use super::config::Config;

/// The node of a configuration.
pub fn node(config: &Config) -> core::Node {
    let n = &config.node;
    let mut metadata: BTreeMap<String, serde_json::Value> = config.metadata.clone();
    let addresses: Vec<String> = n.addresses.iter().map(ToString::to_string).collect();
    for (key, value) in [
        ("NAME", &*n.name),
        ("NAMESPACE", &*n.namespace),
        ("WORKLOAD_NAME", &*n.workload),
        ("SERVICE_ACCOUNT", &*n.service_account),
        ("INSTANCE_IPS", &addresses.join(",")),
    ] {
        metadata.insert(key.to_owned(), value.into());
    }
    let l = &n.locality;
    core::Node {
        id: n.id.to_string(),
        cluster: format!("{}.{}", n.canonical_name(), n.namespace),
        metadata: Some(Struct {
            fields: metadata.iter().map(|(k, v)| (k.clone(), proto(v))).collect(),
        }),
        locality: (!l.is_empty()).then(|| core::Locality {
            region: l.region.clone(),
            zone: l.zone.clone(),
            sub_zone: l.subzone.clone(),
        }),
        user_agent_name: "isthmus".to_owned(),
        user_agent_version_type: Some(core::node::UserAgentVersionType::UserAgentVersion(
            env!("CARGO_PKG_VERSION").to_owned(),
        )),
        ..Default::default()
    }
}

fn proto(v: &serde_json::Value) -> Value {
    use serde_json::Value as J;
    let kind = match v {
        J::Null => Kind::NullValue(0),
        J::Bool(b) => Kind::BoolValue(*b),
        J::Number(n) => Kind::NumberValue(n.as_f64().unwrap_or_default()),
        J::String(s) => Kind::StringValue(s.clone()),
        J::Array(a) => Kind::ListValue(ListValue {
            values: a.iter().map(proto).collect(),
        }),
        J::Object(o) => Kind::StructValue(Struct {
            fields: o.iter().map(|(k, v)| (k.clone(), proto(v))).collect(),
        }),
    };
    Value { kind: Some(kind) }
}
