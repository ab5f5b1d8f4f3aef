//! Custom resource definitions of Istio's kinds, from the table of kinds.

use isthmus_api::Kind;
use serde_json::{Value, json};

/// Every definition, by name.
pub fn definitions() -> Vec<Value> {
    let mut all: Vec<Value> = Kind::ALL
        .iter()
        .copied()
        .filter(|kind| has_definition(*kind))
        .map(definition)
        .collect();
    all.sort_by_key(|crd| crd["metadata"]["name"].as_str().unwrap_or_default().to_owned());
    all
}

/// Where the chart keeps a definition.
pub fn file(definition: &Value) -> String {
    let name = definition["metadata"]["name"].as_str().unwrap_or_default();
    format!("files/crds/{name}.yaml")
}

/// Istio's kinds that are stored in an API server. IstioOperator is a file for the command line alone.
pub fn has_definition(kind: Kind) -> bool {
    let group = kind.info().group;
    group.ends_with(".istio.io") && group != "install.istio.io"
}

fn definition(kind: Kind) -> Value {
    let info = kind.info();
    let versions: Vec<Value> = info
        .versions
        .iter()
        .enumerate()
        .map(|(i, version)| {
            json!({
                "name": version,
                "served": true,
                "storage": i == 0,
                "schema": { "openAPIV3Schema": {
                    "type": "object",
                    "properties": {
                        "spec": { "type": "object", "x-kubernetes-preserve-unknown-fields": true },
                        "status": { "type": "object", "x-kubernetes-preserve-unknown-fields": true },
                    },
                }},
                "subresources": { "status": {} },
            })
        })
        .collect();
    json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {
            "name": format!("{}.{}", info.plural, info.group),
            "labels": { "app": "istio-pilot", "chart": "istio", "istio": info.group.split('.').next().unwrap_or_default() },
            "annotations": { "helm.sh/resource-policy": "keep" },
        },
        "spec": {
            "group": info.group,
            "names": {
                "kind": info.kind,
                "listKind": format!("{}List", info.kind),
                "plural": info.plural,
                "singular": info.kind.to_ascii_lowercase(),
                "categories": ["istio-io", info.group.replace('.', "-")],
                "shortNames": short_names(kind),
            },
            "scope": "Namespaced",
            "versions": versions,
        },
    })
}

fn short_names(kind: Kind) -> &'static [&'static str] {
    match kind {
        Kind::VirtualService => &["vs"],
        Kind::DestinationRule => &["dr"],
        Kind::Gateway => &["gw"],
        Kind::ServiceEntry => &["se"],
        Kind::WorkloadEntry => &["we"],
        Kind::WorkloadGroup => &["wg"],
        Kind::PeerAuthentication => &["pa"],
        Kind::AuthorizationPolicy => &["ap"],
        Kind::RequestAuthentication => &["ra"],
        Kind::Telemetry => &["telemetry"],
        _ => &[],
    }
}
