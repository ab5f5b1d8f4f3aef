//! One rule, one bad document, one finding with its line.

use crate::parse;

const ISTIO: &str = "apiVersion: networking.istio.io/v1\nkind: ";

/// Parses a resource whose spec begins on line 5.
fn check(kind: &str, spec: &str) -> Vec<(u32, &'static str, String)> {
    let group = match kind {
        "PeerAuthentication" | "AuthorizationPolicy" | "RequestAuthentication" => "security.istio.io/v1",
        "EnvoyFilter" => "networking.istio.io/v1alpha3",
        "WasmPlugin" => "extensions.istio.io/v1alpha1",
        "Service" => "v1",
        _ => "networking.istio.io/v1",
    };
    let indented: String = spec
        .trim_matches('\n')
        .lines()
        .map(|l| format!("  {l}\n"))
        .collect();
    let text = format!("apiVersion: {group}\nkind: {kind}\nmetadata: {{name: x}}\nspec:\n{indented}");
    let parsed = parse(&text, "f.yaml");
    let refused = parsed.has_errors();
    assert_eq!(
        parsed.objects.is_empty(),
        refused,
        "an object is handed out exactly when it is valid: {parsed:?}"
    );
    parsed
        .findings
        .iter()
        .map(|f| (f.line, f.code.id, format!("{}; {}", f.message, f.remedy)))
        .collect()
}

#[track_caller]
fn fine(kind: &str, spec: &str) {
    assert_eq!(check(kind, spec), [], "{spec}");
}

#[track_caller]
fn refused(kind: &str, spec: &str, line: u32, part: &str) {
    one(kind, spec, line, "IST0106", part);
}

#[track_caller]
fn one(kind: &str, spec: &str, line: u32, code: &str, part: &str) {
    let found = check(kind, spec);
    assert!(
        found
            .iter()
            .any(|(l, c, m)| *l == line && *c == code && m.contains(part)),
        "expected {line} {code} {part:?}, found {found:#?}"
    );
}

#[test]
fn virtual_service_hosts_and_gateways() {
    let route = "http:\n- route: [{destination: {host: reviews}}]";
    fine(
        "VirtualService",
        &format!("hosts: [reviews, '*.example.com', 10.0.0.1]\n{route}"),
    );
    fine(
        "VirtualService",
        &format!("hosts: ['*']\ngateways: [istio-system/public]\n{route}"),
    );
    refused(
        "VirtualService",
        &format!("hosts: ['*']\n{route}"),
        5,
        "not allowed on the mesh gateway",
    );
    refused(
        "VirtualService",
        &format!("hosts:\n- a.com\n- '*.com'\n{route}"),
        7,
        "duplicate of a.com",
    );
    refused(
        "VirtualService",
        &format!("hosts: [a.com]\ngateways: [a/b/c]\n{route}"),
        6,
        "is not a gateway",
    );
    refused("VirtualService", "hosts: [a.com]", 4, "has no routes");
    refused(
        "VirtualService",
        &format!("hosts: [a_b..c]\n{route}"),
        5,
        "is not a host name",
    );
    refused(
        "VirtualService",
        &format!("hosts: [a.com]\nexportTo: ['*', b]\n{route}"),
        6,
        "excludes any other",
    );
}

#[test]
fn virtual_service_http_routes() {
    let http = |body: &str| {
        let body: String = body
            .trim_matches('\n')
            .lines()
            .map(|l| format!("  {l}\n"))
            .collect();
        format!("hosts: [a.com]\nhttp:\n- name: r\n{body}")
    };
    let to = "route: [{destination: {host: reviews}}]";
    // `name` is on line 7, the first line of the body on line 8.
    fine("VirtualService", &http(&format!("timeout: 0s\n{to}")));
    fine(
        "VirtualService",
        &http("route:\n- {destination: {host: a}, weight: 80}\n- {destination: {host: b}, weight: 40}"),
    );
    refused(
        "VirtualService",
        &http(&format!("redirect: {{uri: /x}}\n{to}")),
        8,
        "redirect and route exclude",
    );
    refused(
        "VirtualService",
        &http("timeout: 1s"),
        7,
        "the route leads nowhere",
    );
    refused(
        "VirtualService",
        &http("route:\n- {destination: {host: a}, weight: 0}\n- {destination: {host: b}}"),
        8,
        "add up to 0",
    );
    refused(
        "VirtualService",
        &http("route:\n- {destination: {host: a}, weight: -1}"),
        9,
        "negative",
    );
    refused(
        "VirtualService",
        &http("route:\n- {destination: {host: a, port: {number: 0}}}"),
        9,
        "missing or 0",
    );
    refused(
        "VirtualService",
        &http("route:\n- {destination: {host: '*.a'}}"),
        9,
        "wildcard",
    );
    refused(
        "VirtualService",
        &http("route:\n- {destination: {host: a, subset: V1}}"),
        9,
        "not a subset's name",
    );
    refused(
        "VirtualService",
        &http(&format!("match:\n- uri: {{prefix: ''}}\n{to}")),
        9,
        "prefix is empty",
    );
    refused(
        "VirtualService",
        &http(&format!("match:\n- method: {{}}\n{to}")),
        9,
        "nothing is said",
    );
    one(
        "VirtualService",
        &http(&format!("match:\n- uri: {{regex: '(a'}}\n{to}")),
        9,
        "IST0122",
        "not a regular expression",
    );
    one(
        "VirtualService",
        &http(&format!(
            "match:\n- uri: {{regex: '((a{{1000}}){{1000}}){{1000}}'}}\n{to}"
        )),
        9,
        "IST0122",
        "not a regular",
    );
    one(
        "VirtualService",
        &http(&format!(
            "match:\n- headers: {{'@request.auth.claims.group': {{exact: a}}}}\n{to}"
        )),
        9,
        "ISM0006",
        "not enforced",
    );
    refused(
        "VirtualService",
        &http(&format!(
            "retries: {{attempts: 2, retryOn: '5xx,conect-failure'}}\n{to}"
        )),
        8,
        "did you mean connect-failure?",
    );
    refused(
        "VirtualService",
        &http(&format!("retries: {{attempts: 0, perTryTimeout: 1s}}\n{to}")),
        8,
        "retries are off",
    );
    refused(
        "VirtualService",
        &http(&format!("fault: {{abort: {{httpStatus: 99}}}}\n{to}")),
        8,
        "99 is not a status",
    );
    refused(
        "VirtualService",
        &http(&format!(
            "fault: {{delay: {{percentage: {{value: 101}}, fixedDelay: 1s}}}}\n{to}"
        )),
        8,
        "101 is not a percentage",
    );
    refused(
        "VirtualService",
        &http(&format!(
            "mirror: {{host: b}}\nmirrors: [{{destination: {{host: b}}}}]\n{to}"
        )),
        8,
        "mirror and mirrors",
    );
    refused(
        "VirtualService",
        &http(&format!(
            "headers: {{response: {{set: {{':status': '1'}}}}}}\n{to}"
        )),
        8,
        "cannot be changed",
    );
    refused(
        "VirtualService",
        &http(&format!("headers: {{request: {{set: {{a: \"b\\nc\"}}}}}}\n{to}")),
        8,
        "line break",
    );
    refused(
        "VirtualService",
        &http("directResponse: {status: 42}"),
        8,
        "42 is not a status",
    );
    refused(
        "VirtualService",
        &http(&format!("rewrite: {{}}\n{to}")),
        8,
        "changes nothing",
    );
    let after = format!("{}- {to}\n", http(to));
    one(
        "VirtualService",
        &after,
        9,
        "IST0130",
        "http[0] takes every request",
    );
    let twice = format!(
        "{}- match: [{{uri: {{exact: /a}}}}]\n  {to}\n",
        http(&format!("match: [{{uri: {{exact: /a}}}}]\n{to}"))
    );
    one("VirtualService", &twice, 10, "IST0131", "repeats one of http[0]");
}

#[test]
fn virtual_service_tls_and_tcp_routes() {
    let to = "route: [{destination: {host: reviews}}]";
    fine(
        "VirtualService",
        &format!("hosts: ['*.a.com']\ntls:\n- match: [{{port: 443, sniHosts: [b.a.com]}}]\n  {to}"),
    );
    refused(
        "VirtualService",
        &format!("hosts: [a.com]\ntls:\n- match: [{{sniHosts: [b.com]}}]\n  {to}"),
        7,
        "within none of the hosts",
    );
    refused(
        "VirtualService",
        &format!("hosts: [a.com]\ntls:\n- {to}"),
        7,
        "needs a match",
    );
    fine("VirtualService", &format!("hosts: [a.com]\ntcp:\n- {to}"));
    refused(
        "VirtualService",
        "hosts: [a.com]\ntcp:\n- match: [{port: 1}]",
        7,
        "leads nowhere",
    );
    refused(
        "VirtualService",
        &format!("hosts: [a.com]\ntcp:\n- match: [{{destinationSubnets: [10.0.0.0/40]}}]\n  {to}"),
        7,
        "not an address or CIDR",
    );
}

#[test]
fn destination_rule_policies() {
    let policy = |p: &str| format!("host: reviews\ntrafficPolicy:\n  {p}");
    fine(
        "DestinationRule",
        "host: reviews\nsubsets:\n- {name: v1, labels: {version: v1}}",
    );
    fine(
        "DestinationRule",
        &policy("loadBalancer: {simple: LEAST_REQUEST}"),
    );
    refused("DestinationRule", "subsets: []", 4, "has no host");
    refused(
        "DestinationRule",
        "host: a\nsubsets:\n- name: v1\n- name: v1",
        8,
        "defined twice",
    );
    refused("DestinationRule", "host: a\ntrafficPolicy: {}", 6, "says nothing");
    let locality = |l: &str| policy(&format!("loadBalancer:\n    localityLbSetting:\n      {l}"));
    fine(
        "DestinationRule",
        &locality("distribute: [{from: us/*, to: {us/*: 80, eu/*: 20}}]"),
    );
    refused(
        "DestinationRule",
        &locality("distribute: [{from: us/*, to: {us/*: 80, eu/*: 30}}]"),
        9,
        "add up to 110",
    );
    refused(
        "DestinationRule",
        &locality("failover: [{from: us, to: us}]"),
        9,
        "fails over to itself",
    );
    refused(
        "DestinationRule",
        &locality("failover: [{from: us/a, to: eu}]"),
        9,
        "is not a region",
    );
    refused(
        "DestinationRule",
        &policy("loadBalancer: {consistentHash: {}}"),
        7,
        "exactly one key",
    );
    refused(
        "DestinationRule",
        &policy("loadBalancer: {consistentHash: {httpCookie: {name: a}}}"),
        7,
        "has no ttl",
    );
    refused(
        "DestinationRule",
        &policy("loadBalancer: {consistentHash: {useSourceIp: true, maglev: {tableSize: 100}}}"),
        7,
        "not a prime",
    );
    refused(
        "DestinationRule",
        &policy("outlierDetection: {maxEjectionPercent: 101}"),
        7,
        "101 is not a percentage",
    );
    refused(
        "DestinationRule",
        &policy("outlierDetection: {interval: 0s}"),
        7,
        "the time is 0",
    );
    one(
        "DestinationRule",
        &policy("outlierDetection: {consecutiveErrors: 5}"),
        7,
        "IST0002",
        "consecutive5xxErrors",
    );
    refused(
        "DestinationRule",
        &policy("connectionPool: {tcp: {maxConnections: -1}}"),
        7,
        "negative",
    );
    refused(
        "DestinationRule",
        &policy("tls: {mode: MUTUAL}"),
        7,
        "MUTUAL needs clientCertificate",
    );
    refused(
        "DestinationRule",
        &policy("tls: {mode: ISTIO_MUTUAL, privateKey: /k}"),
        7,
        "not used with ISTIO_MUTUAL",
    );
    refused(
        "DestinationRule",
        &policy("tls: {caCertificates: /c}"),
        7,
        "the mode is DISABLE",
    );
    one(
        "DestinationRule",
        &policy("tls: {mode: SIMPLE, caCrl: /c}"),
        7,
        "ISM0006",
        "caCrl is not enforced",
    );
    one(
        "DestinationRule",
        &policy("tls: {mode: SIMPLE, insecureSkipVerify: true}"),
        7,
        "IST0128",
        "not verified",
    );
    refused(
        "DestinationRule",
        &policy("portLevelSettings: [{port: {number: 80}}, {port: {number: 80}}]"),
        7,
        "settings already",
    );
}

#[test]
fn gateway_servers() {
    let server = |rest: &str, port: &str| {
        format!("selector: {{istio: ingressgateway}}\nservers:\n- port: {port}\n  hosts: ['*']\n{rest}")
    };
    let http = "{number: 80, name: http, protocol: HTTP}";
    let https = "{number: 443, name: https, protocol: HTTPS}";
    fine("Gateway", &server("", http));
    fine("Gateway", &server("  tls: {httpsRedirect: true}", http));
    fine(
        "Gateway",
        &server("  tls: {mode: SIMPLE, credentialName: c}", https),
    );
    fine(
        "Gateway",
        &server(
            "  tls: {mode: AUTO_PASSTHROUGH}",
            "{number: 15443, name: tls, protocol: TLS}",
        ),
    );
    refused(
        "Gateway",
        &server("", "{number: 0, name: http, protocol: HTTP}"),
        7,
        "missing or 0",
    );
    refused(
        "Gateway",
        &server("", "{number: 80, name: http, protocol: HTPP}"),
        7,
        "did you mean HTTP?",
    );
    refused("Gateway", &server("", https), 7, "needs tls");
    refused(
        "Gateway",
        &server("  tls: {mode: SIMPLE}", https),
        9,
        "no serverCertificate",
    );
    refused(
        "Gateway",
        &server("  tls: {mode: SIMPLE, credentialName: c}", http),
        9,
        "has no TLS",
    );
    refused(
        "Gateway",
        &server("  tls: {credentialName: c}", https),
        9,
        "does not terminate TLS",
    );
    one(
        "Gateway",
        &server("  tls: {mode: MUTUAL, credentialName: c, caCrl: /x}", https),
        9,
        "ISM0006",
        "not enforced",
    );
    one(
        "Gateway",
        &server("  tls: {mode: OPTIONAL_MUTUAL, credentialName: c}", https),
        9,
        "ISM0006",
        "OPTIONAL_MUTUAL",
    );
    refused(
        "Gateway",
        &server(&format!("- port: {http}\n  hosts: [a.com]"), http),
        9,
        "is taken by another server",
    );
    one(
        "Gateway",
        &server(
            "- port: {number: 80, name: other, protocol: HTTP}\n  hosts: [\n    '*']",
            http,
        ),
        11,
        "ISM0008",
        "already",
    );
    refused("Gateway", "selector: {a: b}\nservers: []", 4, "has no servers");
    refused(
        "Gateway",
        &server("", http).replace("'*'", "short"),
        8,
        "short name",
    );
}

#[test]
fn service_entry_by_resolution() {
    let entry =
        |rest: &str| format!("hosts: [a.com]\nports: [{{number: 80, name: http, protocol: HTTP}}]\n{rest}");
    fine("ServiceEntry", &entry("resolution: DNS"));
    fine(
        "ServiceEntry",
        &entry("addresses: [240.0.0.2/32]\nresolution: DNS"),
    );
    fine(
        "ServiceEntry",
        &entry("resolution: STATIC\nendpoints: [{address: 10.0.0.1, ports: {http: 8080}}]"),
    );
    refused(
        "ServiceEntry",
        &entry("addresses: [240.0.0.0/24]\nresolution: DNS"),
        7,
        "more than one address",
    );
    refused(
        "ServiceEntry",
        &entry("addresses: [240.0.0.400]\nresolution: DNS"),
        7,
        "not an address or CIDR",
    );
    refused("ServiceEntry", &entry("resolution: STATIC"), 4, "needs endpoints");
    refused(
        "ServiceEntry",
        &entry("resolution: STATIC\nendpoints: [{address: b.com}]"),
        8,
        "is a name",
    );
    refused(
        "ServiceEntry",
        &entry("resolution: NONE\nendpoints: [{address: 10.0.0.1}]"),
        8,
        "NONE has no endpoints",
    );
    refused(
        "ServiceEntry",
        &entry("resolution: DNS\nendpoints: [{address: b.com, ports: {htpp: 1}}]"),
        8,
        "did you mean http?",
    );
    refused(
        "ServiceEntry",
        &entry("resolution: DNS\nendpoints: [{address: <EU_LB_DNS>}]"),
        8,
        "is a placeholder",
    );
    refused(
        "ServiceEntry",
        &entry("resolution: DNS").replace("a.com", "'*.com'"),
        5,
        "cannot be resolved",
    );
    fine(
        "ServiceEntry",
        &entry("resolution: DYNAMIC_DNS").replace("a.com", "'*.com'"),
    );
    one(
        "ServiceEntry",
        &entry("resolution: DNS").replace("[a.com]", "[a.com, A.com]"),
        5,
        "ISM0008",
        "twice",
    );
    refused(
        "ServiceEntry",
        "hosts: [a.com]\nresolution: DNS",
        4,
        "has no ports",
    );
    refused(
        "ServiceEntry",
        "hosts: [a.com]\nports:\n- {number: 80, name: a, protocol: HTTP}\n- {number: 80, name: b, protocol: HTTP}",
        8,
        "stands here twice",
    );
}

#[test]
fn workloads_sidecars_and_peers() {
    fine("WorkloadEntry", "address: 10.0.0.1\nlocality: us/a");
    refused(
        "WorkloadEntry",
        "labels: {a: b}",
        4,
        "neither address nor network",
    );
    refused(
        "WorkloadEntry",
        "address: 10.0.0.1\nports: {http: 0}",
        6,
        "missing or 0",
    );
    fine("Sidecar", "egress:\n- hosts: [./*, istio-system/*]");
    refused("Sidecar", "egress:\n- hosts: [reviews]", 6, "names no namespace");
    refused(
        "Sidecar",
        "egress:\n- hosts: [./*]\n- hosts: [./*]\n  port: {number: 80, name: a, protocol: HTTP}",
        6,
        "must stand last",
    );
    refused(
        "Sidecar",
        "ingress:\n- port: {number: 80, name: a, protocol: HTTP}\n  defaultEndpoint: 10.0.0.1:80",
        7,
        "not an endpoint",
    );
    fine(
        "PeerAuthentication",
        "selector: {matchLabels: {app: a}}\nportLevelMtls: {8080: {mode: DISABLE}}\nmtls: {mode: STRICT}",
    );
    refused(
        "PeerAuthentication",
        "portLevelMtls: {8080: {mode: DISABLE}}",
        5,
        "ports belong to workloads",
    );
    refused(
        "PeerAuthentication",
        "selector: {matchLabels: {app: a}}\nportLevelMtls: {http: {mode: DISABLE}}",
        6,
        "not a number from",
    );
}

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

#[test]
fn kubernetes_services() {
    fine(
        "Service",
        "clusterIP: 10.0.0.1\nports: [{name: http, port: 80, targetPort: web}]",
    );
    refused("Service", "ports: [{port: 80}, {port: 81}]", 5, "has no name");
    refused(
        "Service",
        "ports: [{port: 80, protocol: HTTP}]",
        5,
        "belongs into appProtocol",
    );
    refused("Service", "clusterIP: 10.0.0", 5, "not an IP address");
    one(
        "Service",
        "ports: [{port: 80, targetprt: 8080}]",
        5,
        "IST0133",
        "did you mean targetPort?",
    );
}

#[test]
fn mesh_config_findings_have_the_lines_of_the_file() {
    let text = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: istio, namespace: istio-system}\ndata:\n  mesh: |-\n    \
                trustDomain: corp.local\n    acessLogFile: /dev/stdout\n    connectTimeout: 5\n";
    let parsed = parse(text, "f.yaml");
    let found: Vec<_> = parsed.findings.iter().map(|f| (f.line, f.code.id)).collect();
    assert_eq!(found, [(7, "IST0133"), (8, "IST0106")]);
    assert!(parsed.findings[0].remedy.contains("accessLogFile"));

    let (config, findings) = crate::mesh_config::from_text(
        "trustDomain: corp.local\nlocalityLbSetting:\n  failover: [{from: us, to: us}]\npathNormalization: {normalization: NONE}\n",
        "mesh.yaml",
    );
    assert_eq!(config.trust_domain().as_str(), "corp.local");
    assert!(config.auto_mtls() && config.locality_enabled() && config.connect_timeout().as_secs() == 10);
    let found: Vec<_> = findings.iter().map(|f| (f.line, f.code.id)).collect();
    assert_eq!(found, [(3, "IST0106"), (4, "ISM0006")]);
}

#[test]
fn a_document_with_thousands_of_mistakes_yields_a_bounded_report() {
    let hosts: String = (0..5000).map(|i| format!("- 'a b {i}'\n")).collect();
    let found = check(
        "VirtualService",
        &format!("hosts:\n{hosts}http: [{{route: [{{destination: {{host: a}}}}]}}]"),
    );
    assert!(found.len() <= 101, "{}", found.len());
}

#[test]
fn metadata() {
    let named = |meta: &str| {
        parse(
            &format!("{ISTIO}WorkloadEntry\nmetadata: {meta}\nspec: {{address: 10.0.0.1}}\n"),
            "f",
        )
        .findings
    };
    assert!(named("{name: a}").is_empty());
    assert!(named("{}")[0].message.contains("has no name"));
    assert!(named("{name: A_B}")[0].message.contains("is not a name"));
    assert!(
        named("{name: a, namespace: A}")[0]
            .message
            .contains("not a namespace")
    );
    assert!(
        named("{name: a, labels: {a: 'b c'}}")[0]
            .message
            .contains("not a label's value")
    );
    assert!(
        named("{name: a, labels: {a: 5}}")[0]
            .message
            .contains("put it in quotes")
    );
    assert_eq!(
        named("{name: a, lables: {a: b}}")[0].remedy,
        "did you mean labels?"
    );
}
