//! Sidecar.

use isthmus_api::Kind;
use isthmus_api::istio::Sidecar;
use serde_json::{Value, json};

use super::{CALLER, SERVER, demand, example};

#[test]
fn every_field_of_a_sidecar_has_an_effect_or_a_finding() {
    let pool = || {
        json!({
            "tcp": {
                "maxConnections": 5, "connectTimeout": "3s", "maxConnectionDuration": "60s", "idleTimeout": "50s",
                "tcpKeepalive": {"probes": 4, "time": "30s", "interval": "5s"}
            },
            "http": {
                "http1MaxPendingRequests": 3, "http2MaxRequests": 4, "maxRequestsPerConnection": 5, "maxRetries": 6,
                "idleTimeout": "40s", "h2UpgradePolicy": "UPGRADE", "maxConcurrentStreams": 7,
                "http2KeepAlive": {"interval": "9s", "timeout": "3s"}
            }
        })
    };
    let client_protocol = || json!({"http": {"useClientProtocol": true}});
    let ingress = |pool: Value, tls: Value| {
        let mut made = example(json!({
            "workloadSelector": {"labels": {"app": "reviews"}},
            "ingress": [{
                "port": {"number": 9999, "name": "http", "protocol": "HTTP", "targetPort": 9998},
                "bind": "10.0.1.1", "captureMode": "NONE", "defaultEndpoint": "127.0.0.1:9080",
                "connectionPool": pool
            }]
        }));
        if !tls.is_null() {
            made.spec["ingress"][0]["tls"] = tls;
        }
        made
    };
    let files = json!({
        "mode": "MUTUAL", "serverCertificate": "/a", "privateKey": "/b", "caCertificates": "/c", "caCrl": "/d",
        "httpsRedirect": true, "credentialName": "a", "credentialNames": ["a"], "caCertCredentialName": "b",
        "tlsCertificates": [{"serverCertificate": "/a", "privateKey": "/b", "caCertificates": "/c"}],
        "subjectAltNames": ["a"], "verifyCertificateSpki": ["a"], "verifyCertificateHash": ["a"],
        "minProtocolVersion": "TLSV1_2", "maxProtocolVersion": "TLSV1_2", "cipherSuites": ["a"]
    });
    let plain = example(json!({
        "workloadSelector": {"labels": {"app": "reviews"}},
        "ingress": [{
            "port": {"number": 9999, "name": "http", "protocol": "HTTP"}, "defaultEndpoint": "127.0.0.1:9080"
        }],
        "inboundConnectionPool": pool()
    }));
    let examples = [
        plain,
        ingress(pool(), files),
        ingress(pool(), Value::Null),
        ingress(client_protocol(), Value::Null),
        // Without a protocol, the port's name says it.
        example(json!({
            "workloadSelector": {"labels": {"app": "reviews"}},
            "ingress": [{"port": {"number": 9999, "name": "http-a", "protocol": "HTTP"},
                         "defaultEndpoint": "127.0.0.1:9080"}]
        })),
        example(json!({"inboundConnectionPool": client_protocol(), "egress": [{"hosts": ["./*"]}]})),
        example(json!({
            "egress": [
                {"hosts": ["./reviews.default.svc.cluster.local"], "bind": "127.0.0.1", "captureMode": "NONE",
                 "port": {"number": 9080, "name": "http", "protocol": "HTTP", "targetPort": 9081}}
            ]
        })),
        example(json!({
            "outboundTrafficPolicy": {"mode": "ALLOW_ANY", "egressProxy": {
                "host": "echo.echo.svc.cluster.local", "subset": "v1", "port": {"number": 80}}}
        })),
        example(json!({
            "egress": [
                {"hosts": ["./reviews.default.svc.cluster.local"], "port": {"number": 9081, "name": "a", "protocol": "HTTP"}},
                {"hosts": ["./sleep.default.svc.cluster.local"]}
            ]
        })),
        example(json!({"outboundTrafficPolicy": {"mode": "REGISTRY_ONLY"}})),
        example(json!({"outboundTrafficPolicy": {"mode": "ALLOW_ANY"}})),
    ];
    demand::<Sidecar>(Kind::Sidecar, &[CALLER, SERVER], &examples);
}
