//! HTTP routing.

use isthmus_xds::envoy::google::protobuf::value::Kind;
use isthmus_xds::envoy::route::header_matcher::HeaderMatchSpecifier;
use isthmus_xds::envoy::route::route::Action;
use isthmus_xds::envoy::route::route_action::HostRewriteSpecifier;
use isthmus_xds::envoy::route::route_match::PathSpecifier;
use isthmus_xds::envoy::route::{Route, RouteAction};

use crate::proxy::ProxyKind::Sidecar;
use crate::test_told::*;

fn routes(http: &str) -> Vec<Route> {
    let mut us = us();
    us.apply(&format!(
        "
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: reviews, namespace: default}}
spec:
  hosts: [reviews]
  http:
{http}
"
    ));
    us.told(Sidecar, "sleep-1.default").routes("9080", "reviews")
}

fn forward(route: &Route) -> &RouteAction {
    let Some(Action::Route(action)) = &route.action else {
        panic!("{route:?}")
    };
    action
}

#[test]
fn weights_and_subsets() {
    let routes = routes(
        "  - route:
    - {destination: {host: reviews, subset: v1}, weight: 80}
    - {destination: {host: reviews.default.svc.cluster.local, subset: v2}, weight: 20}
    - {destination: {host: reviews, subset: v3}, weight: 0}",
    );
    assert_eq!(routes.len(), 1);
    let clusters = route_clusters(&routes[0]);
    let expected = [("v1", 80), ("v2", 20)]
        .map(|(s, w)| (format!("outbound|9080|{s}|reviews.default.svc.cluster.local"), w));
    assert_eq!(clusters.into_iter().collect::<Vec<_>>(), expected);
    let Some(Kind::StringValue(because)) = metadata(routes[0].metadata.as_ref(), "isthmus", "because") else {
        panic!()
    };
    assert_eq!(because, "VirtualService default/reviews test.yaml:8");
}

#[test]
fn matches_are_alternatives_and_order_is_kept() {
    let routes = routes(
        "  - match:
    - uri: {prefix: /api}
      headers: {end-user: {exact: jason}}
      method: {exact: GET}
      queryParams: {debug: {exact: 'true'}}
    - uri: {exact: /login}
      withoutHeaders: {x-skip: {}}
      ignoreUriCase: true
    route: [{destination: {host: reviews, subset: v2}}]
  - match: [{port: 81, uri: {prefix: /other}}]
    route: [{destination: {host: reviews, subset: v3}}]
  - match: [{sourceLabels: {app: somebody}}]
    route: [{destination: {host: reviews, subset: v3}}]
  - match: [{sourceLabels: {app: sleep}, uri: {regex: '/x.*'}}]
    route: [{destination: {host: reviews, subset: v1}}]
  - route: [{destination: {host: reviews}}]
  - route: [{destination: {host: never}}]",
    );
    // Another port and another caller are not this one's; nothing follows what takes everything.
    assert_eq!(routes.len(), 4);
    let first = routes[0].r#match.as_ref().unwrap();
    assert_eq!(first.path_specifier, Some(PathSpecifier::Prefix("/api".into())));
    let names: Vec<_> = first.headers.iter().map(|h| h.name.as_str()).collect();
    assert_eq!(names, [":method", "end-user"]);
    assert_eq!(first.query_parameters.len(), 1);
    let second = routes[1].r#match.as_ref().unwrap();
    assert_eq!(second.path_specifier, Some(PathSpecifier::Path("/login".into())));
    assert_eq!(second.case_sensitive.map(|c| c.value), Some(false));
    assert!(second.headers[0].invert_match);
    assert_eq!(
        second.headers[0].header_match_specifier,
        Some(HeaderMatchSpecifier::PresentMatch(true))
    );
    assert!(matches!(
        routes[2].r#match.as_ref().unwrap().path_specifier,
        Some(PathSpecifier::SafeRegex(_))
    ));
    assert_eq!(
        routes[3].r#match.as_ref().unwrap().path_specifier,
        Some(PathSpecifier::Prefix("/".into()))
    );
}

#[test]
fn rewrite_timeout_retries_headers_and_mirror() {
    let routes = routes(
        "  - match: [{uri: {prefix: /old}}]
    rewrite: {uri: /new, authority: inner.example}
    timeout: 2s
    retries: {attempts: 3, perTryTimeout: 500ms, retryOn: '5xx,503'}
    headers:
      request: {set: {x-a: '1'}, add: {x-b: '2'}, remove: [x-c]}
      response: {remove: [server]}
    mirror: {host: reviews, subset: v2}
    mirrorPercentage: {value: 12.5}
    route: [{destination: {host: reviews}}]
  - retries: {attempts: 0}
    route: [{destination: {host: reviews}}]",
    );
    let action = forward(&routes[0]);
    assert_eq!(action.prefix_rewrite, "/new");
    assert_eq!(
        action.host_rewrite_specifier,
        Some(HostRewriteSpecifier::HostRewriteLiteral("inner.example".into()))
    );
    assert_eq!(action.timeout.unwrap().seconds, 2);
    let retry = action.retry_policy.as_ref().unwrap();
    assert_eq!(retry.retry_on, "5xx,retriable-status-codes");
    assert_eq!(retry.retriable_status_codes, [503]);
    assert_eq!(retry.num_retries.unwrap().value, 3);
    assert_eq!(routes[0].request_headers_to_add.len(), 2);
    assert_eq!(routes[0].request_headers_to_remove, ["x-c"]);
    assert_eq!(routes[0].response_headers_to_remove, ["server"]);
    let mirror = &action.request_mirror_policies[0];
    assert_eq!(
        mirror.cluster,
        "outbound|9080|v2|reviews.default.svc.cluster.local"
    );
    assert_eq!(
        mirror
            .runtime_fraction
            .as_ref()
            .unwrap()
            .default_value
            .unwrap()
            .numerator,
        125_000
    );
    assert!(
        forward(&routes[1]).retry_policy.is_none(),
        "attempts: 0 turns retries off"
    );
}

#[test]
fn redirect_direct_response_fault_and_cors() {
    let routes = routes(
        "  - match: [{uri: {exact: /moved}}]
    redirect: {uri: /there, authority: x.example, redirectCode: 308, scheme: https}
  - match: [{uri: {exact: /teapot}}]
    directResponse: {status: 418, body: {string: short and stout}}
  - fault: {delay: {fixedDelay: 1s, percentage: {value: 10}}, abort: {httpStatus: 503, percentage: {value: 0.1}}}
    corsPolicy: {allowOrigins: [{exact: 'https://a.example'}], allowMethods: [GET, POST], maxAge: 24h}
    route: [{destination: {host: reviews}}]",
    );
    let Some(Action::Redirect(redirect)) = &routes[0].action else {
        panic!()
    };
    assert_eq!(
        (redirect.host_redirect.as_str(), redirect.response_code),
        ("x.example", 4)
    );
    let Some(Action::DirectResponse(response)) = &routes[1].action else {
        panic!()
    };
    assert_eq!(response.status, 418);
    let fault: isthmus_xds::envoy::http_filters::fault::HttpFault =
        isthmus_xds::unpack(&routes[2].typed_per_filter_config["envoy.filters.http.fault"]).unwrap();
    assert_eq!(fault.abort.unwrap().percentage.unwrap().numerator, 1_000);
    let cors: isthmus_xds::envoy::http_filters::cors::CorsPolicy =
        isthmus_xds::unpack(&routes[2].typed_per_filter_config["envoy.filters.http.cors"]).unwrap();
    assert_eq!(
        (cors.allow_methods.as_str(), cors.max_age.as_str()),
        ("GET,POST", "86400")
    );
}

#[test]
fn without_rules_istios_defaults_hold() {
    let told = us().told(Sidecar, "sleep-1.default");
    let routes = told.routes("9080", "reviews");
    let action = forward(&routes[0]);
    assert_eq!(action.timeout.unwrap().seconds, 0);
    let retry = action.retry_policy.as_ref().unwrap();
    assert_eq!(
        retry.retry_on,
        "connect-failure,refused-stream,unavailable,cancelled"
    );
    assert_eq!(
        (
            retry.num_retries.unwrap().value,
            retry.host_selection_retry_max_attempts
        ),
        (2, 5)
    );
}
