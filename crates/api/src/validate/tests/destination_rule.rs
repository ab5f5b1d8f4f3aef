//! DestinationRule.

use super::{fine, one, refused};

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
