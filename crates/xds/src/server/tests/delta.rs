//! Incremental discovery.

use super::*;

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
