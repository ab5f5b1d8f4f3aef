//! reviews in us dies, and eu's reviews answer; then it comes back.

use serde_json::Value;

use crate::harness::{Mesh, Writer, eventually, eventually_json};

const REVIEWS: &str = "http://reviews:9080/reviews/0";
/// Far below the connectTimeout of ten seconds, with room for a machine that is slow and busy.
const LONGEST_GAP_MS: u64 = 5000;

fn tally(mesh: &Mesh, what: &str, wanted: impl Fn(u64, u64) -> bool) {
    eventually_json(
        what,
        || {
            let options = ["--count", "20", "--close", "--tally", "clustername"];
            mesh.fetch("us/sleep.default", REVIEWS, &options)
        },
        |summary| wanted(of(summary, "us"), of(summary, "eu")),
    );
}

fn of(summary: &Value, cluster: &str) -> u64 {
    summary["tally"][cluster].as_u64().unwrap_or_default()
}

/// Requests for reviews that the sidecar of sleep has sent so far.
fn requests(mesh: &Mesh) -> u64 {
    let arguments = [
        "proxy-config",
        "endpoint",
        "us/sleep.default",
        "--cluster",
        "|9080||reviews",
        "-o",
        "json",
    ];
    let hosts = mesh.json(&arguments);
    let hosts = hosts.as_array().into_iter().flatten();
    hosts
        .flat_map(|host| host["stats"].as_array().into_iter().flatten())
        .filter(|stat| stat["name"] == "rq_total")
        .filter_map(|stat| stat["value"].as_str()?.parse::<u64>().ok())
        .sum()
}

/// Under load, `kill` takes the reviews of us away: every GET is answered, soon from eu.
fn survives(mesh: &Writer, kill: impl FnOnce(&Writer)) {
    tally(mesh, "reviews of us answer", |us, _| us == 20);
    let before = requests(mesh);
    let load = mesh.meanwhile(
        "us/sleep.default",
        REVIEWS,
        &[
            "--duration",
            "12",
            "--concurrency",
            "4",
            "--pause",
            "10",
            "--tally",
            "clustername",
        ],
    );
    eventually("the load is under way", || {
        let now = requests(mesh);
        if now > before + 50 {
            Ok(())
        } else {
            Err(format!("{now} after {before}"))
        }
    });
    kill(mesh);
    tally(mesh, "reviews of eu answer", |_, eu| eu == 20);
    let summary = load.join().expect("the load ran to its end");
    assert_eq!(summary["errors"], 0, "{summary:#}");
    assert_eq!(summary["statuses"]["200"], summary["requests"], "{summary:#}");
    assert!(of(&summary, "us") > 0 && of(&summary, "eu") > 0, "{summary:#}");
    let gap = summary["longest_gap_ms"].as_u64().expect("a number");
    assert!(gap < LONGEST_GAP_MS, "{summary:#}");
}

#[test]
fn pods_whose_packets_are_dropped_are_left_and_come_back() {
    let mesh = Mesh::exclusive();
    survives(&mesh, |mesh| {
        mesh.break_with(&["black-hole", "us/reviews-v1"]);
        mesh.break_with(&["black-hole", "us/reviews-v2"]);
    });
    mesh.mend();
    tally(&mesh, "reviews of us answer again", |us, _| us > 0);
    tally(&mesh, "all come from us again", |us, _| us == 20);
}

#[test]
fn removed_pods_are_left() {
    let mesh = Mesh::exclusive();
    survives(&mesh, |mesh| {
        for version in ["v1", "v2"] {
            mesh.delete("us", "deployments", "default", &format!("reviews-{version}"));
        }
    });
}
