//! The productpage in a real browser.

use crate::harness::Mesh;
use crate::program::run;

#[test]
fn a_browser_shows_the_page_that_both_clusters_make() {
    let mesh = Mesh::shared();
    let dir = tempfile::tempdir().expect("a temporary directory");
    let picture = dir.path().join("productpage.png");
    let address = mesh
        .published("eu")
        .first()
        .copied()
        .expect("an ingress gateway of eu");
    run(
        dir.path(),
        &[
            "timeout",
            "120",
            "chromium",
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--window-size=1100,900",
            &format!("--user-data-dir={}", dir.path().join("profile").display()),
            &format!("--screenshot={}", picture.display()),
            &format!("http://{address}/productpage"),
        ],
    );
    let picture = std::fs::read(&picture).expect("a screenshot");
    assert!(picture.starts_with(b"\x89PNG"), "not a picture");
    // An empty or an error page of this size is a few kilobytes.
    assert!(
        picture.len() > 40_000,
        "only {} bytes: is the page empty?",
        picture.len()
    );
}
