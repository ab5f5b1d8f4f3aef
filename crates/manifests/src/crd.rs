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
    let mut spec = kind.schema();
    spec["description"] = Value::from(about(kind));
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
                        "spec": spec,
                        "status": { "type": "object", "x-kubernetes-preserve-unknown-fields": true },
                    },
                }},
                "subresources": { "status": {} },
                "additionalPrinterColumns": columns(kind),
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

/// What `kubectl get` shows, as Istio's definitions have it.
fn columns(kind: Kind) -> Value {
    let column = |name: &str, path: &str, description: &str| json!({ "name": name, "type": "string", "jsonPath": path, "description": description });
    let mut columns = match kind {
        Kind::VirtualService => vec![
            column("Gateways", ".spec.gateways", "The gateways that it is for."),
            column("Hosts", ".spec.hosts", "The hosts that it routes."),
        ],
        Kind::DestinationRule => vec![column("Host", ".spec.host", "The host that it is for.")],
        Kind::Gateway => vec![column(
            "Selector",
            ".spec.selector",
            "Labels of the gateway's pods.",
        )],
        Kind::ServiceEntry => vec![
            column("Hosts", ".spec.hosts", "The hosts that it adds."),
            column("Location", ".spec.location", "Inside or outside of the mesh."),
            column(
                "Resolution",
                ".spec.resolution",
                "How its endpoints are found (NONE, STATIC, DNS).",
            ),
        ],
        Kind::WorkloadEntry => vec![column("Address", ".spec.address", "Address of the workload.")],
        Kind::PeerAuthentication => vec![column(
            "Mode",
            ".spec.mtls.mode",
            "Whether mutual TLS is demanded.",
        )],
        Kind::AuthorizationPolicy => vec![column("Action", ".spec.action", "ALLOW or DENY.")],
        _ => Vec::new(),
    };
    columns.push(json!({
        "name": "Age",
        "type": "date",
        "jsonPath": ".metadata.creationTimestamp",
        "description": "Since when it exists.",
    }));
    Value::Array(columns)
}

fn about(kind: Kind) -> &'static str {
    match kind {
        Kind::VirtualService => "Routing rules for some hosts.",
        Kind::DestinationRule => "Subsets of a host, and how its connections are made.",
        Kind::Gateway => "Ports, hosts and TLS of gateways.",
        Kind::ServiceEntry => "Hosts that are added to the mesh.",
        Kind::WorkloadEntry => "A workload that is no pod.",
        Kind::WorkloadGroup => "A template for workloads that are no pods.",
        Kind::Sidecar => "What a workload's sidecar knows and takes.",
        Kind::ProxyConfig => "Settings of proxies.",
        Kind::EnvoyFilter => "Changes of Envoy's configuration.",
        Kind::PeerAuthentication => "Whether mutual TLS is demanded.",
        Kind::AuthorizationPolicy => "Who may call what.",
        Kind::RequestAuthentication => "Which tokens of end users are accepted.",
        Kind::Telemetry => "Metrics, traces and logs.",
        Kind::WasmPlugin => "Extensions of the proxy.",
        _ => "",
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    /// What the API server demands of a structural schema: types everywhere, no siblings of open content.
    fn check(schema: &Value, path: &str) {
        let open = schema["x-kubernetes-preserve-unknown-fields"] == true
            || schema["x-kubernetes-int-or-string"] == true;
        assert!(schema["type"].is_string() || open, "{path} has no type");
        for (name, inner) in schema["properties"].as_object().into_iter().flatten() {
            check(inner, &format!("{path}.{name}"));
        }
        for key in ["items", "additionalProperties"] {
            if let Some(inner) = schema.get(key) {
                check(inner, &format!("{path}.{key}"));
            }
        }
    }

    #[test]
    fn every_kind_has_a_structural_schema_in_each_served_version_and_one_is_stored() {
        let all = definitions();
        assert_eq!(all.len(), 14);
        for crd in &all {
            let versions = crd["spec"]["versions"].as_array().unwrap();
            assert_eq!(versions.iter().filter(|v| v["storage"] == true).count(), 1);
            for version in versions {
                let schema = &version["schema"]["openAPIV3Schema"];
                check(schema, crd["metadata"]["name"].as_str().unwrap());
                assert!(
                    schema["properties"]["spec"]["description"]
                        .as_str()
                        .unwrap()
                        .len()
                        > 10
                );
            }
        }
    }

    #[test]
    fn fields_are_known_with_their_types_and_meaning() {
        let all = definitions();
        let crd = all
            .iter()
            .find(|c| c["spec"]["names"]["kind"] == "VirtualService")
            .unwrap();
        let http = crd
            .pointer(
                "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/http/items/properties",
            )
            .unwrap();
        assert_eq!(http["timeout"]["type"], "string");
        assert_eq!(
            http["match"]["items"]["properties"]["uri"]["properties"]["regex"]["type"],
            "string"
        );
        assert!(http["retries"]["properties"]["attempts"]["description"].is_string());
    }
}
