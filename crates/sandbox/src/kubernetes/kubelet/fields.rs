//! The downward API: what a pod may be told of itself.

use std::collections::BTreeMap;
use std::fmt::Write;

use k8s_openapi::api::core::v1::{Container, Pod, ResourceFieldSelector};
use kube::ResourceExt;

use crate::kubernetes::node::NodeFacts;

/// Stands for the pod's address until it has one.
const POD_ADDRESS: &str = "$(POD_IP)";

/// The value of `fieldRef.fieldPath`.
pub(super) fn field(pod: &Pod, node: &NodeFacts, path: &str) -> Result<String, String> {
    let spec = pod.spec.as_ref();
    let keyed = |prefix: &str| {
        path.strip_prefix(prefix)
            .and_then(|p| p.strip_prefix("['"))
            .and_then(|p| p.strip_suffix("']"))
    };
    if let Some(key) = keyed("metadata.labels") {
        return Ok(pod.labels().get(key).cloned().unwrap_or_default());
    }
    if let Some(key) = keyed("metadata.annotations") {
        return Ok(pod.annotations().get(key).cloned().unwrap_or_default());
    }
    Ok(match path {
        "metadata.name" => pod.name_any(),
        "metadata.namespace" => pod.namespace().unwrap_or_default(),
        "metadata.uid" => pod.uid().unwrap_or_default(),
        "metadata.labels" => lines(pod.labels()),
        "metadata.annotations" => lines(pod.annotations()),
        "spec.nodeName" => spec.and_then(|s| s.node_name.clone()).unwrap_or_default(),
        "spec.serviceAccountName" => spec
            .and_then(|s| s.service_account_name.clone())
            .unwrap_or_default(),
        "status.hostIP" | "status.hostIPs" => node.address.to_string(),
        "status.podIP" | "status.podIPs" => POD_ADDRESS.to_owned(),
        _ => return Err(format!("there is no field {path:?} to take a value from")),
    })
}

/// `key="value"` lines, values quoted as Go quotes strings.
fn lines(map: &BTreeMap<String, String>) -> String {
    let mut text = String::new();
    for (key, value) in map {
        let quoted = serde_json::Value::from(value.as_str()).to_string();
        // Writing to a string does not fail.
        let _ = writeln!(text, "{key}={quoted}");
    }
    text.trim_end_matches('\n').to_owned()
}

/// The value of `resourceFieldRef`; without a limit it is what the node has.
pub(super) fn resource(containers: &[Container], selector: &ResourceFieldSelector) -> Result<String, String> {
    let name = selector.container_name.as_deref().unwrap_or_default();
    let container = containers.iter().find(|c| c.name == name);
    let resources = container.and_then(|c| c.resources.as_ref());
    let (list, kind) = selector
        .resource
        .split_once('.')
        .ok_or_else(|| format!("{:?} is no resource", selector.resource))?;
    let stated = match list {
        "limits" => resources.and_then(|r| r.limits.as_ref()),
        "requests" => resources.and_then(|r| r.requests.as_ref()),
        _ => None,
    };
    let written = stated.and_then(|l| l.get(kind)).map(|q| q.0.as_str());
    let value = match (written, kind) {
        (Some(written), _) => {
            quantity(written).ok_or_else(|| format!("{written:?} is no amount of {kind}"))?
        }
        (None, "cpu") => std::thread::available_parallelism().map_or(1.0, |n| n.get() as f64),
        (None, _) => NODE_MEMORY,
    };
    let divisor = selector.divisor.as_ref().map(|d| d.0.as_str());
    let divisor = divisor.and_then(quantity).filter(|d| *d > 0.0).unwrap_or(1.0);
    Ok(format!("{}", (value / divisor).ceil()))
}

/// Bytes of memory that a container without a limit may think it has.
const NODE_MEMORY: f64 = 16.0 * 1024.0 * 1024.0 * 1024.0;

/// A Kubernetes quantity as a number: `500m`, `1Gi`, `2`.
fn quantity(text: &str) -> Option<f64> {
    let end = text
        .find(|c: char| !(c.is_ascii_digit() || c == '.'))
        .unwrap_or(text.len());
    let (number, suffix) = text.split_at(end);
    let factor = match suffix {
        "" => 1.0,
        "m" => 1e-3,
        "k" => 1e3,
        "M" => 1e6,
        "G" => 1e9,
        "T" => 1e12,
        "Ki" => 1024.0,
        "Mi" => 1024.0 * 1024.0,
        "Gi" => 1024.0 * 1024.0 * 1024.0,
        "Ti" => 1024.0 * 1024.0 * 1024.0 * 1024.0,
        _ => return None,
    };
    Some(number.parse::<f64>().ok()? * factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_read_as_kubernetes_writes_them() {
        for (text, value) in [
            ("2", 2.0),
            ("500m", 0.5),
            ("1Gi", 1_073_741_824.0),
            ("128M", 128e6),
        ] {
            assert_eq!(quantity(text), Some(value), "{text}");
        }
        assert_eq!(quantity("1x"), None);
        let container: Container = serde_json::from_value(serde_json::json!({
            "name": "proxy", "resources": {"limits": {"cpu": "1500m"}},
        }))
        .unwrap();
        let selector: ResourceFieldSelector = serde_json::from_value(
            serde_json::json!({"containerName": "proxy", "resource": "limits.cpu", "divisor": "0"}),
        )
        .unwrap();
        assert_eq!(resource(&[container], &selector).unwrap(), "2");
    }
}
