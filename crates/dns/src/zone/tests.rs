use hickory_proto::op::Message;

use super::*;
use crate::testing::{addresses, question};

fn zones() -> Zones {
    let ip = |s: &str| s.parse::<IpAddr>().unwrap();
    let net = Zone::new("example.net", 60)
        .unwrap()
        .address("eastwest.eu", ip("198.51.100.20"))
        .and_then(|z| z.address("eastwest.eu.example.net.", ip("198.51.100.21")))
        .and_then(|z| z.address("@", ip("198.51.100.1")))
        .and_then(|z| z.address("*.apps", ip("198.51.100.30")))
        .and_then(|z| z.alias("www", "eastwest.eu.example.net"))
        .and_then(|z| z.alias("out", "example.com."))
        .and_then(|z| z.alias("loop", "loop.example.net"))
        .and_then(|z| z.alias("over", "host.sub.example.net"))
        .unwrap();
    let sub = Zone::new("sub.example.net.", 60)
        .unwrap()
        .address("host", ip("198.51.100.40"))
        .unwrap();
    Zones::new(vec![net, sub], None)
}

fn ask(name: &str, kind: RecordType) -> Message {
    let asked = question(name, kind);
    match zones().decide(&asked) {
        Decision::Answer(reply) => Message::from_vec(&asked.encode(&reply)).unwrap(),
        other => panic!("{other:?}"),
    }
}

fn v4(name: &str) -> Vec<String> {
    addresses(&ask(name, RecordType::A))
        .iter()
        .map(|ip| ip.to_string())
        .collect()
}

fn code(message: &Message) -> ResponseCode {
    message.metadata.response_code
}

#[test]
fn records_are_found_under_their_names() {
    assert_eq!(v4("EastWest.eu.example.NET.").len(), 2);
    assert_eq!(v4("example.net."), ["198.51.100.1"]);
    assert_eq!(v4("host.sub.example.net."), ["198.51.100.40"]);
    assert_eq!(v4("a.apps.example.net."), ["198.51.100.30"]);
    assert_eq!(v4("a.b.apps.example.net."), ["198.51.100.30"]);
}

#[test]
fn aliases_are_followed_within_the_zones_and_left_at_the_border() {
    assert_eq!(v4("www.example.net.").len(), 2);
    assert_eq!(v4("over.example.net."), ["198.51.100.40"]);
    let out = ask("out.example.net.", RecordType::A);
    assert_eq!((out.answers.len(), out.authorities.len()), (1, 0));
    assert_eq!(code(&out), ResponseCode::NoError);
    // A loop ends.
    assert!(ask("loop.example.net.", RecordType::A).answers.len() <= MOST_ALIASES);
    assert_eq!(ask("www.example.net.", RecordType::CNAME).answers.len(), 1);
}

#[test]
fn denials_carry_the_zones_authority() {
    let missing = ask("nothing.example.net.", RecordType::A);
    assert_eq!(code(&missing), ResponseCode::NXDomain);
    assert_eq!(missing.authorities[0].record_type(), RecordType::SOA);
    assert!(missing.metadata.authoritative);
    // `eu.example.net` has no record, but a name below it: it exists (RFC 8020).
    let between = ask("eu.example.net.", RecordType::A);
    assert_eq!(
        (code(&between), between.authorities.len()),
        (ResponseCode::NoError, 1)
    );
    let family = ask("eastwest.eu.example.net.", RecordType::AAAA);
    assert_eq!(
        (code(&family), family.answers.len(), family.authorities.len()),
        (ResponseCode::NoError, 0, 1)
    );
    assert_eq!(code(&ask("example.org.", RecordType::A)), ResponseCode::Refused);
    assert_eq!(
        code(&ask("notexample.net.", RecordType::A)),
        ResponseCode::Refused
    );
}

#[test]
fn an_alias_stands_alone() {
    let zone = Zone::new("example.net", 60)
        .unwrap()
        .alias("a", "b.example.net")
        .unwrap();
    assert!(zone.clone().alias("a", "c.example.net").is_err());
    assert!(zone.clone().address("a", "1.1.1.1".parse().unwrap()).is_err());
    assert!(zone.address(&"x".repeat(64), "1.1.1.1".parse().unwrap()).is_err());
}

#[test]
fn zones_are_replaced_while_serving() {
    let zones = zones();
    zones.replace(vec![Zone::new("example.org", 5).unwrap()]);
    let asked = question("example.net.", RecordType::A);
    assert!(matches!(zones.decide(&asked), Decision::Answer(r) if r.code == ResponseCode::Refused));
}
