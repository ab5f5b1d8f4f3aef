//! A change on its way to the proxies that it is for.

use std::time::Duration;

use isthmus_xds::TypeUrl;

use super::*;
use crate::proxy::ProxyKind::Sidecar;
use crate::test_told;

const REVIEWS: &str = "outbound|9080||reviews.default.svc.cluster.local";

fn put(yaml: &str) -> Vec<Change> {
    let parsed = isthmus_api::parse(yaml, "test.yaml");
    assert!(!parsed.has_errors(), "{:?}", parsed.findings);
    parsed.objects.into_iter().map(Change::Put).collect()
}

fn slice(ready: bool) -> Vec<Change> {
    put(&format!(
        "
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: reviews-1, namespace: default, labels: {{kubernetes.io/service-name: reviews}}}}
addressType: IPv4
endpoints: [{{addresses: [10.0.1.1], conditions: {{ready: {ready}}}}}]
ports: [{{name: http, port: 9080}}]
"
    ))
}

#[tokio::test]
async fn a_change_reaches_the_proxy_and_one_of_endpoints_leaves_the_rest_alone() {
    let (sender, changes) = mpsc::unbounded_channel();
    let (_peers, peers) = watch::channel(PeerState::default());
    let (exported, mut told_to_peers) = watch::channel(Arc::<MemberState>::default());
    let identity = crate::mesh::Identity {
        cluster: "us".into(),
        network: "us-net".into(),
        mesh_id: String::new(),
        trust_domain: None,
        root_namespace: "istio-system".into(),
    };
    let feeds = Feeds {
        changes,
        sources: 1,
        peers,
        exported,
        peer_addresses: Vec::new(),
    };
    let plane = ControlPlane::new();
    let objects = Objects::default();
    let running = tokio::spawn(run(
        plane.clone(),
        objects,
        Builder::new(identity, Vec::new(), None),
        feeds,
    ));

    let yaml = [
        test_told::node("us-1", "us", "us-a"),
        test_told::service("reviews", "default", "10.0.0.1", "{name: http, port: 9080}"),
        test_told::pod("reviews-v1", "default", "10.0.1.1", "us-1", "app: reviews"),
        test_told::pod("sleep-1", "default", "10.0.1.5", "us-1", "app: sleep"),
    ];
    sender.send(put(&yaml.concat())).unwrap();
    sender.send(slice(true)).unwrap();
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(plane.snapshot().is_none(), "half a directory is no mesh");
    sender.send(vec![Change::Synced]).unwrap();

    let mut snapshots = plane.subscribe();
    let first = snapshots
        .wait_for(Option::is_some)
        .await
        .unwrap()
        .clone()
        .unwrap();
    let mut proxy = plane
        .open(test_told::proxy(&first, Sidecar, "sleep-1.default"))
        .await;
    let before = proxy.borrow_and_update().clone();
    let endpoints = |r: &Resources| r.set(&TypeUrl::Eds).unwrap().member(REVIEWS).unwrap().version;
    told_to_peers.wait_for(|m| m.services.len() == 1).await.unwrap();

    sender.send(slice(false)).unwrap();
    let patience = Duration::from_secs(20);
    tokio::time::timeout(patience, proxy.changed())
        .await
        .unwrap()
        .unwrap();
    let after = proxy.borrow_and_update().clone();
    assert_ne!(endpoints(&before), endpoints(&after));
    for ty in [TypeUrl::Cds, TypeUrl::Lds, TypeUrl::Rds, TypeUrl::Nds] {
        assert!(
            Arc::ptr_eq(before.set(&ty).unwrap(), after.set(&ty).unwrap()),
            "{ty} was made again"
        );
    }

    // What does not concern the proxy is not pushed; what does is.
    sender
        .send(put(&test_told::service(
            "other",
            "default",
            "10.0.0.9",
            "{name: http, port: 81}",
        )))
        .unwrap();
    tokio::time::timeout(patience, proxy.changed())
        .await
        .unwrap()
        .unwrap();
    assert!(
        proxy
            .borrow_and_update()
            .set(&TypeUrl::Rds)
            .unwrap()
            .member("81")
            .is_some()
    );
    running.abort();
}
