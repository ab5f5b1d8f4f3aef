//! Clusters, their trust, and endpoints.

use std::net::IpAddr;
use std::time::Duration;

use super::super::cluster::{Balancer, Discovery, TransportSocket, UpstreamVersion};
use super::super::tls::{SanKind, SecretRef};
use super::{to_cluster, to_endpoints};

pub const OUTBOUND: &str = r#"
name: outbound|9080|v1|reviews.default.svc.cluster.local
type: EDS
eds_cluster_config:
  service_name: outbound|9080|v1|reviews.default.svc.cluster.local
  eds_config: { ads: {}, resource_api_version: V3 }
connect_timeout: 10s
lb_policy: LEAST_REQUEST
circuit_breakers:
  thresholds: [{ max_connections: 4294967295, max_pending_requests: 100, max_requests: 7, max_retries: 4294967295 }]
outlier_detection:
  consecutive_5xx: 7
  consecutive_gateway_failure: 3
  enforcing_consecutive_5xx: 100
  enforcing_consecutive_gateway_failure: 100
  enforcing_success_rate: 0
  interval: 1s
  base_ejection_time: 3s
  max_ejection_percent: 100
common_lb_config: { healthy_panic_threshold: {}, locality_weighted_lb_config: {} }
metadata:
  filter_metadata:
    istio:
      config: /apis/networking.istio.io/v1/namespaces/default/destination-rule/reviews
      services: [{ host: reviews.default.svc.cluster.local, name: reviews, namespace: default }]
    isthmus:
      failover: { connect_hedge_ms: 250, unacked_timeout_ms: 900 }
      outlier: { local_origin_only: true }
typed_extension_protocol_options:
  envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
    "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
    explicit_http_config: { http2_protocol_options: { max_concurrent_streams: 1000 } }
    common_http_protocol_options: { idle_timeout: 30s }
transport_socket_matches:
- name: tlsMode-istio
  match: { tlsMode: istio }
  transport_socket:
    name: envoy.transport_sockets.tls
    typed_config:
      "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext
      sni: outbound_.9080_.v1_.reviews.default.svc.cluster.local
      common_tls_context:
        alpn_protocols: [istio-peer-exchange, istio, h2]
        tls_params: { tls_minimum_protocol_version: TLSv1_2, tls_maximum_protocol_version: TLSv1_3 }
        tls_certificate_sds_secret_configs:
        - { name: default, sds_config: { api_config_source: { api_type: GRPC } } }
        combined_validation_context:
          default_validation_context:
            match_typed_subject_alt_names:
            - { san_type: URI, matcher: { exact: "spiffe://corp.local/ns/default/sa/reviews" } }
          validation_context_sds_secret_config: { name: ROOTCA }
- name: tlsMode-disabled
  match: {}
  transport_socket:
    name: envoy.transport_sockets.raw_buffer
    typed_config:
      "@type": type.googleapis.com/envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer
"#;

#[test]
fn an_outbound_cluster_of_istio() {
    let c = to_cluster(OUTBOUND).unwrap();
    assert!(matches!(&c.discovery, Discovery::Eds(n) if n.starts_with("outbound|9080|v1|")));
    assert_eq!(c.balancer, Balancer::LeastRequest { choices: 2 });
    assert_eq!(c.connect_timeout, Duration::from_secs(10));
    assert_eq!((c.limits.pending, c.limits.requests), (100, 7));
    assert_eq!(c.panic_threshold, 0.0);
    assert!(c.locality_weighted);
    let outlier = c.outlier.unwrap();
    assert_eq!(
        (outlier.consecutive_5xx, outlier.consecutive_gateway_failure),
        (7, 3)
    );
    assert_eq!(outlier.consecutive_local_origin_failure, 5);
    assert_eq!(&*c.service.unwrap().namespace, "default");
    assert_eq!(c.isthmus.connect_hedge, Some(Duration::from_millis(250)));
    assert_eq!(c.isthmus.unacked_timeout, Some(Duration::from_millis(900)));
    assert!(c.isthmus.local_origin_only);
    assert_eq!(c.http.version, UpstreamVersion::Http2);
    assert_eq!(c.http.max_concurrent_streams, 1000);
    assert_eq!(c.http.idle_timeout, Some(Duration::from_secs(30)));

    let TransportSocket::Matches(matches) = &c.transport else {
        panic!("{:?}", c.transport);
    };
    assert_eq!(
        matches[0].labels,
        vec![("tlsMode".to_owned(), "istio".to_owned())]
    );
    assert!(matches[1].labels.is_empty() && matches[1].tls.is_none());
    let tls = matches[0].tls.as_ref().unwrap();
    assert_eq!(tls.certificate, Some(SecretRef::Sds("default".into())));
    assert_eq!(tls.validation.trusted, Some(SecretRef::Sds("ROOTCA".into())));
    assert_eq!(tls.validation.sans[0].kind, SanKind::Uri);
    // Frames that this proxy does not exchange are not promised.
    assert_eq!(tls.alpn, vec![b"istio".to_vec(), b"h2".to_vec()]);
}

#[test]
fn inbound_dns_and_passthrough_clusters() {
    let inbound = to_cluster(
        r#"
name: inbound|9080||
type: ORIGINAL_DST
lb_policy: CLUSTER_PROVIDED
upstream_bind_config: { source_address: { address: 127.0.0.6, port_value: 0 } }
typed_extension_protocol_options:
  envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
    "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
    use_downstream_protocol_config: { http2_protocol_options: {} }
"#,
    )
    .unwrap();
    assert_eq!(
        inbound.source_address,
        Some("127.0.0.6".parse::<IpAddr>().unwrap())
    );
    assert_eq!(inbound.http.version, UpstreamVersion::Downstream);

    let gateway = to_cluster(
        r#"
name: outbound|80||echo.eu.mesh.local
type: STRICT_DNS
dns_refresh_rate: 60s
respect_dns_ttl: true
dns_lookup_family: V4_ONLY
load_assignment:
  cluster_name: outbound|80||echo.eu.mesh.local
  endpoints:
  - lb_endpoints: [{ endpoint: { address: { socket_address: { address: Gw.EU.example, port_value: 15443 } } } }]
"#,
    )
    .unwrap();
    let Discovery::StrictDns {
        endpoints, refresh, ..
    } = &gateway.discovery
    else {
        panic!("{:?}", gateway.discovery);
    };
    assert_eq!(*refresh, Duration::from_secs(60));
    let names: Vec<_> = crate::state::references::names(endpoints).collect();
    assert_eq!(&**names[0], "gw.eu.example");
}

#[test]
fn what_a_cluster_cannot_do_is_refused_by_field() {
    for (added, path) in [
        ("health_checks: [{}]", "health_checks"),
        ("lb_subset_config: {}", "lb_subset_config"),
        ("lb_policy: CLUSTER_PROVIDED", "lb_policy"),
        (
            "least_request_lb_config: { slow_start_config: { slow_start_window: 10s } }",
            "slow_start_config",
        ),
        ("connect_timeout: 0s", "connect_timeout"),
        ("upstream_config: { name: x }", "upstream_config"),
        (
            "outlier_detection: { enforcing_success_rate: 100 }",
            "outlier_detection.enforcing_success_rate",
        ),
        (
            "circuit_breakers: { thresholds: [{ retry_budget: {} }] }",
            "circuit_breakers.thresholds[0].retry_budget",
        ),
        (
            "metadata: { filter_metadata: { isthmus: { failover: { connect_hedge_ms: -1 } } } }",
            "metadata.filter_metadata[\"isthmus\"].failover.connect_hedge_ms",
        ),
        (
            "maglev_lb_config: { table_size: 10 }\nlb_policy: MAGLEV",
            "maglev_lb_config.table_size",
        ),
        (
            "transport_socket: { name: quic, typed_config: { \"@type\": type.googleapis.com/google.protobuf.Struct, value: {} } }",
            "transport_socket.typed_config",
        ),
    ] {
        let policy = if added.contains("lb_policy") {
            ""
        } else {
            "lb_policy: LEAST_REQUEST"
        };
        let yaml = format!("name: c\ntype: EDS\neds_cluster_config: {{}}\n{policy}\n{added}\n");
        let refusal = to_cluster(&yaml).unwrap_err();
        assert_eq!(refusal.path, path, "{refusal}");
    }
}

#[test]
fn trust_is_never_silently_left_out() {
    let context = |inner: &str| {
        to_cluster(&format!(
            r#"
name: c
type: EDS
eds_cluster_config: {{}}
transport_socket:
  name: tls
  typed_config:
    "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext
    common_tls_context: {{ {inner} }}
"#
        ))
    };
    for (inner, end) in [
        (
            "validation_context: { match_typed_subject_alt_names: [{ san_type: URI, matcher: { exact: a } }] }",
            "validation_context.match_typed_subject_alt_names",
        ),
        (
            "validation_context: { trusted_ca: { inline_string: nonsense } }",
            "validation_context.trusted_ca",
        ),
        (
            "validation_context: { crl: { inline_string: x } }",
            "validation_context.crl",
        ),
        (
            "validation_context: { verify_certificate_hash: [aa] }",
            "validation_context.verify_certificate_hash",
        ),
        (
            "tls_params: { tls_minimum_protocol_version: TLSv1_0 }",
            "tls_minimum_protocol_version",
        ),
        ("tls_params: { ecdh_curves: [P-521] }", "tls_params.ecdh_curves"),
        (
            "tls_params: { cipher_suites: [AES128-SHA] }",
            "tls_params.cipher_suites",
        ),
    ] {
        let refusal = context(inner).unwrap_err();
        assert!(refusal.path.ends_with(end), "{refusal}");
    }
    let known = context("tls_params: { cipher_suites: [ECDHE-RSA-AES256-GCM-SHA384, AES256-GCM-SHA384] }");
    assert!(known.is_ok(), "{:?}", known.err());
}

#[test]
fn endpoints_with_localities_gateways_and_labels() {
    let e = to_endpoints(
        r#"
cluster_name: outbound|80||echo
endpoints:
- locality: { region: eu, zone: eu-a }
  priority: 1
  load_balancing_weight: 30
  lb_endpoints:
  - endpoint: { address: { socket_address: { address: 198.51.100.9, port_value: 15443 } } }
    load_balancing_weight: 3
    health_status: HEALTHY
    metadata:
      filter_metadata:
        envoy.transport_socket_match: { tlsMode: istio }
        istio: { workload: ";;;;eu" }
        isthmus: { gateway: true, behind: 3, network: eu-net }
  - endpoint: { address: { socket_address: { address: "2001:db8::1", port_value: 80 } } }
    health_status: DRAINING
"#,
    )
    .unwrap();
    assert_eq!(e.overprovisioning, 140);
    let l = &e.localities[0];
    assert_eq!((l.priority, l.weight, l.locality.zone.as_str()), (1, 30, "eu-a"));
    assert_eq!(l.endpoints[0].gateway, Some(3));
    assert_eq!(l.endpoints[0].workload.as_deref(), Some(";;;;eu"));
    assert_eq!(l.endpoints[1].gateway, None);

    for (endpoint, path) in [
        (
            "{ endpoint: { address: { socket_address: { address: 10.0.0.1 } } } }",
            "endpoint.address",
        ),
        (
            "{ endpoint: { address: { socket_address: { address: 'no name', port_value: 1 } } } }",
            "endpoint.address.socket_address.address",
        ),
        (
            "{ endpoint: { address: { socket_address: { address: a, port_value: 70000 } } } }",
            "endpoint.address.socket_address.port_value",
        ),
        ("{ endpoint_name: x }", "endpoint_name"),
    ] {
        let yaml = format!("cluster_name: c\nendpoints: [{{ lb_endpoints: [{endpoint}] }}]");
        let refusal = to_endpoints(&yaml).unwrap_err();
        assert_eq!(
            refusal.path,
            format!("endpoints[0].lb_endpoints[0].{path}"),
            "{refusal}"
        );
    }
    let heavy = "{ load_balancing_weight: 4294967295, lb_endpoints: [] }";
    let refusal = to_endpoints(&format!("cluster_name: c\nendpoints: [{heavy}, {heavy}]")).unwrap_err();
    assert_eq!(refusal.path, "endpoints");
}
