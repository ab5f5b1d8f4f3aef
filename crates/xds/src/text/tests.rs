//! Bootstrap files as people write them, and the mistakes they make.

use prost::Message;
use serde_json::{Value as Json, json};

use super::*;
use crate::envoy::bootstrap::Bootstrap;
use crate::envoy::cluster::Cluster;
use crate::envoy::google::protobuf;
use crate::envoy::hcm::HttpConnectionManager;
use crate::envoy::listener::{Listener, filter::ConfigType};
use crate::envoy::tls::Secret;
use crate::{pack, unpack};

const HTTP: &str = include_str!("../../tests/bootstrap/http.yaml");
const MTLS_IN: &str = include_str!("../../tests/bootstrap/mtls-in.yaml");
const MTLS_OUT: &str = include_str!("../../tests/bootstrap/mtls-out.yaml");
const SNI: &str = include_str!("../../tests/bootstrap/sni.yaml");

fn bootstrap(text: &str) -> Bootstrap {
    read("b.yaml", text).unwrap()
}

fn refused(text: &str) -> String {
    read::<Bootstrap>("b.yaml", text).unwrap_err().to_string()
}

fn cluster(fields: &str) -> Result<Cluster, String> {
    read("c.yaml", fields).map_err(|e: TextError| e.to_string())
}

#[test]
fn an_http_proxys_file_becomes_its_message() {
    let resources = bootstrap(HTTP).static_resources.unwrap();
    let [cart, refused] = resources.clusters.as_slice() else {
        panic!("two clusters");
    };
    assert_eq!(cart.connect_timeout.as_ref().unwrap().seconds, 2);
    assert_eq!(refused.connect_timeout.as_ref().unwrap().nanos, 250_000_000);
    assert_eq!(
        cart.circuit_breakers, refused.circuit_breakers,
        "the anchor stands for the same"
    );
    let limits = &cart.circuit_breakers.as_ref().unwrap().thresholds[0];
    assert_eq!(limits.max_connections.as_ref().unwrap().value, 100_000);

    let filter = &resources.listeners[0].filter_chains[0].filters[0];
    let Some(ConfigType::TypedConfig(config)) = &filter.config_type else {
        panic!("a typed configuration");
    };
    let manager: HttpConnectionManager = unpack(config).unwrap();
    assert_eq!(manager.stat_prefix, "front");
    assert!(manager.route_specifier.is_some());
    assert_eq!(manager.http_filters.len(), 1);
}

#[test]
fn every_shape_survives_the_way_there_and_back() {
    // Without the private key's place: it is left out like the key itself.
    let without_key = MTLS_OUT.replace(r#", private_key: {filename: "/certs/client.key"}"#, "");
    assert_ne!(without_key, MTLS_OUT);
    for text in [HTTP, &without_key, SNI] {
        let first = bootstrap(text);
        let shown = to_json(&pack(&first));
        let mut fields = shown.as_object().unwrap().clone();
        fields.remove("@type");
        let again: Bootstrap = read("again.json", &Json::Object(fields).to_string()).unwrap();
        // Maps have no order, hence not the bytes but the messages.
        assert_eq!(first, again);
    }
}

#[test]
fn secrets_are_not_shown() {
    let shown = to_json(&pack(&bootstrap(MTLS_IN))).to_string();
    assert!(!shown.contains("do not show"), "{shown}");
    assert!(
        shown.contains(r#""private_key":{"inline_string":"[redacted]"}"#),
        "{shown}"
    );
    assert!(shown.contains("/certs/server.crt"), "{shown}");

    let secret: Secret = read(
        "s.yaml",
        "{name: s, tls_certificate: {private_key: {inline_bytes: aHVzaA==}}}",
    )
    .unwrap();
    let shown = to_json(&pack(&secret)).to_string();
    assert!(!shown.contains("aHVzaA"), "{shown}");
}

#[test]
fn json_is_read_with_the_same_positions() {
    let parsed = bootstrap(r#"{"staticResources": {"clusters": [{"name": "c", "connectTimeout": "3s"}]}}"#);
    assert_eq!(parsed.static_resources.unwrap().clusters[0].name, "c");
    let error = refused("{\n  \"static_resources\": {\n    \"clusterz\": []\n  }\n}");
    assert_eq!(
        error,
        "b.yaml:3:5: static_resources: envoy.config.bootstrap.v3.Bootstrap.StaticResources has no field \
         \"clusterz\"; did you mean \"clusters\"?"
    );
}

#[test]
fn an_unknown_field_is_found_inside_a_typed_config() {
    let wrong = HTTP.replace("stat_prefix: front", "stat_prefx: front");
    let line = 1 + wrong.lines().position(|l| l.contains("stat_prefx")).unwrap();
    let error = refused(&wrong);
    assert!(error.starts_with(&format!("b.yaml:{line}:11: ")), "{error}");
    assert!(
        error.contains("static_resources.listeners[0].filter_chains[0].filters[0].typed_config: "),
        "{error}"
    );
    assert!(error.contains("did you mean \"stat_prefix\"?"), "{error}");
}

#[test]
fn wrong_values_are_told_with_place_and_remedy() {
    for (text, parts) in [
        ("name: 5", ["c.yaml:1:7: name: ", "a string (in quotes), found 5"]),
        ("name: x\ntype: STATIK", ["c.yaml:2:7: type: ", "one of STATIC"]),
        (
            "connect_timeout: 5",
            ["c.yaml:1:18: connect_timeout: ", "invalid type"],
        ),
        ("connect_timeout: 5 s", ["c.yaml:1:18: connect_timeout: ", ""]),
        (
            "per_connection_buffer_limit_bytes: -1",
            ["c.yaml:1:36: per_connection_buffer_limit_bytes: ", ""],
        ),
        (
            "respect_dns_ttl: yes please",
            [
                "c.yaml:1:18: respect_dns_ttl: ",
                "true or false, found \"yes please\"",
            ],
        ),
        (
            "health_checks: {}",
            ["c.yaml:1:16: health_checks: ", "a list, found a map"],
        ),
        (
            "load_assignment: []",
            ["c.yaml:1:18: load_assignment: ", "the fields of"],
        ),
        (
            "ring_hash_lb_config: {}\nmaglev_lb_config: {}",
            [
                "c.yaml:2:1: maglev_lb_config: ",
                "ring_hash_lb_config is given as well",
            ],
        ),
        (
            "alt_stat_name: a\naltStatName: b",
            ["c.yaml:2:1: alt_stat_name: ", "given twice"],
        ),
        ("name: a\nname: b", ["c.yaml:2:1", "duplicate"]),
        ("name: [", ["c.yaml:", ""]),
        (
            "transport_socket: {name: t, typed_config: {sni: x}}",
            ["transport_socket.typed_config: ", "\"@type\" is missing"],
        ),
        (
            "transport_socket: {name: t, typed_config: {\"@type\": type.googleapis.com/no.Such}}",
            ["transport_socket.typed_config: ", "\"no.Such\" is not a message"],
        ),
    ] {
        let error = cluster(text).unwrap_err();
        for part in parts {
            assert!(error.contains(part), "{part:?} in {error:?} of {text:?}");
        }
    }
}

#[test]
fn the_leniencies_of_protos_json_hold() {
    let read = cluster("{name: ~, type: 3, per_connection_buffer_limit_bytes: \"1024\", connectTimeout: 1s}");
    let read = read.unwrap();
    assert_eq!(read.name, "");
    assert_eq!(read.per_connection_buffer_limit_bytes.unwrap().value, 1024);
    assert_eq!(
        read.cluster_discovery_type,
        Some(crate::envoy::cluster::cluster::ClusterDiscoveryType::Type(3))
    );
}

#[test]
fn metadata_is_any_json() {
    let read = cluster("metadata: {filter_metadata: {isthmus: {a: 1, b: [true, ~, x], c: {}}}}").unwrap();
    let shown = to_json(&pack(&read));
    assert_eq!(
        shown["metadata"]["filter_metadata"]["isthmus"],
        json!({"a": 1.0, "b": [true, null, "x"], "c": {}})
    );
}

#[test]
fn what_is_not_known_is_shown_without_hiding_the_rest() {
    let listener = Listener {
        name: "l".to_owned(),
        filter_chains: vec![crate::envoy::listener::FilterChain {
            filters: vec![crate::envoy::listener::Filter {
                name: "istio.stats".to_owned(),
                config_type: Some(ConfigType::TypedConfig(protobuf::Any {
                    type_url: "type.googleapis.com/stats.PluginConfig".to_owned(),
                    value: vec![1, 2, 3],
                })),
            }],
            ..Default::default()
        }],
        ..Default::default()
    };
    let shown = to_json(&pack(&listener));
    assert_eq!(shown["name"], "l");
    assert_eq!(
        shown["filter_chains"][0]["filters"][0]["typed_config"],
        json!({"@type": "type.googleapis.com/stats.PluginConfig", "value": "AQID"})
    );
}

#[test]
fn hostile_texts_are_refused_and_end() {
    let bomb = (0..40).fold("a0: &a0 [x, x]\n".to_owned(), |text, i| {
        text + &format!("a{0}: &a{0} [*a{i}, *a{i}]\n", i + 1)
    });
    assert!(read::<Bootstrap>("b", &bomb).is_err());
    let deep = "[".repeat(100_000);
    assert!(read::<Bootstrap>("b", &deep).is_err());
    assert!(refused("").contains("found null"));
    assert!(read::<Bootstrap>("b", &" ".repeat(LONGEST + 1)).is_err());

    // Packed in itself, deeper than anybody nests.
    let mut any = pack(&Cluster::default());
    for _ in 0..1000 {
        any = protobuf::Any {
            type_url: "type.googleapis.com/google.protobuf.Any".to_owned(),
            value: any.encode_to_vec(),
        };
    }
    assert!(to_json(&any).is_object());
}

#[test]
fn a_text_too_deep_for_the_stack_is_refused() {
    let deep = format!("node: {}1{}", "{id: ".repeat(5000), "}".repeat(5000));
    let error = read::<Bootstrap>("deep.yaml", &deep).unwrap_err().to_string();
    assert!(error.starts_with("deep.yaml"), "{error}");
}
