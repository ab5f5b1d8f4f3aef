//! MeshConfig and MeshNetworks.

use isthmus_api::{Kind, MeshConfig, MeshNetworks};
use serde_json::{Value, json};

use super::{CALLER, Example, INGRESS, SERVER, demand_of, example, object, paths};

fn config_map(key: &str, content: &Value) -> Value {
    json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "istio", "namespace": "istio-system"},
        "data": {(key): content.to_string()}
    })
}

#[test]
fn every_field_of_a_mesh_config_has_an_effect_or_a_finding() {
    let text = json!({
        "outboundTrafficPolicy": {"mode": "REGISTRY_ONLY"},
        "accessLogFile": "/dev/stdout", "accessLogFormat": "%DURATION%", "connectTimeout": "3s", "dnsRefreshRate": "7s", "protocolDetectionTimeout": "1s",
        "localityLbSetting": {"enabled": true, "failover": [{"from": "us", "to": "eu"}]}
    });
    let everything = json!({
        "inboundTrafficPolicy": {"mode": "LOCALHOST"}, "enableEnvoyAccessLogService": true,
        "disableEnvoyListenerLog": true, "tcpKeepalive": {"probes": 3, "time": "5s", "interval": "6s"},
        "defaultServiceExportTo": ["."], "defaultVirtualServiceExportTo": ["."],
        "defaultDestinationRuleExportTo": ["."], "h2UpgradePolicy": "UPGRADE",
        "defaultHttpRetryPolicy": {"attempts": 5, "perTryTimeout": "3s", "retryOn": "5xx",
            "retryRemoteLocalities": true, "retryIgnorePreviousHosts": false, "backoff": "1s"},
        "enableTracing": true, "extensionProviders": [{"name": "a"}],
        "defaultProviders": {"tracing": ["a"], "metrics": ["b"], "accessLogging": ["c"]},
        "discoverySelectors": [{"matchLabels": {"a": "b"}}],
        "serviceSettings": [{"settings": {"clusterLocal": true}, "hosts": ["reviews.default.svc.cluster.local"]}],
        "caCertificates": [{"pem": "a", "spiffeBundleUrl": "b", "certSigners": ["c"], "trustDomains": ["d"]}],
        "certificates": [{"a": "b"}],
        "proxyListenPort": 1, "proxyInboundListenPort": 2, "proxyHttpPort": 3, "ingressClass": "a",
        "ingressService": "b", "ingressSelector": "c", "ingressControllerMode": "OFF",
        "verifyCertificateAtClient": true, "ca": {"address": "a"}, "configSources": [{"address": "a"}],
        "http1ProxySettings": {"a": "b"}, "inboundClusterStatName": "a", "outboundClusterStatName": "b",
        "thriftConfig": {"a": "b"}, "enablePrometheusMerge": true, "podDnsSearchNamespaces": ["a"],
        "sdsUdsPath": "a", "disablePolicyChecks": true
    });
    let proxies = json!({"defaultConfig": {
        "discoveryAddress": "a:1", "concurrency": 2, "proxyMetadata": {"a": "b"}, "drainDuration": "3s",
        "terminationDrainDuration": "4s", "holdApplicationUntilProxyStarts": true, "proxyAdminPort": 15001,
        "statusPort": 15099, "interceptionMode": "TPROXY",
        "tracing": {"sampling": 5, "maxPathTagLength": 6, "customTags": {"a": {"b": "c"}}, "zipkin": {"address": "a"},
            "openCensusAgent": {"address": "a"}, "datadog": {"address": "a"}, "lightstep": {"address": "a"},
            "stackdriver": {"debug": true}, "enableIstioTags": true,
            "tlsSettings": {"mode": "MUTUAL", "clientCertificate": "/a", "privateKey": "/b", "caCertificates": "/c",
                "credentialName": "d", "subjectAltNames": ["e"], "sni": "f", "insecureSkipVerify": true, "caCrl": "g"}},
        "gatewayTopology": {"numTrustedProxies": 2, "forwardClientCertDetails": "SANITIZE", "proxyProtocol": {"a": "b"}},
        "proxyStatsMatcher": {"a": "b"}, "readinessProbe": {"a": "b"}, "configPath": "a", "binaryPath": "b",
        "serviceCluster": "c", "caCertificatesPem": ["d"], "controlPlaneAuthPolicy": "NONE", "statNameLength": 3,
        "statsdUdpAddress": "e", "envoyAccessLogService": {"a": "b"}, "envoyMetricsService": {"a": "b"},
        "extraStatTags": ["f"], "image": {"imageType": "g"}, "privateKeyProvider": {"a": "b"},
        "proxyHeaders": {"a": "b"}, "customConfigFile": "h", "availabilityZone": "i", "meshId": "j",
        "fileFlushInterval": "3s", "fileFlushMinSizeKb": 4, "runtimeValues": {"a": "b"}, "zipkinAddress": "k"
    }});
    let examples = [
        example(text),
        example(json!({"trustDomain": "other.local", "trustDomainAliases": ["old.local"]})),
        example(json!({"enableAutoMtls": false})),
        example(json!({"rootNamespace": "echo"})),
        example(json!({"accessLogFile": "/dev/stdout", "accessLogEncoding": "JSON"})),
        example(
            json!({"localityLbSetting": {"distribute": [{"from": "us/us-a/*", "to": {"us": 80, "eu": 20}}]}}),
        ),
        example(json!({"localityLbSetting": {"failoverPriority": ["nobody-has-it"]}})),
        example(json!({"localityLbSetting": {"enabled": false}})),
        example(json!({"compatibility": "istio"})),
        example(json!({"pathNormalization": {"normalization": "NONE"}})),
        example(json!({
            "meshMTLS": {"minProtocolVersion": "TLSV1_3", "ecdhCurves": ["P-256"], "cipherSuites": ["a"]},
            "tlsDefaults": {"minProtocolVersion": "TLSV1_3", "ecdhCurves": ["P-256"], "cipherSuites": ["a"]}
        })),
        example(everything),
        example(proxies),
    ];
    let strict = object(
        Kind::PeerAuthentication,
        "echo",
        "default",
        &json!({"mtls": {"mode": "STRICT"}}),
    );
    let elsewhere = object(
        Kind::VirtualService,
        "echo",
        "elsewhere",
        &json!({"hosts": ["reviews.default.svc.cluster.local"],
                "http": [{"timeout": "9s", "route": [{"destination": {"host": "reviews.default.svc.cluster.local"}}]}]}),
    );
    let by_name = object(
        Kind::ServiceEntry,
        "default",
        "by-name",
        &json!({"hosts": ["a.com"], "resolution": "DNS", "ports": [{"number": 80, "name": "http", "protocol": "HTTP"}]}),
    );
    let write = |_: &Example, spec: &Value| {
        vec![
            config_map("mesh", spec),
            strict.clone(),
            by_name.clone(),
            elsewhere.clone(),
        ]
    };
    demand_of(
        Kind::ConfigMap,
        &[CALLER, SERVER, INGRESS],
        &paths::leaves::<MeshConfig>(),
        &examples,
        &write,
    );
}

#[test]
fn every_field_of_mesh_networks_has_an_effect_or_a_finding() {
    let networks = |gateway: Value| {
        example(json!({"networks": {
            "third-net": {
                "endpoints": [{"fromCidr": "10.0.1.0/24"}, {"fromRegistry": "us"}],
                "gateways": [gateway]
            }
        }}))
    };
    let examples = [
        networks(
            json!({"address": "198.51.100.99", "port": 15444, "locality": "us/a", "labels": {"a": "b"}}),
        ),
        networks(json!({"registryServiceName": "ingress.istio-system.svc.cluster.local", "port": 15443})),
    ];
    let write = |_: &Example, spec: &Value| vec![config_map("meshNetworks", spec)];
    demand_of(
        Kind::ConfigMap,
        &[CALLER, SERVER, INGRESS],
        &paths::leaves::<MeshNetworks>(),
        &examples,
        &write,
    );
}
