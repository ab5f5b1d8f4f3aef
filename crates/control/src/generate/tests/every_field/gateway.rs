//! Gateway.

use isthmus_api::Kind;
use isthmus_api::istio::Gateway;
use serde_json::{Value, json};

use super::{Example, INGRESS, demand, example, object};

fn secret() -> Value {
    json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "cert", "namespace": "istio-system"},
        "stringData": {"tls.crt": "a", "tls.key": "b", "ca.crt": "c"}
    })
}

#[test]
fn every_field_of_a_gateway_has_an_effect_or_a_finding() {
    let https = |tls: Value| Example {
        beside: vec![
            secret(),
            object(
                Kind::VirtualService,
                "default",
                "shop",
                &json!({"hosts": ["shop.com"], "gateways": ["example"],
                        "http": [{"route": [{"destination": {"host": "reviews"}}]}]}),
            ),
        ],
        ..example(json!({
            "selector": {"istio": "ingressgateway"},
            "servers": [{
                "port": {"number": 443, "name": "https", "protocol": "HTTPS", "targetPort": 9443},
                "bind": "10.0.1.20", "hosts": ["shop.com"], "name": "shop", "tls": tls
            }]
        }))
    };
    let examples = [
        https(json!({"mode": "SIMPLE", "credentialName": "cert", "minProtocolVersion": "TLSV1_3"})),
        https(json!({"mode": "SIMPLE", "credentialNames": ["cert"]})),
        https(json!({"mode": "SIMPLE", "credentialName": "cert", "maxProtocolVersion": "TLSV1_2"})),
        https(
            json!({"mode": "SIMPLE", "credentialName": "cert", "cipherSuites": ["ECDHE-RSA-AES128-GCM-SHA256"]}),
        ),
        https(
            json!({"mode": "MUTUAL", "credentialName": "cert", "caCertCredentialName": "cert",
                     "subjectAltNames": ["a"]}),
        ),
        https(
            json!({"mode": "MUTUAL", "credentialName": "cert", "verifyCertificateSpki": ["a"],
                     "verifyCertificateHash": ["b"]}),
        ),
        https(
            json!({"mode": "MUTUAL", "serverCertificate": "/a", "privateKey": "/b", "caCertificates": "/c"}),
        ),
        https(
            json!({"mode": "MUTUAL", "serverCertificate": "/a", "privateKey": "/b", "caCertificates": "/c",
                     "caCrl": "/d"}),
        ),
        https(json!({"mode": "MUTUAL", "tlsCertificates": [
            {"serverCertificate": "/a", "privateKey": "/b", "caCertificates": "/c"}]})),
        https(json!({"mode": "SIMPLE", "tlsCertificates": [
            {"serverCertificate": "/a", "privateKey": "/b"}]})),
        example(json!({
            "selector": {"istio": "ingressgateway"},
            "servers": [{"port": {"number": 80, "name": "http", "protocol": "HTTP"}, "hosts": ["shop.com"],
                         "defaultEndpoint": "127.0.0.1:80"}]
        })),
        Example {
            beside: vec![object(
                Kind::VirtualService,
                "default",
                "shop",
                &json!({"hosts": ["shop.com"], "gateways": ["example"],
                        "http": [{"route": [{"destination": {"host": "reviews"}}]}]}),
            )],
            ..example(json!({
                "selector": {"istio": "ingressgateway"},
                "servers": [{"port": {"number": 80, "name": "http", "protocol": "HTTP"}, "hosts": ["shop.com"],
                             "tls": {"httpsRedirect": true}}]
            }))
        },
    ];
    demand::<Gateway>(Kind::Gateway, &[INGRESS], &examples);
}
