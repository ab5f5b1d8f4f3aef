//! What goes on while the control planes are gone.

use crate::harness::{Mesh, eventually};

#[test]
fn traffic_goes_on_while_both_control_planes_are_killed() {
    let mesh = Mesh::exclusive();
    let load = |url: &'static str| {
        mesh.meanwhile(
            "us/sleep.default",
            url,
            &["--duration", "12", "--concurrency", "2", "--pause", "20"],
        )
    };
    let (near, far) = (
        load("http://reviews:9080/reviews/0"),
        load("http://echo.eu.mesh.local/"),
    );
    for cluster in ["us", "eu"] {
        let istiod = format!("{cluster}/istiod.istio-system");
        mesh.break_with(&["kill", &istiod, "--container", "discovery"]);
    }
    for load in [near, far] {
        let summary = load.join().expect("the load ran to its end");
        assert_eq!(summary["errors"], 0, "{summary:#}");
        assert_eq!(summary["statuses"]["200"], summary["requests"], "{summary:#}");
    }
    eventually("every proxy is connected and in step again", || {
        let proxies = mesh.json(&["proxy-status", "-o", "json"]);
        let proxies = proxies.as_array().cloned().unwrap_or_default();
        let synced = proxies.iter().filter(|p| p["synced"] == true).count();
        if synced == proxies.len() && synced >= 19 {
            Ok(())
        } else {
            Err(format!("{synced} of {}", proxies.len()))
        }
    });
}
