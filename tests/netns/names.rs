//! Names of the mesh: services of the other cluster under every name they may be asked by.

use crate::harness::{Mesh, eventually, eventually_json};

/// The identity of the caller, as the called application is told it.
fn caller(answer: &serde_json::Value) -> &str {
    answer["headers"]["x-forwarded-client-cert"]
        .as_str()
        .or_else(|| answer["headers"]["X-Forwarded-Client-Cert"].as_str())
        .unwrap_or_default()
}

#[test]
fn echo_eu_mesh_local_answers_from_eu_through_the_hand_written_service_entry() {
    let mesh = Mesh::shared();
    let answer = eventually_json(
        "echo.eu.mesh.local from us",
        || mesh.fetch("us/sleep.default", "http://echo.eu.mesh.local/?format=json", &[]),
        |answer| answer["cluster"] == "eu",
    );
    assert_eq!(
        answer["host"], "echo.eu.mesh.local",
        "the Host header is left as it is: {answer:#}"
    );

    // Nothing between the two sidecars terminated the TLS: echo was shown the certificate of sleep in us.
    let proof = caller(&answer);
    assert!(
        proof.contains("URI=spiffe://corp.local/ns/default/sa/sleep"),
        "{answer:#}"
    );
    assert!(
        proof.contains("By=spiffe://corp.local/ns/echo/sa/echo"),
        "{answer:#}"
    );
}

#[test]
fn the_name_resolves_to_the_address_that_the_service_entry_gives() {
    let mesh = Mesh::shared();
    eventually("echo.eu.mesh.local resolves to 240.0.0.2", || {
        let output = mesh.exec("us/sleep.default", &["getent", "ahostsv4", "echo.eu.mesh.local"]);
        let right = output.code == 0 && output.stdout.starts_with("240.0.0.2 ");
        right.then_some(()).ok_or_else(|| output.to_string())
    });
}

#[test]
fn gateways_hold_no_key_of_a_workload() {
    let mesh = Mesh::shared();
    let secrets = mesh.json(&["proxy-config", "secret", "eu/istio-eastwestgateway", "-o", "json"]);
    let mut names: Vec<&str> = secrets
        .as_array()
        .expect("a list")
        .iter()
        .filter_map(|s| s["name"].as_str())
        .collect();
    names.sort_unstable();
    assert_eq!(
        names,
        ["ROOTCA", "default"],
        "its own identity and the roots, nothing else"
    );
}

#[test]
fn the_legacy_global_name_reaches_httpbin_with_a_service_entry() {
    let mesh = Mesh::shared();
    let answer = eventually_json(
        "httpbin.bar.global:8000 from us",
        || mesh.fetch("us/sleep.foo", "http://httpbin.bar.global:8000/headers", &[]),
        |answer| answer["headers"].is_object(),
    );
    assert!(
        caller(&answer).contains("URI=spiffe://corp.local/ns/foo/sa/sleep"),
        "{answer:#}"
    );
    // The name works without the ServiceEntry too, so the answer alone does not show that it is in force.
    eventually("httpbin.bar.global resolves to 240.0.0.3", || {
        let output = mesh.exec("us/sleep.foo", &["getent", "ahostsv4", "httpbin.bar.global"]);
        let right = output.code == 0 && output.stdout.starts_with("240.0.0.3 ");
        right.then_some(()).ok_or_else(|| output.to_string())
    });
}

#[test]
fn the_legacy_global_name_needs_no_service_entry() {
    let mesh = Mesh::exclusive();
    mesh.delete("us", "serviceentries", "foo", "httpbin-bar");
    let address = eventually("httpbin.bar.global has an automatic address", || {
        let output = mesh.exec("us/sleep.foo", &["getent", "ahostsv4", "httpbin.bar.global"]);
        match output.stdout.split_whitespace().next() {
            Some(address) if output.code == 0 && address != "240.0.0.3" => Ok(address.to_owned()),
            _ => Err(output.to_string()),
        }
    });
    assert!(
        address.starts_with("240."),
        "{address} is of the range for automatic addresses"
    );
    eventually_json(
        "httpbin.bar.global:8000 without a ServiceEntry",
        || mesh.fetch("us/sleep.foo", "http://httpbin.bar.global:8000/headers", &[]),
        |answer| caller(answer).contains("URI=spiffe://corp.local/ns/foo/sa/sleep"),
    );
}

#[test]
fn a_service_that_only_the_other_cluster_has_is_found_by_its_kubernetes_names() {
    let mesh = Mesh::shared();
    for host in ["echo.echo", "echo.echo.svc", "echo.echo.svc.cluster.local"] {
        eventually_json(
            host,
            || mesh.fetch("us/sleep.default", &format!("http://{host}/?format=json"), &[]),
            |answer| answer["cluster"] == "eu",
        );
    }
}

#[test]
fn a_name_that_nobody_has_does_not_resolve() {
    let mesh = Mesh::shared();
    let output = mesh.exec(
        "us/sleep.default",
        &["getent", "ahostsv4", "nobody.nowhere.global"],
    );
    assert_ne!(output.code, 0, "{output}");
}
