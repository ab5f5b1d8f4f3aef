//! DestinationRule.

use isthmus_api::Kind;
use isthmus_api::istio::DestinationRule;
use serde_json::{Value, json};

use super::{CALLER, Example, INGRESS, demand, example, object};

/// A policy with every field that does not exclude another.
fn policy() -> Value {
    json!({
        "loadBalancer": {
            "simple": "ROUND_ROBIN",
            "localityLbSetting": {"enabled": true, "failover": [{"from": "us", "to": "eu"}]},
            "warmup": {"duration": "30s", "minimumPercent": 20, "aggression": 2}
        },
        "connectionPool": {
            "tcp": {
                "maxConnections": 5, "connectTimeout": "3s", "maxConnectionDuration": "60s", "idleTimeout": "50s",
                "tcpKeepalive": {"probes": 4, "time": "30s", "interval": "5s"}
            },
            "http": {
                "http1MaxPendingRequests": 3, "http2MaxRequests": 4, "maxRequestsPerConnection": 5, "maxRetries": 6,
                "idleTimeout": "40s", "h2UpgradePolicy": "UPGRADE", "maxConcurrentStreams": 7,
                "http2KeepAlive": {"interval": "9s", "timeout": "3s"}
            }
        },
        "outlierDetection": {
            "splitExternalLocalOriginErrors": true, "consecutiveLocalOriginFailures": 3,
            "consecutiveGatewayErrors": 4, "consecutive5xxErrors": 6, "interval": "3s", "baseEjectionTime": "4s",
            "maxEjectionPercent": 50, "minHealthPercent": 20
        },
        "tls": {"mode": "MUTUAL", "clientCertificate": "/a", "privateKey": "/b", "caCertificates": "/c",
                "subjectAltNames": ["x"], "sni": "y"},
        "retryBudget": {"percent": {"value": 5}, "minRetryConcurrency": 2}
    })
}

/// The fields that exclude those, one policy after the other.
fn others() -> Vec<Value> {
    let hash = |hash: Value| json!({"loadBalancer": {"consistentHash": hash}});
    vec![
        hash(json!({"httpHeaderName": "x", "ringHash": {"minimumRingSize": 9}})),
        hash(
            json!({"httpCookie": {"name": "c", "path": "/p", "ttl": "5s", "attributes": [{"name": "a", "value": "b"}]},
                    "maglev": {"tableSize": 101}}),
        ),
        hash(json!({"useSourceIp": true, "minimumRingSize": 9})),
        hash(json!({"httpQueryParameterName": "q"})),
        json!({"loadBalancer": {"warmupDurationSecs": "5s"}}),
        json!({"loadBalancer": {"localityLbSetting": {"distribute": [{"from": "us/us-a/*", "to": {"us": 80, "eu": 20}}]}}}),
        json!({"loadBalancer": {"localityLbSetting": {"failoverPriority": ["nobody-has-it"]}}}),
        json!({"loadBalancer": {"localityLbSetting": {"enabled": false}}}),
        json!({"connectionPool": {"http": {"useClientProtocol": true}}}),
        json!({"outlierDetection": {"consecutiveErrors": 7}}),
        json!({"tls": {"mode": "SIMPLE", "credentialName": "secret"}}),
        json!({"tls": {"mode": "SIMPLE", "insecureSkipVerify": true}}),
        json!({"tls": {"mode": "SIMPLE", "caCertificates": "/c", "caCrl": "/d"}}),
        json!({"proxyProtocol": {"version": "V2"}}),
        json!({"tunnel": {"protocol": "POST", "targetHost": "a.com", "targetPort": 443}}),
    ]
}

#[test]
fn every_field_of_a_destination_rule_has_an_effect_or_a_finding() {
    let mut examples = vec![Example {
        namespace: "echo",
        ..example(json!({
            "host": "echo", "exportTo": ["."], "trafficPolicy": {"loadBalancer": {"simple": "RANDOM"}}
        }))
    }];
    examples.push(example(json!({
        "host": "reviews", "workloadSelector": {"matchLabels": {"app": "sleep"}},
        "trafficPolicy": {"loadBalancer": {"simple": "RANDOM"}}
    })));
    let idle = json!({"connectionPool": {"tcp": {"idleTimeout": "50s"}}});
    examples.push(example(json!({"host": "db", "trafficPolicy": idle})));
    let idle = json!({"portLevelSettings": [
        {"port": {"number": 5432}, "connectionPool": {"tcp": {"idleTimeout": "50s"}}}]});
    examples.push(example(json!({"host": "db", "trafficPolicy": idle})));
    examples.push(example(
        json!({"host": "reviews", "subsets": [{"name": "v1", "labels": {"version": "v1"}}]}),
    ));
    for policy in std::iter::once(policy()).chain(others()) {
        // Secrets are for gateways.
        let by = policy["tls"]["credentialName"].is_string().then_some(INGRESS);
        let mut at_port = policy.clone();
        let whole = at_port.as_object_mut().unwrap();
        for of_hosts in ["proxyProtocol", "tunnel", "retryBudget"] {
            whole.remove(of_hosts);
        }
        whole.insert("port".to_owned(), json!({"number": 9080}));
        let rest = at_port.as_object().is_some_and(|p| p.len() > 1);
        let whole = |policy: Value| Example {
            by,
            ..example(json!({"host": "reviews", "trafficPolicy": policy}))
        };
        examples.push(whole(policy.clone()));
        let subset = |policy: Value| Example {
            by,
            beside: vec![object(
                Kind::VirtualService,
                "default",
                "to-all",
                &json!({"hosts": ["reviews"],
                        "http": [{"route": [{"destination": {"host": "reviews", "subset": "all"}}]}]}),
            )],
            ..example(json!({
                "host": "reviews",
                "subsets": [{"name": "all", "labels": {"app": "reviews"}, "trafficPolicy": policy}]
            }))
        };
        examples.push(subset(policy));
        if rest {
            let ports = json!({"portLevelSettings": [at_port]});
            examples.push(whole(ports.clone()));
            examples.push(subset(ports));
        }
    }
    demand::<DestinationRule>(Kind::DestinationRule, &[CALLER], &examples);
}
