//! Two clusters become one mesh by the lines that Istio's users type: helm with a values file, an IstioOperator for
//! the east-west gateway, Secret cacerts, a ServiceEntry. Then parts of them are killed.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::clusters::{Clusters, Turn};
use crate::first::ECHO_AND_SLEEP;
use crate::harness::eventually;

const VALUES: &str = r#"
global:
  meshID: training-mesh
  trustDomain: corp.local
  # We will override this network value per cluster during install
  network: us-net
pilot:
  env:
    PILOT_ENABLE_MULTINETWORK: "true"
"#;

const EAST_WEST: &str = r#"
apiVersion: install.istio.io/v1alpha1
kind: IstioOperator
metadata:
  name: eastwest-gw
  namespace: istio-system
spec:
  profile: empty
  components:
    ingressGateways:
    - name: istio-eastwestgateway
      enabled: true
      label: { istio: eastwestgateway }
      k8s:
        service: { type: LoadBalancer }
"#;

const SERVICE_ENTRY: &str = r#"
apiVersion: networking.istio.io/v1beta1
kind: ServiceEntry
metadata:
  name: echo-eu-through-gateway
  namespace: echo
spec:
  hosts:
  - echo.eu.mesh.local
  addresses:
  - 240.0.0.2/32
  ports:
  - number: 80
    name: http
    protocol: HTTP
  resolution: DNS
  location: MESH_EXTERNAL
  endpoints:
  - address: EU_EASTWEST_LB
    ports: { http: 15443 }
    locality: eu
"#;

fn write(dir: &Path, name: &str, text: &str) -> String {
    let path = dir.join(name);
    std::fs::write(&path, text).expect("a file can be written");
    path.display().to_string()
}

fn helm(clusters: &Turn, arguments: &[&str]) {
    let output = clusters.run("helm", arguments, "");
    assert_eq!(output.code, 0, "helm {}: {output}", arguments.join(" "));
}

/// Control plane, gateway and workloads of one cluster.
fn install(clusters: &Turn, cluster: &str, dir: &Path, certs: &str) {
    let charts = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../deploy/charts");
    let chart = |name: &str| charts.join(name).display().to_string();
    let (values, operator) = (
        write(dir, "values-istio.yaml", VALUES),
        write(dir, "eastwest.yaml", EAST_WEST),
    );
    clusters.kubectl(cluster, &["create", "namespace", "istio-system"]);
    let files = ["ca-cert.pem", "ca-key.pem", "root-cert.pem", "cert-chain.pem"]
        .map(|name| format!("--from-file={certs}/{cluster}/{name}"));
    let mut secret = vec!["create", "secret", "generic", "cacerts", "-n", "istio-system"];
    secret.extend(files.iter().map(String::as_str));
    clusters.kubectl(cluster, &secret);
    let context = format!("--kube-context={cluster}");
    let base = chart("base");
    helm(
        clusters,
        &[
            "upgrade",
            "--install",
            "istio-base",
            &base,
            "-n",
            "istio-system",
            "--create-namespace",
            &context,
        ],
    );
    let (istiod, network, name) = (
        chart("istiod"),
        format!("global.network={cluster}-net"),
        format!("global.multiCluster.clusterName={cluster}"),
    );
    helm(
        clusters,
        &[
            "upgrade",
            "--install",
            "istiod",
            &istiod,
            "-n",
            "istio-system",
            "-f",
            &values,
            &context,
            "--set",
            &network,
            "--set",
            &name,
            "--wait",
        ],
    );
    clusters.isthmus(&["install", "-y", "--context", cluster, "-f", &operator]);
    clusters.kubectl(cluster, &["create", "namespace", "echo"]);
    clusters.kubectl(
        cluster,
        &["label", "namespace", "echo", "istio-injection=enabled"],
    );
    clusters.apply(cluster, ECHO_AND_SLEEP);
}

/// Waits until a URL answers from a cluster; the answer.
fn answers_from(clusters: &Turn, url: &str, cluster: &str) -> String {
    eventually(&format!("{url} answers from {cluster}"), || {
        let answer = clusters
            .mesh()
            .exec("us/sleep.echo", &["curl", "-s", "-m", "5", url]);
        if answer.stdout.contains(&format!("echo from cluster {cluster}")) {
            return Ok(answer.stdout);
        }
        Err(answer.to_string())
    })
}

/// Breaks something while requests go from us to echo, none of which may fail.
fn under_load(clusters: &Turn, break_something: &dyn Fn()) {
    let mesh = clusters.mesh();
    let summary: Value = std::thread::scope(|scope| {
        let load = scope.spawn(|| {
            let options = ["--duration", "20", "--concurrency", "2", "--pause", "20"];
            mesh.fetch_json("us/sleep.echo", "http://echo.echo", &options)
        });
        break_something();
        load.join().expect("the load ends with a summary")
    });
    let statuses = summary["statuses"].as_object().expect("statuses");
    assert!(
        statuses.len() == 1 && statuses["200"].as_u64() > Some(100),
        "{summary:#}"
    );
}

#[test]
fn two_clusters_are_one_mesh_that_outlives_their_control_planes() {
    let clusters = Clusters::shared();
    let dir = tempfile::tempdir().expect("a directory");
    let certs = dir.path().join("certs").display().to_string();
    clusters.isthmus(&["certs", "root", "--dir", &certs]);
    clusters.isthmus(&["certs", "intermediate", "us", "eu", "--dir", &certs]);
    for cluster in ["us", "eu"] {
        install(&clusters, cluster, dir.path(), &certs);
    }
    for cluster in ["us", "eu"] {
        clusters.wait_for_pods(cluster, "echo", 2);
    }

    // By hand: a ServiceEntry that names the other cluster's gateway.
    let gateway = eventually("eu's gateway has an address", || {
        let said = clusters.kubectl(
            "eu",
            &[
                "get",
                "service",
                "istio-eastwestgateway",
                "-n",
                "istio-system",
                "-o",
                "jsonpath={.status.loadBalancer.ingress[0].ip}",
            ],
        );
        if said.is_empty() {
            Err("none".to_owned())
        } else {
            Ok(said)
        }
    });
    clusters.apply("us", &SERVICE_ENTRY.replace("EU_EASTWEST_LB", &gateway));
    let answer = answers_from(&clusters, "http://echo.eu.mesh.local", "eu");
    assert!(
        answer.contains("URI=spiffe://corp.local/ns/echo/sa/default"),
        "{answer}"
    );

    // Joined, a service that is in both clusters fails over to the other.
    let ca = dir.path().join("ca").display().to_string();
    clusters.isthmus(&["join", "-y", "us", "eu", "--ca-dir", &ca]);
    answers_from(&clusters, "http://echo.echo", "us");
    clusters.kubectl(
        "us",
        &["scale", "deployment", "echo", "-n", "echo", "--replicas=0"],
    );
    answers_from(&clusters, "http://echo.echo", "eu");

    // Requests to the other cluster go on while what steers them is killed: Kubernetes' own control plane, then
    // the mesh's.
    under_load(&clusters, &|| {
        for part in ["kube-controller-manager", "etcd", "kube-apiserver"] {
            clusters.isthmus(&["demo", "break", "kill", "us/control-plane.machine", "-c", part]);
        }
    });
    under_load(&clusters, &|| {
        for cluster in ["us", "eu"] {
            let istiod = format!("{cluster}/istiod.istio-system");
            clusters.isthmus(&["demo", "break", "kill", &istiod, "-c", "discovery"]);
        }
    });
    // And what is told afterwards takes effect.
    eventually("the API server answers", || {
        let said = clusters.run(
            "kubectl",
            &[
                "--context",
                "us",
                "scale",
                "deployment",
                "echo",
                "-n",
                "echo",
                "--replicas=1",
            ],
            "",
        );
        if said.code == 0 {
            Ok(())
        } else {
            Err(said.to_string())
        }
    });
    answers_from(&clusters, "http://echo.echo", "us");

    clusters.isthmus(&["unjoin", "-y", "us", "eu"]);
    for cluster in ["us", "eu"] {
        clusters.delete_namespace(cluster, "echo");
        let context = format!("--kube-context={cluster}");
        clusters.isthmus(&[
            "uninstall",
            "-y",
            "--context",
            cluster,
            "-f",
            &write(dir.path(), "eastwest.yaml", EAST_WEST),
        ]);
        helm(
            &clusters,
            &[
                "uninstall",
                "istiod",
                "istio-base",
                "-n",
                "istio-system",
                &context,
            ],
        );
        clusters.delete_namespace(cluster, "istio-system");
        let definitions = clusters.kubectl(cluster, &["get", "crds", "-o", "name"]);
        let ours: Vec<&str> = definitions.lines().filter(|l| l.ends_with(".istio.io")).collect();
        clusters.kubectl(cluster, &[&["delete"], ours.as_slice()].concat());
        let kinds =
            "mutatingwebhookconfigurations,validatingwebhookconfigurations,clusterroles,clusterrolebindings";
        let left = clusters.kubectl(cluster, &["get", kinds, "-o", "name"]);
        let left: Vec<&str> = left.lines().filter(|l| l.contains("isti")).collect();
        assert!(left.is_empty(), "{left:#?}");
    }
}
