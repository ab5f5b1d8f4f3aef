//! Server-side apply: what is new, what is other, what is ours, and why something is not ready.

#![allow(clippy::unwrap_used)]

mod server;

use isthmus_kube::apply::{Applier, ApplyError, Options, Outcome, Readiness};
use serde_json::{Value, json};
use server::Api;

const FORCE: Options = Options {
    dry_run: false,
    force: true,
};

fn deployment() -> Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment",
           "metadata": {"name": "istiod", "namespace": "istio-system", "generation": 1, "labels": {"owner": "us"}},
           "spec": {"replicas": 1, "selector": {"matchLabels": {"app": "istiod"}}}})
}

#[tokio::test]
async fn applying_says_what_it_did_and_a_dry_run_does_nothing() {
    let api = Api::start().await;
    let applier = Applier::new(api.cluster().await, "isthmus");
    let dry = Options {
        dry_run: true,
        ..FORCE
    };
    let mut object = deployment();
    assert_eq!(applier.apply(&object, dry).await.unwrap(), Outcome::Created);
    assert!(api.object("deployments", "istio-system", "istiod").is_none());
    assert_eq!(applier.apply(&object, FORCE).await.unwrap(), Outcome::Created);
    assert_eq!(applier.apply(&object, FORCE).await.unwrap(), Outcome::Unchanged);
    assert_eq!(applier.apply(&object, dry).await.unwrap(), Outcome::Unchanged);
    object["spec"]["replicas"] = 2.into();
    assert_eq!(applier.apply(&object, dry).await.unwrap(), Outcome::Changed);
    assert_eq!(applier.apply(&object, FORCE).await.unwrap(), Outcome::Changed);
    let stored = api.object("deployments", "istio-system", "istiod").unwrap();
    assert_eq!(stored["spec"]["replicas"], 2);
    let patched = api.lock().requests.iter().any(|r| {
        r.starts_with(
            "PATCH /apis/apps/v1/namespaces/istio-system/deployments/istiod?fieldManager=isthmus&force=true",
        )
    });
    assert!(patched);

    assert!(applier.delete(&object).await.unwrap());
    assert!(!applier.delete(&object).await.unwrap());
    assert!(applier.get(&object).await.unwrap().is_none());
}

#[tokio::test]
async fn a_kind_that_is_not_served_is_named_with_what_is() {
    let api = Api::start().await;
    let applier = Applier::new(api.cluster().await, "isthmus");
    let of = |version: &str| json!({"apiVersion": version, "kind": "Gateway", "metadata": {"name": "g", "namespace": "n"}});
    let error = applier
        .apply(&of("networking.istio.io/v9"), FORCE)
        .await
        .unwrap_err();
    assert!(matches!(error, ApplyError::NoSuchKind { .. }), "{error}");
    assert!(
        error.to_string().contains("networking.istio.io/v1beta1"),
        "{error}"
    );
    assert!(
        !applier.delete(&of("other.io/v1")).await.unwrap(),
        "what is not served is not there"
    );

    // A CRD that was just applied appears in discovery a little later.
    let gateways = api.lock().served.remove("gateways").unwrap();
    let definition = json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "gateways.networking.istio.io"},
        "spec": {"group": "networking.istio.io", "names": {"kind": "Gateway"}}});
    applier.apply(&definition, FORCE).await.unwrap();
    let later = api.clone();
    tokio::spawn(async move {
        tokio::time::sleep(std::time::Duration::from_millis(600)).await;
        later.lock().served.insert("gateways", gateways);
    });
    let done = applier.apply(&of("networking.istio.io/v1"), FORCE).await.unwrap();
    assert_eq!(done, Outcome::Created);
}

#[tokio::test]
async fn what_carries_the_label_is_found_but_not_what_a_controller_made() {
    let api = Api::start().await;
    let applier = Applier::new(api.cluster().await, "isthmus");
    api.put(deployment());
    api.put(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "x", "labels": {"owner": "us"}}}));
    api.put(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "y", "labels": {"owner": "them"}}}));
    api.put(json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": "x", "labels": {"owner": "us"},
        "ownerReferences": [{"kind": "ReplicaSet", "name": "r", "controller": true}]}}));
    api.lock().forbidden.insert("secrets");
    let owned = applier.owned("owner=us").await.unwrap();
    let mut found: Vec<String> = owned
        .iter()
        .map(|o| format!("{} {} {}", o["apiVersion"], o["kind"], o["metadata"]["name"]).replace('"', ""))
        .collect();
    found.sort();
    assert_eq!(found, ["apps/v1 Deployment istiod", "v1 Namespace x"]);
}

#[tokio::test]
async fn a_deployment_says_why_it_is_not_ready() {
    let api = Api::start().await;
    let applier = Applier::new(api.cluster().await, "isthmus");
    let object = deployment();
    let why = async || match applier.ready(&object).await.unwrap() {
        Readiness::Not(why) => why,
        Readiness::Ready => "ready".to_owned(),
    };
    assert_eq!(why().await, "Deployment istio-system/istiod does not exist");

    let mut stored = deployment();
    stored["status"] = json!({"observedGeneration": 1, "replicas": 1, "updatedReplicas": 1});
    api.put(stored.clone());
    api.put(json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "istiod-x", "namespace": "istio-system", "labels": {"app": "istiod"}},
        "status": {"phase": "Pending", "containerStatuses": [{"name": "discovery", "state":
            {"waiting": {"reason": "ErrImagePull", "message": "no such image"}}}]}}));
    api.put(json!({"apiVersion": "v1", "kind": "Event", "metadata": {"name": "e", "namespace": "istio-system"},
        "reason": "FailedMount", "message": "configmap \"istio\" not found", "lastTimestamp": "2026-01-01T00:00:00Z"}));
    let said = why().await;
    for part in [
        "0 of 1 pods are available",
        "pod istiod-x",
        "container discovery waits: ErrImagePull (no such image)",
        "FailedMount: configmap \"istio\" not found",
    ] {
        assert!(said.contains(part), "{said}");
    }
    stored["status"]["availableReplicas"] = 1.into();
    api.put(stored);
    assert_eq!(why().await, "ready");
}

#[tokio::test]
async fn a_webhook_is_ready_when_somebody_is_trusted_and_answers() {
    let api = Api::start().await;
    let applier = Applier::new(api.cluster().await, "isthmus");
    let mut object = json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": "MutatingWebhookConfiguration",
        "metadata": {"name": "istio-sidecar-injector"},
        "webhooks": [{"name": "inject", "clientConfig": {"service": {"namespace": "istio-system", "name": "istiod"}}}]});
    let why = async |object: &Value| match applier.ready(object).await.unwrap() {
        Readiness::Not(why) => why,
        Readiness::Ready => "ready".to_owned(),
    };
    api.put(object.clone());
    assert!(why(&object).await.contains("no caBundle"));
    object["webhooks"][0]["clientConfig"]["caBundle"] = "eA==".into();
    api.put(object.clone());
    assert!(why(&object).await.contains("no ready endpoint"));
    api.put(json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": "istiod-1", "namespace": "istio-system", "labels": {"kubernetes.io/service-name": "istiod"}},
        "endpoints": [{"addresses": ["10.0.0.1"], "conditions": {"ready": true}}]}));
    assert_eq!(why(&object).await, "ready");
}
