//! What a proxy reads and writes: its token, the root that it starts with, the pod's labels, places to write.

use serde_json::{Value, json};

use super::Draft;

/// Directory of the roots that proxies start with.
const ROOTS: &str = "/var/run/secrets/istio";
/// Directory of the token that says who they are.
const TOKENS: &str = "/var/run/secrets/tokens";
/// Life of the token, renewed by the kubelet.
const TOKEN_SECONDS: u32 = 43_200;

/// The proxy's volumes with the place of each in its container.
fn all() -> [(Value, &'static str); 6] {
    let field = |path: &str, field: &str| json!({"path": path, "fieldRef": {"fieldPath": field}});
    [
        (
            json!({"name": "workload-socket", "emptyDir": {}}),
            "/var/run/secrets/workload-spiffe-uds",
        ),
        (
            json!({"name": "istiod-ca-cert", "configMap": {"name": "istio-ca-root-cert"}}),
            ROOTS,
        ),
        (
            json!({"name": "istio-data", "emptyDir": {}}),
            "/var/lib/istio/data",
        ),
        (
            json!({"name": "istio-envoy", "emptyDir": {"medium": "Memory"}}),
            "/etc/istio/proxy",
        ),
        (
            json!({"name": "istio-token", "projected": {"sources": [{"serviceAccountToken": {
                "path": "istio-token", "expirationSeconds": TOKEN_SECONDS, "audience": "istio-ca"
            }}]}}),
            TOKENS,
        ),
        (
            json!({"name": "istio-podinfo", "downwardAPI": {"items": [
                field("labels", "metadata.labels"), field("annotations", "metadata.annotations")
            ]}}),
            "/etc/istio/pod",
        ),
    ]
}

impl Draft<'_> {
    /// Adds the volumes that are not there yet; a user's volume of the same name stays.
    pub(super) fn add_volumes(&mut self) {
        let mut wanted: Vec<Value> = all().map(|(volume, _)| volume).into();
        wanted.append(&mut self.annotations.volumes);
        let there = self.pod.list_mut("volumes");
        for volume in wanted {
            if there.iter().any(|v| v.get("name") == volume.get("name")) {
                continue;
            }
            if let Some(name) = volume.get("name").and_then(Value::as_str) {
                self.added.volumes.push(name.to_owned());
            }
            there.push(volume);
        }
    }

    /// Mounts of the proxy's container.
    pub(super) fn mounts(&self) -> Vec<Value> {
        let own = all().map(|(volume, path)| json!({"name": volume["name"], "mountPath": path}));
        own.into_iter()
            .chain(self.annotations.mounts.iter().cloned())
            .collect()
    }
}
