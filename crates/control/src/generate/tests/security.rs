//! Who may come in, and how.

use isthmus_xds::envoy::http_filters::rbac::Rbac;
use isthmus_xds::envoy::listener::Listener;
use isthmus_xds::envoy::rbac::{permission, principal, rbac::Action};
use isthmus_xds::unpack;

use crate::proxy::ProxyKind::Sidecar;
use crate::test_told::*;

fn names(listener: &Listener, port: &str) -> Vec<String> {
    let prefix = format!("0.0.0.0_{port}-");
    let all = listener
        .filter_chains
        .iter()
        .filter_map(|c| c.name.strip_prefix(&prefix));
    all.map(str::to_owned).collect()
}

fn authentication(name: &str, namespace: &str, spec: &str) -> String {
    format!(
        "
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {{name: {name}, namespace: {namespace}}}
spec: {spec}
"
    )
}

#[test]
fn permissive_takes_both_strict_takes_certificates_alone() {
    let mut us = us();
    let inbound = us.told(Sidecar, "reviews-v1.default").listener("virtualInbound");
    assert_eq!(names(&inbound, "9080"), ["mtls-http", "http", "tls"]);
    let mtls = chain(&inbound, "0.0.0.0_9080-mtls-http");
    assert!(mtls.transport_socket.is_some());
    assert_eq!(
        mtls.filter_chain_match
            .as_ref()
            .unwrap()
            .application_protocols
            .len(),
        5
    );

    us.apply(&authentication(
        "default",
        "istio-system",
        "{mtls: {mode: STRICT}}",
    ));
    let strict = us.told(Sidecar, "reviews-v1.default").listener("virtualInbound");
    assert_eq!(names(&strict, "9080"), ["mtls-http", "mtls"]);
    let raw = strict.filter_chains.iter().filter(|c| {
        c.filter_chain_match
            .as_ref()
            .is_some_and(|m| m.transport_protocol == "raw_buffer")
    });
    assert_eq!(raw.count(), 0);
}

#[test]
fn the_narrower_policy_wins_and_ports_have_their_own() {
    let mut us = us();
    us.apply(&authentication("default", "istio-system", "{mtls: {mode: STRICT}}"))
        .apply(&authentication("ns", "default", "{mtls: {mode: PERMISSIVE}}"))
        .apply(&authentication(
            "reviews",
            "default",
            "{selector: {matchLabels: {app: reviews}}, mtls: {mode: STRICT}, portLevelMtls: {9080: {mode: DISABLE}}}",
        ));
    let reviews = us.told(Sidecar, "reviews-v1.default");
    assert_eq!(
        names(&reviews.listener("virtualInbound"), "9080"),
        ["http", "tls"]
    );
    let sleep = us.told(Sidecar, "sleep-1.default");
    assert_eq!(
        names(&sleep.listener("virtualInbound"), "80"),
        ["mtls-http", "http", "tls"]
    );
    // What takes no mTLS is not offered any.
    let snapshot = us.snapshot();
    let key = snapshot
        .registry
        .services
        .keys()
        .find(|k| k.host.as_str().starts_with("reviews."))
        .unwrap();
    let local = snapshot.registry.endpoints[key]
        .endpoints
        .iter()
        .find(|e| e.cluster.as_str() == "us")
        .unwrap();
    assert_eq!(local.tls_mode, isthmus_model::TlsMode::Disabled);
}

fn filters(us: &mut Member) -> Vec<Rbac> {
    let inbound = us.told(Sidecar, "reviews-v1.default").listener("virtualInbound");
    let manager = http_manager(chain(&inbound, "0.0.0.0_9080-mtls-http"));
    let rbac = manager
        .http_filters
        .iter()
        .filter(|f| f.name == "envoy.filters.http.rbac");
    rbac.map(|f| {
        use isthmus_xds::envoy::hcm::http_filter::ConfigType;
        let Some(ConfigType::TypedConfig(any)) = &f.config_type else {
            panic!()
        };
        unpack(any).unwrap()
    })
    .collect()
}

#[test]
fn deny_stands_before_allow_and_rules_have_istios_names() {
    let mut us = us();
    us.apply(
        "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: viewer, namespace: default}
spec:
  selector: {matchLabels: {app: reviews}}
  action: ALLOW
  rules:
  - from: [{source: {principals: [cluster.local/ns/default/sa/sleep], namespaces: [prod-*]}}]
    to: [{operation: {methods: [GET], paths: [/reviews/*], ports: ['9080']}}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: no-admin, namespace: default}
spec:
  action: DENY
  rules: [{to: [{operation: {paths: [/admin*], notMethods: [OPTIONS]}}]}]
",
    );
    let filters = filters(&mut us);
    assert_eq!(filters.len(), 2);
    let deny = filters[0].rules.as_ref().unwrap();
    assert_eq!(deny.action, Action::Deny as i32);
    assert!(deny.policies.contains_key("ns[default]-policy[no-admin]-rule[0]"));
    let allow = &filters[1].rules.as_ref().unwrap().policies["ns[default]-policy[viewer]-rule[0]"];

    let Some(principal::Identifier::AndIds(all)) = &allow.principals[0].identifier else {
        panic!()
    };
    let named: Vec<String> = all
        .ids
        .iter()
        .map(|id| {
            let Some(principal::Identifier::OrIds(any)) = &id.identifier else {
                panic!()
            };
            let Some(principal::Identifier::Authenticated(a)) = &any.ids[0].identifier else {
                panic!()
            };
            text_of(a.principal_name.as_ref().unwrap())
        })
        .collect();
    // cluster.local stands for the mesh's own trust domain.
    assert_eq!(
        named,
        ["=spiffe://corp.local/ns/default/sa/sleep", "~.*/ns/prod-.*/.*"]
    );
    let Some(permission::Rule::AndRules(all)) = &allow.permissions[0].rule else {
        panic!()
    };
    assert_eq!(all.rules.len(), 3);
}

#[test]
fn allow_nothing_denies_everything() {
    let mut us = us();
    us.apply(
        "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: nothing, namespace: default}
spec: {}
",
    );
    let filters = filters(&mut us);
    let rules = filters[0].rules.as_ref().unwrap();
    assert_eq!(rules.action, Action::Allow as i32);
    assert!(rules.policies.is_empty());
}

#[test]
fn on_bytes_a_rule_about_requests_never_allows_but_denies() {
    let mut us = us();
    us.apply(&service("db", "default", "10.0.0.7", "{name: tcp, port: 5432}"))
        .apply(&pod("db-1", "default", "10.0.1.7", "us-1", "app: db"))
        .apply(
            "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: get, namespace: default}
spec: {action: ALLOW, rules: [{to: [{operation: {methods: [GET]}}]}]}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: post, namespace: default}
spec: {action: DENY, rules: [{to: [{operation: {methods: [POST], ports: ['5432']}}]}]}
",
        );
    let inbound = us.told(Sidecar, "db-1.default").listener("virtualInbound");
    let chain = chain(&inbound, "0.0.0.0_5432-mtls-tcp");
    let rules: Vec<usize> = chain.filters[..2]
        .iter()
        .map(|f| {
            use isthmus_xds::envoy::listener::filter::ConfigType;
            use isthmus_xds::envoy::network_filters::rbac::Rbac;
            let Some(ConfigType::TypedConfig(any)) = &f.config_type else {
                panic!()
            };
            unpack::<Rbac>(any).unwrap().rules.unwrap().policies.len()
        })
        .collect();
    assert_eq!(rules, [1, 0], "DENY keeps its port, ALLOW allows nothing");
}

/// Ports at which an inspector does not look, as text.
fn unseen(listener: &Listener, inspector: &str) -> String {
    let filter = listener
        .listener_filters
        .iter()
        .find(|f| f.name.ends_with(inspector));
    let disabled = filter.unwrap().filter_disabled.as_ref();
    disabled.map_or_else(String::new, |d| {
        use isthmus_xds::envoy::listener::listener_filter_chain_match_predicate::Rule;
        let Some(Rule::DestinationPortRange(range)) = &d.rule else {
            panic!("{d:?}")
        };
        assert_eq!(range.end, range.start + 1);
        range.start.to_string()
    })
}

#[test]
fn nobody_waits_for_bytes_that_decide_nothing() {
    let mut us = us();
    us.apply(&service("db", "default", "10.0.0.7", "{name: tcp, port: 5432}"))
        .apply(&pod("db-1", "default", "10.0.1.7", "us-1", "app: db"));
    let permissive = us.told(Sidecar, "db-1.default").listener("virtualInbound");
    assert_eq!(unseen(&permissive, "http_inspector"), "5432");
    assert_eq!(
        unseen(&permissive, "tls_inspector"),
        "",
        "mTLS and plaintext are told apart"
    );
    us.apply(&authentication("plain", "default", "{mtls: {mode: DISABLE}}"));
    let off = us.told(Sidecar, "db-1.default").listener("virtualInbound");
    assert_eq!(unseen(&off, "tls_inspector"), "5432");
    // HTTP and the application's own TLS on one port are still told apart.
    let http = us.told(Sidecar, "reviews-v1.default").listener("virtualInbound");
    assert_eq!(unseen(&http, "tls_inspector"), "");
}
