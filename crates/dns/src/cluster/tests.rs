use hickory_proto::rr::RecordType;

use super::*;
use crate::table::Entry;
use crate::testing::{forwarder, question};

fn names() -> ClusterNames {
    let entry = |host, ip: &str| Entry {
        host,
        ips: vec![ip.parse().unwrap()],
        registry: "Kubernetes",
        shortname: "",
        namespace: "",
    };
    let table = NameTable::build([entry("reviews.default.svc.cluster.local", "10.96.0.1")]);
    let stub = forwarder(&["127.0.0.1:5353".parse().unwrap()], 0);
    ClusterNames::new(
        "cluster.local.",
        Arc::new(ArcSwap::from_pointee(table)),
        forwarder(&[], 0),
    )
    .with_stub("global", stub)
}

fn reply(name: &str, kind: RecordType) -> Reply {
    match names().decide(&question(name, kind)) {
        Decision::Answer(reply) => reply,
        other => panic!("{other:?}"),
    }
}

#[test]
fn services_and_pods_have_addresses() {
    let service = reply("reviews.default.svc.cluster.local.", RecordType::A);
    assert_eq!((service.code, service.answers.len()), (ResponseCode::NoError, 1));
    let pod = reply("10-1-2-3.default.pod.cluster.local.", RecordType::A);
    assert_eq!(pod.answers[0].data.to_string(), "10.1.2.3");
    let pod = reply("fd00--7.default.pod.cluster.local.", RecordType::AAAA);
    assert_eq!(pod.answers[0].data.to_string(), "fd00::7");
}

#[test]
fn below_the_domain_a_denial_is_ours_and_not_upstreams() {
    // These are what a pod's search list asks on the way to the right name.
    for name in [
        "reviews.foo.svc.cluster.local.",
        "example.com.default.svc.cluster.local.",
        "x.cluster.local.",
    ] {
        let denied = reply(name, RecordType::A);
        assert_eq!(
            (denied.code, denied.authorities.len()),
            (ResponseCode::NXDomain, 1),
            "{name}"
        );
    }
    let family = reply("reviews.default.svc.cluster.local.", RecordType::AAAA);
    assert_eq!((family.code, family.answers.len()), (ResponseCode::NoError, 0));
    assert_eq!(
        reply("default.svc.cluster.local.", RecordType::A).code,
        ResponseCode::NoError
    );
    assert_eq!(
        reply("x.10-1-2-3.default.pod.cluster.local.", RecordType::A).code,
        ResponseCode::NXDomain
    );
}

#[test]
fn other_names_go_to_the_stub_domains_resolver_or_upstream() {
    let to = |name| match names().decide(&question(name, RecordType::A)) {
        Decision::Forward(forwarder, Denial::Keep) => forwarder.upstreams().len(),
        other => panic!("{other:?}"),
    };
    assert_eq!(to("httpbin.bar.global."), 1);
    assert_eq!(to("example.com."), 0);
    assert_eq!(to("notcluster.local."), 0);
}
