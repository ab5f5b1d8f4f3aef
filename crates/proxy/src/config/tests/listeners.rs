//! Listeners, HTTP connection managers and their filters.

use std::time::Duration;

use super::super::http_filter::HttpFilter;
use super::super::listener::{AccessLogFormat, ClientCertHeader, NetworkFilter, Routes, Transport};
use super::super::matcher::StringMatcher;
use super::super::rbac::{Permission, Principal, RbacAction};
use super::to_listener;

pub const INBOUND: &str = r#"
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
