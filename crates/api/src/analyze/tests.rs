//! Small meshes with one thing wrong.

use super::{Elsewhere, analyze, analyze_within};
use crate::parse;

const REVIEWS: &str = "
apiVersion: v1
kind: Service
metadata: {name: reviews}
spec: {ports: [{name: http, port: 9080}]}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: reviews}
spec: {host: reviews, subsets: [{name: v1, labels: {version: v1}}]}
---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: public, namespace: istio-system}
spec:
  selector: {istio: ingressgateway}
  servers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: ['*.example.com']}]
";

/// Findings about REVIEWS and `more`, which begins on line 19.
fn found(more: &str) -> Vec<(u32, &'static str, String)> {
    let parsed = parse(&format!("{REVIEWS}---\n{}", more.trim_start()), "f.yaml");
    assert_eq!(parsed.findings, [], "the documents themselves are valid");
    analyze(&parsed.objects)
        .into_iter()
        .map(|f| (f.line, f.code.id, format!("{}; {}", f.message, f.remedy)))
        .collect()
}

fn service(spec: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: a}}\nspec:\n{spec}\n"
    )
}

#[track_caller]
fn one(more: &str, line: u32, code: &str, part: &str) {
    let all = found(more);
    assert!(
        matches!(all.as_slice(), [(l, c, m)] if *l == line && *c == code && m.contains(part)),
        "expected {line} {code} {part:?}, found {all:#?}"
    );
}

#[test]
fn a_mesh_in_order_has_no_findings() {
    assert_eq!(found(""), []);
    assert_eq!(
        found(&service(
            "  hosts: [reviews.default]\n  http: [{route: [{destination: {host: reviews, subset: v1}}]}]"
        )),
        []
    );
    let public = "  hosts: [shop.example.com]\n  gateways: [istio-system/public]\n  http: [{route: [{destination: {host: reviews.default.svc.cluster.local}}]}]";
    assert_eq!(found(&service(public)), []);
}

#[test]
fn references_that_lead_nowhere() {
    let to = |d: &str| {
        service(&format!(
            "  hosts: [reviews]\n  http:\n  - route:\n    - destination: {{{d}}}"
        ))
    };
    one(
        &to("host: reviews, subset: v11"),
        26,
        "IST0101",
        "did you mean v1?",
    );
    one(
        &to("host: reviws"),
        26,
        "IST0101",
        "nothing declares the host reviws.default.svc.cluster.local",
    );
    one(
        &to("host: reviews, port: {number: 80}"),
        26,
        "IST0101",
        "has no port 80",
    );
    let gateway = "  hosts: [shop.example.com]\n  gateways: [public]\n  http: [{route: [{destination: {host: reviews}}]}]";
    one(&service(gateway), 24, "IST0101", "write istio-system/public");
    let host = "  hosts: [shop.example.org]\n  gateways: [istio-system/public]\n  http: [{route: [{destination: {host: reviews}}]}]";
    one(
        &service(host),
        23,
        "IST0132",
        "no server of Gateway istio-system/public",
    );
}

#[test]
fn claims_that_conflict() {
    let route = "http: [{route: [{destination: {host: reviews}}]}]";
    let two = format!(
        "{}---\n{}",
        service(&format!("  hosts: [reviews]\n  {route}")),
        service(&format!(
            "  hosts: [reviews.default.svc.cluster.local]\n  {route}"
        ))
        .replace("name: a", "name: b")
    );
    one(&two, 30, "IST0109", "VirtualService default/a at f.yaml:23");
    let gateway = "apiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {name: second}\nspec:\n  selector: {istio: ingressgateway}\n  servers:\n  - port: {number: 80, name: h, protocol: HTTP}\n    hosts: ['*.example.com']\n";
    one(gateway, 26, "IST0145", "already");
    let entry = "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: b}\nspec:\n  hosts: [reviews.default.svc.cluster.local]\n  ports: [{number: 80, name: h, protocol: HTTP}]\n  resolution: DNS\n";
    one(entry, 23, "ISM0008", "Service default/reviews");
    let sidecar = "apiVersion: networking.istio.io/v1\nkind: Sidecar\nmetadata: {name: a}\nspec: {egress: [{hosts: [./*]}]}\n";
    one(
        &format!("{sidecar}---\n{}", sidecar.replace("name: a", "name: b")),
        27,
        "IST0111",
        "whole namespace",
    );
}

#[test]
fn rules_for_one_host_are_merged_and_what_is_left_out_is_said() {
    let rule = |name: &str, spec: &str| {
        format!(
            "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: {name}}}\nspec:\n  host: reviews\n{spec}"
        )
    };
    let policy = "  trafficPolicy: {loadBalancer: {simple: RANDOM}}\n";
    // One gives the policy, another a subset: nothing is lost.
    let merged = rule(
        "s",
        &format!("{policy}  subsets: [{{name: v2, labels: {{version: v2}}}}]\n"),
    );
    assert_eq!(found(&merged), []);
    let second = rule("t", policy);
    one(
        &format!("{merged}---\n{second}"),
        32,
        "ISM0011",
        "DestinationRule default/s at f.yaml:24 has a trafficPolicy",
    );
    // The older counts: reviews on line 11 defines v1.
    one(
        &rule("t", "  subsets:\n  - {name: v1, labels: {version: v9}}\n"),
        25,
        "ISM0011",
        "DestinationRule default/reviews at f.yaml:10 defines the subset \"v1\"",
    );
}

#[test]
fn hosts_of_other_clusters_are_known_or_waited_for() {
    let text = format!(
        "{REVIEWS}---\n{}",
        service(
            "  hosts: [echo.echo]\n  http: [{route: [{destination: {host: echo.echo.svc.cluster.local}}]}]"
        )
    );
    let objects = parse(&text, "f.yaml").objects;
    let codes = |elsewhere: &Elsewhere| -> Vec<&str> {
        analyze_within(&objects, elsewhere)
            .iter()
            .map(|f| f.code.id)
            .collect()
    };
    assert_eq!(codes(&Elsewhere::default()), ["IST0101"]);
    let waiting = Elsewhere {
        incomplete: true,
        ..Elsewhere::default()
    };
    assert_eq!(codes(&waiting), [""; 0]);
    let told = Elsewhere {
        hosts: [("echo.echo.svc.cluster.local".parse().unwrap(), vec![80])].into(),
        ..Elsewhere::default()
    };
    assert_eq!(codes(&told), [""; 0]);
}

#[test]
fn ports_that_are_ambiguous_or_unnamed() {
    let two = "apiVersion: v1\nkind: Service\nmetadata: {name: two}\nspec:\n  ports: [{name: http-a, port: 80}, {name: http-b, port: 81}]\n---\n";
    let to = service("  hosts: [two]\n  http:\n  - route: [{destination: {host: two}}]");
    one(&format!("{two}{to}"), 31, "IST0112", "ports [80, 81]");
    one(&two.replace("http-b", "web"), 23, "IST0118", "nor appProtocol");
}
