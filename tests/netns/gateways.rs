//! eu's east-west gateway dies while us uses it: with two replicas behind its address nothing is lost; without
//! any, requests fail soon, and succeed again when it is back.

use crate::harness::{Mesh, Writer, eventually, eventually_json};
use crate::load::Load;

/// In eu alone.
const HTTPBIN: &str = "http://httpbin.bar:8000/anything";
const SERVICE: &str = "|8000||httpbin";

/// eu's east-west gateway, with two replicas.
fn two_replicas() -> String {
    let one = include_str!("../../samples/two-clusters/eu/east-west.yaml");
    let two = one.replace("replicas: 1", "replicas: 2");
    assert_ne!(one, two, "the sample has one replica");
    two
}

/// Ready pods of eu's east-west gateway.
fn replicas(mesh: &Mesh) -> Vec<String> {
    let status = mesh.status();
    let clusters = status["clusters"].as_array().into_iter().flatten();
    clusters
        .filter(|c| c["id"] == "eu")
        .flat_map(|c| c["pods"].as_array().into_iter().flatten())
        .filter(|p| p["owner"] == "istio-eastwestgateway" && p["ready"] == true)
        .filter_map(|p| p["name"].as_str())
        .map(|name| format!("eu/{name}.istio-system"))
        .collect()
}

fn until_replicas(mesh: &Mesh, number: usize) -> Vec<String> {
    eventually(&format!("{number} replicas are ready"), || {
        let ready = replicas(mesh);
        if ready.len() == number {
            Ok(ready)
        } else {
            Err(format!("{ready:?}"))
        }
    })
}

/// Under load through two replicas, one of them goes: no GET is lost, and no POST but those it had in flight.
fn one_goes(kill: impl FnOnce(&Writer, &str)) {
    let mesh = Mesh::exclusive();
    mesh.apply("eu", &two_replicas());
    let both = until_replicas(&mesh, 2);
    let load = Load::on(&mesh, HTTPBIN, SERVICE);
    kill(&mesh, &both[0]);
    let came = load.end(&mesh);
    came.lost_only_what_was_in_flight(1);
    mesh.mend();
    mesh.apply("eu", include_str!("../../samples/two-clusters/eu/east-west.yaml"));
    until_replicas(&mesh, 1);
}

#[test]
fn one_of_two_replicas_is_killed() {
    one_goes(|mesh, replica| mesh.break_with(&["kill", replica]));
}

#[test]
fn one_of_two_replicas_is_removed() {
    one_goes(|mesh, replica| mesh.break_with(&["remove", replica]));
}

#[test]
fn the_packets_of_one_of_two_replicas_are_dropped() {
    one_goes(|mesh, replica| mesh.break_with(&["black-hole", replica]));
}

#[test]
fn a_gateway_that_is_a_black_hole_fails_requests_soon_and_is_used_again_when_it_is_back() {
    let mesh = Mesh::exclusive();
    let status = mesh.status();
    let clusters = status["clusters"].as_array().into_iter().flatten();
    let address = clusters
        .filter(|c| c["id"] == "eu")
        .find_map(|c| c["load_balancers"]["istio-system/istio-eastwestgateway"].as_str())
        .expect("eu's east-west gateway has an address");
    let answers = |what: &str, status: &str| {
        eventually_json(
            what,
            || mesh.fetch("us/sleep.default", HTTPBIN, &["--count", "10", "--close"]),
            |summary| summary["statuses"][status] == 10,
        )
    };
    answers("httpbin of eu answers", "200");
    mesh.break_with(&["black-hole", address]);
    let summary = answers("nobody answers", "503");
    let slowest = summary["latency_ms"][2].as_f64().expect("a number");
    assert!(slowest < 8000.0, "connectTimeout is 10 s: {summary:#}");
    // What has a place in us is not touched by it.
    let near = mesh.fetch_json(
        "us/sleep.default",
        "http://reviews:9080/reviews/0",
        &["--count", "20", "--tally", "clustername"],
    );
    assert_eq!(near["tally"]["us"], 20, "{near:#}");
    mesh.mend();
    answers("httpbin of eu answers again", "200");
}
