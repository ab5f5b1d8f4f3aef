//! What goes on while parts of the mesh are gone: control planes, and a pod that answers only errors.

use crate::harness::{Mesh, eventually};

#[test]
fn traffic_goes_on_while_both_control_planes_are_killed() {
    let mesh = Mesh::exclusive();
    let load = |url: &'static str| {
        mesh.meanwhile(
            "us/sleep.default",
            url,
            &["--duration", "12", "--concurrency", "2", "--pause", "20"],
        )
    };
    let (near, far) = (
        load("http://reviews:9080/reviews/0"),
        load("http://echo.eu.mesh.local/"),
    );
    for cluster in ["us", "eu"] {
        let istiod = format!("{cluster}/istiod.istio-system");
        mesh.break_with(&["kill", &istiod, "--container", "discovery"]);
    }
    for load in [near, far] {
        let summary = load.join().expect("the load ran to its end");
        assert_eq!(summary["errors"], 0, "{summary:#}");
        assert_eq!(summary["statuses"]["200"], summary["requests"], "{summary:#}");
    }
    eventually("every proxy is connected and in step again", || {
        let proxies = mesh.json(&["proxy-status", "-o", "json"]);
        let proxies = proxies.as_array().cloned().unwrap_or_default();
        let synced = proxies.iter().filter(|p| p["synced"] == true).count();
        if synced == proxies.len() && synced >= 19 {
            Ok(())
        } else {
            Err(format!("{synced} of {}", proxies.len()))
        }
    });
}

#[test]
fn a_pod_that_answers_errors_does_not_cost_the_gateway_before_it() {
    let mesh = Mesh::exclusive();
    mesh.apply(
        "us",
        r"
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: httpbin, namespace: foo}
spec:
  host: httpbin.bar.global
  trafficPolicy:
    outlierDetection: {consecutive5xxErrors: 3, interval: 1s, baseEjectionTime: 60s, maxEjectionPercent: 100}
",
    );
    eventually("the rule is in force", || {
        let clusters = mesh.isthmus(&[
            "proxy-config",
            "cluster",
            "us/sleep.foo",
            "--fqdn",
            "httpbin.bar.global",
            "-o",
            "json",
        ]);
        if clusters.stdout.contains("60s") {
            Ok(())
        } else {
            Err(clusters.stdout)
        }
    });
    let failing = mesh.fetch_json(
        "us/sleep.foo",
        "http://httpbin.bar.global:8000/status/500",
        &["--count", "30"],
    );
    assert_eq!(
        failing["statuses"]["500"], 30,
        "the pod's own answers, not the proxy's: {failing:#}"
    );
    let healthy = mesh.fetch_json(
        "us/sleep.foo",
        "http://httpbin.bar.global:8000/get",
        &["--count", "30"],
    );
    assert_eq!(healthy["statuses"]["200"], 30, "{healthy:#}");
}
