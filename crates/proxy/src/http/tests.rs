use std::rc::Rc;
use std::time::{Duration, Instant};

use http::{HeaderMap, HeaderName, HeaderValue};

use crate::config::listener::{TrafficDirection, Transport};
use crate::listener::Facts;
use crate::telemetry::format::header_value;
use crate::telemetry::story::Story;

use super::{grpc, headers, route};

fn map(pairs: &[(&str, &str)]) -> HeaderMap {
    pairs
        .iter()
        .map(|(n, v)| {
            (
                n.parse::<HeaderName>().unwrap(),
                v.parse::<HeaderValue>().unwrap(),
            )
        })
        .collect()
}

#[test]
fn paths_are_normalised_or_refused() {
    let normal = |p: &str| headers::normalize_path(p);
    assert_eq!(normal("/a/./b/../c?x=/../y").as_deref(), Some("/a/c?x=/../y"));
    assert_eq!(normal("/a/b/..").as_deref(), Some("/a/"));
    assert_eq!(normal("/%61%2Fb").as_deref(), Some("/a%2Fb"));
    assert_eq!(normal("/a\\b").as_deref(), Some("/a/b"));
    assert_eq!(normal("/%2e%2e/etc"), None);
    assert_eq!(normal("/..").as_deref(), None);
    assert_eq!(normal("/%zz%4").as_deref(), Some("/%zz%4"));
    assert_eq!(headers::merge_slashes("//a///b?c=//"), "/a/b?c=//");
}

#[test]
fn what_is_for_one_hop_stays_there_and_identity_cannot_be_named_away() {
    let mut request = map(&[
        (
            "connection",
            "x-mine, x-forwarded-client-cert, authorization, upgrade",
        ),
        ("upgrade", "websocket"),
        ("x-mine", "1"),
        ("x-forwarded-client-cert", "Hash=1"),
        ("authorization", "Bearer t"),
        ("te", "gzip, trailers"),
        ("transfer-encoding", "chunked"),
        ("content-length", "7"),
        ("keep-alive", "timeout=5"),
        ("proxy-connection", "close"),
    ]);
    assert_eq!(headers::upgrade_of(&request).as_deref(), Some("websocket"));
    headers::strip_hop_by_hop(&mut request, true);
    let mut left: Vec<_> = request.keys().map(HeaderName::as_str).collect();
    left.sort_unstable();
    assert_eq!(left, ["authorization", "te", "x-forwarded-client-cert"]);
    assert_eq!(request["te"], "trailers");
}

#[test]
fn grpc_is_recognised_with_its_timeout() {
    assert!(grpc::is_grpc(&map(&[("content-type", "application/grpc+proto")])));
    assert!(!grpc::is_grpc(&map(&[("content-type", "application/grpc-web")])));
    let timeout = |t: &str| grpc::timeout(&map(&[("grpc-timeout", t)]));
    assert_eq!(timeout("150m"), Some(Duration::from_millis(150)));
    assert_eq!(timeout("2S"), Some(Duration::from_secs(2)));
    for bad in ["", "m", "123456789m", "1x", "-1S"] {
        assert_eq!(timeout(bad), None, "{bad}");
    }
    assert_eq!(grpc::encode_message("50% é"), "50%25 %C3%A9");
}

#[test]
fn authorities_lose_only_their_port() {
    for (given, expected) in [
        ("reviews:9080", "reviews"),
        ("reviews", "reviews"),
        ("[::1]:80", "[::1]"),
        ("[::1]", "[::1]"),
        ("::1", "::1"),
        ("reviews:", "reviews:"),
    ] {
        assert_eq!(route::without_port(given), expected);
    }
}

#[test]
fn operators_are_filled_in_and_unknown_text_stays() {
    let facts = Facts {
        listener: "l".into(),
        direction: TrafficDirection::Outbound,
        peer: "10.0.0.1:1000".parse().unwrap(),
        source: "10.0.0.1:1000".parse().unwrap(),
        destination: "10.0.0.2:80".parse().unwrap(),
        restored: false,
        transport: Transport::Raw,
        server_name: None,
        application_protocols: Vec::new(),
        tls: None,
        accepted: Instant::now(),
        id: 1,
    };
    let story = Story::begin(&Rc::new(facts));
    for (format, expected) in [
        ("plain", "plain"),
        ("%DOWNSTREAM_REMOTE_ADDRESS%", "10.0.0.1:1000"),
        ("<%DOWNSTREAM_LOCAL_PORT%>", "<80>"),
        ("%REQ(X-NONE)%", ""),
        ("100%%", "100%"),
        ("50% off", "50% off"),
        ("%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%%", "10.0.0.1%"),
    ] {
        assert_eq!(header_value(format, &story), expected, "{format}");
    }
}
