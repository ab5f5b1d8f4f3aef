//! Two clusters whose certificates lead to two roots.

use std::path::Path;
use std::process::Command;

use crate::harness::{Mesh, Output, eventually, eventually_json};
use crate::steady::{ACCESS_LOG, FAR, in_step};

fn certs(arguments: &[&str], dir: &Path) {
    let output = Command::new(env!("CARGO_BIN_EXE_isthmus"))
        .arg("certs")
        .args(arguments)
        .args(["--key", "ecdsa-p256", "--dir"])
        .arg(dir)
        .output()
        .expect("the binary was built with the tests");
    assert!(output.status.success(), "certs {arguments:?}: {output:?}");
}

/// The fingerprints in a text: 32 pairs of digits with colons between them.
fn fingerprints(text: &str) -> std::collections::BTreeSet<&str> {
    let words = text.split(|c: char| !(c.is_ascii_hexdigit() || c == ':'));
    words
        .map(|word| word.trim_matches(':'))
        .filter(|word| word.len() == 95 && word.split(':').all(|pair| pair.len() == 2))
        .collect()
}

#[test]
fn another_root_in_one_cluster_parts_the_clusters_and_says_so() {
    let dir = tempfile::tempdir().expect("a directory");
    certs(&["root", "--common-name", "Root of eu"], dir.path());
    certs(&["intermediate", "eu"], dir.path());
    let given = dir.path().to_str().expect("UTF-8");
    let mesh = Mesh::start(&["--cacerts", given]).unwrap_or_else(|why| panic!("{why}"));

    // Inside each cluster everybody has one root.
    for (from, url) in [
        ("us/sleep.default", "http://details:9080/details/0"),
        ("us/sleep.default", "http://reviews:9080/reviews/0"),
        ("eu/sleep.default", "http://echo.echo/"),
        ("eu/sleep.default", "http://ratings:9080/ratings/0"),
    ] {
        eventually_json(
            &format!("{url} answers {from}"),
            || mesh.fetch(from, url, &["--count", "5", "--close"]),
            |summary| summary["statuses"]["200"] == 5,
        );
    }

    // Between them the client refuses the server, names both roots and says what to do; so it does while
    // the endpoint is ejected for that.
    let applied = mesh.isthmus_with(&["apply", "--cluster", "us", "-f", "-"], ACCESS_LOG);
    assert_eq!(applied.code, 0, "{applied}");
    in_step(&mesh, &["us"]);
    let explains = |text: &str| {
        fingerprints(text).len() == 2
            && text.contains("chains to root")
            && text.contains("isthmus certs intermediate")
    };
    let ask = || mesh.fetch("us/sleep.default", FAR, &["-i", "--close"]);
    for _ in 0..3 {
        let output: Output = ask();
        assert!(output.stdout.starts_with("HTTP/1.1 503"), "{output}");
        assert!(explains(&output.stdout), "{output}");
    }
    eventually("the access log names both roots", || {
        ask();
        let log = mesh.log("us", "default", "sleep", "istio-proxy");
        let found = log.lines().any(|line| {
            line.contains("echo.eu.mesh.local") && line.contains(" 503 U") && fingerprints(line).len() == 2
        });
        found
            .then_some(())
            .ok_or_else(|| log.lines().rev().take(5).collect::<Vec<_>>().join("\n"))
    });

    // So do the control planes, in both directions.
    eventually("peer list explains", || {
        let output = mesh.isthmus(&["peer", "list"]);
        let rows: Vec<&str> = output.stdout.lines().skip(1).collect();
        let explained = rows.iter().filter(|row| explains(row)).count();
        if explained == 2 && rows.len() == 2 {
            Ok(())
        } else {
            Err(output.to_string())
        }
    });
}
