//! Parts that are away for a while, under load on a near and on a far service: what can go on goes on, and
//! what comes back takes up its work.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::harness::{Mesh, Output, SHORT_LIVED, eventually, eventually_json};
use crate::steady::{FAR, Loads, NEAR, all_answer, in_step, log_access, peers_connected};

/// Half the life of a certificate in this demo, which is when it is to be renewed.
const HALF_LIFE: Duration = Duration::from_secs(30);
/// Far above what an answer takes, far below the connectTimeout of ten seconds.
const QUICKLY_MS: f64 = 3000.0;

/// The log of a sidecar says each of these words, on one line all of them.
fn sidecar_says(mesh: &Mesh, pod: (&str, &str, &str), words: &[&str]) {
    let (cluster, namespace, owner) = pod;
    eventually(
        &format!("the sidecar of {cluster}/{owner} says {words:?}"),
        || {
            let log = mesh.log(cluster, namespace, owner, "istio-proxy");
            if log.lines().any(|line| words.iter().all(|w| line.contains(w))) {
                Ok(())
            } else {
                Err(log.lines().rev().take(8).collect::<Vec<_>>().join("\n"))
            }
        },
    );
}

/// The chain that a workload shows, in whatever form.
fn certificate(mesh: &Mesh, workload: &str) -> String {
    let secrets = mesh.json(&["proxy-config", "secret", workload, "-o", "json"]);
    let mut secrets = secrets.as_array().into_iter().flatten();
    let own = secrets.find(|s| s["name"] == "default").map(|s| &s["secret"]);
    own.and_then(|s| s["tls_certificate"]["certificate_chain"]["inline_bytes"].as_str())
        .unwrap_or_else(|| panic!("no certificate of {workload}"))
        .to_owned()
}

/// A file with other content, until this is dropped.
struct Swapped {
    path: PathBuf,
    own: Vec<u8>,
}

impl Swapped {
    fn with(path: PathBuf, other: &Path) -> Self {
        let own = std::fs::read(&path).expect("the file");
        std::fs::copy(other, &path).expect("the other file");
        Self { path, own }
    }
}

impl Drop for Swapped {
    fn drop(&mut self) {
        std::fs::write(&self.path, &self.own).expect("the file can be written");
    }
}

#[test]
fn certificates_last_while_the_authority_is_away_for_longer_than_half_their_life() {
    let mesh = SHORT_LIVED.exclusive();
    all_answer(&mesh, "answers");
    let workloads = ["us/sleep.default", "us/reviews-v1", "eu/echo-v1.echo"];
    let before = workloads.map(|w| certificate(&mesh, w));
    let loads = Loads::from(
        &mesh,
        "us/sleep.default",
        &["--duration", "50", "--concurrency", "2", "--pause", "20"],
    );
    let gone = Instant::now();
    // In us the authority refuses everybody, and the control plane lives: it checks tokens by the keys of
    // another cluster. In eu both are dead.
    let keys = |cluster: &str| mesh.dir().join(cluster).join("jwks").join("keys.json");
    let refusing = Swapped::with(keys("us"), &keys("eu"));
    mesh.break_with(&["stop", "eu/istiod.istio-system"]);
    // Every certificate becomes due within half a life; none is renewed, and each says until when it holds.
    std::thread::sleep(HALF_LIFE);
    let not_renewed = "certificate not renewed; the present one stays in use";
    let (sleep, echo) = (("us", "default", "sleep"), ("eu", "echo", "echo-v1"));
    sidecar_says(&mesh, sleep, &[not_renewed, "until=", "token"]);
    sidecar_says(&mesh, echo, &[not_renewed, "until=", "Connection refused"]);
    // Who has lost the control plane says that too; who has not takes up what is new.
    sidecar_says(
        &mesh,
        echo,
        &["no control plane; the present configuration serves on"],
    );
    mesh.apply("us", MARK);
    eventually("a change reaches the proxies of us", || {
        let output = mesh.fetch("us/sleep.default", "http://details:9080/details/0", &["-i"]);
        let marked = output.stdout.contains("x-mark: here");
        marked.then_some(()).ok_or_else(|| output.to_string())
    });
    assert!(gone.elapsed() > HALF_LIFE);
    drop(refusing);
    mesh.mend();
    for (workload, old) in workloads.iter().zip(&before) {
        eventually(&format!("{workload} has another certificate"), || {
            let now = certificate(&mesh, workload);
            if now == *old { Err(now) } else { Ok(()) }
        });
    }
    loads.lost_nothing();
    in_step(&mesh, &["us", "eu"]);
    all_answer(&mesh, "answers over new connections");
}

const MARK: &str = r"
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: details, namespace: default}
spec:
  hosts: [details]
  http:
  - headers: {response: {set: {x-mark: here}}}
    route:
    - destination: {host: details}
";

#[test]
fn names_are_known_while_dns_is_dead() {
    let mesh = SHORT_LIVED.exclusive();
    all_answer(&mesh, "answers");
    let outside = || {
        mesh.fetch(
            "us/sleep.default",
            "http://ingress.eu.example.net/",
            &["-i", "--close"],
        )
    };
    assert_eq!(
        outside().code,
        0,
        "a name of the internet resolves: {}",
        outside()
    );
    // A new connection for every request: each asks for the name.
    let loads = Loads::from(
        &mesh,
        "us/sleep.default",
        &["--duration", "15", "--close", "--pause", "50"],
    );
    for server in ["internet/dns", "us/kube-dns", "eu/kube-dns"] {
        mesh.break_with(&["stop", server]);
    }
    eventually("names of the internet are gone", || {
        let output = outside();
        let unresolved = output.code != 0 && output.stderr.contains("failed to lookup");
        unresolved.then_some(()).ok_or_else(|| output.to_string())
    });
    // The ServiceEntry's endpoint is a name, and keeps the addresses that it had.
    sidecar_says(
        &mesh,
        ("us", "default", "sleep"),
        &[
            "name not resolved; addresses known before stay in use",
            "eastwest.eu.example.net",
        ],
    );
    loads.lost_nothing();
    mesh.mend();
    eventually("names of the internet are back", || {
        let output = outside();
        (output.code == 0).then_some(()).ok_or_else(|| output.to_string())
    });
    all_answer(&mesh, "answers");
}

/// Status of a request over a new connection, and how long it took in milliseconds.
fn timed(mesh: &Mesh, url: &str) -> (Output, Option<u64>, f64) {
    let output = mesh.fetch("us/sleep.default", url, &["--count", "1", "--close"]);
    let summary: Value = serde_json::from_str(&output.stdout).unwrap_or_default();
    let statuses = summary["statuses"].as_object();
    let status = statuses.and_then(|s| s.keys().next()?.parse().ok());
    let took = summary["latency_ms"][2].as_f64().unwrap_or(f64::MAX);
    (output, status, took)
}

fn lost_and_not_forgotten(mesh: &Mesh) {
    eventually("us has lost eu and forgets nothing", || {
        let output = mesh.isthmus(&["peer", "list"]);
        let mut rows = output
            .stdout
            .lines()
            .map(|l| l.split_whitespace().collect::<Vec<_>>());
        let row = rows
            .find(|cells| cells.first() == Some(&"us"))
            .unwrap_or_default();
        match row.as_slice() {
            ["us", "eu", "connecting", services, ..] if *services != "0" => Ok(()),
            _ => Err(output.to_string()),
        }
    });
}

#[test]
fn a_cluster_goes_as_a_whole_and_comes_back() {
    let mesh = SHORT_LIVED.exclusive();
    // As in Istio, there is no access log until the MeshConfig asks for one.
    log_access(&mesh, "us");
    all_answer(&mesh, "answers");
    let near = mesh.meanwhile(
        "us/sleep.default",
        "http://details:9080/details/0",
        &["--duration", "20", "--concurrency", "2", "--pause", "20"],
    );
    mesh.break_with(&["stop", "eu"]);
    // What only eu has is answered by the sidecar, at once and with its flag.
    for url in [
        FAR,
        "http://ratings:9080/ratings/0",
        "http://httpbin.bar.global:8000/get",
    ] {
        for _ in 0..5 {
            let (output, status, took) = timed(&mesh, url);
            assert_eq!(status, Some(503), "{url}: {output}");
            assert!(took < QUICKLY_MS, "{url}: {output}");
        }
    }
    eventually("the access log has a flag for every one", || {
        let log = mesh.log("us", "default", "sleep", "istio-proxy");
        let lines: Vec<&str> = log.lines().filter(|l| l.contains("\" 503 ")).collect();
        let flagged = lines
            .iter()
            .filter(|l| l.contains(" 503 UH ") || l.contains("UF") || l.contains("UC"))
            .count();
        if flagged >= 15 && flagged == lines.len() {
            Ok(())
        } else {
            Err(lines.join("\n"))
        }
    });
    // us knows eu's services as it was last told, and says why it hears no more; a control plane that starts
    // meanwhile knows them too.
    lost_and_not_forgotten(&mesh);
    mesh.break_with(&["kill", "us/istiod.istio-system", "--container", "discovery"]);
    in_step(&mesh, &["us"]);
    lost_and_not_forgotten(&mesh);
    let (output, status, _) = timed(&mesh, FAR);
    assert_eq!(status, Some(503), "{output}");
    let summary = near.join().expect("the load ran to its end");
    assert_eq!(summary["statuses"]["200"], summary["requests"], "{summary:#}");

    mesh.break_with(&["start", "eu"]);
    peers_connected(&mesh);
    in_step(&mesh, &["us", "eu"]);
    // An endpoint that was tried again and again stays ejected for up to half a minute.
    for attempt in 0.. {
        let (output, status, _) = timed(&mesh, FAR);
        if status == Some(200) {
            break;
        }
        assert!(attempt < 300, "eu answers again: {output}");
        std::thread::sleep(Duration::from_millis(200));
    }
    all_answer(&mesh, "answers again");
    eventually_json(
        "ratings answer again",
        || {
            mesh.fetch(
                "us/sleep.default",
                "http://ratings:9080/ratings/0",
                &["--count", "5"],
            )
        },
        |summary| summary["statuses"]["200"] == 5,
    );
}

#[test]
fn a_killed_sidecar_comes_back_and_the_others_serve_on() {
    let mesh = SHORT_LIVED.exclusive();
    all_answer(&mesh, "answers");
    let restarts = |cluster: &str, owner: &str| {
        let status = mesh.status();
        let clusters = status["clusters"].as_array().into_iter().flatten();
        let pods = clusters
            .filter(|c| c["id"] == cluster)
            .flat_map(|c| c["pods"].as_array().into_iter().flatten());
        pods.filter(|p| p["owner"] == owner && p["namespace"] != "foo")
            .filter(|p| p["ready"] == true)
            .map(|p| {
                p["containers"]["istio-proxy"]["restarts"]
                    .as_u64()
                    .unwrap_or_default()
            })
            .sum::<u64>()
    };
    let kill = |cluster: &'static str, owner: &'static str, target: &str| {
        let before = restarts(cluster, owner);
        mesh.break_with(&["kill", target]);
        eventually(&format!("the sidecar of {target} runs again"), || {
            let now = restarts(cluster, owner);
            if now > before {
                Ok(())
            } else {
                Err(format!("{now} restarts"))
            }
        });
    };

    // One of two pods: the other answers, requests that were under way by a second attempt.
    let loads = Loads::from(
        &mesh,
        "us/sleep.default",
        &["--duration", "8", "--concurrency", "4", "--pause", "10"],
    );
    kill("us", "reviews-v1", "us/reviews-v1");
    loads.lost_nothing();

    // The only pod, in the other cluster: its requests wait for nobody, those of others go on.
    let options: &[&str] = &["--duration", "8", "--concurrency", "2", "--pause", "20"];
    let near = mesh.meanwhile("us/sleep.default", NEAR, options);
    let far = mesh.meanwhile("us/sleep.default", FAR, options);
    kill("eu", "echo-v1", "eu/echo-v1.echo");
    let near = near.join().expect("the load ran to its end");
    assert_eq!(near["statuses"]["200"], near["requests"], "{near:#}");
    let far = far.join().expect("the load ran to its end");
    assert_eq!(
        far["errors"], 0,
        "every request is answered, if only with 503: {far:#}"
    );
    all_answer(&mesh, "answers again");

    // The client's own.
    kill("us", "sleep", "us/sleep.default");
    all_answer(&mesh, "answers again");
    in_step(&mesh, &["us", "eu"]);
}
