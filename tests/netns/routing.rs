//! Who answers: weights, subsets, headers, and changes of them under load.

use serde_json::Value;

use crate::harness::{Mesh, eventually, eventually_json};

const REVIEWS: &str = "http://reviews:9080/reviews/0";

/// A VirtualService that shares reviews between v1 in us and v3 in eu.
fn weights(v1: u32, v3: u32) -> String {
    format!(
        r"
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: reviews, namespace: default}}
spec:
  hosts: [reviews]
  http:
  - route:
    - destination: {{host: reviews, subset: v1}}
      weight: {v1}
    - destination: {{host: reviews, subset: v3}}
      weight: {v3}
"
    )
}

fn count(summary: &Value, version: &str) -> u64 {
    summary["tally"][version].as_u64().unwrap_or_default()
}

/// Every request had an answer, and the answer was 200.
fn nothing_lost(summary: &Value) {
    assert_eq!(summary["errors"], 0, "{summary:#}");
    assert_eq!(summary["statuses"]["200"], summary["requests"], "{summary:#}");
}

#[test]
fn local_reviews_are_preferred_and_shared_among_their_versions() {
    let mesh = Mesh::shared();
    eventually_json(
        "all reviews come from us",
        || {
            let options = ["--count", "60", "--close", "--tally", "served_by.version"];
            mesh.fetch("us/sleep.default", REVIEWS, &options)
        },
        |summary| {
            let (v1, v2) = (count(summary, "v1"), count(summary, "v2"));
            v1 + v2 == 60 && v1 >= 10 && v2 >= 10
        },
    );
}

#[test]
fn weights_hold_within_the_bounds_of_chance() {
    let mesh = Mesh::exclusive();
    mesh.apply("us", &weights(80, 20));
    eventually_json(
        "the weights are in force",
        || {
            let options = ["--count", "40", "--tally", "served_by.version"];
            mesh.fetch("us/sleep.default", REVIEWS, &options)
        },
        |summary| count(summary, "v2") == 0 && count(summary, "v3") > 0,
    );
    let options = [
        "--count",
        "1000",
        "--concurrency",
        "4",
        "--tally",
        "served_by.version",
    ];
    let summary = mesh.fetch_json("us/sleep.default", REVIEWS, &options);
    nothing_lost(&summary);
    // 200 expected with a standard deviation of 12.6: five of them on either side.
    let v3 = count(&summary, "v3");
    assert!((137..=263).contains(&v3), "{summary:#}");
    assert_eq!(count(&summary, "v1") + v3, 1000, "{summary:#}");
}

#[test]
fn a_changed_weight_loses_no_request() {
    let mesh = Mesh::exclusive();
    mesh.apply("us", &weights(100, 0));
    eventually_json(
        "all reviews are v1",
        || {
            let options = ["--count", "30", "--tally", "served_by.version"];
            mesh.fetch("us/sleep.default", REVIEWS, &options)
        },
        |summary| count(summary, "v1") == 30,
    );
    let load = mesh.meanwhile(
        "us/sleep.default",
        REVIEWS,
        &[
            "--duration",
            "12",
            "--concurrency",
            "4",
            "--pause",
            "5",
            "--tally",
            "served_by.version",
        ],
    );
    for (v1, v3) in [(50, 50), (20, 80), (0, 100)] {
        mesh.apply("us", &weights(v1, v3));
    }
    eventually_json(
        "all reviews are v3",
        || {
            let options = ["--count", "30", "--tally", "served_by.version"];
            mesh.fetch("us/sleep.default", REVIEWS, &options)
        },
        |summary| count(summary, "v3") == 30,
    );
    let summary = load.join().expect("the load ran to its end");
    nothing_lost(&summary);
    assert!(
        count(&summary, "v1") > 0 && count(&summary, "v3") > 0,
        "{summary:#}"
    );
    assert_eq!(count(&summary, "v2"), 0, "{summary:#}");
}

#[test]
fn a_header_chooses_the_subset() {
    let mesh = Mesh::exclusive();
    mesh.apply("us", include_str!("../../samples/scenarios/route-by-user.yaml"));
    for (who, version) in [("jason", "v2"), ("somebody", "v1")] {
        eventually_json(
            &format!("{who} sees {version}"),
            || {
                let user = format!("end-user: {who}");
                let options = ["--count", "20", "-H", &user, "--tally", "served_by.version"];
                mesh.fetch("us/sleep.default", REVIEWS, &options)
            },
            |summary| count(summary, version) == 20,
        );
    }
}

#[test]
fn a_subset_without_pods_answers_503_with_its_flag() {
    let mesh = Mesh::exclusive();
    // As in Istio, there is no access log until the MeshConfig asks for one.
    mesh.apply(
        "us",
        r#"
apiVersion: v1
kind: ConfigMap
metadata: {name: istio, namespace: istio-system}
data:
  mesh: |
    accessLogFile: /dev/stdout
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: ratings, namespace: default}
spec:
  hosts: [ratings]
  http:
  - route:
    - destination: {host: ratings, subset: none}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: ratings, namespace: default}
spec:
  host: ratings
  subsets:
  - name: none
    labels: {version: v99}
"#,
    );
    eventually("503 with the flag for no healthy upstream", || {
        let output = mesh.fetch("us/sleep.default", "http://ratings:9080/ratings/0", &["-i"]);
        let right =
            output.stdout.starts_with("HTTP/1.1 503") && output.stdout.contains("no healthy upstream");
        right.then_some(()).ok_or_else(|| output.to_string())
    });
    eventually("the access log says UH", || {
        mesh.fetch("us/sleep.default", "http://ratings:9080/ratings/0", &[]);
        let log = mesh.log("us", "default", "sleep", "istio-proxy");
        log.lines()
            .any(|line| line.contains("/ratings/0") && line.contains(" 503 UH "))
            .then_some(())
            .ok_or_else(|| log.lines().rev().take(5).collect::<Vec<_>>().join("\n"))
    });
}
