//! Gateways: servers of Gateway resources, and the passthrough between clusters.

use isthmus_xds::TypeUrl;

use crate::proxy::ProxyKind::Router;
use crate::test_told::*;

#[test]
fn an_east_west_gateway_passes_sealed_tls_by_name_to_its_own_network() {
    let mut us = us();
    us.apply(
        "
apiVersion: v1
kind: Service
metadata: {name: istiod, namespace: istio-system}
spec: {clusterIP: 10.0.0.15, selector: {app: istiod}, ports: [{name: https-dns, port: 15012}]}
---
apiVersion: v1
kind: Pod
metadata: {name: istiod-1, namespace: istio-system, labels: {app: istiod}}
spec: {containers: [{name: discovery, image: isthmus}]}
status: {phase: Running, podIP: 10.0.1.15, conditions: [{type: Ready, status: 'True'}]}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: reviews, namespace: default}
spec: {host: reviews, subsets: [{name: v1, labels: {version: v1}}]}
",
    );
    let told = us.told(Router, "eastwest-1.istio-system");
    let listener = told.listener("0.0.0.0_15443");
    let name = "outbound_.9080_._.reviews.default.svc.cluster.local";
    let matched = chain(&listener, name).filter_chain_match.as_ref().unwrap();
    assert_eq!(
        matched.server_names,
        [name, "outbound_.9080_._.reviews.default.global"]
    );
    assert_eq!(matched.application_protocols.len(), 5);
    assert_eq!(tcp_clusters(chain(&listener, name)), [(name.to_owned(), 1)]);
    chain(&listener, "outbound_.9080_.v1_.reviews.default.svc.cluster.local");
    assert!(
        listener.default_filter_chain.is_none(),
        "what no chain matches is closed"
    );

    let cluster = told.cluster(name);
    assert!(cluster.transport_socket.is_none() && cluster.transport_socket_matches.is_empty());
    // Own network alone: nothing circles between gateways.
    assert_eq!(told.endpoints(name), [("10.0.1.1:9080".to_owned(), 0, 1)]);
    // Control planes peer through here, although the control plane has no sidecar.
    let control = "outbound_.15012_._.istiod.istio-system.svc.cluster.local";
    assert_eq!(told.endpoints(control), [("10.0.1.15:15012".to_owned(), 0, 1)]);
}

const INGRESS: &str = "
apiVersion: v1
kind: Service
metadata: {name: ingress, namespace: istio-system}
spec:
  type: LoadBalancer
  clusterIP: 10.0.0.20
  selector: {istio: ingressgateway}
  ports:
  - {name: http, port: 80, targetPort: 8080}
  - {name: https, port: 443, targetPort: 8443}
  - {name: tls, port: 15443, targetPort: 15443}
status: {loadBalancer: {ingress: [{ip: 198.51.100.11}]}}
---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: bookinfo, namespace: default}
spec:
  selector: {istio: ingressgateway}
  servers:
  - {port: {number: 80, name: http, protocol: HTTP}, hosts: ['*.example.com']}
  - port: {number: 443, name: https, protocol: HTTPS}
    hosts: [shop.example.com]
    tls: {mode: SIMPLE, credentialName: shop}
  - port: {number: 15443, name: tls, protocol: TLS}
    hosts: ['*.local']
    tls: {mode: AUTO_PASSTHROUGH}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: bookinfo, namespace: default}
spec:
  hosts: [shop.example.com, elsewhere.org]
  gateways: [bookinfo]
  http:
  - match: [{uri: {prefix: /reviews}}]
    route: [{destination: {host: reviews}}]
";

#[test]
fn an_ingress_gateway_listens_on_its_pods_ports_and_serves_the_hosts_both_agree_on() {
    let mut us = us();
    us.apply(INGRESS).apply(&pod(
        "ingress-1",
        "istio-system",
        "10.0.1.20",
        "us-1",
        "istio: ingressgateway",
    ));
    let told = us.told(Router, "ingress-1.istio-system");
    assert_eq!(
        told.names(&TypeUrl::Lds),
        ["0.0.0.0_15443", "0.0.0.0_8080", "0.0.0.0_8443"]
    );
    let routes = told.routes("http.8080", "shop.example.com");
    let reviews = "outbound|9080||reviews.default.svc.cluster.local";
    assert_eq!(route_clusters(&routes[0]).keys().collect::<Vec<_>>(), [reviews]);
    let domains: Vec<_> = told
        .table("http.8080")
        .virtual_hosts
        .into_iter()
        .flat_map(|h| h.domains)
        .collect();
    assert_eq!(
        domains,
        ["shop.example.com"],
        "elsewhere.org is not the gateway's"
    );

    let tls = told.listener("0.0.0.0_8443");
    let chain = chain(&tls, "https.443.https.bookinfo.default");
    assert_eq!(
        chain.filter_chain_match.as_ref().unwrap().server_names,
        ["shop.example.com"]
    );
    told.routes("https.443.https.bookinfo.default", "shop.example.com");
    assert!(
        told.findings.iter().any(|f| f.contains("istio-system/shop")),
        "{:?}",
        told.findings
    );
    // An ingress gateway may carry the passthrough port, and others learn of it.
    assert!(
        told.listener("0.0.0.0_15443")
            .filter_chains
            .iter()
            .any(|c| c.name.contains("reviews"))
    );
    let told_to_peers = &us.snapshot().registry.exported.head.passthrough;
    assert_eq!(told_to_peers, &[("198.51.100.11".parse().unwrap(), 15443)]);
}

#[test]
fn certificates_go_only_to_proven_gateways_of_their_namespace() {
    let secret = "
apiVersion: v1
kind: Secret
metadata: {name: shop, namespace: istio-system}
type: kubernetes.io/tls
stringData: {tls.crt: CERT, tls.key: KEY}
";
    let mut us = us();
    us.apply(INGRESS).apply(secret).apply(&pod(
        "ingress-1",
        "istio-system",
        "10.0.1.20",
        "us-1",
        "istio: ingressgateway",
    ));
    let snapshot = us.snapshot();
    let mut gateway = proxy(&snapshot, Router, "ingress-1.istio-system");
    let told = Told::new(&snapshot, &gateway);
    assert_eq!(told.names(&TypeUrl::Sds), ["kubernetes://shop"]);
    assert!(told.findings.iter().all(|f| !f.contains("istio-system/shop")));
    gateway.identity = None;
    assert!(Told::new(&snapshot, &gateway).names(&TypeUrl::Sds).is_empty());
}
