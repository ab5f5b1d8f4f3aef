//! A change on its way to the proxies that it is for.

use std::time::Duration;

use isthmus_xds::TypeUrl;

use super::*;
use crate::peering::Peers;
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
    };
    let plane = ControlPlane::new();
    let objects = Objects::default();
    let running = tokio::spawn(run(
        plane.clone(),
        objects,
        Builder::new(identity, Peers::new(), None),
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

/// Two files with everything wrong that only several objects together show.
const MISTAKES: &str = "
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: a, namespace: default}
spec:
  hosts: [reviews]
  gateways: [missing, mesh]
  http: [{route: [{destination: {host: reviews, subset: v9}, weight: 1}, {destination: {host: nowhere}, weight: 1}]}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: b, namespace: default}
spec:
  hosts: [reviews.default.svc.cluster.local]
  http: [{route: [{destination: {host: echo.echo.svc.cluster.local}}]}]
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: twice, namespace: default}
spec:
  hosts: [reviews.default.svc.cluster.local]
  ports: [{number: 80, name: http, protocol: HTTP}]
  resolution: DNS
";

#[test]
fn the_snapshot_finds_what_isthmus_analyze_finds_in_the_same_files() {
    let user = "
apiVersion: v1
kind: Service
metadata: {name: reviews, namespace: default}
spec:
  ports: [{name: http, port: 9080}, {name: odd, port: 9081}]
";
    let texts = [("user.yaml", user), ("mistakes.yaml", MISTAKES)];
    let parsed: Vec<_> = texts
        .iter()
        .map(|(file, text)| isthmus_api::parse(text, file))
        .collect();
    let objects: Vec<_> = parsed.iter().flat_map(|p| p.objects.iter().cloned()).collect();
    let completed = user.replace(
        "spec:",
        "spec:\n  clusterIP: 10.0.0.1\n  selector: {app: reviews}",
    );

    // What a user wrote is one layer, what Kubernetes makes of it another.
    let mut overlay = crate::ingest::overlay::Overlay::new(2);
    let mut us = test_told::Member::new("us");
    let written = objects.iter().cloned().map(Change::Put).collect();
    let state = isthmus_api::parse(&completed, "state.json");
    let state = state.objects.into_iter().map(Change::Put).collect();
    for change in overlay
        .apply(0, written)
        .into_iter()
        .chain(overlay.apply(1, state))
    {
        us.store.apply(change);
    }
    let analysed = |findings: &[Finding]| -> BTreeSet<String> {
        let lines = findings.iter().map(ToString::to_string);
        lines.filter(|line| line.contains("[IST")).collect()
    };
    let alone = us.snapshot();
    let offline = analysed(&isthmus_api::analyze(&objects));
    assert_eq!(analysed(&alone.findings), offline);
    for line in [
        "user.yaml:6: info [IST0118]",
        "mistakes.yaml:7: error [IST0101]",
        "mistakes.yaml:8: error [IST0101]",
        "mistakes.yaml:8: warning [IST0101]",
        "mistakes.yaml:14: error [IST0109]",
        "mistakes.yaml:15: warning [IST0101]",
    ] {
        assert!(
            offline.iter().any(|l| l.starts_with(line)),
            "{line}: {offline:#?}"
        );
    }

    // Once eu has told of echo, nobody claims that it does not exist.
    us.hear(&test_told::eu());
    let together = analysed(&us.snapshot().findings);
    let gone: Vec<&String> = offline.difference(&together).collect();
    assert!(
        matches!(gone.as_slice(), [one] if one.contains("echo.echo.svc.cluster.local")),
        "{gone:?}"
    );
}

#[test]
fn another_trust_domain_waits_for_a_restart() {
    let mesh = |domain: &str| {
        format!(
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: istio, namespace: istio-system}}\ndata:\n  mesh: |\n    trustDomain: {domain}\n"
        )
    };
    let mut us = test_told::us();
    us.apply(&mesh("corp.local"));
    assert_eq!(us.snapshot().mesh.trust_domain.as_str(), "corp.local");
    us.apply(&mesh("other.local"));
    let snapshot = us.snapshot();
    assert_eq!(snapshot.mesh.trust_domain.as_str(), "corp.local");
    let found: Vec<String> = snapshot.findings.iter().map(ToString::to_string).collect();
    assert!(
        found
            .iter()
            .any(|f| f.starts_with("test.yaml:5: warning [ISM0108]")
                && f.contains("restart the control plane")),
        "{found:?}"
    );
    us.apply(&mesh("corp.local"));
    assert!(us.snapshot().findings.iter().all(|f| f.code.id != "ISM0108"));
}
