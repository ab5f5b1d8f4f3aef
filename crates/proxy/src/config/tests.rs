//! Conversion proved on resources shaped as Istio's control plane writes them, and on hostile ones.

use std::net::IpAddr;
use std::time::Duration;

use isthmus_xds::envoy::{cluster, endpoint, listener, route};
use isthmus_xds::text;
use prost::{Message, Name};

use super::cluster::{Balancer, Discovery, TransportSocket, UpstreamVersion};
use super::http_filter::{Abort, HttpFilter};
use super::listener::{AccessLogFormat, ClientCertHeader, NetworkFilter, Routes, Transport};
use super::matcher::{PathMatch, StringMatcher};
use super::rbac::{Permission, Principal, RbacAction};
use super::route::{Action, HeaderOperation, HostRewrite, PathRewrite, Target};
use super::tls::{SanKind, SecretRef};
use super::{Cluster, Endpoints, Listener, Refusal, RouteTable};

fn read<M: Message + Name + Default>(yaml: &str) -> M {
    text::read("test", yaml).unwrap_or_else(|e| panic!("{e}\n{yaml}"))
}

fn to_cluster(yaml: &str) -> Result<Cluster, Refusal> {
    Cluster::try_from(&read::<cluster::Cluster>(yaml))
}

fn to_listener(yaml: &str) -> Result<Listener, Refusal> {
    Listener::try_from(&read::<listener::Listener>(yaml))
}

fn to_routes(yaml: &str) -> Result<RouteTable, Refusal> {
    RouteTable::try_from(&read::<route::RouteConfiguration>(yaml))
}

fn to_endpoints(yaml: &str) -> Result<Endpoints, Refusal> {
    Endpoints::try_from(&read::<endpoint::ClusterLoadAssignment>(yaml))
}

const OUTBOUND: &str = r#"
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

const ROUTES: &str = r#"
name: "9080"
ignore_port_in_host_matching: true
virtual_hosts:
- name: reviews.default.svc.cluster.local:9080
  domains: [Reviews.default.svc.cluster.local, "*.wild.example", "*"]
  include_request_attempt_count: true
  routes:
  - name: canary
    match:
      path_separated_prefix: /api
      headers:
      - { name: End-User, string_match: { exact: jason } }
      - { name: ":method", string_match: { exact: GET } }
    route:
      weighted_clusters:
        clusters:
        - { name: a, weight: 80, request_headers_to_add: [{ header: { key: x-v, value: v1 }, append_action: OVERWRITE_IF_EXISTS_OR_ADD }] }
        - { name: b, weight: 20 }
      timeout: 0s
      prefix_rewrite: /v2
      host_rewrite_literal: other.example
      retry_policy:
        retry_on: connect-failure,refused-stream,unavailable,cancelled,retriable-status-codes
        num_retries: 2
        retriable_status_codes: [503]
        retry_host_predicate: [{ name: envoy.retry_host_predicates.previous_hosts }]
        host_selection_retry_max_attempts: "5"
      max_stream_duration: { max_stream_duration: 0s, grpc_timeout_header_max: 0s }
      request_mirror_policies: [{ cluster: shadow, runtime_fraction: { default_value: { numerator: 50 } } }]
    typed_per_filter_config:
      envoy.filters.http.fault:
        "@type": type.googleapis.com/envoy.extensions.filters.http.fault.v3.HTTPFault
        abort: { http_status: 418, percentage: { numerator: 10, denominator: HUNDRED } }
    request_headers_to_remove: [x-gone]
    metadata: { filter_metadata: { isthmus: { because: "VirtualService default/reviews reviews.yaml:3" } } }
  - match: { prefix: /old }
    redirect: { path_redirect: /new, response_code: PERMANENT_REDIRECT }
  - match: { safe_regex: { regex: "/r[0-9]+" } }
    route:
      cluster: c
      regex_rewrite: { pattern: { regex: "^/r([0-9]+)$" }, substitution: "/$/\\1" }
  - match: { prefix: / }
    direct_response: { status: 404, body: { inline_string: nothing here } }
"#;

#[test]
fn a_route_table_of_istio() {
    let t = to_routes(ROUTES).unwrap();
    assert!(t.ignore_port_in_host);
    assert_eq!(t.domains.exact.get("reviews.default.svc.cluster.local"), Some(&0));
    assert_eq!(t.domains.suffixes, vec![(".wild.example".to_owned(), 0)]);
    assert_eq!(t.domains.any, Some(0));
    let host = &t.virtual_hosts[0];
    let canary = &host.routes[0];
    assert!(matches!(&canary.matches.path, PathMatch::SeparatedPrefix(p) if p == "/api"));
    assert_eq!(canary.matches.headers[0].name, "end-user");
    assert!(canary.because.as_deref().unwrap().contains("reviews.yaml:3"));
    assert!(matches!(&canary.headers.request[0], HeaderOperation::Remove(n) if n == "x-gone"));
    let (Abort::Http(status), share) = canary.fault.as_ref().unwrap().abort.unwrap() else {
        panic!("no abort");
    };
    assert_eq!((status.as_u16(), share), (418, 100_000));
    let Action::Forward(f) = &canary.action else {
        panic!("{:?}", canary.action);
    };
    let Target::Weighted { clusters, total } = &f.target else {
        panic!("{:?}", f.target);
    };
    assert_eq!((*total, clusters[0].weight), (100, 80));
    assert!(matches!(&clusters[0].headers.request[0], HeaderOperation::Set(n, v) if n == "x-v" && v == "v1"));
    assert_eq!(f.timeout, None);
    assert_eq!(f.max_grpc_timeout, Some(Duration::MAX));
    assert!(matches!(&f.host_rewrite, Some(HostRewrite::Literal(h)) if h == "other.example"));
    assert_eq!(
        (f.mirrors[0].fraction, f.mirrors[0].shadow_suffix),
        (500_000, true)
    );
    let retry = f.retry.as_ref().unwrap();
    assert!(
        retry.on.connect_failure && retry.on.grpc_unavailable && retry.on.status_codes && !retry.on.reset
    );
    assert_eq!((retry.retries, retry.host_selection_attempts), (2, 5));
    assert!(retry.avoid_previous_hosts);

    let Action::Forward(f) = &host.routes[2].action else {
        panic!("{:?}", host.routes[2].action);
    };
    assert_eq!(f.timeout, Some(Duration::from_secs(15)), "Envoy's default");
    let Some(PathRewrite::Regex(regex, substitution)) = &f.path_rewrite else {
        panic!("{:?}", f.path_rewrite);
    };
    assert_eq!(regex.replace("/r7", substitution.as_str()), "/$/7");
    let Action::Respond(status, body) = &host.routes[3].action else {
        panic!("{:?}", host.routes[3].action);
    };
    assert_eq!((status.as_u16(), &body[..]), (404, &b"nothing here"[..]));
}

#[test]
fn what_a_route_cannot_do_is_refused_by_field() {
    for (route, path) in [
        (
            "{ match: { prefix: / }, route: { cluster: '' } }",
            "route.cluster",
        ),
        ("{ match: { prefix: / } }", "action"),
        ("{ route: { cluster: a } }", "match"),
        (
            "{ match: { safe_regex: { regex: '(' } }, route: { cluster: a } }",
            "match.safe_regex",
        ),
        // The anchors must not make a regular expression of what is none.
        (
            "{ match: { safe_regex: { regex: 'a)(b' } }, route: { cluster: a } }",
            "match.safe_regex",
        ),
        (
            "{ match: { safe_regex: { regex: '(a{1000}){1000}' } }, route: { cluster: a } }",
            "match.safe_regex",
        ),
        (
            "{ match: { prefix: /, cookies: [{ name: c, string_match: { exact: a } }] }, route: { cluster: a } }",
            "match.cookies",
        ),
        (
            "{ match: { prefix: / }, route: { cluster: a, retry_policy: { retry_on: sometimes } } }",
            "route.retry_policy.retry_on",
        ),
        (
            "{ match: { prefix: / }, route: { cluster: a, internal_redirect_policy: {} } }",
            "route.internal_redirect_policy",
        ),
        (
            "{ match: { prefix: / }, route: { weighted_clusters: { clusters: [{ name: a, weight: 0 }] } } }",
            "route.weighted_clusters.clusters",
        ),
        (
            "{ match: { prefix: / }, route: { weighted_clusters: { clusters: [{ name: a, weight: 4294967295 }, { name: b, weight: 1 }] } } }",
            "route.weighted_clusters.clusters",
        ),
        (
            "{ match: { prefix: / }, route: { cluster: a, timeout: { seconds: -1 } } }",
            "route.timeout",
        ),
        (
            "{ match: { prefix: / }, route: { cluster: a }, request_headers_to_add: [{ header: { key: ':path', value: / } }] }",
            "request_headers_to_add[0].header.key",
        ),
        (
            "{ match: { prefix: / }, route: { cluster: a, regex_rewrite: { pattern: { regex: a }, substitution: '\\2' } } }",
            "route.regex_rewrite.substitution",
        ),
        (
            "{ match: { prefix: / }, direct_response: { status: 99 } }",
            "direct_response.status",
        ),
        (
            "{ match: { prefix: / }, route: { cluster: a }, typed_per_filter_config: { x: { \"@type\": type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthzPerRoute } } }",
            "typed_per_filter_config[\"x\"]",
        ),
    ] {
        let route = route.replace("{ seconds: -1 }", "-1s");
        let yaml = format!("name: t\nvirtual_hosts: [{{ name: v, domains: ['*'], routes: [{route}] }}]");
        let refusal = to_routes(&yaml).unwrap_err();
        assert_eq!(
            refusal.path,
            format!("virtual_hosts[0].routes[0].{path}"),
            "{refusal}"
        );
    }
    let twice = "name: t\nvirtual_hosts: [{ name: a, domains: [x] }, { name: b, domains: [X] }]";
    assert_eq!(to_routes(twice).unwrap_err().path, "virtual_hosts[1].domains[0]");
}

const INBOUND: &str = r#"
name: virtualInbound
address: { socket_address: { address: 0.0.0.0, port_value: 15006 } }
traffic_direction: INBOUND
continue_on_listener_filters_timeout: true
listener_filters_timeout: 0s
listener_filters:
- { name: envoy.filters.listener.original_dst, typed_config: { "@type": type.googleapis.com/envoy.extensions.filters.listener.original_dst.v3.OriginalDst } }
- name: envoy.filters.listener.tls_inspector
  typed_config: { "@type": type.googleapis.com/envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector }
  filter_disabled: { or_match: { rules: [{ destination_port_range: { start: 3306, end: 3307 } }, { destination_port_range: { start: 3307, end: 3310 } }] } }
- name: envoy.filters.listener.http_inspector
  typed_config: { "@type": type.googleapis.com/envoy.extensions.filters.listener.http_inspector.v3.HttpInspector }
  filter_disabled: { not_match: { destination_port_range: { start: 80, end: 81 } } }
filter_chains:
- name: 0.0.0.0_9080
  filter_chain_match:
    destination_port: 9080
    transport_protocol: tls
    application_protocols: [istio, istio-peer-exchange, istio-http/1.0, istio-http/1.1, istio-h2]
  transport_socket:
    name: envoy.transport_sockets.tls
    typed_config:
      "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext
      require_client_certificate: true
      common_tls_context:
        alpn_protocols: [h2, http/1.1]
        tls_certificate_sds_secret_configs: [{ name: default }]
        combined_validation_context:
          default_validation_context: { match_typed_subject_alt_names: [{ san_type: URI, matcher: { prefix: "spiffe://corp.local/" } }] }
          validation_context_sds_secret_config: { name: ROOTCA }
  filters:
  - name: istio.metadata_exchange
    typed_config: { "@type": type.googleapis.com/google.protobuf.Empty, value: {} }
  - name: envoy.filters.network.http_connection_manager
    typed_config:
      "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
      stat_prefix: inbound_0.0.0.0_9080
      server_name: istio-envoy
      server_header_transformation: PASS_THROUGH
      forward_client_cert_details: APPEND_FORWARD
      set_current_client_cert_details: { subject: true, dns: true, uri: true }
      normalize_path: true
      upgrade_configs: [{ upgrade_type: websocket }]
      stream_idle_timeout: 0s
      tracing: { client_sampling: { value: 100 }, random_sampling: { value: 1 }, overall_sampling: { value: 100 } }
      access_log:
      - name: envoy.access_loggers.file
        typed_config: { "@type": type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog, path: /dev/stdout, log_format: { text_format_source: { inline_string: "%METHOD%\n" } } }
      route_config:
        name: inbound|9080||
        virtual_hosts: [{ name: inbound|http|9080, domains: ["*"], routes: [{ match: { prefix: / }, route: { cluster: inbound|9080||, timeout: 0s } }] }]
      http_filters:
      - name: envoy.filters.http.rbac
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC
          rules:
            action: DENY
            policies:
              ns[default]-policy[deny]-rule[0]:
                permissions: [{ and_rules: { rules: [{ or_rules: { rules: [{ header: { name: ":method", string_match: { exact: POST } } }, { url_path: { path: { prefix: /admin } } }] } }, { destination_port: 9080 }] } }]
                principals: [{ and_ids: { ids: [{ or_ids: { ids: [{ authenticated: { principal_name: { safe_regex: { regex: ".*/ns/bad/.*" } } } }] } }] } }]
      - { name: istio.stats, typed_config: { "@type": type.googleapis.com/google.protobuf.Empty, value: {} } }
      - { name: envoy.filters.http.router, typed_config: { "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router } }
- name: 0.0.0.0_9080-plain
  filter_chain_match: { destination_port: 9080, transport_protocol: raw_buffer }
  filters: [{ name: envoy.filters.network.tcp_proxy, typed_config: { "@type": type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy, stat_prefix: t, cluster: inbound|9080|| } }]
"#;

#[test]
fn the_virtual_inbound_listener_of_istio() {
    let l = to_listener(INBOUND).unwrap();
    assert!(l.bind && l.original_dst && !l.use_original_dst && l.inspect_tls && l.inspect_http);
    assert_eq!(l.sniff_timeout, Duration::MAX);
    assert_eq!(l.inspect_tls_except.0, vec![(3306, 3309)]);
    assert!(!l.inspect_http_except.contains(80) && l.inspect_http_except.contains(81));
    let secure = &l.chains[0];
    assert_eq!(secure.matches.transport, Some(Transport::Tls));
    let tls = secure.tls.as_ref().unwrap();
    assert!(tls.require_client_certificate);
    assert_eq!(tls.validation.sans.len(), 1);
    let NetworkFilter::Http(http) = &secure.network else {
        panic!("{:?}", secure.network);
    };
    assert_eq!(http.client_cert, ClientCertHeader::AppendForward);
    assert_eq!(http.stream_idle_timeout, None);
    assert_eq!(http.upgrades, vec!["websocket"]);
    assert_eq!(http.tracing.as_ref().unwrap().sampling, 10_000);
    assert!(matches!(&http.access_logs[0].format, AccessLogFormat::Text(t) if &**t == "%METHOD%\n"));
    assert!(matches!(&http.routes, Routes::Inline(t) if &*t.name == "inbound|9080||"));
    let [HttpFilter::Rbac(rbac), HttpFilter::Stats] = http.filters.as_slice() else {
        panic!("{:?}", http.filters);
    };
    let rules = rbac.rules.as_ref().unwrap();
    assert_eq!(rules.action, RbacAction::Deny);
    let policy = &rules.policies[0];
    assert!(matches!(&policy.permissions[0], Permission::And(all) if all.len() == 2));
    let Principal::And(all) = &policy.principals[0] else {
        panic!("{:?}", policy.principals);
    };
    let Principal::Or(any) = &all[0] else {
        panic!("{all:?}")
    };
    let Principal::Authenticated(Some(StringMatcher::Regex(regex))) = &any[0] else {
        panic!("{any:?}");
    };
    assert!(regex.is_match("spiffe://corp.local/ns/bad/sa/x") && !regex.is_match("x/ns/good/y"));
    assert!(l.chains[1].tls.is_none());
}

#[test]
fn what_a_listener_cannot_do_is_refused_by_field() {
    let tcp = "{ name: t, typed_config: { \"@type\": type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy, stat_prefix: t, cluster: c } }";
    let chain = |inner: &str| format!("filter_chains: [{{ filters: [{tcp}], {inner} }}]");
    for (rest, path) in [
        ("filter_chains: []".to_owned(), "filter_chains"),
        ("filter_chains: [{ filters: [] }]".to_owned(), "filter_chains[0].filters"),
        (
            format!("filter_chains: [{{ filters: [{tcp}, {tcp}] }}]"),
            "filter_chains[0].filters[1]",
        ),
        (
            format!("filter_chains: [{{ filters: [{tcp}] }}, {{ filters: [{tcp}] }}]"),
            "filter_chains[1].filter_chain_match",
        ),
        (
            chain("filter_chain_match: { source_ports: [1] }"),
            "filter_chains[0].filter_chain_match.source_ports",
        ),
        (
            chain("filter_chain_match: { server_names: ['a.*.b'] }"),
            "filter_chains[0].filter_chain_match.server_names[0]",
        ),
        (
            chain("filter_chain_match: { transport_protocol: quic }"),
            "filter_chains[0].filter_chain_match.transport_protocol",
        ),
        (
            chain("filter_chain_match: { prefix_ranges: [{ address_prefix: 10.0.0.0, prefix_len: 33 }] }"),
            "filter_chains[0].filter_chain_match.prefix_ranges[0].prefix_len",
        ),
        (
            "filter_chains: [{ filters: [{ name: w, typed_config: { \"@type\": type.googleapis.com/google.protobuf.Empty, value: {} } }] }]"
                .to_owned(),
            "filter_chains[0].filters[0]",
        ),
        (format!("transparent: true\n{}", chain("name: x")), "transparent"),
        (
            format!("additional_addresses: [{{}}]\n{}", chain("name: x")),
            "additional_addresses",
        ),
        (
            chain(
                "transport_socket: { name: tls, typed_config: { \"@type\": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext, require_client_certificate: true, common_tls_context: { tls_certificate_sds_secret_configs: [{ name: default }] } } }",
            ),
            "filter_chains[0].transport_socket.typed_config.require_client_certificate",
        ),
    ] {
        let yaml =
            format!("name: l\naddress: {{ socket_address: {{ address: 0.0.0.0, port_value: 80 }} }}\n{rest}");
        let refusal = to_listener(&yaml).unwrap_err();
        assert_eq!(refusal.path, path, "{refusal}");
    }
}

#[test]
fn what_an_http_manager_cannot_do_is_refused_by_field() {
    let router = "{ name: r, typed_config: { \"@type\": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router } }";
    let rbac = |principal: &str| {
        format!(
            "http_filters: [{{ name: b, typed_config: {{ \"@type\": type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC, rules: {{ policies: {{ p: {{ permissions: [{{ any: true }}], principals: [{principal}] }} }} }} }} }}, {router}]"
        )
    };
    for (rest, path) in [
        (format!("http_filters: [{router}, {router}]"), "http_filters[1]"),
        ("http_filters: []".to_owned(), "http_filters"),
        (
            format!(
                "http_filters: [{{ name: j, typed_config: {{ \"@type\": type.googleapis.com/envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication }} }}, {router}]"
            ),
            "http_filters[0]",
        ),
        (
            format!("http_filters: [{router}]\npath_with_escaped_slashes_action: UNESCAPE_AND_FORWARD"),
            "path_with_escaped_slashes_action",
        ),
        (
            format!("http_filters: [{router}]\nupgrade_configs: [{{ upgrade_type: CONNECT }}]"),
            "upgrade_configs[0].upgrade_type",
        ),
        (
            format!("http_filters: [{router}]\nmax_request_headers_kb: 0"),
            "max_request_headers_kb",
        ),
        (
            format!("http_filters: [{router}]\ncodec_type: HTTP3"),
            "codec_type",
        ),
        (
            rbac(
                "{ metadata: { filter: envoy.filters.http.jwt_authn, path: [{ key: iss }], value: { string_match: { exact: x } } } }",
            ),
            "http_filters[0].typed_config.rules.policies[\"p\"].principals[0].metadata",
        ),
        (
            rbac("{ not_id: { source_ip: { address_prefix: 10.0.0.0, prefix_len: 8 } } }"),
            "http_filters[0].typed_config.rules.policies[\"p\"].principals[0].not_id.source_ip",
        ),
    ] {
        let body: String = rest.lines().map(|l| format!("      {l}\n")).collect();
        let yaml = format!(
            r#"
name: l
address: {{ socket_address: {{ address: 0.0.0.0, port_value: 80 }} }}
filter_chains:
- filters:
  - name: http
    typed_config:
      "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
      stat_prefix: x
      rds: {{ route_config_name: "80" }}
{body}"#
        );
        let refusal = to_listener(&yaml).unwrap_err();
        assert_eq!(
            refusal.path,
            format!("filter_chains[0].filters[0].typed_config.{path}"),
            "{refusal}"
        );
    }
}

/// Bytes of any kind may be refused, never more.
#[test]
fn garbage_is_an_error_and_nothing_else() {
    let mut seed = 0x2545_f491_4f6c_dd1d_u64;
    let mut next = || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed
    };
    let good = read::<listener::Listener>(INBOUND).encode_to_vec();
    let cluster = read::<cluster::Cluster>(OUTBOUND).encode_to_vec();
    let mut decoded = 0;
    for round in 0..4000 {
        let mut bytes = if round % 2 == 0 {
            good.clone()
        } else {
            cluster.clone()
        };
        for _ in 0..=next() % 4 {
            let at = (next() % bytes.len() as u64) as usize;
            bytes[at] = next() as u8;
        }
        if let Ok(l) = listener::Listener::decode(bytes.as_slice()) {
            decoded += 1;
            let _ = Listener::try_from(&l);
        }
        if let Ok(c) = cluster::Cluster::decode(bytes.as_slice()) {
            decoded += 1;
            let _ = Cluster::try_from(&c);
        }
    }
    assert!(decoded > 100, "only {decoded} were messages at all");
}
