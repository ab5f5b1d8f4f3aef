use isthmus_api::Kind;
use serde_json::{Value, json};

use super::super::Scope;
use super::reduce;

fn reduced(kind: Kind, mut object: Value) -> Option<Value> {
    reduce(kind, &mut object, &Scope::own("istio-system")).then_some(object)
}

#[test]
fn of_a_pod_stays_what_the_registry_reads() {
    let pod = json!({
        "metadata": {
            "name": "a", "namespace": "b", "uid": "1", "resourceVersion": "7", "generation": 3,
            "labels": {"app": "a"},
            "annotations": {"sidecar.istio.io/status": "{\"long\": true}", "checksum/config": "abc"},
            "managedFields": [{"manager": "kubectl"}],
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "a-5f", "uid": "2", "controller": true}],
        },
        "spec": {
            "nodeName": "n", "serviceAccountName": "a", "volumes": [{"name": "v"}], "tolerations": [{}],
            "containers": [
                {"name": "app", "image": "x", "env": [{"name": "E", "value": "v"}], "ports": [{"name": "http", "containerPort": 80, "protocol": "TCP"}]},
                {"name": "side", "image": "y"},
            ],
        },
        "status": {
            "phase": "Running", "podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.1"}], "hostIP": "10.0.1.1",
            "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": "t"}, {"type": "Initialized", "status": "True"}],
            "containerStatuses": [{"name": "app"}],
        },
    });
    let kept = json!({
        "metadata": {
            "name": "a", "namespace": "b", "uid": "1", "labels": {"app": "a"},
            "annotations": {"sidecar.istio.io/status": "{}"},
            "ownerReferences": [{"kind": "ReplicaSet", "name": "a-5f", "controller": true}],
        },
        "spec": {
            "nodeName": "n", "serviceAccountName": "a",
            "containers": [{"name": "app", "ports": [{"name": "http", "containerPort": 80}]}],
        },
        "status": {"phase": "Running", "podIP": "10.0.0.1", "conditions": [{"type": "Ready", "status": "True"}]},
    });
    assert_eq!(reduced(Kind::Pod, pod), Some(kept));
}

#[test]
fn of_secrets_stay_certificates_the_authority_and_remote_clusters() {
    let secret = |namespace: &str, name: &str, labels: Value, data: Value| {
        reduced(
            Kind::Secret,
            json!({"metadata": {"name": name, "namespace": namespace, "labels": labels}, "data": data}),
        )
    };
    let keys = |secret: Option<Value>| -> Vec<String> {
        let secret = secret.unwrap_or_default();
        secret["data"]
            .as_object()
            .into_iter()
            .flatten()
            .map(|(k, _)| k.clone())
            .collect()
    };
    assert_eq!(
        secret("shop", "password", json!({}), json!({"password": "eA=="})),
        None
    );
    let tls = secret(
        "shop",
        "tls",
        json!({}),
        json!({"tls.crt": "eA==", "tls.key": "eA==", "note": "eA=="}),
    );
    assert_eq!(keys(tls), ["tls.crt", "tls.key"]);
    let authority = json!({"ca-cert.pem": "eA==", "ca-key.pem": "eA=="});
    assert_eq!(
        keys(secret("istio-system", "cacerts", json!({}), authority.clone())).len(),
        2
    );
    assert_eq!(
        secret("shop", "cacerts", json!({}), authority),
        None,
        "only the mesh's own"
    );
    let label = json!({"istio/multiCluster": "true"});
    assert_eq!(
        keys(secret(
            "istio-system",
            "istio-remote-secret-eu",
            label.clone(),
            json!({"eu": "eA=="})
        )),
        ["eu"]
    );
    assert_eq!(
        secret("shop", "istio-remote-secret-eu", label, json!({"eu": "eA=="})),
        None,
        "whoever may write Secrets elsewhere does not add clusters"
    );
}

#[test]
fn what_changes_by_itself_is_not_kept() {
    let node = |beat: &str| {
        reduced(
            Kind::Node,
            json!({
                "metadata": {"name": "n", "resourceVersion": beat, "labels": {"topology.kubernetes.io/region": "r"}},
                "spec": {"podCIDR": "10.0.0.0/24"},
                "status": {"addresses": [{"type": "InternalIP", "address": "10.0.1.1"}],
                           "conditions": [{"type": "Ready", "lastHeartbeatTime": beat}], "images": [{"names": ["x"]}]},
            }),
        )
    };
    assert_eq!(node("1"), node("2"));
    assert!(node("1").is_some_and(|n| n["status"]["addresses"][0]["address"] == "10.0.1.1"));
}
