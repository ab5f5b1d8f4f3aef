//! Sidecars from the live webhook: what pods get, what they are told, how Jobs end, what is refused.

use crate::clusters::Clusters;
use crate::harness::eventually;

/// A service under STRICT whose probes nobody without a certificate could ask.
const STRICT_WEB: &str = r#"
apiVersion: v1
kind: Namespace
metadata: {name: bank, labels: {istio-injection: enabled}}
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: strict, namespace: bank}
spec: {mtls: {mode: STRICT}}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: bank}
spec: {selector: {app: web}, ports: [{name: http, port: 80, targetPort: 8080}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: bank}
spec:
  selector: {matchLabels: {app: web}}
  template:
    metadata:
      labels: {app: web}
      annotations: {prometheus.io/scrape: "true", prometheus.io/port: "8080"}
    spec:
      containers:
      - name: web
        image: isthmus/samples:echo
        ports: [{name: http, containerPort: 8080}]
        readinessProbe: {httpGet: {path: /, port: http}, periodSeconds: 1}
        livenessProbe: {tcpSocket: {port: 8080}, periodSeconds: 1}
---
apiVersion: v1
kind: Pod
metadata: {name: outside, namespace: bank, labels: {sidecar.istio.io/inject: "false"}}
spec:
  containers: [{name: sleep, image: busybox, command: [sleep, infinity]}]
"#;

/// Two Jobs that call it: one whose proxy the kubelet ends, one that ends its proxy itself.
const JOBS: &str = r#"
apiVersion: batch/v1
kind: Job
metadata: {name: native, namespace: bank}
spec:
  template:
    spec:
      restartPolicy: Never
      containers: [{name: call, image: curl, command: [curl, -sf, "http://web.bank/"]}]
---
apiVersion: batch/v1
kind: Job
metadata: {name: classic, namespace: bank}
spec:
  template:
    metadata:
      annotations:
        sidecar.istio.io/nativeSidecar: "false"
        proxy.istio.io/config: "holdApplicationUntilProxyStarts: true"
    spec:
      restartPolicy: Never
      containers:
      - name: call
        image: curl
        command: [sh, -c, "curl -sf http://web.bank/ && curl -sf -X POST http://127.0.0.1:15020/quitquitquit"]
"#;

/// A workload of a namespace that is not injected.
const CALLER: &str = r#"
apiVersion: apps/v1
kind: Deployment
metadata: {name: caller, namespace: plain}
spec:
  selector: {matchLabels: {app: caller}}
  template:
    metadata: {labels: {app: caller}}
    spec: {containers: [{name: sleep, image: busybox, command: [sleep, infinity]}]}
"#;

const ON_THE_NODES_NETWORK: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: node, namespace: bank}
spec:
  hostNetwork: true
  containers: [{name: sleep, image: busybox, command: [sleep, infinity]}]
"#;

#[test]
fn pods_get_sidecars_that_fit_them_and_users_hear_what_they_do_not_get() {
    let clusters = Clusters::shared();
    clusters.isthmus(&["install", "-y", "--context", "us", "--set", "profile=minimal"]);
    let us = |arguments: &[&str], input: &str| {
        let all: Vec<&str> = ["--context", "us"].iter().chain(arguments).copied().collect();
        clusters.run("kubectl", &all, input)
    };

    // The probes work where only the mesh may speak to the application.
    clusters.apply("us", STRICT_WEB);
    let pods = clusters.wait_for_pods("us", "bank", 2);
    let web = pods
        .iter()
        .find(|p| p["metadata"]["labels"]["app"] == "web")
        .expect("a pod of web");
    let app = &web["spec"]["containers"][0];
    assert_eq!(app["readinessProbe"]["httpGet"]["path"], "/app-health/web/readyz");
    assert_eq!(app["livenessProbe"]["httpGet"]["path"], "/app-health/web/livez");
    let mesh = clusters.mesh();
    let refused = mesh.exec("us/outside.bank", &["curl", "-s", "-m", "5", "http://web.bank/"]);
    assert!(
        refused.code != 0 && !refused.stdout.contains("echo from"),
        "{refused}"
    );
    // The sample's page is not one of metrics: the proxy's own are shown all the same.
    let ip = web["status"]["podIP"].as_str().expect("a pod has an address");
    let page = mesh.exec(
        "us/outside.bank",
        &["curl", "-s", &format!("http://{ip}:15020/stats/prometheus")],
    );
    assert!(
        page.stdout
            .contains("# the application's metrics at port 8080 cannot be had"),
        "{page}"
    );
    assert!(
        page.stdout.contains("envoy_control_plane_connected_state 1"),
        "{page}"
    );

    // Jobs end, the one because its sidecar ends after it, the other because it says so.
    clusters.apply("us", JOBS);
    for job in ["native", "classic"] {
        eventually(&format!("job {job} completes"), || {
            let arguments = [
                "get",
                "job",
                job,
                "-n",
                "bank",
                "-o",
                "jsonpath={.status.succeeded}",
            ];
            let output = us(&arguments, "");
            if output.stdout == "1" {
                return Ok(());
            }
            Err(us(
                &["describe", "pods", "-n", "bank", "-l", &format!("job-name={job}")],
                "",
            )
            .stdout)
        });
    }

    // What a pod does not get is said where it is created, and what cannot be meant is refused.
    let host = us(&["apply", "-f", "-"], ON_THE_NODES_NETWORK);
    assert!(
        host.code == 0
            && host
                .stderr
                .contains("Warning: no sidecar: it uses the node's network"),
        "{host}"
    );
    let run = |annotation: &str| {
        let annotations = format!("--annotations={annotation}");
        us(
            &[
                "-n",
                "bank",
                "run",
                "odd",
                "--image=busybox",
                &annotations,
                "--dry-run=server",
                "--command",
                "--",
                "true",
            ],
            "",
        )
    };
    let odd = run("sidecar.istio.io/proxyCpu=1");
    assert!(
        odd.code == 0 && odd.stderr.contains("did you mean sidecar.istio.io/proxyCPU?"),
        "{odd}"
    );
    let wrong = run("sidecar.istio.io/proxyCPU=much");
    assert!(
        wrong.code != 0 && wrong.stderr.contains("a quantity is expected"),
        "{wrong}"
    );

    // So is an object that `isthmus validate` refuses.
    let route = |weight: i32| {
        format!(
            "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: web, namespace: bank}}\nspec:\n  \
             hosts: [web]\n  http: [{{route: [{{destination: {{host: web}}, weight: {weight}}}]}}]\n"
        )
    };
    let refused = us(&["apply", "-f", "-"], &route(-4));
    assert!(
        refused.code != 0
            && refused
                .stderr
                .contains("the weight -4 is negative; write 0 or more"),
        "{refused}"
    );
    clusters.apply("us", &route(100));

    // Written into a file, the sidecar needs no webhook.
    clusters.kubectl("us", &["create", "namespace", "plain"]);
    let written = clusters.run("isthmus", &["kube-inject", "-f", "-", "--context", "us"], CALLER);
    assert_eq!(written.code, 0, "{written}");
    clusters.apply("us", &written.stdout);
    clusters.wait_for_pods("us", "plain", 1);
    let answer = mesh.exec("us/caller.plain", &["curl", "-s", "-m", "5", "http://web.bank/"]);
    assert!(
        answer
            .stdout
            .contains("URI=spiffe://cluster.local/ns/plain/sa/default"),
        "{answer}"
    );

    clusters.delete_namespace("us", "plain");
    clusters.delete_namespace("us", "bank");
    clusters.isthmus(&["uninstall", "-y", "--purge", "--context", "us"]);
}
