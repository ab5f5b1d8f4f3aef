//! What an API server asks of the webhooks, and the pods in it.

use isthmus_api::MeshConfig;
use isthmus_control::webhook::Review;
use isthmus_manifests::inject::{self, Namespace, Outcome, Request, Settings, patch};
use isthmus_model::Labels;
use serde_json::{Value, json};

use super::{Kind, Target};

/// An `AdmissionReview` with a pod: read and injected. The patch makes of the pod what it says, and a pod that was
/// injected is left alone.
pub const ADMISSION: Target = Target {
    name: "admission",
    kind: Kind::Tree,
    inputs: 400,
    seeds: || {
        [
            json!({"containers": [{"name": "app", "image": "a", "ports": [{"name": "http", "containerPort": 80}],
                "readinessProbe": {"httpGet": {"port": "http", "path": "/"}}, "livenessProbe": {"tcpSocket": {"port": 80}},
                "startupProbe": {"grpc": {"port": 81}}, "lifecycle": {"preStop": {"httpGet": {"port": 80}}}}]}),
            json!({"hostNetwork": true, "containers": [{"name": "app"}], "volumes": [{"name": "istio-token"}]}),
            json!({"containers": [{"name": "istio-proxy", "image": "auto", "env": [{"name": "A", "value": "b"}],
                "resources": {"limits": {"cpu": "1"}}}], "initContainers": [{"name": "istio-init"}]}),
        ]
        .into_iter()
        .map(|spec| {
            let pod = json!({
                "metadata": {
                    "generateName": "a-", "labels": {"app": "a", "sidecar.istio.io/inject": "true"},
                    "ownerReferences": [{"apiVersion": "batch/v1", "kind": "Job", "name": "a-29388480", "controller": true}],
                    "annotations": {
                        "proxy.istio.io/config": "concurrency: 2\nproxyMetadata: {A: b}",
                        "sidecar.istio.io/userVolume": "{\"a\": {\"emptyDir\": {}}}", "sidecar.istio.io/proxyCPU": "100m",
                        "traffic.sidecar.istio.io/excludeOutboundIPRanges": "10.0.0.0/8", "prometheus.io/scrape": "true",
                        "inject.istio.io/templates": "sidecar", "sidecar.istio.io/logLevel": "default:info"
                    }
                },
                "spec": spec
            });
            review(&pod).to_string().into_bytes()
        })
        .collect()
    },
    run: |input| {
        let Ok(review) = Review::parse(input) else { return };
        let settings = Settings::from_text("", &MeshConfig::default()).expect("defaults");
        let question = &review.request;
        let labels = Labels::default();
        for by in [Namespace::Chosen, Namespace::Labels(&labels)] {
            let request = Request {
                pod: &question.object,
                namespace: &question.namespace,
                by,
                network: None,
                workload: None,
            };
            let Ok(Outcome::Injected(injected)) = inject::inject(&request, &settings) else {
                continue;
            };
            let patched = patch::apply(&question.object, &injected.patch);
            assert_eq!(patched.as_ref(), Some(&injected.pod));
            let again = Request {
                pod: &injected.pod,
                ..request
            };
            assert!(
                matches!(inject::inject(&again, &settings), Ok(Outcome::Skipped(_))),
                "injected twice"
            );
        }
    },
};

fn review(pod: &Value) -> Value {
    json!({
        "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
        "request": {
            "uid": "u", "operation": "CREATE", "namespace": "bank", "name": "a", "object": pod,
            "kind": {"group": "", "version": "v1", "kind": "Pod"},
            "resource": {"group": "", "version": "v1", "resource": "pods"}
        }
    })
}
