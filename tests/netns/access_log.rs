//! The access log as the MeshConfig asks for it.

use serde_json::Value;

use crate::harness::{Mesh, Writer, eventually};

fn mesh_config(mesh: &Writer, settings: &[&str]) {
    let lines: String = settings.iter().map(|line| format!("    {line}\n")).collect();
    mesh.apply(
        "us",
        &format!(
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: istio, namespace: istio-system}}\ndata:\n  mesh: |\n{lines}"
        ),
    );
}

/// The first line of sleep's log about `path` that is as wanted, while it is asked for again and again.
fn line<T>(mesh: &Mesh, path: &str, wanted: impl Fn(&str) -> Option<T>) -> T {
    eventually(&format!("a line about {path}"), || {
        mesh.fetch("us/sleep.default", &format!("http://details:9080{path}"), &[]);
        let log = mesh.log("us", "default", "sleep", "istio-proxy");
        let found = log.lines().filter(|line| line.contains(path)).find_map(&wanted);
        found.ok_or_else(|| log.lines().rev().take(5).collect::<Vec<_>>().join("\n"))
    })
}

#[test]
fn nothing_is_logged_until_a_file_is_named_then_as_text_as_json_and_in_a_form_of_ones_own() {
    let mesh = Mesh::exclusive();
    for _ in 0..3 {
        mesh.fetch("us/sleep.default", "http://details:9080/details/quiet", &[]);
    }
    mesh_config(&mesh, &["accessLogFile: /dev/stdout"]);
    let text = line(&mesh, "/details/text", |line| {
        line.contains("\"GET /details/text HTTP/1.1\"")
            .then(|| line.to_owned())
    });
    assert!(
        text.contains("outbound|9080||details.default.svc.cluster.local"),
        "{text}"
    );

    mesh_config(&mesh, &["accessLogFile: /dev/stdout", "accessLogEncoding: JSON"]);
    let json: Value = line(&mesh, "/details/json", |line| serde_json::from_str(line).ok());
    assert_eq!(json["path"], "/details/json", "{json:#}");
    assert_eq!(json["method"], "GET", "{json:#}");
    assert!(json["response_code"].is_number(), "{json:#}");
    assert!(json["upstream_cluster"].is_string(), "{json:#}");

    mesh_config(
        &mesh,
        &[
            "accessLogFile: /dev/stdout",
            "accessLogFormat: 'ours %REQ(:METHOD)% %REQ(:PATH)% %RESPONSE_CODE%'",
        ],
    );
    line(&mesh, "/details/own", |line| {
        line.starts_with("ours GET /details/own ").then_some(())
    });
    let log = mesh.log("us", "default", "sleep", "istio-proxy");
    assert!(!log.contains("/details/quiet"), "no log was asked for then");
}
