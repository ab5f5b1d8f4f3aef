//! Two clusters, installed as they come, are joined by one command; pods without sidecars learn the mesh's names.

use crate::clusters::{Clusters, Turn};
use crate::first::ECHO_AND_SLEEP;
use crate::harness::eventually;

fn install(clusters: &Turn, cluster: &str) {
    let network = format!("values.global.network={cluster}-net");
    let mut said = vec!["install", "-y", "--context", cluster];
    for set in [
        "profile=minimal",
        "values.global.meshID=mesh1",
        &network,
        "components.ingressGateways[0].name=istio-eastwestgateway",
        "components.ingressGateways[0].enabled=true",
        "components.ingressGateways[0].label.istio=eastwestgateway",
    ] {
        said.extend(["--set", set]);
    }
    clusters.isthmus(&said);
}

#[test]
fn clusters_that_know_nothing_of_each_other_are_joined_by_one_command() {
    let clusters = Clusters::shared();
    for cluster in ["us", "eu"] {
        install(&clusters, cluster);
    }
    let dir = tempfile::tempdir().expect("a directory");
    let ca = dir.path().join("ca").display().to_string();
    let said = clusters.isthmus(&["join", "us", "eu", "--dry-run", "--ca-dir", &ca]);
    assert!(said.contains("nothing was changed"), "{said}");
    let said = clusters.isthmus(&["join", "us", "eu", "-y", "--ca-dir", &ca]);
    assert!(
        said.contains("us: hears eu") && said.contains("eu: hears us"),
        "{said}"
    );

    // echo runs in eu alone; sleep of us, made after the join, reaches it by its name.
    for cluster in ["us", "eu"] {
        clusters.kubectl(cluster, &["create", "namespace", "echo"]);
        clusters.kubectl(
            cluster,
            &["label", "namespace", "echo", "istio-injection=enabled"],
        );
        clusters.apply(cluster, ECHO_AND_SLEEP);
        clusters.wait_for_pods(cluster, "echo", 2);
    }
    clusters.kubectl("us", &["delete", "deployment,service", "echo", "-n", "echo"]);
    eventually("echo answers from eu by its global name", || {
        let asked = ["curl", "-s", "-m", "5", "http://echo.echo.global"];
        let answer = clusters.mesh().exec("us/sleep.echo", &asked);
        let came = answer.stdout.contains("echo from cluster eu");
        came.then_some(()).ok_or_else(|| answer.to_string())
    });

    // A pod without a sidecar asks the cluster's DNS, which asks the control plane.
    let stub = ["dns", "stub-domains", "--context", "us", "--apply"];
    assert!(clusters.isthmus(&stub).contains("coredns configured"));
    assert!(clusters.isthmus(&stub).contains("coredns unchanged"));
    clusters.apply(
        "us",
        "apiVersion: v1\nkind: Pod\nmetadata: {name: plain, namespace: default}\nspec:\n  containers:\n  \
         - {name: plain, image: plain, command: [sleep, '600']}\n",
    );
    eventually("the cluster's DNS knows echo.echo.global", || {
        let asked = ["getent", "ahostsv4", "echo.echo.global"];
        let answer = clusters.mesh().exec("us/plain.default", &asked);
        answer
            .stdout
            .contains("240.240.")
            .then_some(())
            .ok_or_else(|| answer.to_string())
    });

    let secret = clusters.isthmus(&["create-remote-secret", "--context", "eu", "--name", "eu"]);
    assert!(
        secret.contains("name: istio-remote-secret-eu") && secret.contains("token: ey"),
        "{secret}"
    );

    clusters.isthmus(&["unjoin", "-y", "us", "eu"]);
    clusters.kubectl("us", &["delete", "pod", "plain", "-n", "default", "--now"]);
    for cluster in ["us", "eu"] {
        clusters.delete_namespace(cluster, "echo");
        clusters.isthmus(&["uninstall", "-y", "--purge", "--context", cluster]);
    }
}
