//! ServiceEntry.

use super::{fine, one, refused};

#[test]
fn service_entry_by_resolution() {
    let entry =
        |rest: &str| format!("hosts: [a.com]\nports: [{{number: 80, name: http, protocol: HTTP}}]\n{rest}");
    fine("ServiceEntry", &entry("resolution: DNS"));
    fine(
        "ServiceEntry",
        &entry("addresses: [240.0.0.2/32]\nresolution: DNS"),
    );
    fine(
        "ServiceEntry",
        &entry("resolution: STATIC\nendpoints: [{address: 10.0.0.1, ports: {http: 8080}}]"),
    );
    refused(
        "ServiceEntry",
        &entry("addresses: [240.0.0.0/24]\nresolution: DNS"),
        7,
        "more than one address",
    );
    refused(
        "ServiceEntry",
        &entry("addresses: [240.0.0.400]\nresolution: DNS"),
        7,
        "not an address or CIDR",
    );
    refused("ServiceEntry", &entry("resolution: STATIC"), 4, "needs endpoints");
    refused(
        "ServiceEntry",
        &entry("resolution: STATIC\nendpoints: [{address: b.com}]"),
        8,
        "is a name",
    );
    refused(
        "ServiceEntry",
        &entry("resolution: NONE\nendpoints: [{address: 10.0.0.1}]"),
        8,
        "NONE has no endpoints",
    );
    refused(
        "ServiceEntry",
        &entry("resolution: DNS\nendpoints: [{address: b.com, ports: {htpp: 1}}]"),
        8,
        "did you mean http?",
    );
    refused(
        "ServiceEntry",
        &entry("resolution: DNS\nendpoints: [{address: <EU_LB_DNS>}]"),
        8,
        "is a placeholder",
    );
    refused(
        "ServiceEntry",
        &entry("resolution: DNS").replace("a.com", "'*.com'"),
        5,
        "cannot be resolved",
    );
    fine(
        "ServiceEntry",
        &entry("resolution: DYNAMIC_DNS").replace("a.com", "'*.com'"),
    );
    one(
        "ServiceEntry",
        &entry("resolution: DNS").replace("[a.com]", "[a.com, A.com]"),
        5,
        "ISM0008",
        "twice",
    );
    refused(
        "ServiceEntry",
        "hosts: [a.com]\nresolution: DNS",
        4,
        "has no ports",
    );
    refused(
        "ServiceEntry",
        "hosts: [a.com]\nports:\n- {number: 80, name: a, protocol: HTTP}\n- {number: 80, name: b, protocol: HTTP}",
        8,
        "stands here twice",
    );
}
