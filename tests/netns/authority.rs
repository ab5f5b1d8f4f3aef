//! A new intermediate for a cluster that runs: Secret `cacerts` among its YAML, as Istio has it.

use std::path::Path;
use std::process::Command;

use crate::harness::{Mesh, eventually, eventually_json};

/// A pod that is made only now has its certificate from whoever signs now.
const LATE: &str = r"
apiVersion: apps/v1
kind: Deployment
metadata: {name: late, namespace: default}
spec:
  selector: {matchLabels: {app: late}}
  template:
    metadata: {labels: {app: late}}
    spec:
      serviceAccountName: sleep
      containers:
      - name: sleep
        image: docker.io/isthmus/samples:sleep
";

fn certs(arguments: &[&str], dir: &Path) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_isthmus"))
        .arg("certs")
        .args(arguments)
        .args(["--key", "ecdsa-p256", "--dir"])
        .arg(dir)
        .output()
        .expect("the binary was built with the tests");
    assert!(output.status.success(), "certs {arguments:?}: {output:?}");
    String::from_utf8(output.stdout).expect("text")
}

fn key_line(secret: &str) -> &str {
    secret
        .lines()
        .find(|line| line.trim_start().starts_with("ca-key.pem:"))
        .expect("a key on one line")
}

#[test]
fn a_secret_is_taken_up_while_running_and_a_broken_one_leaves_it_in_force() {
    let dir = tempfile::tempdir().expect("a directory");
    certs(&["root"], dir.path());
    certs(&["intermediate", "us", "eu"], dir.path());
    let given = dir.path().to_str().expect("UTF-8");
    let mesh = Mesh::start(&["--cacerts", given]).unwrap_or_else(|why| panic!("{why}"));
    let secret = certs(&["intermediate", "us", "--output", "yaml"], dir.path());
    let other = certs(&["intermediate", "us", "--output", "yaml"], dir.path());

    let logged = |what: &str, all: &[&str]| {
        eventually(what, || {
            let log = mesh.log("us", "istio-system", "istiod", "discovery");
            let found = log.lines().any(|line| all.iter().all(|word| line.contains(word)));
            found
                .then_some(())
                .ok_or_else(|| log.lines().rev().take(5).collect::<Vec<_>>().join("\n"))
        });
    };
    let apply = |yaml: &str| {
        let output = mesh.isthmus_with(&["apply", "--cluster", "us", "-f", "-"], yaml);
        assert_eq!(output.code, 0, "{output}");
    };
    let answers = |from: &'static str, url: &'static str| {
        eventually_json(
            &format!("{url} answers {from}"),
            || mesh.fetch(from, url, &["--count", "5", "--close"]),
            |summary| summary["statuses"]["200"] == 5,
        );
    };
    apply(&secret);
    logged(
        "the new intermediate signs",
        &["a new signing certificate is used"],
    );
    apply(LATE);
    answers("us/late", "http://details:9080/details/0");
    answers("us/late", "http://echo.echo/");
    answers("us/sleep.default", "http://details:9080/details/0");

    apply(&secret.replace(key_line(&secret), key_line(&other)));
    logged(
        "the control plane says what is wrong with the Secret",
        &[
            "error [ISM0107] (Secret istio-system/cacerts)",
            "does not belong to the certificate",
            "write the files that `isthmus certs intermediate` makes",
        ],
    );
    apply(&LATE.replace(": late}", ": later}").replace(": late,", ": later,"));
    answers("us/later", "http://echo.echo/");
}
