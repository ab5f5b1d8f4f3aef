//! ServiceEntry and WorkloadEntry.

use isthmus_api::Kind;
use isthmus_api::istio::{ServiceEntry, WorkloadEntry};
use serde_json::json;

use super::{CALLER, ELSEWHERE, Example, demand, example, object};

#[test]
fn every_field_of_a_service_entry_has_an_effect_or_a_finding() {
    let examples = [
        example(json!({
            "hosts": ["a.com"], "addresses": ["10.9.9.9"], "exportTo": ["."], "location": "MESH_INTERNAL",
            "resolution": "STATIC",
            "ports": [{"number": 80, "name": "http", "protocol": "HTTP", "targetPort": 8080}],
            "endpoints": [
                {"address": "10.3.0.1", "ports": {"http": 81}, "labels": {"security.istio.io/tlsMode": "istio"},
                 "network": "eu-net", "locality": "eu/eu-a", "weight": 3, "serviceAccount": "a"},
                {"address": "10.3.0.2", "weight": 2}
            ],
            "subjectAltNames": ["spiffe://corp.local/ns/default/sa/other"]
        })),
        example(json!({
            "hosts": ["a.com"], "location": "MESH_INTERNAL", "resolution": "STATIC",
            "ports": [{"number": 80, "name": "http", "protocol": "HTTP", "targetPort": 8080}],
            "endpoints": [{"address": "10.3.0.1", "locality": "eu/eu-a", "labels": {"security.istio.io/tlsMode": "istio"},
                           "network": "us-net", "serviceAccount": "a"}]
        })),
        example(json!({
            "hosts": ["a.com"], "location": "MESH_INTERNAL", "resolution": "STATIC",
            "ports": [{"number": 80, "name": "web", "protocol": "HTTP"}],
            "endpoints": [{"address": "10.3.0.1", "ports": {"web": 81},
                           "labels": {"security.istio.io/tlsMode": "istio"}}]
        })),
        example(json!({
            "hosts": ["a.com"], "location": "MESH_INTERNAL", "resolution": "STATIC", "exportTo": ["."],
            "ports": [{"number": 80, "name": "http", "protocol": "HTTP"}],
            "workloadSelector": {"labels": {"app": "reviews"}}
        })),
    ];
    demand::<ServiceEntry>(Kind::ServiceEntry, &[CALLER, ELSEWHERE], &examples);
}

#[test]
fn every_field_of_a_workload_entry_has_an_effect_or_a_finding() {
    let service = object(
        Kind::ServiceEntry,
        "default",
        "vm",
        &json!({
            "hosts": ["vm.com"], "location": "MESH_INTERNAL", "resolution": "STATIC",
            "ports": [{"number": 80, "name": "http", "protocol": "HTTP"}],
            "workloadSelector": {"labels": {"app": "vm"}}
        }),
    );
    let examples = [
        Example {
            beside: vec![service.clone()],
            ..example(json!({
                "address": "10.3.0.1", "ports": {"http": 81}, "labels": {"app": "vm"}, "network": "us-net",
                "locality": "eu/eu-a", "weight": 3, "serviceAccount": "a"
            }))
        },
        Example {
            beside: vec![service],
            ..example(json!({"address": "10.3.0.1", "labels": {"app": "vm"}, "network": "eu-net"}))
        },
    ];
    demand::<WorkloadEntry>(Kind::WorkloadEntry, &[CALLER, ELSEWHERE], &examples);
}
