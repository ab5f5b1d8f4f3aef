//! The demo, as openssl, dig and curl see it.

use std::path::Path;

use crate::harness::{Mesh, Output, eventually};
use crate::program::{run, run_with};

/// Server name of echo behind a gateway.
pub const ECHO: &str = "outbound_.80_._.echo.echo.svc.cluster.local";
/// A pod of us whose traffic is not captured.
const OUTSIDE: &str = "us/istio-ingressgateway";

/// Public address of eu's east-west gateway.
fn gateway(mesh: &Mesh) -> String {
    let status = mesh.status();
    let clusters = status["clusters"].as_array().expect("clusters");
    let eu = clusters.iter().find(|c| c["id"] == "eu").expect("cluster eu");
    let address = eu["load_balancers"]["istio-system/istio-eastwestgateway"].as_str();
    format!("{}:15443", address.expect("an address of eu's east-west gateway"))
}

/// A TLS handshake from us through eu's gateway, without a client certificate.
pub fn handshake(mesh: &Mesh, arguments: &[&str]) -> Output {
    let gateway = gateway(mesh);
    let mut argv = vec![
        "timeout",
        "20",
        "openssl",
        "s_client",
        "-connect",
        &gateway,
        "-showcerts",
    ];
    argv.extend(arguments);
    mesh.exec(OUTSIDE, &argv)
}

fn gateway_log(mesh: &Mesh) -> String {
    mesh.log("eu", "istio-system", "istio-eastwestgateway", "istio-proxy")
}

#[test]
fn openssl_sees_echos_own_certificate_through_the_gateway() {
    let mesh = Mesh::shared();
    let said = eventually("a certificate through eu's 15443", || {
        let said = handshake(&mesh, &["-servername", ECHO, "-alpn", "istio"]);
        let has = said.stdout.contains("-----BEGIN CERTIFICATE-----");
        if has { Ok(said) } else { Err(said.to_string()) }
    });
    assert!(said.stdout.contains("TLSv1.3"), "{said}");
    let argv = [
        "openssl",
        "x509",
        "-noout",
        "-ext",
        "subjectAltName,extendedKeyUsage",
    ];
    let leaf = run_with(Path::new("/"), &argv, &said.stdout);
    assert_eq!(leaf.code, 0, "{leaf}");
    assert_eq!(leaf.stdout.matches("URI:").count(), 1, "{leaf}");
    assert!(
        leaf.stdout.contains("URI:spiffe://corp.local/ns/echo/sa/echo"),
        "{leaf}"
    );
}

#[test]
fn what_the_gateway_does_not_know_is_refused_and_logged_in_words() {
    let mesh = Mesh::shared();
    let unknown = "outbound_.80_._.nobody.echo.svc.cluster.local";
    let subset = "outbound_.80_.v99_.echo.echo.svc.cluster.local";
    for (story, arguments, logged) in [
        (
            "an unknown name",
            vec!["-servername", unknown, "-alpn", "istio"],
            unknown,
        ),
        (
            "an unknown subset",
            vec!["-servername", subset, "-alpn", "istio"],
            subset,
        ),
        ("no SNI", vec!["-noservername", "-alpn", "istio"], "SNI"),
        (
            "an ALPN that is not Istio's",
            vec!["-servername", ECHO, "-alpn", "h2"],
            "ALPN",
        ),
    ] {
        eventually(&format!("{story} is refused, and the log says {logged}"), || {
            let said = handshake(&mesh, &arguments);
            assert!(
                !said.stdout.contains("-----BEGIN CERTIFICATE-----"),
                "{story}: {said}"
            );
            let log = gateway_log(&mesh);
            if log.contains(logged) {
                Ok(())
            } else {
                Err(format!("{said}\n--- log\n{log}"))
            }
        });
    }
    let address = gateway(&mesh);
    eventually("plaintext is refused", || {
        let said = mesh.exec(
            OUTSIDE,
            &["curl", "-sS", "--max-time", "20", &format!("http://{address}/")],
        );
        if said.code != 0 {
            Ok(())
        } else {
            Err(said.to_string())
        }
    });
}

#[test]
fn dig_resolves_the_names_of_the_mesh_over_udp_and_tcp() {
    let mesh = Mesh::shared();
    for transport in ["+notcp", "+tcp"] {
        let dig = |name: &str| {
            mesh.exec(
                "us/sleep.default",
                &["dig", transport, "+noall", "+comments", "+answer", name],
            )
        };
        eventually(&format!("echo.eu.mesh.local with {transport}"), || {
            let said = dig("echo.eu.mesh.local");
            let right = said.stdout.contains("status: NOERROR") && said.stdout.contains("240.0.0.2");
            if right { Ok(()) } else { Err(said.to_string()) }
        });
        let nobody = dig("nobody.nowhere.global");
        assert!(nobody.stdout.contains("status: NXDOMAIN"), "{nobody}");
        // What is not of the mesh is asked of the cluster's own DNS, and that asks the internet's.
        let outside = dig("eastwest.eu.example.net");
        assert!(outside.stdout.contains("198.51.100."), "{outside}");
    }
}

#[test]
fn curl_reaches_echo_in_eu_from_a_pod_of_us() {
    let mesh = Mesh::shared();
    eventually("curl http://echo.eu.mesh.local", || {
        let said = mesh.exec(
            "us/sleep.default",
            &["curl", "-sS", "--max-time", "20", "http://echo.eu.mesh.local"],
        );
        let right = said.code == 0 && said.stdout.starts_with("echo from cluster eu");
        if right { Ok(()) } else { Err(said.to_string()) }
    });
}

#[test]
fn curl_shows_the_productpage_at_every_published_address() {
    let mesh = Mesh::shared();
    for address in mesh.published("us").into_iter().chain(mesh.published("eu")) {
        let url = format!("http://{address}/productpage");
        let page = run(
            Path::new("/"),
            &[
                "curl",
                "-sS",
                "--fail",
                "--retry",
                "5",
                "--retry-all-errors",
                &url,
            ],
        );
        assert!(page.stdout.contains("The Comedy of Errors"), "{page}");
    }
}
