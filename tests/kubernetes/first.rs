//! The shortest way into the mesh: install, label a namespace, create pods.

use crate::clusters::{Clusters, Turn};
use crate::harness::eventually;

pub const ECHO_AND_SLEEP: &str = r#"
apiVersion: apps/v1
kind: Deployment
metadata: {name: echo, namespace: echo}
spec:
  selector: {matchLabels: {app: echo}}
  template:
    metadata: {labels: {app: echo}}
    spec:
      containers:
      - name: echo
        image: isthmus/samples:echo
        ports: [{name: http, containerPort: 8080}]
---
apiVersion: v1
kind: Service
metadata: {name: echo, namespace: echo}
spec:
  selector: {app: echo}
  ports: [{name: http, port: 80, targetPort: http}]
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: sleep, namespace: echo}
spec:
  selector: {matchLabels: {app: sleep}}
  template:
    metadata: {labels: {app: sleep}}
    spec:
      containers: [{name: sleep, image: curlimages/curl, command: [sleep, infinity]}]
"#;

/// Metrics of the requests that a workload's sidecar has served.
fn served(clusters: &Turn, workload: &str) -> Vec<String> {
    let url = "http://127.0.0.1:15090/stats/prometheus";
    let page = clusters.mesh().exec(workload, &["isthmus", "fetch", url]);
    let lines = page.stdout.lines();
    lines
        .filter(|l| l.starts_with("istio_requests_total{") && l.contains(r#"reporter="destination""#))
        .map(str::to_owned)
        .collect()
}

#[test]
fn a_pod_gets_its_sidecar_and_reaches_a_service_by_mutual_tls() {
    let clusters = Clusters::shared();
    clusters.isthmus(&["install", "-y", "--context", "us", "--set", "profile=minimal"]);
    clusters.kubectl("us", &["create", "namespace", "echo"]);
    clusters.kubectl("us", &["label", "namespace", "echo", "istio-injection=enabled"]);
    clusters.apply("us", ECHO_AND_SLEEP);
    for pod in clusters.wait_for_pods("us", "echo", 2) {
        let names = ["initContainerStatuses", "containerStatuses"].map(|list| {
            let all = pod["status"][list].as_array().into_iter().flatten();
            all.filter_map(|c| c["name"].as_str())
                .collect::<Vec<_>>()
                .join(",")
        });
        assert!(names.iter().any(|n| n.contains("istio-proxy")), "{pod:#}");
    }
    let mesh = clusters.mesh();
    let answer = eventually("echo answers", || {
        let answer = mesh.exec("us/sleep.echo", &["curl", "-s", "-m", "5", "http://echo.echo"]);
        if answer.stdout.contains("echo from cluster us") {
            return Ok(answer.stdout);
        }
        Err(answer.to_string())
    });
    // The application saw who called, by the certificate of the caller's service account.
    assert!(
        answer.contains("URI=spiffe://cluster.local/ns/echo/sa/default"),
        "{answer}"
    );
    let served = served(&clusters, "us/echo.echo");
    assert!(
        !served.is_empty()
            && served
                .iter()
                .all(|l| l.contains(r#"connection_security_policy="mutual_tls""#)),
        "{served:#?}"
    );

    // What was installed goes again, and nothing else.
    clusters.delete_namespace("us", "echo");
    clusters.isthmus(&["uninstall", "-y", "--purge", "--context", "us"]);
    clusters.delete_namespace("us", "istio-system");
    let kinds =
        "mutatingwebhookconfigurations,validatingwebhookconfigurations,clusterroles,clusterrolebindings,crds";
    // The API server takes a moment to let go of a definition and its objects.
    eventually("nothing is left", || {
        let left = clusters.kubectl("us", &["get", kinds, "-o", "name"]);
        match left.lines().filter(|l| l.contains("isti")).collect::<Vec<_>>() {
            none if none.is_empty() => Ok(()),
            left => Err(format!("{left:#?}")),
        }
    });
}
