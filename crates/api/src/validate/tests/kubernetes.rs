//! Services of Kubernetes.

use super::{fine, one, refused};

#[test]
fn kubernetes_services() {
    fine(
        "Service",
        "clusterIP: 10.0.0.1\nports: [{name: http, port: 80, targetPort: web}]",
    );
    refused("Service", "ports: [{port: 80}, {port: 81}]", 5, "has no name");
    refused(
        "Service",
        "ports: [{port: 80, protocol: HTTP}]",
        5,
        "belongs into appProtocol",
    );
    refused("Service", "clusterIP: 10.0.0", 5, "not an IP address");
    one(
        "Service",
        "ports: [{port: 80, targetprt: 8080}]",
        5,
        "IST0133",
        "did you mean targetPort?",
    );
}
