//! Two control planes on loopback, and what may come between them.

use std::sync::Arc;

use isthmus_model::ClusterId;

use super::{Phase, wire};
use crate::member::MemberState;
use crate::test_mesh::{ControlPlane, Mesh, endpoint, gateway, service, until};

fn add(state: &mut MemberState, name: &str, cluster: &str, address: &str) {
    let service = service(name, cluster, address);
    state
        .services
        .insert(service.service.key.clone(), Arc::new(service));
}

fn services(control_plane: &ControlPlane, peer: &str) -> Vec<String> {
    let Some(peer) = control_plane.member(peer) else {
        return Vec::new();
    };
    peer.state
        .services
        .keys()
        .map(|k| k.host.as_str().split('.').next().unwrap().to_owned())
        .collect()
}

#[tokio::test]
async fn two_clusters_tell_each_other_what_they_run() {
    let mesh = Mesh::new();
    let (us, eu) = (mesh.cluster("us"), mesh.cluster("eu"));
    let eu_plane = eu.control_plane(&[], None);
    let us_plane = us.control_plane(&[("eu", eu_plane.addresses.xds)], None);
    eu_plane.export(|state| {
        let head = Arc::make_mut(&mut state.head);
        head.gateways = vec![gateway("eu"), gateway("ap")];
        head.passthrough = vec![("ingress.eu.example.com".parse().unwrap(), 15443)];
        add(state, "reviews", "eu", "10.2.0.5");
        // Heard of from another member: not eu's to tell.
        let mut ratings = service("ratings", "eu", "10.2.0.6");
        ratings.endpoints.push(endpoint("ratings", "ap", "10.3.0.1"));
        state
            .services
            .insert(ratings.service.key.clone(), Arc::new(ratings));
    });
    until("us knows eu", || {
        services(&us_plane, "eu") == ["ratings", "reviews"]
    })
    .await;
    until("with its gateways", || {
        us_plane
            .member("eu")
            .is_some_and(|p| !p.state.head.gateways.is_empty())
    })
    .await;
    let known = us_plane.member("eu").unwrap();
    assert!(known.connected);
    assert_eq!(known.state.head.gateways, [gateway("eu")]);
    assert_eq!(known.state.head.passthrough.len(), 1);
    assert_eq!(known.state.head.network.as_str(), "eu-net");
    for member in known.state.services.values() {
        let told = if member.service.labels.value("app") == Some("reviews") {
            "10.2.0.5"
        } else {
            "10.2.0.6"
        };
        let name = member.service.labels.value("app").unwrap();
        assert_eq!(**member, service(name, "eu", told));
    }

    // What does not change keeps its place in memory; what goes away goes away.
    let ratings = |plane: &ControlPlane| {
        let state = plane.member("eu").unwrap().state;
        state
            .services
            .values()
            .find(|s| s.service.labels.value("app") == Some("ratings"))
            .cloned()
            .unwrap()
    };
    let before = ratings(&us_plane);
    eu_plane.export(|state| {
        add(state, "details", "eu", "10.2.0.7");
        state
            .services
            .retain(|key, _| !key.host.as_str().starts_with("reviews"));
    });
    until("the change", || {
        services(&us_plane, "eu") == ["details", "ratings"]
    })
    .await;
    assert!(Arc::ptr_eq(&before, &ratings(&us_plane)));

    let page = us_plane.peering.page();
    assert_eq!(page["peers"][0]["status"], "connected");
    assert_eq!(
        (&page["peers"][0]["services"], &page["peers"][0]["endpoints"]),
        (&2.into(), &2.into())
    );
    assert_eq!(eu_plane.peering.page()["listeners"][0]["cluster"], "us");
    // eu was given no peer: it is listened to and hears nothing.
    assert!(eu_plane.member("us").is_none());
}

#[tokio::test]
async fn a_cut_link_ages_what_is_known_and_removes_nothing() {
    let mesh = Mesh::new();
    let (us, eu) = (mesh.cluster("us"), mesh.cluster("eu"));
    let eu_plane = eu.control_plane(&[], None);
    let at = eu_plane.addresses.xds;
    eu_plane.export(|state| add(state, "reviews", "eu", "10.2.0.5"));
    let us_plane = us.control_plane(&[("eu", at)], None);
    until("us knows eu", || services(&us_plane, "eu") == ["reviews"]).await;
    let before = us_plane.member("eu").unwrap();

    eu_plane.stop().await;
    until("the loss is known", || {
        us_plane.member("eu").is_some_and(|p| !p.connected)
    })
    .await;
    let after = us_plane.member("eu").unwrap();
    assert!(Arc::ptr_eq(&after.state, &us_plane.member("eu").unwrap().state));
    assert_eq!(after.state, before.state);
    until("with its cause", || {
        us_plane.peering.links()[&ClusterId::from("eu")]
            .error
            .as_ref()
            .is_some_and(|e| e.contains(&at.to_string()))
    })
    .await;
    assert_eq!(us_plane.peering.page()["peers"][0]["services"], 1);

    // us restarts while eu cannot be reached: its proxies still use eu's endpoints.
    until("the state is on disk", || {
        us.store().join("peer-eu.json").exists()
    })
    .await;
    us_plane.stop().await;
    let us_plane = us.control_plane(&[("eu", at)], None);
    let recalled = us_plane.member("eu").unwrap();
    assert_eq!((&recalled.state, recalled.connected), (&before.state, false));

    // eu comes back without reviews, with details.
    let eu_plane = eu.control_plane(&[], Some(at));
    eu_plane.export(|state| add(state, "details", "eu", "10.2.0.7"));
    until("what is new", || services(&us_plane, "eu") == ["details"]).await;
    assert!(us_plane.member("eu").unwrap().connected);
}

#[tokio::test]
async fn another_root_is_refused_by_both_fingerprints() {
    let (mesh, stranger) = (Mesh::new(), Mesh::new());
    let (us, eu) = (mesh.cluster("us"), stranger.cluster("eu"));
    let eu_plane = eu.control_plane(&[], None);
    let us_plane = us.control_plane(&[("eu", eu_plane.addresses.xds)], None);
    let error = || {
        us_plane.peering.links()[&ClusterId::from("eu")]
            .error
            .clone()
            .unwrap_or_default()
    };
    until("refused", || {
        error().contains(&mesh.fingerprint()) && error().contains(&stranger.fingerprint())
    })
    .await;
    assert!(us_plane.member("eu").is_none());
}

#[tokio::test]
async fn an_address_that_leads_elsewhere_is_no_peer() {
    let mesh = Mesh::new();
    let (us, ap) = (mesh.cluster("us"), mesh.cluster("ap"));
    let ap_plane = ap.control_plane(&[], None);
    let us_plane = us.control_plane(&[("eu", ap_plane.addresses.xds)], None);
    let error = |plane: &ControlPlane| {
        plane.peering.links()[&ClusterId::from("eu")]
            .error
            .clone()
            .unwrap_or_default()
    };
    until("refused", || error(&us_plane).contains("leads to cluster ap")).await;

    let loop_plane = us.control_plane(&[("eu", us_plane.addresses.xds)], None);
    until("refused", || {
        error(&loop_plane).contains("leads back to this cluster")
    })
    .await;
    assert!(us_plane.member("eu").is_none() && loop_plane.member("eu").is_none());
}

#[tokio::test]
async fn only_control_planes_of_other_members_are_told_anything() {
    let mesh = Mesh::new();
    let (us, eu) = (mesh.cluster("us"), mesh.cluster("eu"));
    let eu_plane = eu.control_plane(&[], None);
    eu_plane.export(|state| add(state, "reviews", "eu", "10.2.0.5"));
    let peers = [("eu", eu_plane.addresses.xds)];
    let error = |plane: &ControlPlane| {
        plane.peering.links()[&ClusterId::from("eu")]
            .error
            .clone()
            .unwrap_or_default()
    };

    // A workload of a member, even in the control plane's namespace.
    let workload = us.control_plane_with(&peers, None, us.credentials("istio-system", "ingress"));
    until("refused", || error(&workload).contains("is no control plane")).await;
    assert!(workload.member("eu").is_none());
}

#[tokio::test]
async fn a_black_hole_is_given_up_and_said() {
    let hole = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mesh = Mesh::new();
    let us_plane = mesh
        .cluster("us")
        .control_plane(&[("eu", hole.local_addr().unwrap())], None);
    let error = || {
        us_plane.peering.links()[&ClusterId::from("eu")]
            .error
            .clone()
            .unwrap_or_default()
    };
    until("given up", || error().contains("took longer")).await;
    assert_eq!(
        us_plane.peering.links()[&ClusterId::from("eu")].phase,
        Phase::Connecting
    );
}

#[test]
fn what_a_peer_tells_is_believed_within_bounds() {
    let eu = ClusterId::from("eu");
    let told = wire::Service::export(&service("reviews", "eu", "10.2.0.5"), &eu);
    assert_eq!(
        *told.clone().import(&eu).unwrap(),
        service("reviews", "eu", "10.2.0.5")
    );
    // Whatever it says, its endpoints are those of the cluster that its certificate proves.
    let ap = told.clone().import(&ClusterId::from("ap")).unwrap();
    assert!(ap.endpoints.iter().all(|e| e.cluster.as_str() == "ap"));
    assert!(ap.service.addresses.keys().all(|c| c.as_str() == "ap"));

    let change = |change: &dyn Fn(&mut wire::Service)| {
        let mut changed = told.clone();
        change(&mut changed);
        changed.import(&eu).unwrap_err().to_string()
    };
    for (bad, names) in [
        (change(&|s| s.host = "a b".into()), "host"),
        (change(&|s| s.origin = 9), "origin"),
        (change(&|s| s.resolution = 0), "resolution"),
        (change(&|s| s.ports[0].number = 70_000), "ports.number"),
        (change(&|s| s.addresses.push("x".into())), "addresses"),
        (
            change(&|s| s.endpoints[0].address = "not an address".into()),
            "endpoints.address",
        ),
        (
            change(&|s| s.endpoints[0].identity = "root".into()),
            "endpoints.identity",
        ),
        (change(&|s| s.endpoints[0].health = 77), "endpoints.health"),
        (
            change(&|s| s.endpoints = vec![Default::default(); 20_001]),
            "endpoints",
        ),
    ] {
        assert!(bad.starts_with(names), "{bad}");
    }

    let head = wire::Cluster {
        cluster: "us".into(),
        trust_domain: "corp.local".into(),
        ..Default::default()
    };
    let refused = head.import(&eu).unwrap_err().to_string();
    assert!(refused.contains("\"us\" is not eu"), "{refused}");
}

#[tokio::test]
async fn peers_come_and_go_while_the_control_plane_runs() {
    let mesh = Mesh::new();
    let (us, eu) = (mesh.cluster("us"), mesh.cluster("eu"));
    let eu_plane = eu.control_plane(&[], None);
    eu_plane.export(|state| add(state, "reviews", "eu", "10.2.0.5"));
    let us_plane = us.control_plane(&[], None);
    assert_eq!(us_plane.peering.page()["peers"], serde_json::json!([]));

    let (_trigger, drain) = isthmus_runtime::drain::channel();
    let listed = super::Peers::from([(ClusterId::from("eu"), eu_plane.addresses.xds.to_string())]);
    us_plane.peering.follow(&listed, &drain);
    us_plane.peering.follow(&listed, &drain);
    until("us knows eu", || services(&us_plane, "eu") == ["reviews"]).await;
    assert_eq!(
        eu_plane.peering.page()["listeners"].as_array().map(Vec::len),
        Some(1)
    );

    us_plane.peering.follow(&super::Peers::new(), &drain);
    assert!(us_plane.member("eu").is_none());
    assert_eq!(us_plane.peering.page()["peers"], serde_json::json!([]));
    until("eu is listened to no more", || {
        eu_plane.peering.page()["listeners"] == serde_json::json!([])
    })
    .await;
    assert!(
        !us.store().join("peer-eu.json").exists(),
        "nothing is kept of a former peer"
    );
}
