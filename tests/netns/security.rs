//! Who may talk to whom: mutual TLS required or not, and rules on identities.

use crate::harness::{Mesh, Output, Writer, eventually};

/// A pod of us without a sidecar: whatever it sends is plaintext.
const OUTSIDER: &str = r"
apiVersion: v1
kind: Namespace
metadata: {name: legacy}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: default, namespace: legacy}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: outsider, namespace: legacy}
spec:
  selector: {matchLabels: {app: outsider}}
  template:
    metadata: {labels: {app: outsider}}
    spec:
      containers:
      - name: sleep
        image: docker.io/isthmus/samples:sleep
";

const DETAILS: &str = "http://details.default:9080/details/0";

fn outsider(mesh: &Writer) {
    mesh.apply("us", OUTSIDER);
    eventually("the pod without a sidecar runs", || {
        let output = mesh.exec("us/outsider", &["true"]);
        (output.code == 0).then_some(()).ok_or_else(|| output.to_string())
    });
}

fn status(output: &Output) -> Option<u16> {
    output.stdout.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok()
}

/// The status of a request that is sent until it is as wanted.
fn eventually_answers(mesh: &Mesh, from: &str, url: &str, wanted: u16) -> Output {
    eventually(&format!("{wanted} for {url} from {from}"), || {
        let output = mesh.fetch(from, url, &["-i", "--close"]);
        if output.code == 0 && status(&output) == Some(wanted) {
            Ok(output)
        } else {
            Err(output.to_string())
        }
    })
}

/// The request never becomes HTTP: the connection is refused or closed.
fn eventually_refused(mesh: &Mesh, from: &str, url: &str) {
    eventually(&format!("{url} is refused to {from}"), || {
        let output = mesh.fetch(from, url, &["-i", "--close"]);
        (output.code != 0).then_some(()).ok_or_else(|| output.to_string())
    });
}

#[test]
fn permissive_takes_plaintext_and_strict_refuses_it() {
    let mesh = Mesh::exclusive();
    outsider(&mesh);
    eventually_answers(&mesh, "us/outsider", DETAILS, 200);
    eventually_answers(&mesh, "us/sleep.default", DETAILS, 200);

    mesh.apply("us", include_str!("../../samples/scenarios/strict-mtls.yaml"));
    eventually_refused(&mesh, "us/outsider", DETAILS);
    eventually_answers(&mesh, "us/sleep.default", DETAILS, 200);
    // A caller of the other cluster comes with mutual TLS as well.
    eventually_answers(&mesh, "eu/sleep.default", DETAILS, 200);
}

#[test]
fn only_the_productpage_may_ask_reviews() {
    let mesh = Mesh::exclusive();
    let reviews = "http://reviews:9080/reviews/0";
    eventually_answers(&mesh, "us/sleep.default", reviews, 200);
    mesh.apply(
        "us",
        include_str!("../../samples/scenarios/allow-productpage.yaml"),
    );
    let refused = eventually_answers(&mesh, "us/sleep.default", reviews, 403);
    assert!(refused.stdout.contains("RBAC: access denied"), "{refused}");
    eventually_answers(&mesh, "us/productpage-v1", reviews, 200);
    // The rule names the method too.
    let post = mesh.fetch("us/productpage-v1", reviews, &["-i", "-X", "POST"]);
    assert_eq!(status(&post), Some(403), "{post}");
}

#[test]
fn a_caller_of_another_cluster_is_known_by_its_own_name() {
    let mesh = Mesh::exclusive();
    let details = "http://details:9080/details/0";
    eventually_answers(&mesh, "eu/sleep.default", details, 200);
    mesh.apply(
        "us",
        r"
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: details-without-sleep, namespace: default}
spec:
  selector: {matchLabels: {app: details}}
  action: DENY
  rules:
  - from:
    - source: {principals: [corp.local/ns/default/sa/sleep]}
",
    );
    eventually_answers(&mesh, "eu/sleep.default", details, 403);
    eventually_answers(&mesh, "eu/productpage-v1", details, 200);
}

#[test]
fn a_rule_that_is_not_enforced_is_refused_and_never_half_applied() {
    let mesh = Mesh::exclusive();
    let output = mesh.try_apply(
        "us",
        r"
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: with-a-typo, namespace: default}
spec:
  action: DENY
  rules:
  - from:
    - source: {principles: [corp.local/ns/default/sa/sleep]}
",
    );
    assert_eq!(output.code, 1, "{output}");
    assert!(output.stderr.contains("principles"), "{output}");
    let listed = mesh.isthmus(&["get", "authorizationpolicies", "--cluster", "us"]);
    assert!(!listed.stdout.contains("with-a-typo"), "{listed}");
}

/// Every way to say who may ask what, on the connection that it is about: one caller is let in, the other
/// is not. `ADDRESS` is that of the allowed caller's pod.
#[test]
fn every_source_and_condition_is_enforced() {
    let mesh = Mesh::exclusive();
    let (sleep, foo) = ("us/sleep.default", "us/sleep.foo");
    let all = mesh.status();
    let us = all["clusters"]
        .as_array()
        .and_then(|all| all.iter().find(|c| c["id"] == "us"))
        .expect("cluster us");
    let pod = us["pods"]
        .as_array()
        .and_then(|all| {
            all.iter()
                .find(|p| p["owner"] == "sleep" && p["namespace"] == "default")
        })
        .expect("the pod of sleep");
    let address = pod["address"].as_str().expect("its address");
    let token: &[&str] = &["-H", "x-token: good"];
    let forwarded: &[&str] = &["-H", "x-forwarded-for: 203.0.113.7"];
    let page: &[&str] = &[];
    // The rule, how it is asked so that it holds, and how so that it does not.
    type Asked<'a> = (&'a str, &'a [&'a str]);
    let rules: &[(&str, Asked<'_>, Asked<'_>)] = &[
        (
            "from: [{source: {serviceAccounts: [sleep]}}]",
            (sleep, page),
            (foo, page),
        ),
        (
            "from: [{source: {serviceAccounts: [foo/sleep]}}]",
            (foo, page),
            (sleep, page),
        ),
        (
            "from: [{source: {trustDomains: [corp.local], notServiceAccounts: [foo/sleep]}}]",
            (sleep, page),
            (foo, page),
        ),
        (
            "from: [{source: {ipBlocks: [ADDRESS]}}]",
            (sleep, page),
            (foo, page),
        ),
        (
            "from: [{source: {notIpBlocks: [ADDRESS/32]}}]",
            (foo, page),
            (sleep, page),
        ),
        (
            "from: [{source: {remoteIpBlocks: [203.0.113.0/24]}}]",
            (sleep, forwarded),
            (sleep, page),
        ),
        (
            "from: [{source: {notRemoteIpBlocks: [203.0.113.7]}}]",
            (sleep, page),
            (sleep, forwarded),
        ),
        // An alias counts as the mesh's own trust domain, and cluster.local always does.
        (
            "from: [{source: {principals: [old.local/ns/default/sa/sleep]}}]",
            (sleep, page),
            (foo, page),
        ),
        (
            "from: [{source: {principals: [cluster.local/ns/default/sa/sleep]}}]",
            (sleep, page),
            (foo, page),
        ),
        (
            "when: [{key: 'request.headers[x-token]', values: [go*]}]",
            (sleep, token),
            (sleep, page),
        ),
        (
            "when: [{key: 'request.headers[x-token]', notValues: ['*']}]",
            (sleep, page),
            (sleep, token),
        ),
        (
            "when: [{key: source.ip, values: [ADDRESS]}]",
            (sleep, page),
            (foo, page),
        ),
        (
            "when: [{key: remote.ip, values: [203.0.113.7]}]",
            (sleep, forwarded),
            (sleep, page),
        ),
        (
            "when: [{key: source.namespace, values: [foo]}]",
            (foo, page),
            (sleep, page),
        ),
        (
            "when: [{key: source.principal, values: ['*/ns/foo/sa/sleep']}]",
            (foo, page),
            (sleep, page),
        ),
        (
            "when: [{key: source.serviceAccount, notValues: [foo/sleep]}]",
            (sleep, page),
            (foo, page),
        ),
        (
            "{to: [{operation: {ports: ['9080']}}], when: [{key: destination.port, values: ['9080']}, {key: source.namespace, values: [foo]}]}",
            (foo, page),
            (sleep, page),
        ),
        (
            "{when: [{key: connection.sni, values: ['outbound_.9080_._.details.*']}, {key: source.namespace, values: [foo]}]}",
            (foo, page),
            (sleep, page),
        ),
    ];
    mesh.apply(
        "us",
        "
apiVersion: v1
kind: ConfigMap
metadata: {name: istio, namespace: istio-system}
data:
  mesh: |
    trustDomainAliases: [old.local]
",
    );
    for (rule, (allowed, with), (denied, without)) in rules {
        let rule = rule.replace("ADDRESS", address);
        mesh.apply(
            "us",
            &format!(
                "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {{name: one-rule, namespace: default}}
spec:
  selector: {{matchLabels: {{app: details}}}}
  rules:
  - {rule}
"
            ),
        );
        let ask = |from: &str, options: &[&str], wanted: u16| {
            eventually(&format!("{wanted} from {from} under {rule}"), || {
                let output = mesh.fetch(from, DETAILS, &[&["-i", "--close"], options].concat());
                (status(&output) == Some(wanted))
                    .then_some(())
                    .ok_or_else(|| output.to_string())
            });
        };
        ask(denied, without, 403);
        ask(allowed, with, 200);
        ask(denied, without, 403);
    }
}

#[test]
fn templates_of_paths_take_whole_segments() {
    let mesh = Mesh::exclusive();
    mesh.apply(
        "us",
        "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: templates, namespace: default}
spec:
  selector: {matchLabels: {app: details}}
  action: DENY
  rules: [{to: [{operation: {paths: ['/details/{*}/private/{**}']}}]}]
",
    );
    let url = |path: &str| format!("http://details.default:9080{path}");
    eventually_answers(&mesh, "us/sleep.default", &url("/details/0/private/a/b"), 403);
    eventually_answers(&mesh, "us/sleep.default", &url("/details/0"), 200);
    // Two segments are not one.
    let output = mesh.fetch("us/sleep.default", &url("/details/0/1/private/a"), &["-i"]);
    assert_ne!(status(&output), Some(403), "{output}");
}
