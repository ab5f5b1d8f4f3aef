//! From outside: the productpage through each ingress gateway of each cluster.

use crate::harness::{Mesh, eventually, eventually_json, get};

#[test]
fn the_productpage_is_shown_by_every_ingress_gateway() {
    let mesh = Mesh::shared();
    for cluster in ["us", "eu"] {
        let gateways = mesh.published(cluster);
        assert_eq!(gateways.len(), 2, "two ingress gateways of {cluster}");
        for address in gateways {
            let page = eventually(
                &format!("the productpage of {cluster} at {address}"),
                || match get(address, "bookinfo.example.com", "/productpage")? {
                    (200, page) if page.contains("The Comedy of Errors") => Ok(page),
                    (status, page) => Err(format!("{status}: {page}")),
                },
            );
            assert!(page.contains("text/html"), "{page}");
        }
    }
}

#[test]
fn each_cluster_shows_what_only_the_other_one_has() {
    let mesh = Mesh::shared();
    // There are no ratings in us and no details in eu; the page asks for both.
    for (cluster, path, has) in [
        ("us", "/api/v1/products/0/ratings", "ratings"),
        ("eu", "/api/v1/products/0", "author"),
    ] {
        let gateways = mesh.published(cluster);
        eventually(&format!("{path} of {cluster}"), || {
            match get(gateways[0], "bookinfo.example.com", path)? {
                (200, body) if body.contains(has) => Ok(()),
                (status, body) => Err(format!("{status}: {body}")),
            }
        });
    }
}

#[test]
fn a_path_that_no_route_names_is_not_found() {
    let mesh = Mesh::shared();
    let gateways = mesh.published("us");
    eventually("404 for a path without a route", || {
        match get(gateways[0], "bookinfo.example.com", "/no-such-path")? {
            (404, _) => Ok(()),
            (status, body) => Err(format!("{status}: {body}")),
        }
    });
}

#[test]
fn a_service_may_be_sent_to_the_other_clusters_ingress_gateway() {
    let mesh = Mesh::shared();
    eventually_json(
        "httpbin behind eu's ingress gateway",
        || mesh.fetch("us/sleep.foo", "http://httpbin.bar.global:8000/headers", &[]),
        |answer| answer["headers"].is_object(),
    );
    let status = mesh.status();
    let eu = status["clusters"]
        .as_array()
        .into_iter()
        .flatten()
        .find(|c| c["id"] == "eu")
        .expect("cluster eu");
    let ingress = &eu["load_balancers"]["istio-system/istio-ingressgateway"];
    let arguments = ["--cluster", "httpbin.bar.global", "-o", "json"];
    eventually_json(
        "the ServiceEntry's endpoint is eu's ingress gateway",
        || mesh.isthmus(&[&["proxy-config", "endpoint", "us/sleep.foo"][..], &arguments].concat()),
        |hosts| hosts[0]["address"]["socket_address"]["address"] == *ingress,
    );
}
