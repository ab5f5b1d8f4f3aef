//! What is kept of an object. A cluster's pods, secrets and managed fields are most of its bytes, and most of
//! that is read by nobody here.

use isthmus_api::Kind;
use isthmus_api::kubernetes::REMOTE_SECRET_LABEL;
use serde_json::{Map, Value};

use super::Scope;

/// Fields of `metadata` that something reads.
const METADATA: &[&str] = &[
    "name",
    "namespace",
    "labels",
    "annotations",
    "uid",
    "generation",
    "creationTimestamp",
    "deletionTimestamp",
    "ownerReferences",
];
/// Written by kubectl and by controllers for themselves.
const ANNOTATIONS: &[&str] = &[
    "kubectl.kubernetes.io/last-applied-configuration",
    "endpoints.kubernetes.io/last-change-trigger-time",
    "deployment.kubernetes.io/revision",
];
/// Keys of certificates for gateways, in the forms of Kubernetes and of Istio.
const CERTIFICATES: &[&str] = &[
    "tls.crt", "tls.key", "ca.crt", "ca.crl", "cert", "key", "cacert", "crl",
];
/// Annotation of an injected pod whose value nobody here reads.
const STATUS: &str = "sidecar.istio.io/status";

/// The selector of the API server for objects of a kind that are never needed.
pub fn field_selector(kind: Kind) -> Option<&'static str> {
    match kind {
        Kind::Secret => Some("type!=helm.sh/release.v1,type!=kubernetes.io/service-account-token"),
        Kind::Pod => Some("status.phase!=Succeeded,status.phase!=Failed"),
        _ => None,
    }
}

/// Leaves what is read of an object; `false` when nothing of it is.
pub fn reduce(kind: Kind, object: &mut Value, scope: &Scope) -> bool {
    let Some(fields) = object.as_object_mut() else {
        return true;
    };
    if let Some(Value::Object(metadata)) = fields.get_mut("metadata") {
        reduce_metadata(kind, metadata);
    }
    match kind {
        Kind::Namespace | Kind::ServiceAccount => keep_body(fields, &[]),
        Kind::Node => {
            keep_body(fields, &["status"]);
            keep_in(fields, "status", &["addresses"]);
        }
        Kind::Pod => reduce_pod(fields),
        Kind::Service => {
            keep_body(fields, &["spec", "status"]);
            keep_in(
                fields,
                "spec",
                &[
                    "ports",
                    "selector",
                    "clusterIP",
                    "clusterIPs",
                    "type",
                    "externalIPs",
                    "externalName",
                    "publishNotReadyAddresses",
                ],
            );
            keep_in(fields, "status", &["loadBalancer"]);
        }
        Kind::EndpointSlice => {
            keep_body(fields, &["addressType", "endpoints", "ports"]);
            for endpoint in list(fields, "endpoints") {
                let read = [
                    "addresses",
                    "conditions",
                    "hostname",
                    "targetRef",
                    "nodeName",
                    "zone",
                ];
                keep(endpoint, &read);
                keep_in(endpoint, "targetRef", &["kind", "namespace", "name"]);
            }
        }
        Kind::ConfigMap => keep_body(fields, &["data"]),
        Kind::Secret => return reduce_secret(fields, scope),
        _ => {}
    }
    true
}

fn reduce_metadata(kind: Kind, metadata: &mut Map<String, Value>) {
    metadata.retain(|name, _| METADATA.contains(&name.as_str()));
    if kind.info().whole {
        // A count of what changed in fields that are not kept.
        metadata.remove("generation");
    }
    if let Some(Value::Object(annotations)) = metadata.get_mut("annotations") {
        annotations.retain(|name, _| {
            let read_of_pod = kind != Kind::Pod || name.contains("istio.io/");
            read_of_pod && !ANNOTATIONS.contains(&name.as_str())
        });
        if let Some(status) = annotations.get_mut(STATUS) {
            *status = "{}".into();
        }
    }
    for owner in list(metadata, "ownerReferences") {
        keep(owner, &["kind", "name", "controller"]);
    }
}

fn reduce_pod(fields: &mut Map<String, Value>) {
    keep_body(fields, &["spec", "status"]);
    let read = [
        "containers",
        "initContainers",
        "serviceAccountName",
        "nodeName",
        "hostNetwork",
        "hostname",
        "subdomain",
    ];
    keep_in(fields, "spec", &read);
    if let Some(Value::Object(spec)) = fields.get_mut("spec") {
        for which in ["containers", "initContainers"] {
            for container in list(spec, which) {
                keep(container, &["name", "ports"]);
                for port in list(container, "ports") {
                    keep(port, &["name", "containerPort"]);
                }
            }
            // Only ports with a name are looked for.
            if let Some(Value::Array(containers)) = spec.get_mut(which) {
                containers.retain(|c| c["ports"].as_array().is_some_and(|p| !p.is_empty()));
            }
        }
    }
    keep_in(fields, "status", &["phase", "podIP", "podIPs", "conditions"]);
    if let Some(Value::Object(status)) = fields.get_mut("status") {
        if let Some(Value::Array(conditions)) = status.get_mut("conditions") {
            conditions.retain(|c| c["type"] == "Ready");
        }
        for condition in list(status, "conditions") {
            keep(condition, &["type", "status"]);
        }
        // One address is in `podIP` already.
        if status
            .get("podIPs")
            .and_then(Value::as_array)
            .is_some_and(|ips| ips.len() < 2)
        {
            status.remove("podIPs");
        }
    }
}

/// Certificates for gateways; and in the root namespace the authority and the kubeconfigs of other clusters.
fn reduce_secret(fields: &mut Map<String, Value>, scope: &Scope) -> bool {
    keep_body(fields, &["data", "type"]);
    let metadata = |name: &str| {
        let value = fields.get("metadata").and_then(|m| m.get(name));
        value.and_then(Value::as_str).unwrap_or_default()
    };
    let remote = fields
        .get("metadata")
        .and_then(|m| m.get("labels"))
        .and_then(|l| l.get(REMOTE_SECRET_LABEL))
        .is_some_and(|v| v == "true");
    let ours = metadata("namespace") == scope.root_namespace && (remote || metadata("name") == "cacerts");
    if ours {
        return true;
    }
    let Some(Value::Object(data)) = fields.get_mut("data") else {
        return false;
    };
    data.retain(|key, _| CERTIFICATES.contains(&key.as_str()));
    !data.is_empty()
}

/// Leaves these fields of an object and what says which object it is.
fn keep_body(object: &mut Map<String, Value>, names: &[&str]) {
    const WHICH: &[&str] = &["apiVersion", "kind", "metadata"];
    object.retain(|name, _| names.contains(&name.as_str()) || WHICH.contains(&name.as_str()));
}

fn keep(fields: &mut Map<String, Value>, names: &[&str]) {
    fields.retain(|name, _| names.contains(&name.as_str()));
}

fn keep_in(fields: &mut Map<String, Value>, field: &str, names: &[&str]) {
    if let Some(Value::Object(inner)) = fields.get_mut(field) {
        inner.retain(|name, _| names.contains(&name.as_str()));
    }
}

fn list<'a>(
    fields: &'a mut Map<String, Value>,
    name: &str,
) -> impl Iterator<Item = &'a mut Map<String, Value>> {
    let items = fields.get_mut(name).and_then(Value::as_array_mut);
    items.into_iter().flatten().filter_map(Value::as_object_mut)
}

#[cfg(test)]
mod tests;
