//! Control planes that are killed and come back: what was saved meanwhile counts, what is half-written does
//! not, and nobody is told again what has not changed.

use crate::harness::{Mesh, SHORT_LIVED, eventually, eventually_json};
use crate::steady::{Loads, all_answer, in_step, peers_connected};

/// A client like `sleep`, whose sidecar speaks state of the world.
const TELLER: &str = r#"
apiVersion: apps/v1
kind: Deployment
metadata: {name: teller, namespace: default}
spec:
  selector: {matchLabels: {app: teller}}
  template:
    metadata: {labels: {app: teller}}
    spec:
      serviceAccountName: sleep
      containers:
      - name: istio-proxy
        image: auto
        env:
        - {name: ISTIO_DELTA_XDS, value: "false"}
      - name: sleep
        image: docker.io/isthmus/samples:sleep
"#;

const EDITION: &str = r"
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: details, namespace: default}
spec:
  hosts: [details]
  http:
  - headers: {response: {set: {x-edition: EDITION}}}
    route:
    - destination: {host: details}
";

/// Resources that a control plane has sent since it started, by type and protocol.
fn sent(mesh: &Mesh, cluster: &str) -> Vec<(String, u64)> {
    let istiod = format!("{cluster}/istiod.istio-system");
    let page = mesh.exec(&istiod, &["isthmus", "fetch", "http://127.0.0.1:15014/metrics"]);
    assert_eq!(page.code, 0, "{page}");
    let lines = page.stdout.lines();
    lines
        .filter_map(|line| line.strip_prefix("isthmus_xds_resources_sent{")?.split_once("} "))
        .map(|(labels, count)| (labels.to_owned(), count.parse().expect("a number")))
        .collect()
}

/// Resources of proxies, not of peers, which give a sign of life every second.
fn of_proxies(sent: &[(String, u64)], protocol: &str) -> u64 {
    let proxies = sent
        .iter()
        .filter(|(labels, _)| labels.contains(protocol) && !labels.contains("peering"));
    proxies.map(|(_, count)| count).sum()
}

/// What peers tell each other is kept on disk: after a restart only what changed is told, and that is the
/// control plane's own service.
fn peers_told_nothing_twice(cluster: &str, sent: &[(String, u64)]) {
    let told = sent
        .iter()
        .filter(|(labels, _)| labels.contains("peering") && !labels.contains("Vitals"));
    let told: u64 = told.map(|(_, count)| count).sum();
    assert!(
        told <= 4,
        "{cluster} tells its peer again what is known: {sent:?}"
    );
}

/// Of all that the proxies of a cluster hold only the control plane's own endpoints have changed, which was
/// away for a moment: whoever connects before it counts as ready is told so, and then that it is back.
fn told_nothing_twice(cluster: &str, sent: &[(String, u64)]) {
    const PORTS: u64 = 3;
    const PROXIES: u64 = 11;
    let endpoints = |labels: &str| labels.contains("eds") && labels.contains("delta");
    let (endpoints, others): (Vec<_>, Vec<_>) =
        sent.iter().cloned().partition(|(labels, _)| endpoints(labels));
    let endpoints = of_proxies(&endpoints, "delta");
    assert_eq!(
        of_proxies(&others, "delta"),
        0,
        "{cluster} sends again what is known: {sent:?}"
    );
    assert!(
        endpoints <= 2 * PORTS * PROXIES,
        "{cluster} sends again endpoints that are known: {sent:?}"
    );
}

#[test]
fn who_comes_back_tells_nothing_twice_on_delta_and_breaks_nothing_on_state_of_the_world() {
    let mesh = SHORT_LIVED.exclusive();
    mesh.apply("us", TELLER);
    eventually_json(
        "the teller's sidecar speaks state of the world",
        || mesh.isthmus(&["proxy-status", "-o", "json"]),
        |proxies| {
            let mut proxies = proxies.as_array().into_iter().flatten();
            proxies.any(|p| {
                p["protocol"] == "state-of-the-world"
                    && p["synced"] == true
                    && p["proxy"]
                        .as_str()
                        .is_some_and(|name| name.starts_with("teller-"))
            })
        },
    );
    all_answer(&mesh, "answers");
    in_step(&mesh, &["us", "eu"]);
    peers_connected(&mesh);

    let options: &[&str] = &["--duration", "12", "--concurrency", "2", "--pause", "20"];
    let loads = [
        Loads::from(&mesh, "us/sleep.default", options),
        Loads::from(&mesh, "us/teller", options),
    ];
    // One request that is under way all the time, through both sidecars and the gateway between them.
    let long = mesh.meanwhile(
        "us/teller",
        "http://httpbin.bar.global:8000/delay/10",
        &["--count", "1"],
    );
    for cluster in ["us", "eu"] {
        let istiod = format!("{cluster}/istiod.istio-system");
        mesh.break_with(&["kill", &istiod, "--container", "discovery"]);
    }
    in_step(&mesh, &["us", "eu"]);
    peers_connected(&mesh);
    for cluster in ["us", "eu"] {
        let sent = sent(&mesh, cluster);
        told_nothing_twice(cluster, &sent);
        peers_told_nothing_twice(cluster, &sent);
        assert_eq!(
            of_proxies(&sent, "state-of-the-world") > 0,
            cluster == "us",
            "{sent:?}"
        );
    }
    for load in loads {
        load.lost_nothing();
    }
    let long = long.join().expect("the request came to an end");
    assert_eq!(long["statuses"]["200"], 1, "{long:#}");
}

#[test]
fn what_is_saved_while_the_control_plane_is_dead_counts_when_it_is_back() {
    let mesh = SHORT_LIVED.exclusive();
    let details = "http://details:9080/details/0";
    let edition = || -> String {
        let output = mesh.fetch("us/sleep.default", details, &["-i"]);
        assert!(output.stdout.starts_with("HTTP/1.1 200"), "{output}");
        let lines = output.stdout.lines();
        let mut values = lines.filter_map(|line| line.strip_prefix("x-edition: "));
        values.next().unwrap_or("none").to_owned()
    };
    let becomes = |wanted: &str| {
        eventually(&format!("edition {wanted} is served"), || {
            let now = edition();
            if now == wanted { Ok(()) } else { Err(now) }
        });
    };
    let save = |text: &str| mesh.write_file("us", "details-edition.yaml", text);
    let istiod = "us/istiod.istio-system";
    let yaml = |edition: &str| EDITION.replace("EDITION", edition);
    all_answer(&mesh, "answers");

    mesh.break_with(&["stop", istiod]);
    save(&yaml("first"));
    assert_eq!(edition(), "none", "nobody is there to read it");
    mesh.break_with(&["start", istiod]);
    becomes("first");

    // Torn while nobody looked: the last good version is in force, in the new process too.
    mesh.break_with(&["stop", istiod]);
    let whole = yaml("second");
    save(&whole[..whole.len() - 40]);
    let loads = Loads::from(
        &mesh,
        "us/sleep.default",
        &["--duration", "10", "--concurrency", "2", "--pause", "20"],
    );
    mesh.break_with(&["start", istiod]);
    eventually(
        "the control plane says what is wrong, and what stays in force",
        || {
            let log = mesh.log("us", "istio-system", "istiod", "discovery");
            let says = |words: &[&str]| log.lines().any(|line| words.iter().all(|w| line.contains(w)));
            if says(&["details-edition.yaml", "error"])
                && says(&["the last good version stays in force", "details"])
            {
                Ok(())
            } else {
                Err(log.lines().rev().take(8).collect::<Vec<_>>().join("\n"))
            }
        },
    );
    in_step(&mesh, &["us", "eu"]);
    assert_eq!(edition(), "first");

    // The rest of the file arrives.
    save(&whole);
    becomes("second");
    loads.lost_nothing();
}
