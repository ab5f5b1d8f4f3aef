//! The tables of a sample dump, as a reader sees them.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use isthmus_pki::Authority;
use isthmus_pki::authority::RootRequest;
use isthmus_pki::key::KeyAlgorithm;
use serde_json::{Value, json};

use super::dump::Dump;
use super::{bootstrap, cluster, endpoint, listener, log, route, secret};

const DUMP: &str = include_str!("sample_dump.json");

fn dump() -> Dump {
    Dump::new(serde_json::from_str(DUMP).unwrap())
}

#[derive(Debug, clap::Parser)]
struct Typed<F: clap::Args> {
    #[command(flatten)]
    filter: F,
}

/// A filter as typed.
fn filter<F: clap::Args + std::fmt::Debug>(arguments: &[&str]) -> F {
    let all = ["proxy-config"].iter().chain(arguments);
    <Typed<F> as clap::Parser>::try_parse_from(all).unwrap().filter
}

/// The rows, a line each, columns kept apart by one space.
fn rows(text: &str) -> Vec<String> {
    text.lines()
        .skip(1)
        .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
        .collect()
}

#[test]
fn clusters_are_split_into_service_port_subset_and_direction() {
    let dump = dump();
    let clusters =
        |arguments: &[&str]| rows(&cluster::table(&filter::<cluster::Filter>(arguments).of(&dump)).text());
    assert_eq!(
        clusters(&[]),
        [
            "9080 - inbound ORIGINAL_DST",
            "BlackHoleCluster - - - STATIC",
            "PassthroughCluster - - - ORIGINAL_DST",
            "echo.echo.svc.cluster.local 80 - outbound EDS",
            "reviews.default.svc.cluster.local 9080 - outbound EDS reviews.default",
            "reviews.default.svc.cluster.local 9080 v1 outbound EDS reviews.default",
        ]
    );
    assert_eq!(clusters(&["--fqdn", "reviews"]).len(), 2);
    assert_eq!(
        clusters(&["--fqdn", "reviews", "--subset", "v1"]),
        ["reviews.default.svc.cluster.local 9080 v1 outbound EDS reviews.default"]
    );
    assert_eq!(
        clusters(&["--port", "80"]),
        ["echo.echo.svc.cluster.local 80 - outbound EDS"]
    );
    assert_eq!(
        clusters(&["--direction", "inbound"]),
        ["9080 - inbound ORIGINAL_DST"]
    );
}

#[test]
fn a_row_a_filter_chain_says_what_goes_where() {
    let dump = dump();
    let listeners =
        |arguments: &[&str]| rows(&listener::table(&filter::<listener::Filter>(arguments).of(&dump)).text());
    assert_eq!(
        listeners(&[]),
        [
            "0.0.0.0_9080 0.0.0.0:9080 Trans: raw_buffer; App: http/1.1,h2c Route: 9080",
            "0.0.0.0_9080 0.0.0.0:9080 ALL Cluster: PassthroughCluster",
            "virtualOutbound 0.0.0.0:15001 Addr: *:15001 Cluster: BlackHoleCluster",
            "virtualOutbound 0.0.0.0:15001 ALL Cluster: PassthroughCluster",
            "virtualInbound 0.0.0.0:15006 Trans: tls; App: istio,istio-h2; Addr: 10.10.0.4/32:9080 Cluster: inbound|9080||",
            "0.0.0.0_15443 0.0.0.0:15443 SNI: outbound_.80_._.echo.echo.svc.cluster.local; App: istio \
             Cluster: outbound_.80_._.echo.echo.svc.cluster.local",
        ]
    );
    assert_eq!(listeners(&["--port", "9080"]).len(), 2);
    assert_eq!(listeners(&["--name", "virtualInbound"]).len(), 1);
    assert!(listeners(&["--address", "10.0.0.1"]).is_empty());
}

#[test]
fn routes_keep_their_order_and_show_what_they_match() {
    let dump = dump();
    let routes =
        |arguments: &[&str]| rows(&route::table(&filter::<route::Filter>(arguments).of(&dump)).text());
    let host = "9080 reviews.default.svc.cluster.local:9080 reviews, reviews.default + 1 more";
    assert_eq!(
        routes(&["--name", "9080"]),
        [
            "9080 allow_any * /* PassthroughCluster".to_owned(),
            format!(
                "{host} /* end-user=jason outbound|9080|v1|reviews.default.svc.cluster.local reviews.default"
            ),
            format!(
                "{host} /* outbound|9080||reviews.default.svc.cluster.local (80%), \
                 outbound|9080|v1|reviews.default.svc.cluster.local (20%) reviews.default"
            ),
        ]
    );
    assert_eq!(
        routes(&["--name", "http.80"]),
        [
            "http.80 *:80 * /old redirect to https new.example.com",
            "http.80 *:80 * regex ^/v[0-9]+$ ?debug=1 status 503",
        ]
    );
    assert_eq!(routes(&["--fqdn", "reviews"]).len(), 2);
}

#[test]
fn endpoints_show_where_they_are_and_whether_they_are_used() {
    let hosts: Value = json!({ "cluster_statuses": [
        { "name": "outbound|9080||reviews.default.svc.cluster.local", "host_statuses": [
            { "address": { "socket_address": { "address": "198.51.100.65", "port_value": 15443 } },
              "health_status": { "eds_health_status": "HEALTHY", "failed_outlier_check": true },
              "weight": 2, "priority": 1, "locality": { "region": "eu" } },
            { "address": { "socket_address": { "address": "10.10.0.4", "port_value": 9080 } },
              "health_status": { "eds_health_status": "HEALTHY" },
              "weight": 1, "locality": { "region": "us", "zone": "us-a" } },
        ] },
        { "name": "outbound|80||echo.echo.svc.cluster.local", "host_statuses": [
            { "address": { "socket_address": { "address": "fd00::1", "port_value": 8080 } },
              "health_status": {} },
            { "address": { "pipe": { "path": "/run/echo.sock" } },
              "health_status": { "eds_health_status": "DRAINING" } },
        ] },
    ] });
    let endpoints =
        |arguments: &[&str]| rows(&endpoint::table(&filter::<endpoint::Filter>(arguments).of(&hosts)).text());
    assert_eq!(
        endpoints(&[]),
        [
            "outbound|80||echo.echo.svc.cluster.local /run/echo.sock DRAINING 0 1",
            "outbound|80||echo.echo.svc.cluster.local [fd00::1]:8080 HEALTHY 0 1",
            "outbound|9080||reviews.default.svc.cluster.local 10.10.0.4:9080 HEALTHY us/us-a 0 1",
            "outbound|9080||reviews.default.svc.cluster.local 198.51.100.65:15443 EJECTED eu 1 2",
        ]
    );
    assert_eq!(endpoints(&["--cluster", "outbound|80|"]).len(), 2);
    assert_eq!(endpoints(&["--fqdn", "reviews", "--port", "15443"]).len(), 1);
    assert_eq!(endpoints(&["--status", "ejected"]).len(), 1);
    assert_eq!(endpoints(&["--address", "10.10.0.4"]).len(), 1);
}

#[test]
fn a_certificate_is_shown_with_its_serial_and_times() {
    let root = Authority::create_root(&RootRequest {
        algorithm: KeyAlgorithm::EcdsaP256,
        ..RootRequest::default()
    })
    .unwrap();
    let pem = BASE64_STANDARD.encode(root.certificate().to_pem());
    let dump = Dump::new(json!({ "configs": [{
        "@type": "type.googleapis.com/envoy.admin.v3.SecretsConfigDump",
        "dynamic_active_secrets": [
            { "name": "ROOTCA", "secret": {
                "validation_context": { "trusted_ca": { "inline_bytes": pem } } } },
            { "name": "default", "secret": {
                "tls_certificate": { "certificate_chain": { "inline_bytes": "bm90IGEgY2VydGlmaWNhdGU=" } } } },
        ],
        "dynamic_warming_secrets": [{ "name": "kubernetes://bookinfo" }],
    }] }));
    let rows = rows(&secret::table(&dump.secrets()).text());
    let serial = root.certificate().serial.replace(':', "").to_lowercase();
    assert!(
        rows[0].starts_with(&format!("ROOTCA CA ACTIVE true {serial} 20")),
        "{}",
        rows[0]
    );
    assert_eq!(rows[1], "default Cert Chain ACTIVE false");
    assert_eq!(rows[2], "kubernetes://bookinfo CA WARMING false");
}

#[test]
fn the_node_says_who_the_proxy_is() {
    let dump = dump();
    let rows = rows(&bootstrap::table(dump.bootstrap().unwrap()).text());
    assert!(rows.contains(&"id sidecar~10.10.0.4~reviews-v1.default~default.svc.cluster.local".to_owned()));
    assert!(rows.contains(&"locality us/us-a".to_owned()));
    assert!(rows.contains(&"CLUSTER_ID us".to_owned()));
    assert!(rows.contains(&r#"LABELS {"app":"reviews"}"#.to_owned()));
}

#[test]
fn log_levels_are_set_for_everything_or_scope_by_scope() {
    assert_eq!(log::path(None), "/logging");
    assert_eq!(log::path(Some("debug")), "/logging?level=debug");
    assert_eq!(
        log::path(Some("proxy:debug,dns:warn")),
        "/logging?paths=proxy:debug,dns:warn"
    );
    let answer = "active loggers:\n  default: info\n  proxy: debug\n";
    assert_eq!(log::levels(answer)["proxy"], "debug");
    // Scopes that were set on their own follow when everything is set.
    assert_eq!(log::others("info", answer).unwrap(), "/logging?paths=proxy:info");
    assert_eq!(log::others("proxy:debug", answer), None);
    assert_eq!(log::others("info", "active loggers:\n  default: info\n"), None);
}

#[test]
fn an_answer_that_is_no_dump_makes_empty_tables() {
    for odd in [
        json!(null),
        json!({"configs": 3}),
        json!({"configs": [{"@type": 1}, null]}),
    ] {
        let dump = Dump::new(odd);
        assert!(dump.clusters().is_empty() && dump.listeners().is_empty() && dump.routes().is_empty());
        assert!(dump.secrets().is_empty() && dump.bootstrap().is_none());
    }
}
