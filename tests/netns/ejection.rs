//! outlierDetection: an endpoint that answers errors is left out for a while and let back, in the same cluster
//! and behind the other one's gateway.

use serde_json::Value;

use crate::harness::{Mesh, Writer, eventually, eventually_json};
use crate::load::of;

/// httpbin under another name, with one pod for each version.
fn httpbin(name: &str, versions: &[&str]) -> String {
    let service = format!(
        r"
apiVersion: v1
kind: Service
metadata: {{name: {name}, namespace: default}}
spec:
  selector: {{app: {name}}}
  ports:
  - {{name: http, port: 8000, targetPort: 8080}}
"
    );
    let deployments = versions.iter().map(|version| deployment(name, version));
    std::iter::once(service).chain(deployments).collect()
}

fn deployment(name: &str, version: &str) -> String {
    format!(
        r#"---
apiVersion: apps/v1
kind: Deployment
metadata: {{name: {name}-{version}, namespace: default}}
spec:
  replicas: 1
  selector: {{matchLabels: {{app: {name}, version: {version}}}}}
  template:
    metadata:
      labels: {{app: {name}, version: {version}}}
    spec:
      containers:
      - name: httpbin
        image: docker.io/isthmus/samples:httpbin
        ports: [{{name: http, containerPort: 8080}}]
        readinessProbe: {{httpGet: {{path: /healthz, port: http}}, periodSeconds: 1}}
        env:
        - name: VERSION
          valueFrom: {{fieldRef: {{fieldPath: "metadata.labels['version']"}}}}
"#
    )
}

/// Three errors in a row, and the endpoint is out for five seconds.
fn three_in_a_row(mesh: &Writer, name: &str) {
    mesh.apply(
        "us",
        &format!(
            r"
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: {name}, namespace: default}}
spec:
  host: {name}
  trafficPolicy:
    outlierDetection:
      consecutive5xxErrors: 3
      interval: 1s
      baseEjectionTime: 5s
      maxEjectionPercent: 100
"
        ),
    );
    eventually("the rule is in force", || {
        let host = format!("{name}.default.svc.cluster.local");
        let clusters = mesh.isthmus(&[
            "proxy-config",
            "cluster",
            "us/sleep.default",
            "--fqdn",
            &host,
            "-o",
            "json",
        ]);
        let there = clusters.stdout.contains("\"consecutive_5xx\"");
        there.then_some(()).ok_or(clusters.stdout)
    });
}

/// Makes one pod answer errors, or ends it, as somebody in the pod does.
fn failing(mesh: &Mesh, pod: &str, code: &str) {
    let url = format!("http://127.0.0.1:8080/failing/{code}");
    let told = mesh.fetch(pod, &url, &[]);
    assert_eq!(told.code, 0, "{told}");
}

fn hosts(mesh: &Mesh, name: &str, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    let url = format!("http://{name}:8000/hostname");
    let options = ["--count", "20", "--concurrency", "2", "--tally", "version"];
    eventually_json(
        what,
        || mesh.fetch("us/sleep.default", &url, &options),
        |summary| wanted(summary),
    )
}

fn all_good(summary: &Value) -> bool {
    summary["statuses"]["200"] == 20
}

/// One of two pods, wherever they are, begins to fail and ends it.
fn is_ejected_and_let_back(mesh: &Writer, name: &str, cluster: &str) {
    three_in_a_row(mesh, name);
    let shared = |s: &Value| all_good(s) && of(s, "v1") > 0 && of(s, "v2") > 0;
    // Seen from beside them first: a connection through a gateway leads to one pod for about a minute, and
    // the first of them should have both to choose from.
    let beside = format!("{cluster}/sleep.default");
    let url = format!("http://{name}:8000/hostname");
    let options = ["--count", "20", "--close", "--tally", "version"];
    eventually_json("both are there", || mesh.fetch(&beside, &url, &options), shared);
    let gateway = format!("{cluster}/istio-eastwestgateway.istio-system");
    let sealed = format!("outbound_.8000_._.{name}.");
    let passed_on = [
        "proxy-config",
        "endpoint",
        &gateway,
        "--cluster",
        &sealed,
        "-o",
        "json",
    ];
    eventually_json(
        "the gateway before them knows both",
        || mesh.isthmus(&passed_on),
        |endpoints| endpoints.as_array().is_some_and(|all| all.len() == 2),
    );
    hosts(mesh, name, "both answer", shared);
    let pod = format!("{cluster}/{name}-v2.default");
    failing(mesh, &pod, "500");
    hosts(mesh, name, "the other one answers everything", |s| {
        all_good(s) && of(s, "v1") == 20
    });
    failing(mesh, &pod, "off");
    hosts(mesh, name, "it is let back", shared);
}

#[test]
fn a_pod_that_answers_errors_is_left_out_and_let_back() {
    let mesh = Mesh::exclusive();
    mesh.apply("us", &httpbin("near", &["v1", "v2"]));
    is_ejected_and_let_back(&mesh, "near", "us");
}

#[test]
fn a_pod_behind_the_gateway_is_left_out_and_let_back_and_the_gateway_stays() {
    let mesh = Mesh::exclusive();
    mesh.apply("eu", &httpbin("far", &["v1", "v2"]));
    is_ejected_and_let_back(&mesh, "far", "eu");
}

#[test]
fn the_only_pod_behind_the_gateway_fails_and_the_gateway_stays() {
    let mesh = Mesh::exclusive();
    mesh.apply("eu", &httpbin("far", &["v1"]));
    three_in_a_row(&mesh, "far");
    hosts(&mesh, "far", "it answers", all_good);
    let fetch = |path: &str| {
        let url = format!("http://far:8000{path}");
        mesh.fetch_json("us/sleep.default", &url, &["--count", "30"])
    };
    let failing = fetch("/status/500");
    assert_eq!(
        failing["statuses"]["500"], 30,
        "the pod's own answers, not the proxy's: {failing:#}"
    );
    let healthy = fetch("/get");
    assert_eq!(healthy["statuses"]["200"], 30, "{healthy:#}");
}
