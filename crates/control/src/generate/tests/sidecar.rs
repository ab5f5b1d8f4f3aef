use isthmus_xds::TypeUrl;
use isthmus_xds::envoy::google::protobuf::value::Kind;

use crate::proxy::ProxyKind::Sidecar;
use crate::snapshot::Difference;
use crate::test_told::*;

const REVIEWS: &str = "outbound|9080||reviews.default.svc.cluster.local";

#[test]
fn a_service_is_reached_by_name_listener_route_cluster_and_endpoints() {
    let told = us().told(Sidecar, "sleep-1.default");

    let listener = told.listener("0.0.0.0_9080");
    assert_eq!(listener.bind_to_port.map(|b| b.value), Some(false));
    let chain = chain(&listener, "outbound_0.0.0.0_9080");
    assert!(
        http_manager(chain)
            .http_filters
            .last()
            .unwrap()
            .name
            .ends_with("router")
    );

    let host = told.host("9080", "reviews");
    for domain in [
        "reviews.default",
        "reviews.default.svc",
        "reviews.default.global",
        "10.0.0.1",
    ] {
        assert!(host.domains.iter().any(|d| d == domain), "{domain}");
    }
    assert_eq!(
        route_clusters(&host.routes[0]).keys().collect::<Vec<_>>(),
        [REVIEWS]
    );

    let cluster = told.cluster(REVIEWS);
    let tls = upstream_tls(&cluster);
    assert_eq!(tls.sni, "outbound_.9080_._.reviews.default.svc.cluster.local");
    assert_eq!(sans(&tls), ["=spiffe://corp.local/ns/default/sa/reviews"]);
    assert_eq!(
        tls.common_tls_context.unwrap().alpn_protocols,
        ["istio-http/1.1", "istio", "http/1.1"]
    );
    let outlier = cluster.outlier_detection.unwrap();
    assert_eq!(outlier.enforcing_consecutive_5xx.unwrap().value, 0);
    assert_eq!(
        outlier.enforcing_consecutive_local_origin_failure.unwrap().value,
        100
    );
}

#[test]
fn the_other_network_is_its_gateway_and_comes_second() {
    let told = us().told(Sidecar, "sleep-1.default");
    let expected = [
        ("10.0.1.1:9080".to_owned(), 0, 1),
        ("198.51.100.20:15443".to_owned(), 1, 2),
    ];
    assert_eq!(told.endpoints(REVIEWS), expected);
}

#[test]
fn distribute_overrides_failover_with_shares() {
    let mut us = us();
    us.apply(
        "
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: reviews, namespace: default}
spec:
  host: reviews
  trafficPolicy:
    loadBalancer:
      localityLbSetting:
        distribute: [{from: 'us/*', to: {'us/*': 70, 'eu/*': 30}}]
    outlierDetection: {consecutive5xxErrors: 3, maxEjectionPercent: 100}
  subsets: [{name: v2, labels: {version: v2}}]
",
    );
    let told = us.told(Sidecar, "sleep-1.default");
    assert!(
        told.endpoints(REVIEWS)
            .iter()
            .all(|(_, priority, _)| *priority == 0)
    );
    let outlier = told.cluster(REVIEWS).outlier_detection.unwrap();
    assert_eq!(outlier.consecutive_5xx.unwrap().value, 3);
    assert_eq!(outlier.max_ejection_percent.unwrap().value, 100);
    // v2 runs in eu alone, so only the gateway is left for the subset.
    let v2 = "outbound|9080|v2|reviews.default.svc.cluster.local";
    assert_eq!(told.endpoints(v2), [("198.51.100.20:15443".to_owned(), 0, 1)]);
    assert_eq!(
        upstream_tls(&told.cluster(v2)).sni,
        "outbound_.9080_.v2_.reviews.default.svc.cluster.local"
    );
}

#[test]
fn a_service_of_another_cluster_alone_has_a_name_and_an_address() {
    let told = us().told(Sidecar, "sleep-1.default");
    let names = told.names_of();
    let ips = &names.table["httpbin.bar.svc.cluster.local"].ips;
    assert!(ips[0].starts_with("240.240."), "{ips:?}");
    assert_eq!(&names.table["httpbin.bar.global"].ips, ips);
    assert_eq!(
        names.table["reviews.default.svc.cluster.local"].shortname,
        "reviews"
    );
    let routes = told.routes("8000", "httpbin.bar.global");
    let cluster = "outbound|8000||httpbin.bar.svc.cluster.local";
    assert_eq!(route_clusters(&routes[0]).keys().collect::<Vec<_>>(), [cluster]);
    assert_eq!(
        told.endpoints(cluster),
        [("198.51.100.20:15443".to_owned(), 0, 1)]
    );
}

#[test]
fn no_gateway_no_endpoint_and_a_finding() {
    let mut us = us();
    let mut eu = (*eu()).clone();
    let mut state = (*eu.registry.exported).clone();
    let mut head = (*state.head).clone();
    head.gateways.clear();
    state.head = head.into();
    eu.registry.exported = state.into();
    let told = us.hear(&eu).told(Sidecar, "sleep-1.default");
    assert_eq!(told.endpoints(REVIEWS), [("10.0.1.1:9080".to_owned(), 0, 1)]);
    assert!(
        told.findings
            .iter()
            .any(|f| f.contains("ISM0104") && f.contains("eu-net")),
        "{:?}",
        told.findings
    );
}

#[test]
fn tcp_and_undeclared_protocols_have_listeners_of_their_own() {
    let mut us = us();
    us.apply(&service("db", "default", "10.0.0.7", "{name: tcp, port: 5432}"))
        .apply(&service("odd", "default", "10.0.0.8", "{name: x, port: 7000}"));
    let told = us.told(Sidecar, "sleep-1.default");
    let db = told.listener("10.0.0.7_5432");
    let clusters = tcp_clusters(db.default_filter_chain.as_ref().unwrap());
    assert_eq!(
        clusters,
        [("outbound|5432||db.default.svc.cluster.local".to_owned(), 1)]
    );
    let odd = told.listener("10.0.0.8_7000");
    assert_eq!(
        odd.filter_chains[0]
            .filter_chain_match
            .as_ref()
            .unwrap()
            .application_protocols[1],
        "http/1.1"
    );
    assert!(
        told.names(&TypeUrl::Rds)
            .contains(&"odd.default.svc.cluster.local:7000".to_owned())
    );
}

#[test]
fn unknown_hosts_pass_or_are_refused() {
    let mut us = us();
    let open = us.told(Sidecar, "sleep-1.default");
    assert_eq!(open.host("9080", "*").name, "allow_any");
    us.apply(
        "
apiVersion: networking.istio.io/v1
kind: Sidecar
metadata: {name: default, namespace: default}
spec:
  egress: [{hosts: ['./*', 'istio-system/*']}]
  outboundTrafficPolicy: {mode: REGISTRY_ONLY}
",
    );
    let closed = us.told(Sidecar, "sleep-1.default");
    assert_eq!(closed.host("9080", "*").name, "block_all");
    let capture = closed.listener("virtualOutbound");
    assert_eq!(
        tcp_clusters(capture.default_filter_chain.as_ref().unwrap())[0].0,
        "BlackHoleCluster"
    );
    // Only the own namespace is imported.
    assert!(
        !closed
            .names(&TypeUrl::Cds)
            .iter()
            .any(|n| n.contains("httpbin.bar"))
    );
}

#[test]
fn endpoints_change_alone_and_resources_do_not_depend_on_chance() {
    let mut us = us();
    let first = us.snapshot();
    let told = Told::new(&first, &proxy(&first, Sidecar, "sleep-1.default"));
    let again = Told::new(&first, &proxy(&first, Sidecar, "sleep-1.default"));
    assert_eq!(told.resources, again.resources);
    assert_eq!(us.snapshot().differs_in(&first), Difference::None);

    let cluster = us.told(Sidecar, "sleep-1.default").cluster(REVIEWS);
    let ours = metadata(cluster.metadata.as_ref(), "isthmus", "failover");
    let Some(Kind::StructValue(failover)) = ours else {
        panic!("{ours:?}")
    };
    assert_eq!(
        failover.fields["connect_hedge_ms"].kind,
        Some(Kind::NumberValue(250.0))
    );
    let probes = cluster
        .upstream_connection_options
        .and_then(|o| o.tcp_keepalive)
        .and_then(|k| k.keepalive_time);
    assert_eq!(
        probes.map(|time| time.value),
        Some(1),
        "a peer that vanishes is noticed"
    );

    us.apply(&slice("10.0.1.1", true));
    let listed = us.snapshot();
    us.apply(&slice("10.0.1.1", false));
    assert_eq!(us.snapshot().differs_in(&listed), Difference::Endpoints);
}

fn slice(ip: &str, ready: bool) -> String {
    format!(
        "
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: reviews-1, namespace: default, labels: {{kubernetes.io/service-name: reviews}}}}
addressType: IPv4
endpoints: [{{addresses: [{ip}], conditions: {{ready: {ready}}}}}]
ports: [{{name: http, port: 9080}}]
"
    )
}

#[test]
fn a_gateway_with_a_name_is_followed_to_its_addresses() {
    let mut us = us();
    let mut eu = (*eu()).clone();
    let mut state = (*eu.registry.exported).clone();
    let mut head = (*state.head).clone();
    head.gateways[0].address = "eastwest.eu.example".parse().unwrap();
    state.head = head.into();
    eu.registry.exported = state.into();
    us.hear(&eu);
    let unresolved = us.told(Sidecar, "sleep-1.default").endpoints(REVIEWS);
    assert_eq!(unresolved, [("10.0.1.1:9080".to_owned(), 0, 1)]);
    let addresses = ["198.51.100.20", "198.51.100.21"].map(|ip| ip.parse().unwrap());
    us.resolved
        .insert("eastwest.eu.example".parse().unwrap(), addresses.into());
    let told = us.told(Sidecar, "sleep-1.default").endpoints(REVIEWS);
    let expected = [
        ("10.0.1.1:9080", 0, 2),
        ("198.51.100.20:15443", 1, 2),
        ("198.51.100.21:15443", 1, 2),
    ];
    assert_eq!(told, expected.map(|(a, p, w)| (a.to_owned(), p, w)));
}

#[test]
fn a_range_of_addresses_is_told_from_others_on_its_port() {
    let mut us = us();
    us.apply(
        "
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: databases, namespace: default}
spec:
  hosts: [databases.example.com]
  addresses: [192.0.2.0/25, 192.0.2.130]
  ports: [{number: 5432, name: tcp, protocol: TCP}]
  resolution: NONE
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: vaults, namespace: default}
spec:
  hosts: [vaults.example.com]
  addresses: [198.18.0.0/15]
  ports: [{number: 5432, name: tcp, protocol: TCP}]
  resolution: NONE
",
    );
    let told = us.told(Sidecar, "sleep-1.default");
    let listener = told.listener("0.0.0.0_5432");
    let ranges: Vec<_> = listener
        .filter_chains
        .iter()
        .map(|c| {
            let ranges = &c.filter_chain_match.as_ref().unwrap().prefix_ranges;
            let text = |r: &isthmus_xds::envoy::core::CidrRange| {
                format!("{}/{}", r.address_prefix, r.prefix_len.unwrap().value)
            };
            (
                ranges.iter().map(text).collect::<Vec<_>>().join(" "),
                tcp_clusters(c),
            )
        })
        .collect();
    let to = |host: &str| vec![(format!("outbound|5432||{host}.example.com"), 1)];
    assert_eq!(
        ranges,
        [
            ("192.0.2.0/25".to_owned(), to("databases")),
            ("198.18.0.0/15".to_owned(), to("vaults")),
        ]
    );
    assert_eq!(
        listener.default_filter_chain.as_ref().map(tcp_clusters),
        Some(vec![("PassthroughCluster".to_owned(), 1)])
    );
    // What has an address of its own as well has a listener there.
    let own = told.listener("192.0.2.130_5432");
    assert_eq!(
        own.default_filter_chain.as_ref().map(tcp_clusters),
        Some(to("databases"))
    );
}
