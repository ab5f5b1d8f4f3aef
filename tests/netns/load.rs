//! Load on one service while a story goes on: GETs, and POSTs beside them.

use std::path::Path;
use std::thread::JoinHandle;

use serde_json::Value;

use crate::harness::{Mesh, Writer, eventually};
use crate::steady::log_access;

/// Clients of each load; each has one request in flight.
const CLIENTS: u64 = 4;
/// Far below the connectTimeout of ten seconds, with room for a machine that is slow and busy.
const LONGEST_GAP_MS: u64 = 5000;

/// A load that is under way.
pub struct Load {
    gets: JoinHandle<Value>,
    posts: JoinHandle<Value>,
}

/// What came of a load.
#[derive(Debug)]
pub struct Came {
    /// Summary of the GETs.
    pub gets: Value,
    /// Summary of the POSTs.
    pub posts: Value,
    /// What proxies wrote of requests that were not answered with 200, for whoever has to find out why.
    trouble: Vec<String>,
}

impl Load {
    /// Begins a load from sleep in us, whose answers are counted by cluster, and returns once it is under way.
    /// `service` is part of the name of its cluster, as in `|9080||reviews`.
    pub fn on(mesh: &Writer, url: &'static str, service: &str) -> Self {
        const GETS: &[&str] = &[
            "--duration",
            "12",
            "--concurrency",
            "4",
            "--pause",
            "10",
            "--tally",
            "served_by.cluster",
        ];
        const POSTS: &[&str] = &[
            "--duration",
            "12",
            "--concurrency",
            "4",
            "--pause",
            "10",
            "--tally",
            "served_by.cluster",
            "--method",
            "POST",
            "--data",
            "order",
        ];
        log_access(mesh, "us");
        log_access(mesh, "eu");
        let before = requests(mesh, service);
        let load = Self {
            gets: mesh.meanwhile("us/sleep.default", url, GETS),
            posts: mesh.meanwhile("us/sleep.default", url, POSTS),
        };
        eventually("the load is under way", || {
            let now = requests(mesh, service);
            if now > before + 100 {
                Ok(())
            } else {
                Err(format!("{now} after {before}"))
            }
        });
        load
    }

    /// Waits for its end.
    pub fn end(self, mesh: &Mesh) -> Came {
        let summary = |load: JoinHandle<Value>| load.join().expect("the load ran to its end");
        Came {
            gets: summary(self.gets),
            posts: summary(self.posts),
            trouble: trouble(mesh),
        }
    }
}

/// Lines of access logs about requests that were not answered with 200, each with its pod.
fn trouble(mesh: &Mesh) -> Vec<String> {
    let status = mesh.status();
    let clusters = status["clusters"].as_array().into_iter().flatten();
    let pods = clusters.flat_map(|c| c["pods"].as_array().into_iter().flatten());
    let mut lines = Vec::new();
    for pod in pods {
        let Some(dir) = pod["logs"].as_str() else { continue };
        let log = std::fs::read_to_string(Path::new(dir).join("istio-proxy.log")).unwrap_or_default();
        let bad = log
            .lines()
            .filter(|l| l.starts_with('[') && !l.contains("\" 200 "));
        lines.extend(bad.map(|line| format!("{} {line}", pod["name"])));
    }
    lines
}

impl Came {
    /// Every GET was answered, and so was every POST but those that were in flight at one of `broken` places
    /// when it broke; there was never a long time without an answer.
    pub fn lost_only_what_was_in_flight(&self, broken: u64) {
        for summary in [&self.gets, &self.posts] {
            assert_eq!(summary["errors"], 0, "{summary:#}");
            let gap = summary["longest_gap_ms"].as_u64().expect("a number");
            assert!(gap < LONGEST_GAP_MS, "{summary:#}");
        }
        assert_eq!(
            self.gets["statuses"]["200"], self.gets["requests"],
            "{:#}",
            self.gets
        );
        let posts = &self.posts;
        let number = |value: &Value| value.as_u64().unwrap_or_default();
        let failed = number(&posts["requests"]) - number(&posts["statuses"]["200"]);
        assert!(
            failed <= CLIENTS * broken,
            "{failed} POSTs failed: {posts:#}\n{}",
            self.trouble.join("\n")
        );
        assert_eq!(number(&posts["statuses"]["503"]), failed, "{posts:#}");
        // Those in flight were sent at the same time, near enough.
        let sent = posts["failures"].as_array().into_iter().flatten();
        let sent: Vec<u64> = sent.map(|f| number(&f["sent_ms"])).collect();
        if let (Some(first), Some(last)) = (sent.iter().min(), sent.iter().max()) {
            assert!(
                last - first < LONGEST_GAP_MS,
                "{posts:#}\n{}",
                self.trouble.join("\n")
            );
        }
    }

    /// Answers of a cluster to both.
    pub fn of(&self, cluster: &str) -> u64 {
        of(&self.gets, cluster) + of(&self.posts, cluster)
    }
}

/// Answers of one cluster, version or pod.
pub fn of(summary: &Value, who: &str) -> u64 {
    summary["tally"][who].as_u64().unwrap_or_default()
}

/// Requests for a service that the sidecar of sleep has sent so far.
fn requests(mesh: &Mesh, service: &str) -> u64 {
    counted(mesh, "us/sleep.default", service, "rq_total")
}

/// A counter of the endpoints that a proxy has for a service.
pub fn counted(mesh: &Mesh, workload: &str, service: &str, counter: &str) -> u64 {
    let hosts = mesh.json(&[
        "proxy-config",
        "endpoint",
        workload,
        "--cluster",
        service,
        "-o",
        "json",
    ]);
    let hosts = hosts.as_array().into_iter().flatten();
    hosts
        .flat_map(|host| host["stats"].as_array().into_iter().flatten())
        .filter(|stat| stat["name"] == counter)
        .filter_map(|stat| stat["value"].as_str()?.parse::<u64>().ok())
        .sum()
}
