//! What users write: how soon it counts, and what is said when it is wrong.

use crate::harness::{Mesh, eventually, eventually_json};

const GOOD: &str = r"
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: details, namespace: default}
spec:
  hosts: [details]
  http:
  - headers: {response: {set: {x-edition: first}}}
    route:
    - destination: {host: details}
";

#[test]
fn every_proxy_has_what_it_was_sent() {
    let mesh = Mesh::shared();
    eventually_json(
        "no proxy is behind",
        || mesh.isthmus(&["proxy-status", "-o", "json"]),
        |proxies| {
            let proxies: Vec<_> = proxies.as_array().into_iter().flatten().collect();
            let acknowledged =
                |p: &serde_json::Value, what: &str| p[format!("{what}_sent")] == p[format!("{what}_acked")];
            proxies.len() > 10
                && proxies.iter().all(|p| {
                    ["cluster", "listener", "endpoint", "route"]
                        .iter()
                        .all(|what| acknowledged(p, what))
                })
        },
    );
}

#[test]
fn control_planes_know_each_other() {
    let mesh = Mesh::shared();
    for (cluster, peer) in [("us", "eu"), ("eu", "us")] {
        eventually(&format!("{cluster} hears from {peer}"), || {
            let output = mesh.isthmus(&["peer", "list"]);
            output
                .stdout
                .lines()
                .map(|line| line.split_whitespace().collect::<Vec<_>>())
                .any(|row| row.len() > 2 && row[0] == cluster && row[1] == peer && row[2] == "connected")
                .then_some(())
                .ok_or_else(|| output.to_string())
        });
    }
}

#[test]
fn a_service_of_the_other_network_stands_behind_its_gateway() {
    let mesh = Mesh::shared();
    let status = mesh.status();
    let clusters = status["clusters"].as_array().expect("clusters");
    let eu = clusters.iter().find(|c| c["id"] == "eu").expect("cluster eu");
    let gateway = eu["load_balancers"]["istio-system/istio-eastwestgateway"]
        .as_str()
        .expect("an address of eu's east-west gateway");
    eventually(&format!("echo is behind {gateway}"), || {
        let output = mesh.isthmus(&[
            "proxy-config",
            "endpoint",
            "us/sleep.default",
            "--cluster",
            "outbound|80||echo.echo.svc.cluster.local",
        ]);
        let wanted = format!("{gateway}:15443");
        output
            .stdout
            .contains(&wanted)
            .then_some(())
            .ok_or_else(|| format!("{wanted} is not among {output}"))
    });
}

#[test]
fn a_saved_file_counts_and_a_broken_one_leaves_the_last_good_in_force() {
    let mesh = Mesh::exclusive();
    let edition = |wanted: &'static str| {
        eventually(&format!("edition {wanted} is served"), || {
            let output = mesh.fetch("us/sleep.default", "http://details:9080/details/0", &["-i"]);
            output
                .stdout
                .to_lowercase()
                .contains(&format!("x-edition: {wanted}"))
                .then_some(())
                .ok_or_else(|| {
                    let log = mesh.log("us", "istio-system", "istiod", "discovery");
                    format!(
                        "{output}{}",
                        log.lines().rev().take(25).collect::<Vec<_>>().join("\n")
                    )
                })
        });
    };
    mesh.write_file("us", "details-edition.yaml", GOOD);
    edition("first");

    // A typo: the control plane says where and what, and serves what it had.
    mesh.write_file("us", "details-edition.yaml", &GOOD.replace("route:", "rout:"));
    eventually("the control plane's log names file and line", || {
        let log = mesh.log("us", "istio-system", "istiod", "discovery");
        log.lines()
            .any(|line| line.contains("details-edition.yaml:8") && line.contains("rout"))
            .then_some(())
            .ok_or_else(|| log.lines().rev().take(8).collect::<Vec<_>>().join("\n"))
    });
    edition("first");

    mesh.write_file("us", "details-edition.yaml", &GOOD.replace("first", "second"));
    edition("second");
}

/// Where a line of `validate`, or of a log, names the file: from there on both say the same.
fn from_file<'l>(line: &'l str, file: &str) -> Option<&'l str> {
    line.find(&format!("{file}:")).map(|at| &line[at..])
}

#[test]
fn a_mistake_is_named_with_file_line_and_remedy_in_the_log_and_by_validate_and_the_last_good_serves_on() {
    let mesh = Mesh::exclusive();
    // Of an edition of its own, so that no other story's is taken for it.
    let good = GOOD.replace("first", "sound");
    let served = || {
        eventually("edition sound is served", || {
            let output = mesh.fetch("us/sleep.default", "http://details:9080/details/0", &["-i"]);
            let right = output.stdout.to_lowercase().contains("x-edition: sound");
            right.then_some(()).ok_or_else(|| output.to_string())
        });
    };
    mesh.write_file("us", "edition.yaml", &good);
    served();
    let other = good
        .replace("name: details", "name: other")
        .replace("hosts: [details]", "hosts: [details.default.svc.cluster.local]");
    for (mistake, file, yaml, line, words) in [
        (
            "a typo",
            "edition.yaml",
            good.replace("    route:", "    rout:"),
            9,
            "did you mean route?",
        ),
        (
            "an unknown field",
            "edition.yaml",
            format!("{good}    replicas: 3\n"),
            11,
            "unknown field \"replicas\"; remove it",
        ),
        (
            "a bad port",
            "edition.yaml",
            good.replace("{host: details}", "{host: details, port: {number: 99999}}"),
            10,
            "write a port from 1 to 65535",
        ),
        (
            "no YAML",
            "edition.yaml",
            good.replace("[details]", "[details"),
            0,
            "",
        ),
        (
            "a duplicate host",
            "other.yaml",
            other,
            6,
            "merge the two VirtualServices",
        ),
    ] {
        mesh.write_file("us", file, &yaml);
        let directory = mesh.config_dir("us");
        let paths: Vec<String> = ["edition.yaml", "other.yaml"]
            .iter()
            .map(|name| directory.join(name))
            .filter(|path| path.exists())
            .map(|path| path.display().to_string())
            .collect();
        let mut arguments = vec!["validate"];
        arguments.extend(paths.iter().flat_map(|path| ["-f", path.as_str()]));
        let output = mesh.isthmus(&arguments);
        assert_eq!(output.code, 1, "{mistake}: {output}");
        let said = output
            .stdout
            .lines()
            .filter_map(|l| from_file(l, file))
            .find(|l| l.contains(words) && (line == 0 || l.starts_with(&format!("{file}:{line}: error"))))
            .unwrap_or_else(|| panic!("{mistake}: {line} {words:?} is not in {output}"))
            .to_owned();
        eventually(&format!("{mistake}: the log says {said}"), || {
            let log = mesh.log("us", "istio-system", "istiod", "discovery");
            let found = log.lines().any(|l| l.contains(&said));
            found
                .then_some(())
                .ok_or_else(|| log.lines().rev().take(8).collect::<Vec<_>>().join("\n"))
        });
        served();
        mesh.write_file("us", "edition.yaml", &good);
    }
}

#[test]
fn mistakes_are_refused_with_line_and_remedy_before_anything_changes() {
    let mesh = Mesh::exclusive();
    for (mistake, yaml, words) in [
        (
            "a field that does not exist",
            GOOD.replace("hosts:", "host:"),
            vec!["host"],
        ),
        (
            "a port that cannot be",
            GOOD.replace("{host: details}", "{host: details, port: {number: 99999}}"),
            vec!["99999"],
        ),
        (
            "YAML that is none",
            GOOD.replace("hosts: [details]", "hosts: [details"),
            vec![],
        ),
    ] {
        let output = mesh.try_apply("us", &yaml);
        assert_eq!(output.code, 1, "{mistake}: {output}");
        for word in words {
            assert!(output.stderr.contains(word), "{mistake}: {output}");
        }
        assert!(
            output
                .stderr
                .lines()
                .any(|line| line.contains("-:") || line.contains("line")),
            "{mistake} without a line: {output}"
        );
    }
    let listed = mesh.isthmus(&["get", "virtualservices", "--cluster", "us"]);
    assert!(!listed.stdout.contains("details"), "{listed}");
}

#[test]
fn validate_says_the_same_without_a_mesh() {
    let mesh = Mesh::shared();
    let good = mesh.isthmus_with(&["validate", "-f", "-"], GOOD);
    assert_eq!(good.code, 0, "{good}");
    let duplicate = format!("{GOOD}---{}", GOOD.replace("name: details", "name: other"));
    for (bad, word) in [(GOOD.replace("http:", "htttp:"), "htttp"), (duplicate, "details")] {
        let output = mesh.isthmus_with(&["validate", "-f", "-"], &bad);
        assert_eq!(output.code, 1, "{output}\n{bad}");
        assert!(output.stdout.contains(word), "{output}");
    }
}
