use hickory_proto::rr::Record;
use hickory_proto::rr::rdata::{A, CNAME};

use super::*;
use crate::server::{Decision, Handler, Limits};
use crate::testing::{forwarder, nobody, start};
use crate::wire::{Question, Reply};
use crate::zone::{Zone, Zones};

fn zones() -> Zones {
    let ip = |s: &str| s.parse::<IpAddr>().unwrap();
    let zone = Zone::new("example.net", 60)
        .unwrap()
        .address("eastwest.eu", ip("198.51.100.20"))
        .and_then(|z| z.address("dual", ip("198.51.100.21")))
        .and_then(|z| z.address("dual", ip("2001:db8::21")))
        .and_then(|z| z.alias("www", "eastwest.eu.example.net"))
        .unwrap();
    let many = (0..250).fold(Zone::new("many.net", 60).unwrap(), |z, i| {
        z.address("@", IpAddr::from([10, 9, 8, i])).unwrap()
    });
    Zones::new(vec![zone, many], None)
}

#[tokio::test]
async fn names_lead_to_addresses_and_their_ttl() {
    let server = start(zones(), Limits::default());
    let resolver = Resolver::new(forwarder(&[server.address], 0));
    let found = resolver
        .resolve("EastWest.eu.example.net", Family::Auto)
        .await
        .unwrap();
    assert_eq!(
        found,
        Resolved {
            addresses: vec!["198.51.100.20".parse().unwrap()],
            ttl: Duration::from_secs(60)
        }
    );
    let alias = resolver
        .resolve("www.example.net.", Family::V4Only)
        .await
        .unwrap();
    assert_eq!(alias.addresses, found.addresses);
    let many = resolver.resolve("many.net", Family::V4Only).await.unwrap();
    assert_eq!(
        many.addresses.len(),
        250,
        "a cut answer is asked for again over TCP"
    );
    let literal = resolver.resolve("[2001:db8::1]", Family::V4Only).await.unwrap();
    assert_eq!((literal.addresses.len(), literal.ttl), (1, Duration::MAX));
}

#[tokio::test]
async fn families_are_chosen_as_envoy_does() {
    let server = start(zones(), Limits::default());
    let resolver = Resolver::new(forwarder(&[server.address], 0));
    let (v4, v6): (IpAddr, IpAddr) = ("198.51.100.21".parse().unwrap(), "2001:db8::21".parse().unwrap());
    for (family, expected) in [
        (Family::Auto, vec![v6]),
        (Family::V4Only, vec![v4]),
        (Family::V6Only, vec![v6]),
        (Family::V4Preferred, vec![v4]),
        (Family::All, vec![v4, v6]),
    ] {
        assert_eq!(
            resolver
                .resolve("dual.example.net", family)
                .await
                .unwrap()
                .addresses,
            expected,
            "{family:?}"
        );
    }
    let only_v4 = resolver
        .resolve("eastwest.eu.example.net", Family::V6Only)
        .await
        .unwrap_err();
    assert!(
        matches!(only_v4, ResolveError::NoAddress { exists: true, ttl, .. } if ttl == Duration::from_secs(60))
    );
}

#[tokio::test]
async fn errors_say_what_failed() {
    let server = start(zones(), Limits::default());
    let resolver = Resolver::new(forwarder(&[server.address], 0));
    let missing = resolver
        .resolve("missing.example.net", Family::Auto)
        .await
        .unwrap_err();
    assert_eq!(missing.to_string(), "missing.example.net does not exist");
    let refused = resolver.resolve("example.org", Family::V4Only).await.unwrap_err();
    assert!(matches!(&refused, ResolveError::Refused { .. }), "{refused}");
    for bad in ["", "*.example.net", "a..b"] {
        assert!(
            matches!(
                resolver.resolve(bad, Family::Auto).await,
                Err(ResolveError::Name(_))
            ),
            "{bad:?}"
        );
    }
    let nobody = Resolver::new(forwarder(&[nobody().await], 0));
    let lost = nobody.resolve("example.net", Family::V4Only).await.unwrap_err();
    assert!(matches!(&lost, ResolveError::Unreachable { .. }), "{lost}");
    assert_eq!(
        nobody
            .resolve("localhost", Family::V4Only)
            .await
            .unwrap()
            .addresses,
        [IpAddr::V4(Ipv4Addr::LOCALHOST)]
    );
}

/// Answers each name with an alias only, as a server does that is not recursive.
struct Aliases;

impl Handler for Aliases {
    fn decide(&self, question: &Question) -> Decision {
        let number: u32 = question
            .name
            .split('.')
            .next()
            .and_then(|n| n.parse().ok())
            .unwrap_or(0);
        let record = match number {
            3 => question.record(9, RData::A(A::new(192, 0, 2, 3))),
            n => {
                let next = Name::from_ascii(format!("{}.example.", n + 1)).unwrap();
                question.record(100 - n, RData::CNAME(CNAME(next)))
            }
        };
        // What else stands in the answer is nobody's address.
        let stray = Record::from_rdata(Name::from_ascii("x.").unwrap(), 1, RData::A(A::new(6, 6, 6, 6)));
        Decision::Answer(Reply::authoritative(vec![stray, record]))
    }
}

#[tokio::test]
async fn aliases_are_followed_a_few_times_and_not_for_ever() {
    let server = start(Aliases, Limits::default());
    let resolver = Resolver::new(forwarder(&[server.address], 0));
    let found = resolver.resolve("0.example", Family::V4Only).await.unwrap();
    assert_eq!(
        found,
        Resolved {
            addresses: vec!["192.0.2.3".parse().unwrap()],
            ttl: Duration::from_secs(9)
        }
    );
    let endless = resolver.resolve("4.example", Family::V4Only).await.unwrap_err();
    assert!(endless.to_string().contains("more aliases"), "{endless}");
}
