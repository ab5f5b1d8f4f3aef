//! Security rules: accepted as far as they are enforced.

use super::{fine, one, refused};

#[test]
fn authorization_policies_are_accepted_only_as_far_as_they_are_enforced() {
    fine("AuthorizationPolicy", "{}");
    fine("AuthorizationPolicy", "action: DENY\nrules:\n- from: [{source: {notPrincipals: ['*/ns/a/*'], namespaces: [b]}}]\n  to: [{operation: {ports: ['80'], paths: [/a*], methods: [GET], hosts: [a.com]}}]".replace("'*/ns/a/*'", "'*/ns/a/sa/b'").as_str());
    let source = |s: &str| format!("rules:\n- from:\n  - source: {{{s}}}");
    for field in [
        "ipBlocks: [10.0.0.0/8]",
        "notRemoteIpBlocks: [10.0.0.1]",
        "trustDomains: [a]",
        "serviceAccounts: [a, b/c]",
    ] {
        fine("AuthorizationPolicy", &source(field));
    }
    refused(
        "AuthorizationPolicy",
        &source("serviceAccounts: ['b/*']"),
        7,
        "without wildcards",
    );
    refused(
        "AuthorizationPolicy",
        &source("ipBlocks: [a]"),
        7,
        "is not an address",
    );
    one(
        "AuthorizationPolicy",
        &source("requestPrincipals: ['*']"),
        7,
        "ISM0006",
        "is not enforced",
    );
    one(
        "AuthorizationPolicy",
        "action: CUSTOM\nprovider: {name: a}\nrules: [{}]",
        5,
        "ISM0006",
        "CUSTOM is not enforced",
    );
    one(
        "AuthorizationPolicy",
        "action: AUDIT\nrules: [{}]",
        5,
        "ISM0006",
        "AUDIT is not enforced",
    );
    let when = |s: &str| format!("rules:\n- when: [{{{s}}}]");
    for condition in [
        "key: 'request.headers[x-token]', values: [a*]",
        "key: remote.ip, notValues: [10.0.0.0/8]",
        "key: source.serviceAccount, values: [a/b]",
        "key: connection.sni, values: ['*.com']",
    ] {
        fine("AuthorizationPolicy", &when(condition));
    }
    for (condition, part) in [
        ("key: source.ip, values: [a]", "is not an address"),
        ("key: source.ipp, values: [a]", "did you mean source.ip?"),
        ("key: 'request.headers[]', values: [a]", "has no name"),
        ("key: destination.port, values: [http]", "is not a port"),
        (
            "key: source.principal, values: ['spiffe://a']",
            "without spiffe://",
        ),
    ] {
        refused("AuthorizationPolicy", &when(condition), 6, part);
    }
    one(
        "AuthorizationPolicy",
        &when("key: 'request.auth.claims[a]', values: [b]"),
        6,
        "ISM0006",
        "request.auth is not enforced",
    );
    let paths = |s: &str| format!("rules:\n- to: [{{operation: {{paths: ['{s}']}}}}]");
    fine("AuthorizationPolicy", &paths("/a/{*}/b/{**}"));
    for bad in ["/a/b{*}", "/{**}/a/{*}", "/{a}", "/{*}/b*"] {
        refused("AuthorizationPolicy", &paths(bad), 6, "is not a template");
    }
    one(
        "AuthorizationPolicy",
        "action: DENY",
        4,
        "ISM0009",
        "matches nothing",
    );
    refused("AuthorizationPolicy", &source(""), 7, "says nothing");
    refused(
        "AuthorizationPolicy",
        &source("principals: ['spiffe://a/ns/b/sa/c']"),
        7,
        "without spiffe://",
    );
    refused(
        "AuthorizationPolicy",
        &source("principals: ['a*b']"),
        7,
        "not a wildcard",
    );
    refused(
        "AuthorizationPolicy",
        "rules:\n- to: [{operation: {ports: [http]}}]",
        6,
        "is not a port",
    );
    refused("AuthorizationPolicy", "action: DENNY", 5, "did you mean DENY?");
    refused(
        "AuthorizationPolicy",
        &source("principles: [a]"),
        7,
        "did you mean principals?",
    );
    one(
        "RequestAuthentication",
        "jwtRules: [{issuer: a}]",
        4,
        "ISM0006",
        "RequestAuthentication is not enforced",
    );
    one(
        "EnvoyFilter",
        "configPatches: []",
        4,
        "ISM0006",
        "EnvoyFilter is not enforced",
    );
    one(
        "WasmPlugin",
        "url: oci://x",
        4,
        "ISM0006",
        "WasmPlugin is not enforced",
    );
}

#[test]
fn other_security_rules_are_refused_until_they_are_enforced() {
    let tls =
        "ingress:\n- port: {number: 80, name: a, protocol: HTTPS}\n  tls: {mode: SIMPLE, credentialName: a}";
    one(
        "Sidecar",
        tls,
        7,
        "ISM0006",
        "Sidecar.ingress.tls is not enforced",
    );
    let proxy = "outboundTrafficPolicy: {mode: REGISTRY_ONLY, egressProxy: {host: a.b}}";
    one("Sidecar", proxy, 5, "ISM0006", "egressProxy is not enforced");
    let (_, findings) =
        crate::mesh_config::from_text("meshMTLS: {minProtocolVersion: TLSV1_3}\n", "mesh.yaml");
    assert_eq!(findings[0].code.id, "ISM0006");
    fine(
        "ServiceEntry",
        "hosts: [a.com]\nports: [{number: 80, name: a}]\nresolution: DNS\nsubjectAltNames: [b.com]",
    );
}
