//! VirtualService.

use super::{fine, one, refused};

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
