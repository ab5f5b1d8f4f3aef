//! Cross-origin rules of a VirtualService, at the caller's sidecar.

use crate::harness::{Mesh, eventually};

const DETAILS: &str = "http://details:9080/details/0";

#[test]
fn a_preflight_is_answered_and_an_allowed_origin_is_told() {
    let mesh = Mesh::exclusive();
    mesh.apply(
        "us",
        r"
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: details-cors, namespace: default}
spec:
  hosts: [details]
  http:
  - corsPolicy:
      allowOrigins: [{exact: 'https://shop.example.com'}]
      allowMethods: [GET, PATCH]
      allowHeaders: [x-token]
      exposeHeaders: [x-served-by]
      maxAge: 24h
      allowCredentials: true
      unmatchedPreflights: IGNORE
    route:
    - destination: {host: details}
",
    );
    let ask = |options: &[&str]| {
        let output = mesh.fetch("us/sleep.default", DETAILS, &[&["-i"], options].concat());
        output.stdout.to_lowercase()
    };
    let origin = ["-H", "origin: https://shop.example.com"];
    let preflight = [
        &origin[..],
        &["-X", "OPTIONS", "-H", "access-control-request-method: PATCH"],
    ]
    .concat();
    eventually("the preflight is answered by the rules", || {
        let answer = ask(&preflight);
        let says = [
            "http/1.1 200",
            "access-control-allow-origin: https://shop.example.com",
            "access-control-allow-methods: get,patch",
            "access-control-allow-headers: x-token",
            "access-control-max-age: 86400",
            "access-control-allow-credentials: true",
        ];
        says.iter()
            .all(|line| answer.contains(line))
            .then_some(())
            .ok_or(answer)
    });
    let answer = ask(&origin);
    assert!(answer.starts_with("http/1.1 200"), "{answer}");
    assert!(
        answer.contains("access-control-allow-origin: https://shop.example.com")
            && answer.contains("access-control-expose-headers: x-served-by"),
        "{answer}"
    );
    let stranger = ask(&["-H", "origin: https://evil.example.com"]);
    assert!(stranger.starts_with("http/1.1 200"), "{stranger}");
    assert!(!stranger.contains("access-control-allow-origin"), "{stranger}");
}
