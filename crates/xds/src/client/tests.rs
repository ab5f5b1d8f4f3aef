//! The client sessions, alone and face to face with the server sessions.

use std::sync::Arc;

use super::*;
use crate::client::{DeltaClient, SotwClient};
use crate::envoy::cluster::Cluster;
use crate::envoy::core::Node;
use crate::resource::{Resource, ResourceSet, Resources};
use crate::server::{DeltaSession, Limits, SotwSession};

fn node() -> Node {
    Node {
        id: "sidecar~10.0.0.1~a.b~b.svc.cluster.local".into(),
        ..Default::default()
    }
}

fn clusters(members: &[(&str, &str)]) -> Arc<Resources> {
    let set: ResourceSet = members
        .iter()
        .map(|(name, content)| {
            let cluster = Cluster {
                name: name.to_string(),
                alt_stat_name: content.to_string(),
                ..Default::default()
            };
            Resource::new(*name, &cluster)
        })
        .collect();
    Arc::new(Resources::new().with(TypeUrl::Cds, set))
}

/// A client and the server that it happens to be connected to, either protocol.
trait Pair {
    fn connect(&mut self, resources: Arc<Resources>);
    fn publish(&mut self, resources: Arc<Resources>);
    /// Moves messages until an update arrives.
    fn update(&mut self) -> Option<Update>;
    fn ack(&mut self, update: &Update);
    fn nack(&mut self, update: &Update, refused: &[&str]);

    /// Accepts everything that comes; gives `+added -removed`.
    fn settle(&mut self) -> Vec<String> {
        let mut log = Vec::new();
        while let Some(update) = self.update() {
            let added = update.added.iter().map(|r| format!("+{}", r.name));
            let removed = update.removed.iter().map(|n| format!("-{n}"));
            log.push(added.chain(removed).collect::<Vec<_>>().join(" "));
            self.ack(&update);
        }
        log
    }
}

macro_rules! pair {
    ($name:ident, $client:ident, $server:ident) => {
        struct $name($client, $server);

        impl $name {
            fn new(wanted: Wanted) -> Self {
                let mut client = $client::new(node(), 100);
                client.subscribe(TypeUrl::Cds, wanted);
                Self(client, $server::new(Limits::default()))
            }
        }

        impl Pair for $name {
            fn connect(&mut self, resources: Arc<Resources>) {
                self.0.disconnected();
                self.1 = $server::new(Limits::default());
                self.1.publish(resources);
                self.0.connected();
            }

            fn publish(&mut self, resources: Arc<Resources>) {
                self.1.publish(resources);
            }

            fn update(&mut self) -> Option<Update> {
                while let Some(request) = self.0.next_request() {
                    self.1.request(request).unwrap();
                }
                let (_, response) = self.1.next_response()?;
                Some(self.0.response(response).unwrap())
            }

            fn ack(&mut self, update: &Update) {
                self.0.ack(&update.ty, &update.nonce);
            }

            fn nack(&mut self, update: &Update, refused: &[&str]) {
                let refused: Vec<Arc<str>> = refused.iter().map(|n| Arc::from(*n)).collect();
                self.0.nack(&update.ty, &update.nonce, "refused", &refused);
            }
        }
    };
}

pair!(DeltaPair, DeltaClient, DeltaSession);
pair!(SotwPair, SotwClient, SotwSession);

fn both(story: impl Fn(&mut dyn Pair)) {
    story(&mut DeltaPair::new(Wanted::All));
    story(&mut SotwPair::new(Wanted::All));
}

#[test]
fn updates_say_what_changed() {
    both(|pair| {
        pair.connect(clusters(&[("a", "1"), ("b", "1")]));
        assert_eq!(pair.settle(), ["+a +b"]);
        pair.publish(clusters(&[("a", "1"), ("b", "2"), ("c", "1")]));
        assert_eq!(pair.settle(), ["+b +c"]);
        pair.publish(clusters(&[("a", "1")]));
        assert_eq!(pair.settle(), ["-b -c"]);
    });
}

#[test]
fn a_reconnect_brings_the_difference_alone() {
    both(|pair| {
        pair.connect(clusters(&[("a", "1"), ("b", "1")]));
        pair.settle();
        pair.connect(clusters(&[("a", "1"), ("b", "1")]));
        assert_eq!(pair.settle(), [""; 0], "the server sends nothing");
        pair.connect(clusters(&[("a", "2"), ("c", "1")]));
        assert_eq!(pair.settle(), ["+a +c -b"]);
    });
}

#[test]
fn what_was_refused_is_not_held() {
    both(|pair| {
        pair.connect(clusters(&[("good", "1"), ("bad", "1")]));
        let update = pair.update().unwrap();
        pair.nack(&update, &["bad"]);
        assert_eq!(pair.update(), None, "not again as it is");

        pair.connect(clusters(&[("good", "1"), ("bad", "1")]));
        let again = pair.update().unwrap();
        assert_eq!(
            again.added.iter().map(|r| &*r.name).collect::<Vec<_>>(),
            ["bad"],
            "good is held"
        );
        pair.nack(&again, &[]);
        pair.publish(clusters(&[("good", "1"), ("bad", "2")]));
        assert_eq!(pair.settle(), ["+bad"]);
    });
}

#[test]
fn what_is_held_from_an_earlier_life_is_not_sent_again() {
    let mut before = DeltaPair::new(Wanted::All);
    before.connect(clusters(&[("gone", "1"), ("same", "1")]));
    before.settle();

    let mut client = DeltaClient::new(node(), 100);
    for (name, version) in before.0.held(&TypeUrl::Cds) {
        client.hold(TypeUrl::Cds, name.clone(), version.clone());
    }
    client.subscribe(TypeUrl::Cds, Wanted::All);
    let mut after = DeltaPair(client, DeltaSession::new(Limits::default()));
    after.connect(clusters(&[("same", "1"), ("new", "1")]));
    assert_eq!(after.settle(), ["+new -gone"]);
}

#[test]
fn an_update_of_a_lost_stream_can_still_be_accepted() {
    both(|pair| {
        pair.connect(clusters(&[("a", "1")]));
        let update = pair.update().unwrap();
        pair.connect(clusters(&[("a", "1")]));
        pair.ack(&update);
        // Delta has asked before the answer, state of the world compares: in both nothing is lost.
        pair.settle();
        pair.connect(clusters(&[("a", "1"), ("b", "1")]));
        assert_eq!(pair.settle(), ["+b"]);
    });
}

#[test]
fn names_are_asked_for_and_given_up() {
    let mut pair = DeltaPair::new(Wanted::Names(vec!["a".into()]));
    pair.connect(clusters(&[("a", "1"), ("b", "1")]));
    assert_eq!(pair.settle(), ["+a"]);
    pair.0.subscribe(
        TypeUrl::Cds,
        Wanted::Names(vec!["a".into(), "b".into(), "x".into()]),
    );
    assert_eq!(pair.settle(), ["+b -x"]);
    pair.0.unsubscribe(&TypeUrl::Cds, &["a".into()]);
    assert_eq!(
        pair.0.held(&TypeUrl::Cds).map(|(n, _)| &**n).collect::<Vec<_>>(),
        ["b"]
    );
    pair.publish(clusters(&[("a", "2"), ("b", "2")]));
    assert_eq!(pair.settle(), ["+b"]);

    let mut pair = SotwPair::new(Wanted::Names(vec!["a".into()]));
    pair.connect(clusters(&[("a", "1"), ("b", "1")]));
    let first = pair.update().unwrap();
    // Asked for while a response waits: travels with its answer, or it would be taken for the answer.
    pair.0.subscribe(TypeUrl::Cds, Wanted::Names(vec!["b".into()]));
    assert_eq!(pair.0.next_request(), None);
    pair.ack(&first);
    assert_eq!(pair.settle(), ["+b"]);
}

#[test]
fn only_the_first_request_of_a_stream_introduces_the_node() {
    let mut client = DeltaClient::new(node(), 10);
    client.subscribe(TypeUrl::Lds, Wanted::All);
    client.subscribe(TypeUrl::Cds, Wanted::All);
    assert_eq!(client.next_request(), None, "not connected");
    for _ in 0..2 {
        client.connected();
        let first = client.next_request().unwrap();
        assert_eq!(
            (first.node, first.type_url.as_str()),
            (Some(node()), TypeUrl::Cds.as_str())
        );
        assert_eq!(client.next_request().unwrap().node, None);
        assert_eq!(client.next_request(), None);
        client.disconnected();
    }
}

#[test]
fn hostile_servers_are_left() {
    use crate::envoy::service::discovery::{DeltaDiscoveryResponse, DiscoveryResponse, Resource as Wire};
    let named = |name: &str| Wire {
        name: name.into(),
        resource: Some(Default::default()),
        ..Default::default()
    };
    let response = |ty: &TypeUrl, resources| DeltaDiscoveryResponse {
        type_url: ty.as_str().into(),
        resources,
        ..Default::default()
    };
    let mut client = DeltaClient::new(node(), 3);
    client.subscribe(TypeUrl::Cds, Wanted::All);
    client.connected();
    assert_eq!(
        client.response(response(&TypeUrl::Lds, vec![])),
        Err(ResponseError::Unsubscribed(TypeUrl::Lds))
    );
    let twice = client.response(response(&TypeUrl::Cds, vec![named("a"), named("a")]));
    assert!(matches!(twice, Err(ResponseError::Twice { .. })));
    let many = (0..4).map(|i| named(&i.to_string())).collect();
    assert!(matches!(
        client.response(response(&TypeUrl::Cds, many)),
        Err(ResponseError::TooMany { .. })
    ));
    let heartbeat = Wire {
        name: "a".into(),
        ..Default::default()
    };
    assert_eq!(
        client
            .response(response(&TypeUrl::Cds, vec![heartbeat]))
            .unwrap()
            .added,
        []
    );

    let mut client = SotwClient::new(node(), 3);
    client.subscribe(TypeUrl::Cds, Wanted::All);
    client.connected();
    let many = DiscoveryResponse {
        type_url: TypeUrl::Cds.as_str().into(),
        resources: vec![Default::default(); 4],
        ..Default::default()
    };
    assert!(matches!(
        client.response(many),
        Err(ResponseError::TooMany { .. })
    ));
}
