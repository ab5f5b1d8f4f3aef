//! What stories of outages look at: loads on a near and on a far service, and whether the mesh is whole again.

use std::thread::JoinHandle;

use serde_json::Value;

use crate::harness::{Mesh, Writer, eventually, eventually_json};

/// Answered in us, by two pods; one of them asks eu for ratings.
pub const NEAR: &str = "http://reviews:9080/reviews/0";
/// Answered in eu, by one pod behind the gateways.
pub const FAR: &str = "http://echo.eu.mesh.local/";
/// Access logs, which a mesh does not have by itself.
pub const ACCESS_LOG: &str = r"
apiVersion: v1
kind: ConfigMap
metadata: {name: istio, namespace: istio-system}
data:
  mesh: |
    accessLogFile: /dev/stdout
";

/// Turns the access log of a cluster on, and returns when sleep's sidecar writes it.
pub fn log_access(mesh: &Mesh, cluster: &str) {
    let applied = mesh.isthmus_with(&["apply", "--cluster", cluster, "-f", "-"], ACCESS_LOG);
    assert_eq!(applied.code, 0, "{applied}");
    let workload = format!("{cluster}/sleep.default");
    eventually("the sidecar writes its access log", || {
        let asked = mesh.fetch(&workload, NEAR, &["--close"]);
        let log = mesh.log(cluster, "default", "sleep", "istio-proxy");
        let line = log.lines().any(|l| l.starts_with('[') && l.contains("\"GET "));
        line.then_some(()).ok_or_else(|| format!("{asked}{log}"))
    });
}

/// Two loads from one pod, near and far, until their time is over.
pub struct Loads([JoinHandle<Value>; 2]);

impl Loads {
    pub fn from(mesh: &Writer, workload: &'static str, options: &'static [&'static str]) -> Self {
        Self([NEAR, FAR].map(|url| mesh.meanwhile(workload, url, options)))
    }

    /// Every request of both was answered, with 200.
    pub fn lost_nothing(self) {
        for load in self.0 {
            let summary = load.join().expect("the load ran to its end");
            assert!(summary["requests"].as_u64() > Some(10), "{summary:#}");
            assert_eq!(summary["errors"], 0, "{summary:#}");
            assert_eq!(summary["statuses"]["200"], summary["requests"], "{summary:#}");
        }
    }
}

/// Both services answer.
pub fn all_answer(mesh: &Mesh, what: &str) {
    for url in [NEAR, FAR] {
        eventually_json(
            &format!("{url} {what}"),
            || mesh.fetch("us/sleep.default", url, &["--count", "5", "--close"]),
            |summary| summary["statuses"]["200"] == 5,
        );
    }
}

/// Every proxy of these clusters is connected to its control plane and has what it was sent.
pub fn in_step(mesh: &Mesh, clusters: &[&str]) {
    eventually("every proxy is connected and in step", || {
        let status = mesh.status();
        let pods = status["clusters"].as_array().into_iter().flatten();
        let wanted = pods
            .filter(|c| clusters.contains(&c["id"].as_str().unwrap_or_default()))
            .flat_map(|c| c["pods"].as_array().into_iter().flatten())
            .filter(|pod| pod["containers"].get("istio-proxy").is_some())
            .count();
        let output = mesh.isthmus(&["proxy-status", "-o", "json"]);
        let proxies: Vec<Value> = serde_json::from_str(&output.stdout).unwrap_or_default();
        let synced = proxies
            .iter()
            .filter(|p| clusters.contains(&p["cluster_id"].as_str().unwrap_or_default()))
            .filter(|p| p["synced"] == true)
            .count();
        if synced == wanted && synced > 0 {
            Ok(())
        } else {
            Err(format!("{synced} of {wanted}: {}", output.stderr))
        }
    });
}

/// The control planes of both clusters hear each other.
pub fn peers_connected(mesh: &Mesh) {
    eventually("control planes hear each other", || {
        let output = mesh.isthmus(&["peer", "list"]);
        let connected = output.stdout.matches(" connected ").count();
        if connected == 2 {
            Ok(())
        } else {
            Err(output.to_string())
        }
    });
}
