//! gRPC's own library, in us and in eu, with the mesh between them.

use crate::envoy::{file, installed};
use crate::harness::Mesh;

/// What has to hold, as the client prints it.
const STORIES: [&str; 11] = [
    "unary",
    "large messages",
    "server streaming",
    "client streaming",
    "bidirectional streaming",
    "status and trailers",
    "status behind a message",
    "unknown method",
    "deadline",
    "cancellation",
    "many at once",
];

#[test]
fn grpc_calls_of_every_kind_cross_the_mesh() {
    let mesh = Mesh::exclusive();
    let python = installed("venv/bin/python3").display().to_string();
    let peer = file("grpc/peer.py").display().to_string();
    let yaml = std::fs::read_to_string(file("grpc/peer.yaml")).expect("YAML of this suite");
    mesh.apply("eu", &yaml.replace("PYTHON", &python).replace("PEER", &peer));
    // Through the caller's sidecar, eu's east-west gateway and the server's sidecar.
    let client = [
        &*python,
        &*peer,
        "call",
        "grpc-peer.default.svc.cluster.local:9100",
    ];
    let said = mesh.exec("us/sleep.default", &client);
    let held: Vec<&str> = said.stdout.lines().collect();
    assert_eq!(held, STORIES, "{said}");
    assert_eq!(said.code, 0, "{said}");
}
