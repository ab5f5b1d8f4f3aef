//! Route tables.

use std::time::Duration;

use super::super::http_filter::Abort;
use super::super::matcher::PathMatch;
use super::super::route::{Action, HeaderOperation, HostRewrite, PathRewrite, Target};
use super::to_routes;

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
