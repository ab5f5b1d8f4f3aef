//! Gateway.

use super::{fine, one, refused};

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
