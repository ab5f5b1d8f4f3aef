//! Both server sessions, as stories; the rules are those of Envoy's protocol document, whose sections the
//! tests name.

use std::sync::Arc;

use super::*;
use crate::envoy::Any;
use crate::envoy::google::rpc;
use crate::envoy::service::discovery::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
};
use crate::resource::{Resource, ResourceSet, Resources, TypeUrl};

fn resource(ty: &TypeUrl, name: &str, content: &str) -> Arc<Resource> {
    let mut value = vec![0x0a, name.len() as u8];
    value.extend(name.bytes());
    value.extend([0x12, content.len() as u8]);
    value.extend(content.bytes());
    Resource::packed(
        name,
        Any {
            type_url: ty.as_str().into(),
            value,
        },
    )
}

fn set(ty: &TypeUrl, members: &[(&str, &str)]) -> ResourceSet {
    members
        .iter()
        .map(|(name, content)| resource(ty, name, content))
        .collect()
}

/// One cluster, its endpoints, a listener and its routes for each name.
fn mesh(members: &[(&str, &str)]) -> Arc<Resources> {
    let mut resources = Resources::new();
    for ty in [TypeUrl::Cds, TypeUrl::Eds, TypeUrl::Lds, TypeUrl::Rds] {
        resources.insert(ty.clone(), set(&ty, members));
    }
    Arc::new(resources)
}

/// A delta client that writes down what it is sent.
struct Delta(DeltaSession);

impl Delta {
    fn with(resources: Arc<Resources>) -> Self {
        let mut session = DeltaSession::new(Limits::default());
        session.publish(resources);
        Self(session)
    }

    fn request(&mut self, ty: TypeUrl, change: impl FnOnce(&mut DeltaDiscoveryRequest)) -> Answer {
        let mut request = DeltaDiscoveryRequest {
            type_url: ty.as_str().into(),
            ..Default::default()
        };
        change(&mut request);
        self.0.request(request).unwrap()
    }

    fn subscribe(&mut self, ty: TypeUrl, names: &[&str]) {
        self.request(ty, |r| {
            r.resource_names_subscribe = names.iter().map(|n| n.to_string()).collect()
        });
    }

    fn next(&mut self) -> Option<DeltaDiscoveryResponse> {
        self.0.next_response().map(|(_, response)| response)
    }

    fn ack(&mut self, response: &DeltaDiscoveryResponse) -> Answer {
        self.request(response.type_url.as_str().into(), |r| {
            r.response_nonce = response.nonce.clone()
        })
    }

    fn nack(&mut self, response: &DeltaDiscoveryResponse, error: &str) -> Answer {
        self.request(response.type_url.as_str().into(), |r| {
            r.response_nonce = response.nonce.clone();
            r.error_detail = Some(rpc::Status {
                message: error.into(),
                ..Default::default()
            });
        })
    }

    /// Takes and accepts everything until nothing comes; gives `type +added -removed` for each response.
    fn settle(&mut self) -> Vec<String> {
        let mut log = Vec::new();
        while let Some(response) = self.next() {
            log.push(said(&response));
            self.ack(&response);
        }
        log
    }
}

fn said(response: &DeltaDiscoveryResponse) -> String {
    let mut text = TypeUrl::from(response.type_url.as_str()).short().to_owned();
    for r in &response.resources {
        text += &format!(" +{}", r.name);
    }
    for name in &response.removed_resources {
        text += &format!(" -{name}");
    }
    text
}

/// A state-of-the-world client.
struct Sotw(SotwSession);

impl Sotw {
    fn with(resources: Arc<Resources>) -> Self {
        let mut session = SotwSession::new(Limits::default());
        session.publish(resources);
        Self(session)
    }

    fn request(&mut self, ty: &TypeUrl, version: &str, nonce: &str, names: &[&str]) -> Answer {
        self.0.request(sotw_request(ty, version, nonce, names)).unwrap()
    }

    fn next(&mut self) -> Option<DiscoveryResponse> {
        self.0.next_response().map(|(_, response)| response)
    }

    fn ack(&mut self, response: &DiscoveryResponse, names: &[&str]) -> Answer {
        let ty = TypeUrl::from(response.type_url.as_str());
        self.request(&ty, &response.version_info, &response.nonce, names)
    }
}

fn sotw_request(ty: &TypeUrl, version: &str, nonce: &str, names: &[&str]) -> DiscoveryRequest {
    DiscoveryRequest {
        type_url: ty.as_str().into(),
        version_info: version.into(),
        response_nonce: nonce.into(),
        resource_names: names.iter().map(|n| n.to_string()).collect(),
        ..Default::default()
    }
}

fn names(response: &DiscoveryResponse) -> Vec<String> {
    let name = |any: &Any| String::from_utf8(any.value[2..2 + any.value[1] as usize].to_vec()).unwrap();
    response.resources.iter().map(name).collect()
}

// "Eventual consistency considerations": CDS, EDS, LDS, RDS.
#[test]
fn delta_sends_what_is_referred_to_before_what_refers_to_it() {
    let mut client = Delta::with(mesh(&[("a", "1")]));
    // In whatever order the client asks.
    client.subscribe(TypeUrl::Rds, &["a"]);
    client.subscribe(TypeUrl::Lds, &[]);
    client.subscribe(TypeUrl::Eds, &["a"]);
    client.subscribe(TypeUrl::Cds, &[]);
    assert_eq!(client.settle(), ["cds +a", "eds +a", "lds +a", "rds +a"]);

    client.0.publish(mesh(&[("a", "2"), ("b", "1")]));
    assert_eq!(client.settle(), ["cds +a +b", "eds +a", "lds +a +b", "rds +a"]);
}

// The same section: "Stale CDS clusters and related EDS endpoints can then be removed."
#[test]
fn delta_removes_clusters_only_after_the_routes_that_named_them() {
    let mut client = Delta::with(mesh(&[("a", "1"), ("b", "1")]));
    for (ty, wanted) in [
        (TypeUrl::Cds, [].as_slice()),
        (TypeUrl::Eds, &["a", "b"]),
        (TypeUrl::Lds, &[]),
        (TypeUrl::Rds, &["a", "b"]),
    ] {
        client.subscribe(ty, wanted);
    }
    client.settle();

    client.0.publish(mesh(&[("b", "2")]));
    let mut sent = Vec::new();
    let mut responses = Vec::new();
    while let Some(response) = client.next() {
        sent.push(said(&response));
        responses.push(response);
    }
    assert_eq!(sent, ["cds +b", "eds +b", "lds +b -a", "rds +b -a"]);
    for response in &responses[..3] {
        client.ack(response);
    }
    assert_eq!(client.next(), None, "routes are not taken yet");
    client.nack(&responses[3], "no");
    assert_eq!(
        client.next(),
        None,
        "the old routes still serve, and may name the old cluster"
    );

    client.0.publish(mesh(&[("b", "3")]));
    assert_eq!(
        client.settle(),
        ["cds +b", "eds +b", "lds +b", "rds +b", "cds -a", "eds -a"]
    );
}

#[test]
fn newer_states_merge_while_an_answer_is_awaited() {
    let mut client = Delta::with(mesh(&[("a", "1")]));
    client.subscribe(TypeUrl::Cds, &[]);
    client.subscribe(TypeUrl::Lds, &[]);
    let first = client.next().unwrap();
    let listeners = client.next().unwrap();
    client.ack(&listeners);

    client.0.publish(mesh(&[("a", "2"), ("b", "1")]));
    client.0.publish(mesh(&[("a", "3"), ("c", "1")]));
    assert_eq!(
        client.next(),
        None,
        "listeners wait for the clusters that wait for the answer"
    );
    client.ack(&first);
    assert_eq!(client.settle(), ["cds +a +c", "lds +a +c"], "b was never sent");
}

// "Resource warming": a client may accept clusters only when it has their endpoints.
#[test]
fn what_a_client_warms_with_is_sent_even_while_newer_clusters_wait() {
    let mut client = Delta::with(mesh(&[("a", "1")]));
    client.subscribe(TypeUrl::Cds, &[]);
    client.subscribe(TypeUrl::Lds, &[]);
    let clusters = client.next().unwrap();
    let listeners = client.next().unwrap();
    client.0.publish(mesh(&[("a", "2"), ("b", "1")]));
    assert_eq!(client.next(), None);
    client.subscribe(TypeUrl::Eds, &["a"]);
    let endpoints = client.next().unwrap();
    assert_eq!(said(&endpoints), "eds +a");
    client.ack(&endpoints);
    client.subscribe(TypeUrl::Rds, &["a"]);
    assert_eq!(
        client.next(),
        None,
        "routes may name clusters that are not there yet"
    );
    client.ack(&clusters);
    let newer = client.next().unwrap();
    assert_eq!(said(&newer), "cds +a +b");
    let routes = client.next().unwrap();
    assert_eq!(
        said(&routes),
        "rds +a",
        "the listener that waits for its answer waits for these"
    );
    for response in [newer, routes, listeners] {
        client.ack(&response);
    }
    assert_eq!(client.settle(), ["lds +a +b"]);
}

#[test]
fn a_refused_resource_comes_again_only_when_something_changes() {
    let mut client = Delta::with(mesh(&[("a", "1"), ("b", "1")]));
    client.subscribe(TypeUrl::Cds, &[]);
    let bad = client.next().unwrap();
    let answer = client.nack(&bad, "a: no such filter");
    assert!(
        matches!(&answer, Answer::Nack { ty: TypeUrl::Cds, error, .. } if error == "a: no such filter"),
        "{answer:?}"
    );
    assert_eq!(client.next(), None);
    let status = &client.0.status()[0];
    assert_eq!(
        (status.synced, status.error.as_deref()),
        (false, Some("a: no such filter"))
    );

    client.0.publish(mesh(&[("a", "2"), ("b", "1")]));
    let fixed = client.next().unwrap();
    assert_eq!(said(&fixed), "cds +a +b", "b may have been refused as well");
    assert!(matches!(client.ack(&fixed), Answer::Ack { ty: TypeUrl::Cds, .. }));
    assert!(client.0.status()[0].synced);

    // Back to the last good state: also a change against what was sent last.
    let worse = mesh(&[("a", "3"), ("b", "1")]);
    client.0.publish(worse);
    let bad = client.next().unwrap();
    client.nack(&bad, "no");
    client.0.publish(mesh(&[("a", "2"), ("b", "1")]));
    assert_eq!(client.settle(), ["cds +a"]);
}

// "On reconnect the Incremental xDS client may tell the server of its known resources".
#[test]
fn a_reconnecting_delta_client_gets_only_what_changed_meanwhile() {
    let before = mesh(&[("gone", "1"), ("same", "1"), ("changed", "1")]);
    let mut first = Delta::with(before.clone());
    first.subscribe(TypeUrl::Cds, &[]);
    let held: Vec<_> = first
        .next()
        .unwrap()
        .resources
        .into_iter()
        .map(|r| (r.name, r.version))
        .collect();

    let reconnect = |resources: Arc<Resources>, names: &[&str]| {
        let mut client = Delta::with(resources);
        client.request(TypeUrl::Cds, |r| {
            r.initial_resource_versions = held.iter().cloned().collect();
            r.resource_names_subscribe = names.iter().map(|n| n.to_string()).collect();
        });
        client
    };
    // A restarted server that has the same content: nothing at all.
    assert_eq!(
        reconnect(mesh(&[("gone", "1"), ("same", "1"), ("changed", "1")]), &[]).next(),
        None
    );
    let after = mesh(&[("same", "1"), ("changed", "2"), ("new", "1")]);
    assert_eq!(
        reconnect(after.clone(), &[]).settle(),
        ["cds +changed +new -gone"]
    );
    assert_eq!(
        reconnect(after.clone(), &["same", "gone"]).settle(),
        ["cds -gone"]
    );
    assert_eq!(reconnect(after, &["*"]).settle(), ["cds +changed +new -gone"]);
}

#[test]
fn an_empty_answer_to_the_first_request_says_that_there_is_nothing() {
    let mut client = Delta::with(Arc::default());
    client.subscribe(TypeUrl::Cds, &[]);
    client.subscribe(TypeUrl::Eds, &[]);
    assert_eq!(
        client.settle(),
        ["cds"],
        "an empty list of endpoints asks for none"
    );

    let mut client = Sotw::with(Arc::default());
    client.request(&TypeUrl::Cds, "", "", &[]);
    assert_eq!(names(&client.next().unwrap()), [""; 0]);
}

#[test]
fn nothing_is_said_before_anything_is_known() {
    let mut session = DeltaSession::new(Limits::default());
    session
        .request(DeltaDiscoveryRequest {
            type_url: TypeUrl::Cds.as_str().into(),
            ..Default::default()
        })
        .unwrap();
    assert!(session.next_response().is_none());
    session.publish(Arc::default());
    assert!(session.next_response().is_some());
}

// "How the client specifies what resources to return", the incremental example.
#[test]
fn delta_wildcards_and_names() {
    let mut client = Delta::with(mesh(&[("a", "1"), ("b", "1")]));
    client.subscribe(TypeUrl::Cds, &[]);
    assert_eq!(client.settle(), ["cds +a +b"]);
    client.subscribe(TypeUrl::Cds, &["a"]);
    assert_eq!(
        client.settle(),
        ["cds +a"],
        "what is asked for is sent, whatever was sent before"
    );

    // "Unsubscribing": under a wildcard the client is told whether the name is still covered.
    client.subscribe(TypeUrl::Cds, &["nowhere"]);
    assert_eq!(client.settle(), ["cds -nowhere"]);
    client.request(TypeUrl::Cds, |r| {
        r.resource_names_unsubscribe = vec!["a".into(), "nowhere".into()]
    });
    assert_eq!(client.settle(), ["cds +a -nowhere"]);

    client.subscribe(TypeUrl::Cds, &["a"]);
    client.settle();
    client.request(TypeUrl::Cds, |r| {
        r.resource_names_unsubscribe = vec!["*".into(), "phantom".into()]
    });
    assert_eq!(client.settle(), [""; 0]);
    client.0.publish(mesh(&[("a", "2"), ("b", "2")]));
    assert_eq!(client.settle(), ["cds +a"], "only the name is left");
    client.request(TypeUrl::Cds, |r| r.resource_names_unsubscribe = vec!["a".into()]);
    client.0.publish(mesh(&[("a", "3"), ("b", "3")]));
    assert_eq!(client.settle(), [""; 0], "the legacy wildcard does not come back");
}

#[test]
fn delta_subscriptions_on_demand() {
    let mut client = Delta::with(mesh(&[("a", "1")]));
    client.subscribe(TypeUrl::Eds, &["a", "later"]);
    assert_eq!(client.settle(), ["eds +a -later"]);
    client.0.publish(mesh(&[("a", "1"), ("later", "1")]));
    assert_eq!(
        client.settle(),
        ["eds +later"],
        "a name that did not exist is remembered"
    );
    client.0.publish(mesh(&[("a", "1")]));
    assert_eq!(client.settle(), ["eds -later"]);
    client.0.publish(mesh(&[("a", "1"), ("later", "1")]));
    assert_eq!(client.settle(), ["eds +later"]);
    client.request(TypeUrl::Eds, |r| {
        r.resource_names_unsubscribe = vec!["later".into()]
    });
    client.0.publish(mesh(&[("a", "1")]));
    assert_eq!(client.settle(), [""; 0]);
}

// "the server must honor changes to the subscription state even if the nonce is stale".
#[test]
fn delta_honours_a_subscription_under_a_stale_nonce() {
    let mut client = Delta::with(mesh(&[("a", "1"), ("b", "1")]));
    client.subscribe(TypeUrl::Eds, &["a"]);
    let answer = client.request(TypeUrl::Eds, |r| {
        r.response_nonce = "of another stream".into();
        r.resource_names_subscribe = vec!["b".into()];
    });
    assert_eq!(answer, Answer::None);
    assert_eq!(client.settle(), ["eds +a +b"]);
}

#[test]
fn a_large_state_travels_in_several_responses() {
    let members: Vec<_> = (0..10).map(|i| (format!("c{i}"), "x".repeat(100))).collect();
    let members: Vec<_> = members.iter().map(|(n, c)| (n.as_str(), c.as_str())).collect();
    let mut session = DeltaSession::new(Limits {
        response_bytes: 450,
        ..Limits::default()
    });
    session.publish(mesh(&members));
    let mut client = Delta(session);
    client.subscribe(TypeUrl::Cds, &[]);
    client.subscribe(TypeUrl::Lds, &["c0"]);
    let log = client.settle();
    assert_eq!(log.len(), 4, "{log:?}");
    assert_eq!(
        log[3], "lds +c0",
        "listeners wait for the last part of the clusters"
    );
    assert_eq!(log[..3].join(" ").matches('+').count(), 10);
}

// "ACK/NACK and resource type instance version".
#[test]
fn sotw_sends_the_whole_state_and_notices_refusals() {
    let mut client = Sotw::with(mesh(&[("a", "1"), ("b", "1")]));
    client.request(&TypeUrl::Cds, "", "", &[]);
    let first = client.next().unwrap();
    assert_eq!(names(&first), ["a", "b"]);
    assert!(matches!(client.ack(&first, &[]), Answer::Ack { .. }));
    assert_eq!(client.next(), None);

    client.0.publish(mesh(&[("a", "1"), ("b", "2")]));
    let second = client.next().unwrap();
    assert_eq!(names(&second), ["a", "b"], "the unchanged one as well");
    assert_ne!(second.nonce, first.nonce);
    assert_ne!(second.version_info, first.version_info);
    let mut nack = sotw_request(&TypeUrl::Cds, &first.version_info, &second.nonce, &[]);
    nack.error_detail = Some(rpc::Status {
        message: "b".into(),
        ..Default::default()
    });
    assert!(matches!(client.0.request(nack).unwrap(), Answer::Nack { .. }));
    assert_eq!(client.next(), None);

    client.0.publish(mesh(&[("a", "1"), ("b", "1")]));
    let third = client.next().unwrap();
    assert_eq!(
        third.version_info, first.version_info,
        "the same content is the same version"
    );
}

// "it is generally safe for servers to do this optimization for LDS and CDS when the only subscription is
// a wildcard subscription".
#[test]
fn sotw_resends_nothing_after_a_restart_unless_names_are_asked_for() {
    let mut before = Sotw::with(mesh(&[("a", "1")]));
    before.request(&TypeUrl::Cds, "", "", &[]);
    let clusters = before.next().unwrap();
    before.request(&TypeUrl::Eds, "", "", &["a"]);
    let endpoints = before.next().unwrap();

    let mut after = Sotw::with(mesh(&[("a", "1")]));
    after.request(&TypeUrl::Cds, &clusters.version_info, "", &[]);
    after.request(&TypeUrl::Eds, &endpoints.version_info, &endpoints.nonce, &["a"]);
    let sent = after.next().unwrap();
    assert_eq!(
        sent.type_url,
        TypeUrl::Eds.as_str(),
        "clusters are known, endpoints may not be"
    );
    assert_eq!(after.next(), None);
    after.0.publish(mesh(&[]));
    assert_eq!(
        names(&after.next().unwrap()),
        [""; 0],
        "what was held from before is taken away"
    );

    let mut changed = Sotw::with(mesh(&[("a", "2")]));
    changed.request(&TypeUrl::Cds, &clusters.version_info, "", &[]);
    assert_eq!(names(&changed.next().unwrap()), ["a"]);
}

// "The management server should not send a DiscoveryResponse for any DiscoveryRequest that has a stale nonce."
#[test]
fn sotw_passes_over_stale_requests() {
    let mut client = Sotw::with(mesh(&[("a", "1"), ("b", "1")]));
    client.request(&TypeUrl::Eds, "", "", &["a"]);
    let first = client.next().unwrap();
    client.ack(&first, &["a"]);
    client.0.publish(mesh(&[("a", "2"), ("b", "1")]));
    let second = client.next().unwrap();
    // Sent by the client before it saw `second`: names under the old nonce.
    assert_eq!(
        client.request(&TypeUrl::Eds, &first.version_info, &first.nonce, &["a", "b"]),
        Answer::None
    );
    assert_eq!(client.next(), None);
    client.ack(&second, &["a", "b"]);
    assert_eq!(
        names(&client.next().unwrap()),
        ["b"],
        "endpoints need not be complete"
    );
}

// "Resource warming": a cluster that changed waits for endpoints even though they did not change.
#[test]
fn sotw_repeats_endpoints_for_clusters_that_warm() {
    let mut client = Sotw::with(mesh(&[("a", "1")]));
    client.request(&TypeUrl::Cds, "", "", &[]);
    let clusters = client.next().unwrap();
    client.ack(&clusters, &[]);
    client.request(&TypeUrl::Eds, "", "", &["a"]);
    let endpoints = client.next().unwrap();
    client.ack(&endpoints, &["a"]);
    assert_eq!(client.next(), None);

    let mut changed = (*mesh(&[("a", "1")])).clone();
    changed.insert(TypeUrl::Cds, set(&TypeUrl::Cds, &[("a", "2")]));
    client.0.publish(Arc::new(changed));
    let clusters = client.next().unwrap();
    client.ack(&clusters, &[]);
    // The same names, version and nonce once more: only Envoy's warming makes it do that.
    client.request(&TypeUrl::Eds, &endpoints.version_info, &endpoints.nonce, &["a"]);
    let again = client.next().unwrap();
    assert_eq!(names(&again), ["a"]);
    client.ack(&again, &["a"]);
    assert_eq!(client.next(), None, "once");
}

#[test]
fn sotw_keeps_removed_clusters_until_the_routes_are_taken() {
    let mut client = Sotw::with(mesh(&[("a", "1"), ("b", "1")]));
    client.request(&TypeUrl::Cds, "", "", &[]);
    client.request(&TypeUrl::Rds, "", "", &["r", "a", "b"]);
    let clusters = client.next().unwrap();
    client.ack(&clusters, &[]);
    let routes = client.next().unwrap();
    client.ack(&routes, &["r", "a", "b"]);

    client.0.publish(mesh(&[("b", "2"), ("c", "1")]));
    let clusters = client.next().unwrap();
    assert_eq!(names(&clusters), ["b", "c", "a"]);
    let routes = client.next().unwrap();
    client.ack(&clusters, &[]);
    assert_eq!(client.next(), None);
    client.ack(&routes, &["r", "b", "c"]);
    let log: Vec<_> = std::iter::from_fn(|| {
        let response = client.next()?;
        let wanted: &[&str] = if response.type_url == TypeUrl::Rds.as_str() {
            &["r", "b", "c"]
        } else {
            &[]
        };
        client.ack(&response, wanted);
        Some((
            response.type_url.rsplit('.').next().unwrap().to_owned(),
            names(&response),
        ))
    })
    .collect();
    // Routes c, newly asked for, travel before a goes.
    assert!(
        log.contains(&("Cluster".to_owned(), vec!["b".to_owned(), "c".to_owned()])),
        "{log:?}"
    );
    assert!(
        log.iter()
            .any(|(ty, n)| ty == "RouteConfiguration" && n == &["c"]),
        "{log:?}"
    );
}

// "How the client specifies what resources to return", the state-of-the-world example.
#[test]
fn sotw_wildcards_and_names() {
    let mut client = Sotw::with(mesh(&[("a", "1"), ("b", "1")]));
    let step = |client: &mut Sotw, last: &DiscoveryResponse, wanted: &[&str]| {
        client.ack(last, wanted);
        client.next()
    };
    client.request(&TypeUrl::Cds, "", "", &[]);
    let mut last = client.next().unwrap();
    assert_eq!(names(&last), ["a", "b"]);
    last = step(&mut client, &last, &["*", "a"]).unwrap();
    assert_eq!(names(&last), ["a", "b"], "a is newly asked for");
    assert_eq!(step(&mut client, &last, &["a"]), None);
    client.0.publish(mesh(&[("a", "2"), ("b", "2")]));
    last = client.next().unwrap();
    assert_eq!(names(&last), ["a"]);
    assert_eq!(step(&mut client, &last, &[]), None);
    client.0.publish(mesh(&[("a", "3"), ("b", "3")]));
    assert_eq!(
        client.next(),
        None,
        "the empty list is no wildcard once a name was given"
    );
}

#[test]
fn hostile_requests_end_the_stream_and_nothing_else() {
    let limits = Limits {
        types: 2,
        names: 3,
        name_length: 80,
        ..Limits::default()
    };
    let request = |ty: &str, names: &[&str]| DeltaDiscoveryRequest {
        type_url: ty.into(),
        resource_names_subscribe: names.iter().map(|n| n.to_string()).collect(),
        ..Default::default()
    };
    let mut session = DeltaSession::new(limits.clone());
    assert_eq!(session.request(request("", &[])), Err(ProtocolError::NoType));
    assert!(session.request(request("t/a", &["1", "2"])).is_ok());
    assert!(matches!(
        session.request(request("t/a", &["3", "4"])),
        Err(ProtocolError::TooManyNames { .. })
    ));
    assert!(matches!(
        session.request(request("t/a", &[&"x".repeat(81)])),
        Err(ProtocolError::NameTooLong { .. })
    ));
    assert!(matches!(
        session.request(request(&"x".repeat(81), &[])),
        Err(ProtocolError::NameTooLong { .. })
    ));
    assert!(session.request(request("t/b", &[])).is_ok());
    assert_eq!(
        session.request(request("t/c", &[])),
        Err(ProtocolError::TooManyTypes(2))
    );
    let mut flood = request("t/b", &[]);
    flood.initial_resource_versions = (0..4).map(|i| (i.to_string(), String::new())).collect();
    assert!(matches!(
        session.request(flood),
        Err(ProtocolError::TooManyNames { .. })
    ));

    let mut session = SotwSession::new(limits);
    let too_many = sotw_request(&TypeUrl::Eds, "", "", &["1", "2", "3", "4"]);
    assert!(matches!(
        session.request(too_many),
        Err(ProtocolError::TooManyNames { .. })
    ));

    // Versions that no server gave, answers to nothing, an error as long as a book.
    let mut client = Delta::with(mesh(&[("a", "1")]));
    client.request(TypeUrl::Cds, |r| {
        r.response_nonce = "7".into();
        r.initial_resource_versions = [("a".to_owned(), "not a version".to_owned())].into();
    });
    let response = client.next().unwrap();
    assert_eq!(said(&response), "cds +a");
    let answer = client.nack(&response, &"é".repeat(5000));
    assert!(matches!(answer, Answer::Nack { error, .. } if error.len() <= 4096));
    assert_eq!(client.ack(&response), Answer::None, "answered already");
}
