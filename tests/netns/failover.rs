//! reviews in us dies in one way after the other, and eu's reviews answer; then it comes back.

use crate::harness::{Mesh, Writer, eventually, eventually_json};
use crate::load::{Load, counted, of};

const REVIEWS: &str = "http://reviews:9080/reviews/0";
const SERVICE: &str = "|9080||reviews";

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

/// Under load, `kill` takes the reviews of us away, both pods: every GET is answered, soon from eu where they
/// are away for long enough.
fn survives(mesh: &Writer, for_long: bool, kill: impl FnOnce(&Writer)) {
    tally(mesh, "reviews of us answer", |us, _| us == 20);
    let load = Load::on(mesh, REVIEWS, SERVICE);
    kill(mesh);
    let came = load.end(mesh);
    came.lost_only_what_was_in_flight(2);
    assert!(came.of("us") > 0, "{came:#?}");
    assert!(!for_long || came.of("eu") > 0, "{came:#?}");
}

#[test]
fn pods_whose_process_is_killed_are_left_although_they_are_listed() {
    let mesh = Mesh::exclusive();
    // Their containers are started again at once.
    survives(&mesh, false, |mesh| {
        for pod in ["us/reviews-v1", "us/reviews-v2"] {
            mesh.break_with(&["kill", pod, "--container", "reviews"]);
        }
    });
    tally(&mesh, "all come from us again", |us, _| us == 20);
}

#[test]
fn removed_pods_are_left() {
    let mesh = Mesh::exclusive();
    survives(&mesh, true, |mesh| {
        for version in ["v1", "v2"] {
            mesh.delete("us", "deployments", "default", &format!("reviews-{version}"));
        }
        tally(mesh, "reviews of eu answer", |_, eu| eu == 20);
    });
}

#[test]
fn pods_whose_packets_are_dropped_are_left_and_come_back() {
    let mesh = Mesh::exclusive();
    survives(&mesh, true, |mesh| {
        for pod in ["us/reviews-v1", "us/reviews-v2"] {
            mesh.break_with(&["black-hole", pod]);
        }
        tally(mesh, "reviews of eu answer", |_, eu| eu == 20);
    });
    mesh.mend();
    tally(&mesh, "reviews of us answer again", |us, _| us > 0);
    tally(&mesh, "all come from us again", |us, _| us == 20);
}

/// A stopped process acknowledges what it is sent and answers nothing: requests in its hands wait for their
/// own timeout, which is evidence against it; new ones go elsewhere.
#[test]
fn a_stopped_process_is_left_by_the_timeouts_of_those_it_holds() {
    let mesh = Mesh::exclusive();
    mesh.apply(
        "us",
        r"
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: reviews, namespace: default}
spec:
  hosts: [reviews]
  http:
  - route:
    - destination: {host: reviews}
    timeout: 10s
    retries: {attempts: 2, perTryTimeout: 1s, retryOn: 'connect-failure,reset'}
",
    );
    tally(&mesh, "reviews of us answer", |us, _| us == 20);
    for pod in ["us/reviews-v1", "us/reviews-v2"] {
        mesh.break_with(&["kill", pod, "--container", "reviews", "--signal", "19"]);
    }
    tally(&mesh, "reviews of eu answer", |_, eu| eu == 20);
    for pod in ["us/reviews-v1", "us/reviews-v2"] {
        mesh.break_with(&["kill", pod, "--container", "reviews", "--signal", "18"]);
    }
    tally(&mesh, "all come from us again", |us, _| us == 20);
}

#[test]
fn dead_everywhere_is_said_soon_with_its_flag_and_nothing_circles() {
    let mesh = Mesh::exclusive();
    // As in Istio, there is no access log until the MeshConfig asks for one.
    mesh.apply(
        "us",
        r"
apiVersion: v1
kind: ConfigMap
metadata: {name: istio, namespace: istio-system}
data:
  mesh: |
    accessLogFile: /dev/stdout
",
    );
    tally(&mesh, "reviews of us answer", |us, _| us == 20);
    // The gateways' own view: eu's passes reviews on to a pod of eu, us's has nothing to do with it.
    let passed = |cluster: &str| {
        let gateway = format!("{cluster}/istio-eastwestgateway.istio-system");
        let service = "outbound_.9080_._.reviews";
        counted(&mesh, &gateway, service, "cx_total") + counted(&mesh, &gateway, service, "cx_connect_fail")
    };
    let before = passed("us");
    for pod in ["us/reviews-v1", "us/reviews-v2", "eu/reviews-v3"] {
        mesh.break_with(&["black-hole", pod]);
    }
    let options = ["--count", "20", "--close"];
    let summary = eventually_json(
        "nobody answers",
        || mesh.fetch("us/sleep.default", REVIEWS, &options),
        |summary| summary["statuses"]["503"] == 20,
    );
    let slowest = summary["latency_ms"][2].as_f64().expect("a number");
    assert!(slowest < 8000.0, "connectTimeout is 10 s: {summary:#}");
    eventually("the access log has a flag for every one", || {
        let log = mesh.log("us", "default", "sleep", "istio-proxy");
        let failed: Vec<&str> = log
            .lines()
            .filter(|l| l.contains("/reviews/0") && l.contains("\" 503 "))
            .collect();
        for line in &failed {
            let flags = ["UH", "UF", "UF,URX", "UC", "UC,URX"];
            let flagged = flags.iter().any(|f| line.contains(&format!("\" 503 {f} ")));
            assert!(flagged, "{line}");
        }
        if failed.len() >= 20 { Ok(()) } else { Err(log) }
    });
    assert_eq!(passed("us"), before, "a request went on from eu to us");

    mesh.mend();
    // Soon, although all were ejected again and again: those turned away have them looked at.
    tally(&mesh, "all come from us again", |us, _| us == 20);
    eventually("eu's reviews answer as well", || {
        let output = mesh.fetch("eu/sleep.default", REVIEWS, &["-i"]);
        let right = output.stdout.starts_with("HTTP/1.1 200");
        right.then_some(()).ok_or_else(|| output.to_string())
    });
}
