//! ServiceEntries whose endpoints are gateways of the mesh.

use crate::proxy::ProxyKind::Sidecar;
use crate::test_told::*;

const ECHO: &str = "outbound|80||echo.eu.mesh.local";

fn seed(endpoint: &str, annotations: &str) -> String {
    format!(
        "
apiVersion: networking.istio.io/v1beta1
kind: ServiceEntry
metadata: {{name: echo-eu-through-gateway, namespace: echo, annotations: {{{annotations}}}}}
spec:
  hosts: [echo.eu.mesh.local]
  addresses: [240.0.0.2/32]
  ports: [{{number: 80, name: http, protocol: HTTP}}]
  resolution: DNS
  location: MESH_EXTERNAL
  endpoints: [{{address: {endpoint}, ports: {{http: 15443}}, locality: eu}}]
"
    )
}

#[test]
fn the_seeds_entry_is_a_hop_to_the_service_behind() {
    let mut us = us();
    let told = us
        .apply(&seed("198.51.100.20", ""))
        .told(Sidecar, "sleep-1.default");
    let cluster = told.cluster(ECHO);
    let tls = upstream_tls(&cluster);
    assert_eq!(tls.sni, "outbound_.80_._.echo.echo.svc.cluster.local");
    assert_eq!(sans(&tls), ["=spiffe://corp.local/ns/echo/sa/echo"]);
    let assignment = cluster.load_assignment.unwrap();
    assert_eq!(addresses(&assignment), [("198.51.100.20:15443".to_owned(), 0, 1)]);
    let endpoint = &assignment.endpoints[0].lb_endpoints[0];
    assert!(
        metadata(
            endpoint.metadata.as_ref(),
            "envoy.transport_socket_match",
            "tlsMode"
        )
        .is_some()
    );
    assert!(metadata(endpoint.metadata.as_ref(), "isthmus", "gateway").is_some());
    // The Host stays, and the name resolves to the address that the user gave.
    let route = &told.routes("80", "echo.eu.mesh.local")[0];
    assert_eq!(route_clusters(route).keys().collect::<Vec<_>>(), [ECHO]);
    assert_eq!(told.names_of().table["echo.eu.mesh.local"].ips, ["240.0.0.2"]);
    let findings = us
        .snapshot()
        .findings
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>();
    assert!(
        findings
            .iter()
            .any(|f| f.contains("ISM0103") && f.contains("test.yaml:")),
        "{findings:?}"
    );
}

#[test]
fn a_gateway_by_name_is_one_when_it_resolves_to_one() {
    let mut us = us();
    us.apply(&seed("gw.eu.example", "isthmus.io/other: x"));
    let name: isthmus_model::Hostname = "gw.eu.example".parse().unwrap();
    us.resolved
        .insert(name, ["198.51.100.20".parse().unwrap()].into());
    let tls = upstream_tls(&us.told(Sidecar, "sleep-1.default").cluster(ECHO));
    assert_eq!(tls.sni, "outbound_.80_._.echo.echo.svc.cluster.local");
    assert!(us.snapshot().findings.iter().all(|f| f.code.id != "ISM0101"));
}

#[test]
fn an_unknown_address_is_told_and_taken_only_when_the_target_is_known_or_named() {
    let code = |us: &mut Member| us.snapshot().findings.iter().any(|f| f.code.id == "ISM0101");
    let mut known = us();
    known.apply(&seed("203.0.113.77", ""));
    assert!(code(&mut known));
    assert!(
        known
            .told(Sidecar, "sleep-1.default")
            .cluster(ECHO)
            .transport_socket_matches
            .len()
            == 2
    );

    let mut nowhere = Member::new("us");
    nowhere.apply(&node("us-1", "us", "us-a")).apply(&pod(
        "sleep-1",
        "default",
        "10.0.1.5",
        "us-1",
        "app: sleep",
    ));
    nowhere.apply(&seed("203.0.113.77", ""));
    assert!(code(&mut nowhere));
    assert!(
        nowhere
            .told(Sidecar, "sleep-1.default")
            .cluster(ECHO)
            .transport_socket_matches
            .is_empty()
    );

    nowhere.apply(&seed("203.0.113.77", "isthmus.io/target-service: echo.prod"));
    let tls = upstream_tls(&nowhere.told(Sidecar, "sleep-1.default").cluster(ECHO));
    assert_eq!(tls.sni, "outbound_.80_._.echo.prod.svc.cluster.local");
    assert_eq!(sans(&tls), ["spiffe://corp.local/ns/prod/sa/*"]);
}

#[test]
fn the_users_own_tls_wins() {
    let mut us = us();
    us.apply(&seed("198.51.100.20", "")).apply(
        "
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: echo, namespace: echo}
spec:
  host: echo.eu.mesh.local
  trafficPolicy: {tls: {mode: SIMPLE, sni: gw.example, subjectAltNames: [gw.example]}}
",
    );
    let cluster = us.told(Sidecar, "sleep-1.default").cluster(ECHO);
    assert!(cluster.transport_socket_matches.is_empty());
    let tls = upstream_tls(&cluster);
    assert_eq!(
        (tls.sni.as_str(), sans(&tls)),
        ("gw.example", vec!["=gw.example".to_owned()])
    );
}

#[test]
fn the_legacy_global_entry_leads_to_name_and_namespace() {
    let mut us = us();
    us.apply(
        "
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: httpbin-bar, namespace: default}
spec:
  hosts: [httpbin.bar.global]
  location: MESH_INTERNAL
  ports: [{name: http1, number: 8000, protocol: http}]
  resolution: DNS
  addresses: [240.0.0.9]
  endpoints: [{address: 198.51.100.20, ports: {http1: 15443}}]
",
    );
    let told = us.told(Sidecar, "sleep-1.default");
    let tls = upstream_tls(&told.cluster("outbound|8000||httpbin.bar.global"));
    assert_eq!(tls.sni, "outbound_.8000_._.httpbin.bar.svc.cluster.local");
    assert_eq!(told.names_of().table["httpbin.bar.global"].ips, ["240.0.0.9"]);
    let route = &told.routes("8000", "httpbin.bar.global")[0];
    assert_eq!(
        route_clusters(route).keys().collect::<Vec<_>>(),
        ["outbound|8000||httpbin.bar.global"]
    );
}

#[test]
fn tls_ports_are_never_hops_and_a_port_without_counterpart_is_told() {
    let mut us = us();
    us.apply(
        "
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: sealed, namespace: echo}
spec:
  hosts: [echo.sealed.example]
  addresses: [240.0.0.3]
  ports: [{name: tls, number: 443, protocol: TLS}]
  resolution: STATIC
  endpoints: [{address: 198.51.100.20, ports: {tls: 15443}}]
",
    );
    assert!(
        us.snapshot()
            .registry
            .services
            .values()
            .all(|s| s.hops.is_empty())
    );
    us.apply(&service(
        "echo",
        "echo",
        "10.0.0.9",
        "{name: a, port: 1}, {name: b, port: 2}",
    ));
    us.apply(
        &seed("198.51.100.20", "")
            .replace("number: 80, name: http", "number: 81, name: web")
            .replace("{http: 15443}", "{web: 15443}"),
    );
    // eu's echo has port 80, us's has 1 and 2: none is 81, none is called web.
    let findings: Vec<_> = us.snapshot().findings.iter().map(|f| f.code.id).collect();
    assert!(findings.contains(&"ISM0102"), "{findings:?}");
}
