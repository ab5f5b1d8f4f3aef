//! What an API server asks, and what it is told.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use isthmus_api::{MeshConfig, mesh_config};
use isthmus_manifests::inject::patch::{self, Operation};
use isthmus_pki::{Expected, LiveClient, TlsOptions};
use isthmus_runtime::drain;
use isthmus_runtime::metrics::Metrics;
use rustls_pki_types::ServerName;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::TlsConnector;

use super::*;
use crate::mesh::Identity;
use crate::test_mesh::Mesh;

/// Settings that a test changes.
struct Written {
    identity: Identity,
    values: Mutex<Option<String>>,
}

impl Source for Arc<Written> {
    fn identity(&self) -> &Identity {
        &self.identity
    }

    fn revision(&self) -> &str {
        ""
    }

    fn values(&self) -> Option<String> {
        self.values.lock().unwrap().clone()
    }

    fn mesh_config(&self) -> MeshConfig {
        mesh_config::from_text("trustDomain: corp.local", "").0
    }

    fn network(&self, namespace: &str) -> Option<String> {
        (namespace == "lab").then(|| "lab-net".to_owned())
    }
}

struct Api {
    written: Arc<Written>,
    webhook: Arc<Webhook<Arc<Written>>>,
    metrics: Metrics,
}

impl Api {
    fn new() -> Self {
        let written = Arc::new(Written {
            identity: Identity {
                cluster: "us".into(),
                network: "us-net".into(),
                mesh_id: "training-mesh".to_owned(),
                trust_domain: None,
                root_namespace: "istio-system".to_owned(),
            },
            values: Mutex::new(None),
        });
        let metrics = Metrics::new();
        Self {
            webhook: Arc::new(Webhook::new(Arc::clone(&written), &metrics)),
            written,
            metrics,
        }
    }

    /// Asks at `path`; the response of the review.
    async fn ask(&self, path: &str, request: Value) -> Value {
        let review =
            json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request});
        let (status, body) = self.post(path, &review.to_string()).await;
        assert_eq!(status, 200, "{body}");
        let answer: Value = serde_json::from_str(&body).unwrap();
        assert_eq!(
            (&answer["apiVersion"], &answer["response"]["uid"]),
            (&json!("admission.k8s.io/v1"), &json!("u-1"))
        );
        answer["response"].clone()
    }

    async fn post(&self, path: &str, body: &str) -> (u16, String) {
        let request = http::Request::post(path).body(body.to_owned().into()).unwrap();
        let response = self.webhook.router().answer(request).await;
        let body = String::from_utf8(response.body().to_vec()).unwrap();
        (response.status().as_u16(), body)
    }
}

fn creation(namespace: &str, pod: &Value) -> Value {
    json!({
        "uid": "u-1", "operation": "CREATE", "namespace": namespace, "object": pod,
        "kind": {"group": "", "version": "v1", "kind": "Pod"},
        "resource": {"group": "", "version": "v1", "resource": "pods"},
    })
}

fn sleep() -> Value {
    json!({"metadata": {"name": "sleep", "labels": {"app": "sleep"}}, "spec": {"containers": [{"name": "sleep", "image": "s"}]}})
}

/// The pod with the patch of a response.
fn patched(pod: &Value, response: &Value) -> Value {
    assert_eq!(response["allowed"], true, "{response}");
    let bytes = STANDARD.decode(response["patch"].as_str().unwrap()).unwrap();
    let operations: Vec<Value> = serde_json::from_slice(&bytes).unwrap();
    let operations: Vec<Operation> = (operations.into_iter())
        .map(|o| {
            let path = o["path"].as_str().unwrap().to_owned();
            let value = o["value"].clone();
            match o["op"].as_str().unwrap() {
                "add" => Operation::Add { path, value },
                "remove" => Operation::Remove { path },
                _ => Operation::Replace { path, value },
            }
        })
        .collect();
    patch::apply(pod, &operations).unwrap()
}

fn variable(pod: &Value, name: &str) -> String {
    let env = pod["spec"]["initContainers"][1]["env"].as_array().unwrap();
    let found = env.iter().find(|v| v["name"] == name).unwrap();
    found["value"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_pod_gets_a_sidecar_of_this_cluster() {
    let api = Api::new();
    let pod = patched(&sleep(), &api.ask("/inject", creation("bank", &sleep())).await);
    for (name, value) in [
        ("ISTIO_META_CLUSTER_ID", "us"),
        ("ISTIO_META_NETWORK", "us-net"),
        ("ISTIO_META_MESH_ID", "training-mesh"),
        ("TRUST_DOMAIN", "corp.local"),
    ] {
        assert_eq!(variable(&pod, name), value);
    }
    let pod = patched(&sleep(), &api.ask("/inject", creation("lab", &sleep())).await);
    assert_eq!(variable(&pod, "ISTIO_META_NETWORK"), "lab-net");
    for path in [
        "/inject/cluster/eu/net/eu-net",
        "/inject/:ENV:cluster=eu:ENV:net=eu-net",
    ] {
        let pod = patched(&sleep(), &api.ask(path, creation("bank", &sleep())).await);
        assert_eq!(variable(&pod, "ISTIO_META_CLUSTER_ID"), "eu", "{path}");
        assert_eq!(variable(&pod, "ISTIO_META_NETWORK"), "eu-net", "{path}");
    }
    // Nothing is done twice, and nothing to what is no new pod.
    let again = api.ask("/inject", creation("bank", &pod)).await;
    assert_eq!((again.get("patch"), &again["allowed"]), (None, &json!(true)));
    let mut update = creation("bank", &sleep());
    update["operation"] = json!("UPDATE");
    assert_eq!(api.ask("/inject", update).await.get("patch"), None);
    let page = api.metrics.render().await;
    for line in [
        "sidecar_injection_requests_total 6",
        "sidecar_injection_success_total 4",
        "sidecar_injection_skip_total 2",
    ] {
        assert!(page.contains(line), "{line}: {page}");
    }
}

#[tokio::test]
async fn a_pod_is_told_why_it_gets_none_or_what_it_asks_for_in_vain() {
    let api = Api::new();
    let mut pod = sleep();
    pod["spec"]["hostNetwork"] = json!(true);
    let response = api.ask("/inject", creation("bank", &pod)).await;
    assert_eq!(
        (&response["allowed"], response.get("patch")),
        (&json!(true), None)
    );
    assert!(
        response["warnings"][0].as_str().unwrap().contains("hostNetwork"),
        "{response}"
    );

    let mut pod = sleep();
    pod["metadata"]["annotations"] = json!({"sidecar.istio.io/proxyCpu": "1"});
    let response = api.ask("/inject", creation("bank", &pod)).await;
    assert!(
        response["warnings"][0]
            .as_str()
            .unwrap()
            .ends_with("did you mean sidecar.istio.io/proxyCPU?")
    );

    pod["metadata"]["annotations"] = json!({"sidecar.istio.io/proxyCPU": "much"});
    let response = api.ask("/inject", creation("bank", &pod)).await;
    assert_eq!(response["allowed"], false);
    let message = response["status"]["message"].as_str().unwrap();
    assert!(
        message.contains("sidecar.istio.io/proxyCPU") && message.contains("a quantity is expected"),
        "{message}"
    );
}

#[tokio::test]
async fn settings_that_are_broken_refuse_no_pod() {
    let api = Api::new();
    let write = |values: &str| *api.written.values.lock().unwrap() = Some(values.to_owned());
    write("{");
    let response = api.ask("/inject", creation("bank", &sleep())).await;
    let pod = patched(&sleep(), &response);
    assert_eq!(variable(&pod, "ISTIO_META_CLUSTER_ID"), "us");
    assert!(
        response["warnings"][0]
            .as_str()
            .unwrap()
            .contains("the defaults are used"),
        "{response}"
    );

    write(r#"{"global": {"hub": "example.net", "tag": "7", "multiCluster": {"clusterName": ""}}}"#);
    let response = api.ask("/inject", creation("bank", &sleep())).await;
    assert_eq!(response.get("warnings"), None);
    let image = |pod: &Value| pod["spec"]["initContainers"][1]["image"].clone();
    assert_eq!(image(&patched(&sleep(), &response)), "example.net/isthmus:7");

    write(r#"{"global": {"hub": []}}"#);
    let response = api.ask("/inject", creation("bank", &sleep())).await;
    assert_eq!(image(&patched(&sleep(), &response)), "example.net/isthmus:7");
    assert!(
        response["warnings"][0].as_str().unwrap().contains("global.hub"),
        "{response}"
    );
}

fn virtual_service(spec: Value) -> Value {
    json!({"apiVersion": "networking.istio.io/v1", "kind": "VirtualService",
           "metadata": {"name": "reviews", "namespace": "bank", "managedFields": [{"manager": "kubectl"}]}, "spec": spec})
}

fn written(operation: &str, object: Value, old: Value) -> Value {
    json!({
        "uid": "u-1", "operation": operation, "namespace": "bank", "name": "reviews", "object": object, "oldObject": old,
        "kind": {"group": "networking.istio.io", "version": "v1", "kind": "VirtualService"},
        "resource": {"group": "networking.istio.io", "version": "v1", "resource": "virtualservices"},
    })
}

#[tokio::test]
async fn what_validate_finds_wrong_is_refused_in_words_and_never_stands_in_the_way_of_a_deletion() {
    let api = Api::new();
    let good =
        virtual_service(json!({"hosts": ["a"], "http": [{"route": [{"destination": {"host": "a"}}]}]}));
    let bad = virtual_service(
        json!({"hosts": ["a"], "http": [{"route": [{"destination": {"host": "a", "port": {"number": 99999}}}]}]}),
    );
    let ask = |request| api.ask("/validate", request);
    let response = ask(written("CREATE", good.clone(), Value::Null)).await;
    assert_eq!(response["allowed"], true, "{response}");

    let response = ask(written("CREATE", bad.clone(), Value::Null)).await;
    assert_eq!(response["allowed"], false, "{response}");
    let message = response["status"]["message"].as_str().unwrap();
    assert!(
        message.starts_with("spec.http[0].route[0].destination.port.number: "),
        "{message}"
    );
    assert!(!message.contains(".yaml"), "{message}");

    let mut odd = good.clone();
    odd["spec"]["http"][0]["retries"] = json!({"attempts": 1, "retryRemoteLocalities": true});
    let response = ask(written("UPDATE", odd, good.clone())).await;
    assert_eq!(response["allowed"], true);
    assert!(
        response["warnings"][0]
            .as_str()
            .unwrap()
            .contains("has no effect"),
        "{response}"
    );

    // An object that was kept before it was wrong can be labelled, released and deleted.
    let mut labelled = bad.clone();
    labelled["metadata"]["labels"] = json!({"a": "b"});
    let response = ask(written("UPDATE", labelled, bad.clone())).await;
    assert_eq!(response["allowed"], true);
    assert!(
        response["warnings"][0].as_str().unwrap().contains("port.number"),
        "{response}"
    );
    let mut leaving = virtual_service(json!({"hosts": []}));
    leaving["metadata"]["deletionTimestamp"] = json!("2026-11-20T20:00:00Z");
    assert_eq!(
        ask(written("UPDATE", leaving, bad.clone())).await["allowed"],
        true
    );
    assert_eq!(ask(written("DELETE", Value::Null, bad)).await["allowed"], true);

    let page = api.metrics.render().await;
    let labels = r#"{group="networking.istio.io",version="v1",resource="virtualservices"}"#;
    assert!(
        page.contains(&format!("galley_validation_failed{labels} 1")),
        "{page}"
    );
    assert!(
        page.contains(&format!("galley_validation_passed{labels} 3")),
        "{page}"
    );
}

#[tokio::test]
async fn what_is_no_review_is_answered_with_what_is_wrong_with_it() {
    let api = Api::new();
    for (body, word) in [
        ("", "EOF"),
        ("{}", "its kind is"),
        (r#"{"kind": "AdmissionReview", "apiVersion": "v9"}"#, "v9"),
        (
            r#"{"kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1"}"#,
            "no request",
        ),
        (
            r#"{"kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1", "request": {"uid": 1}}"#,
            "expected a string",
        ),
    ] {
        for path in ["/inject", "/validate"] {
            let (status, text) = api.post(path, body).await;
            assert!(status == 400 && text.contains(word), "{body}: {status} {text}");
        }
    }
}

#[tokio::test]
async fn the_api_server_verifies_the_control_plane_by_the_name_of_its_service() {
    let api = Api::new();
    let us = Mesh::new().cluster("us");
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let address = listener.local_addr().unwrap();
    let (trigger, watcher) = drain::channel();
    let server = tokio::spawn(serve(
        listener,
        us.credentials("istio-system", "istiod"),
        api.webhook.router(),
        watcher,
    ));

    let client = LiveClient::new(
        us.credentials("kube-system", "api"),
        Expected::anyone(),
        TlsOptions::alpn(["http/1.1"]),
    );
    let stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let name = ServerName::try_from("istiod.istio-system.svc").unwrap();
    let mut stream = TlsConnector::from(client.current().unwrap())
        .connect(name, stream)
        .await
        .unwrap();
    let body = json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": creation("bank", &sleep())}).to_string();
    let request = format!(
        "POST /inject?timeout=10s HTTP/1.1\r\nhost: istiod\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\
         connection: close\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    // The other side may close without its TLS goodbye; what counts is what it said.
    let _ = stream.read_to_end(&mut answer).await;
    let answer = String::from_utf8_lossy(&answer);
    assert!(
        answer.starts_with("HTTP/1.1 200") && answer.contains("JSONPatch"),
        "{answer}"
    );
    trigger.drain(Duration::from_secs(30)).await;
    server.await.unwrap().unwrap();
}
