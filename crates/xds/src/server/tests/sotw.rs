//! State of the world.

use super::*;

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
