//! Who proves to be whom: certificates of another root, and of the right root for another name.

use std::path::Path;
use std::time::Duration;

use isthmus_model::{SpiffeId, TrustDomain};
use isthmus_pki::{Authority, KeyAlgorithm, PrivateKey};

use crate::harness::{Mesh, Output, Writer, eventually};
use crate::steady::ACCESS_LOG;

/// The name that every certificate here bears.
const SLEEP: &str = "spiffe://corp.local/ns/default/sa/sleep";

/// A pod of us that is no part of the mesh: a proxy with a configuration of its own, and a program to ask it.
fn intruder(file: &Path) -> String {
    format!(
        r#"
apiVersion: v1
kind: Namespace
metadata: {{name: legacy}}
---
apiVersion: v1
kind: ServiceAccount
metadata: {{name: default, namespace: legacy}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {{name: intruder, namespace: legacy}}
spec:
  selector: {{matchLabels: {{app: intruder}}}}
  template:
    metadata: {{labels: {{app: intruder}}}}
    spec:
      containers:
      - name: proxy
        image: docker.io/isthmus/isthmus:any
        args: [proxy, -c, "{}"]
"#,
        file.display()
    )
}

/// Mutual TLS as a sidecar speaks it, with a certificate from files.
fn bootstrap(dir: &Path, details: &str, clients: &[(&str, u16)]) -> String {
    let dir = dir.display();
    let listener = |(name, port): &(&str, u16)| {
        format!(
            r#"
  - name: {name}
    address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: {name}
          route_config: {{name: {name}, virtual_hosts: [{{name: all, domains: ["*"], routes: [{{match: {{prefix: "/"}}, route: {{cluster: {name}}}}}]}}]}}
          http_filters:
          - name: envoy.filters.http.router
            typed_config: {{"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}"#
        )
    };
    let cluster = |(name, _): &(&str, u16)| {
        format!(
            r#"
  - name: {name}
    type: STATIC
    connect_timeout: 5s
    load_assignment: {{cluster_name: {name}, endpoints: [{{lb_endpoints: [{{endpoint: {{address: {{socket_address: {{address: {details}, port_value: 9080}}}}}}}}]}}]}}
    transport_socket:
      name: envoy.transport_sockets.tls
      typed_config:
        "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext
        sni: outbound_.9080_._.details.default.svc.cluster.local
        common_tls_context:
          alpn_protocols: [istio-http/1.1, istio, http/1.1]
          tls_certificates: [{{certificate_chain: {{filename: "{dir}/{name}.pem"}}, private_key: {{filename: "{dir}/{name}.key"}}}}]
          validation_context: {{trusted_ca: {{filename: "{dir}/root.pem"}}}}"#
        )
    };
    format!(
        "static_resources:\n  listeners:{}\n  clusters:{}\n",
        clients.iter().map(listener).collect::<String>(),
        clients.iter().map(cluster).collect::<String>(),
    )
}

/// Writes a certificate for [`SLEEP`] as `NAME.pem` and `NAME.key`.
fn certificate(dir: &Path, name: &str, authority: &Authority) {
    let identity: SpiffeId = SLEEP.parse().expect("a SPIFFE id");
    let key = PrivateKey::generate(KeyAlgorithm::EcdsaP256).expect("a key");
    let request = key.certificate_request(&identity).expect("a request");
    let issued = authority
        .issue(&request, &identity, Duration::ZERO)
        .expect("a certificate");
    std::fs::write(dir.join(format!("{name}.pem")), issued.chain.concat()).expect("a file");
    std::fs::write(dir.join(format!("{name}.key")), key.to_pem().as_bytes()).expect("a file");
}

fn address(mesh: &Mesh, cluster: &str, owner: &str) -> String {
    let status = mesh.status();
    let clusters = status["clusters"].as_array().into_iter().flatten();
    let mut pods = clusters
        .filter(|c| c["id"] == cluster)
        .flat_map(|c| c["pods"].as_array().into_iter().flatten());
    pods.find(|p| p["owner"] == owner)
        .and_then(|p| p["address"].as_str())
        .unwrap_or_else(|| panic!("{owner} has no address"))
        .to_owned()
}

/// Some line of a sidecar's log has all these words.
fn says(mesh: &Mesh, owner: &str, words: &[&str]) {
    eventually(&format!("the sidecar of {owner} says {words:?}"), || {
        let log = mesh.log("us", "default", owner, "istio-proxy");
        let found = log.lines().any(|line| words.iter().all(|w| line.contains(w)));
        found
            .then_some(())
            .ok_or_else(|| log.lines().rev().take(8).collect::<Vec<_>>().join("\n"))
    });
}

#[test]
fn a_certificate_of_another_root_is_refused_whatever_name_it_bears() {
    let mesh = Mesh::exclusive();
    let files = tempfile::tempdir().expect("a directory");
    let cacerts = mesh.dir().join("us").join("cacerts");
    let own = Authority::load(&cacerts).expect("the authority of us");
    let domain: TrustDomain = "corp.local".parse().expect("a trust domain");
    let other = Authority::self_signed(&domain, KeyAlgorithm::EcdsaP256).expect("another root");
    certificate(files.path(), "right", &own);
    certificate(files.path(), "wrong", &other);
    std::fs::copy(cacerts.join("root-cert.pem"), files.path().join("root.pem")).expect("the root");
    let clients = [("right", 9001), ("wrong", 9002)];
    let yaml = bootstrap(files.path(), &address(&mesh, "us", "details-v1"), &clients);
    let file = files.path().join("bootstrap.yaml");
    std::fs::write(&file, yaml).expect("a file");
    mesh.apply("us", &intruder(&file));
    mesh.apply("us", include_str!("../../samples/scenarios/strict-mtls.yaml"));

    let ask = |port: u16| -> Output {
        let url = format!("http://127.0.0.1:{port}/details/0");
        mesh.fetch("us/intruder.legacy", &url, &["-i", "--close"])
    };
    // The mesh's own root: what is refused below is not the way of asking.
    eventually("a certificate of the mesh's root is taken", || {
        let output = ask(9001);
        let taken = output.stdout.starts_with("HTTP/1.1 200");
        taken.then_some(()).ok_or_else(|| output.to_string())
    });
    for _ in 0..3 {
        let output = ask(9002);
        assert!(output.stdout.starts_with("HTTP/1.1 503"), "{output}");
    }
    let trusted = own.roots().fingerprints()[0].to_string();
    let shown = other.certificate().fingerprint().to_string();
    says(
        &mesh,
        "details-v1",
        &[
            "connection refused: TLS",
            &format!("certificate of {SLEEP} chains to root {shown}"),
            &format!("but trusted are {trusted}"),
        ],
    );
}

/// A host whose endpoint is the pod of details, said to be of another service account.
fn ledger(mesh: &Writer, account: &str) {
    let details = address(mesh, "us", "details-v1");
    mesh.apply(
        "us",
        &format!(
            r"
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: ledger, namespace: default}}
spec:
  hosts: [ledger.corp.local]
  addresses: [240.0.0.77]
  location: MESH_INTERNAL
  resolution: STATIC
  ports: [{{number: 9080, name: http, protocol: HTTP}}]
  endpoints:
  - address: {details}
    serviceAccount: {account}
    labels: {{security.istio.io/tlsMode: istio}}
"
        ),
    );
}

#[test]
fn the_client_refuses_a_server_that_proves_to_be_somebody_else() {
    let mesh = Mesh::exclusive();
    mesh.apply("us", ACCESS_LOG);
    ledger(&mesh, "ledger");
    let ask = || {
        mesh.fetch(
            "us/sleep.default",
            "http://ledger.corp.local:9080/details/0",
            &["-i", "--close"],
        )
    };
    let proved = "server proved spiffe://corp.local/ns/default/sa/bookinfo-details";
    let expected = "expects one of [spiffe://corp.local/ns/default/sa/ledger]";
    eventually("the answer says who was asked for and who answered", || {
        let output = ask();
        let explained = output.stdout.starts_with("HTTP/1.1 503")
            && output.stdout.contains(proved)
            && output.stdout.contains(expected);
        explained.then_some(()).ok_or_else(|| output.to_string())
    });
    // While the endpoint is ejected for it, the answer still says so.
    let output = ask();
    assert!(output.stdout.contains(proved), "{output}");
    // Words of an access log have no blanks within.
    let proved = proved.replace(' ', "_");
    eventually("the access log has the flag and the reason", || {
        ask();
        let log = mesh.log("us", "default", "sleep", "istio-proxy");
        let lines: Vec<&str> = log.lines().filter(|l| l.contains("ledger.corp.local")).collect();
        let flagged = |flag: &str| lines.iter().any(|l| l.contains(flag) && l.contains(&proved));
        if flagged("UF") {
            Ok(())
        } else {
            Err(lines.join("\n"))
        }
    });
    // So do the metrics.
    let metrics = mesh.fetch("us/sleep.default", "http://127.0.0.1:15090/stats/prometheus", &[]);
    let counted = metrics.stdout.lines().any(|line| {
        line.starts_with("istio_requests_total{")
            && line.contains(r#"destination_service="ledger.corp.local""#)
            && line.contains(r#"response_code="503""#)
            && line.contains(r#"response_flags="UF"#)
    });
    assert!(counted, "{metrics}");
    // The server learns no more than that.
    says(&mesh, "details-v1", &["the peer refused our certificate"]);

    ledger(&mesh, "bookinfo-details");
    eventually("the right name is taken", || {
        let output = ask();
        let taken = output.stdout.starts_with("HTTP/1.1 200");
        taken.then_some(()).ok_or_else(|| output.to_string())
    });
}
