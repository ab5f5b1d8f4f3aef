//! `localityLbSetting`: who is preferred, who shares, who follows whom.

use serde_json::Value;

use crate::harness::{Mesh, Output, THREE_CLUSTERS, Writer, eventually_json};
use crate::load::of;

const REVIEWS: &str = "http://reviews:9080/reviews/0";

#[test]
fn distribute_shares_between_regions_within_the_bounds_of_chance() {
    let mesh = Mesh::exclusive();
    mesh.apply(
        "us",
        r"
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: reviews, namespace: default}
spec:
  host: reviews
  trafficPolicy:
    loadBalancer:
      localityLbSetting:
        distribute:
        - from: us/*
          to: {us/*: 70, eu/*: 30}
    outlierDetection: {consecutive5xxErrors: 5, interval: 1s, baseEjectionTime: 5s}
",
    );
    let fetch = |count: &str| {
        let options = ["--count", count, "--concurrency", "4", "--tally", "clustername"];
        mesh.fetch("us/sleep.default", REVIEWS, &options)
    };
    eventually_json(
        "the shares are in force",
        || fetch("40"),
        |summary| of(summary, "us") > 0 && of(summary, "eu") > 0,
    );
    let summary = fetch("1000").json();
    assert_eq!(summary["statuses"]["200"], 1000, "{summary:#}");
    // 300 expected with a standard deviation of 14.5: five of them on either side.
    assert!((227..=373).contains(&of(&summary, "eu")), "{summary:#}");
    assert_eq!(of(&summary, "us") + of(&summary, "eu"), 1000, "{summary:#}");
    // Callers elsewhere are not meant.
    let options = ["--count", "40", "--tally", "clustername"];
    let elsewhere = mesh.fetch_json("eu/sleep.default", REVIEWS, &options);
    assert_eq!(of(&elsewhere, "eu"), 40, "{elsewhere:#}");
}

/// A service with a pod in every cluster, each of which is a region.
const PLACES: &str = r"
apiVersion: v1
kind: Service
metadata: {name: places, namespace: default}
spec:
  selector: {app: places}
  ports:
  - {name: http, port: 8000, targetPort: 8080}
";

fn place(region: &str) -> String {
    format!(
        r#"
apiVersion: apps/v1
kind: Deployment
metadata: {{name: places-{region}, namespace: default}}
spec:
  replicas: 1
  selector: {{matchLabels: {{app: places, version: {region}}}}}
  template:
    metadata:
      labels: {{app: places, version: {region}}}
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

fn answering(mesh: &Writer, what: &str, wanted: impl Fn(&Value) -> bool) {
    let fetch = || -> Output {
        let options = ["--count", "20", "--close", "--tally", "version"];
        mesh.fetch("us/sleep.default", "http://places:8000/hostname", &options)
    };
    eventually_json(what, fetch, |summary| {
        summary["statuses"]["200"] == 20 && wanted(summary)
    });
}

#[test]
fn failover_names_the_region_that_follows() {
    let mesh = THREE_CLUSTERS.exclusive();
    for region in ["us", "eu", "ap"] {
        mesh.apply(region, PLACES);
        mesh.apply(region, &place(region));
    }
    answering(&mesh, "us is nearest", |s| of(s, "us") == 20);

    mesh.delete("us", "deployments", "default", "places-us");
    answering(&mesh, "without a word, eu and ap are equally far", |s| {
        of(s, "eu") > 0 && of(s, "ap") > 0 && of(s, "us") == 0
    });
    mesh.apply(
        "us",
        r"
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: places, namespace: default}
spec:
  host: places
  trafficPolicy:
    loadBalancer:
      localityLbSetting:
        failover: [{from: us, to: ap}]
    outlierDetection: {consecutive5xxErrors: 5, interval: 1s, baseEjectionTime: 5s}
",
    );
    answering(&mesh, "ap follows us", |s| of(s, "ap") == 20);
    mesh.delete("ap", "deployments", "default", "places-ap");
    answering(&mesh, "then whoever is left", |s| of(s, "eu") == 20);
    mesh.apply("us", &place("us"));
    answering(&mesh, "us is back", |s| of(s, "us") == 20);
}

#[test]
fn distribute_and_failover_exclude_each_other() {
    let mesh = Mesh::exclusive();
    let refused = mesh.try_apply(
        "us",
        r"
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: reviews, namespace: default}
spec:
  host: reviews
  trafficPolicy:
    loadBalancer:
      localityLbSetting:
        distribute: [{from: us/*, to: {us/*: 70, eu/*: 30}}]
        failover: [{from: us, to: eu}]
",
    );
    assert_ne!(refused.code, 0, "{refused}");
    let said = format!("{}{}", refused.stdout, refused.stderr);
    assert!(
        said.contains("distribute and failover exclude each other"),
        "{refused}"
    );
}
