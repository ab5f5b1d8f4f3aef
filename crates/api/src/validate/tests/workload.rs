//! Workloads, Sidecars and how they are reached.

use super::{fine, refused};

#[test]
fn workloads_sidecars_and_peers() {
    fine("WorkloadEntry", "address: 10.0.0.1\nlocality: us/a");
    refused(
        "WorkloadEntry",
        "labels: {a: b}",
        4,
        "neither address nor network",
    );
    refused(
        "WorkloadEntry",
        "address: 10.0.0.1\nports: {http: 0}",
        6,
        "missing or 0",
    );
    fine("Sidecar", "egress:\n- hosts: [./*, istio-system/*]");
    refused("Sidecar", "egress:\n- hosts: [reviews]", 6, "names no namespace");
    refused(
        "Sidecar",
        "egress:\n- hosts: [./*]\n- hosts: [./*]\n  port: {number: 80, name: a, protocol: HTTP}",
        6,
        "must stand last",
    );
    refused(
        "Sidecar",
        "ingress:\n- port: {number: 80, name: a, protocol: HTTP}\n  defaultEndpoint: 10.0.0.1:80",
        7,
        "not an endpoint",
    );
    fine(
        "PeerAuthentication",
        "selector: {matchLabels: {app: a}}\nportLevelMtls: {8080: {mode: DISABLE}}\nmtls: {mode: STRICT}",
    );
    refused(
        "PeerAuthentication",
        "portLevelMtls: {8080: {mode: DISABLE}}",
        5,
        "ports belong to workloads",
    );
    refused(
        "PeerAuthentication",
        "selector: {matchLabels: {app: a}}\nportLevelMtls: {http: {mode: DISABLE}}",
        6,
        "not a number from",
    );
}
