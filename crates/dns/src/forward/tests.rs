use std::sync::atomic::AtomicU32;

use hickory_proto::rr::{RData, RecordType};

use super::*;
use crate::server::{Decision, Handler, Limits};
use crate::testing::{addresses, forwarder, nobody, query, question, start};
use crate::wire::Reply;
use crate::zone::{Zone, Zones};

fn zone(ttl: u32) -> Zones {
    let zone = Zone::new("example.com", ttl)
        .unwrap()
        .address("www", "192.0.2.7".parse().unwrap())
        .unwrap();
    Zones::new(vec![zone], None)
}

struct Counted<H>(H, Arc<AtomicU32>);

impl<H: Handler> Handler for Counted<H> {
    fn decide(&self, question: &Question) -> Decision {
        self.1.fetch_add(1, Ordering::SeqCst);
        self.0.decide(question)
    }
}

struct Always(ResponseCode);

impl Handler for Always {
    fn decide(&self, _: &Question) -> Decision {
        Decision::Answer(Reply::code(self.0))
    }
}

fn www() -> Vec<u8> {
    query("www.example.com.", RecordType::A, None)
}

#[tokio::test]
async fn a_dead_upstream_costs_its_timeout_once() {
    let good = start(zone(60), Limits::default());
    // This one swallows what it gets, so that only a timeout moves on.
    let silent = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let forwarder = forwarder(&[silent.local_addr().unwrap(), good.address], 0);
    for _ in 0..3 {
        let answer = Message::from_vec(&forwarder.exchange(&www(), Transport::Udp).await.unwrap()).unwrap();
        assert_eq!(answer.metadata.id, 77);
        assert_eq!(addresses(&answer).len(), 1);
    }
    let mut seen = 0;
    while silent.try_recv(&mut [0; 512]).is_ok() {
        seen += 1;
    }
    assert_eq!(seen, 1);
}

#[tokio::test]
async fn failures_move_on_and_the_best_answer_wins() {
    let good = start(zone(60), Limits::default());
    let bad = start(Always(ResponseCode::ServFail), Limits::default());
    let code = |answer: Vec<u8>| Message::from_vec(&answer).unwrap().metadata.response_code;
    let both = forwarder(&[bad.address, nobody().await, good.address], 0);
    assert_eq!(
        code(both.exchange(&www(), Transport::Udp).await.unwrap()),
        ResponseCode::NoError
    );
    let only_bad = forwarder(&[bad.address, nobody().await], 0);
    assert_eq!(
        code(only_bad.exchange(&www(), Transport::Udp).await.unwrap()),
        ResponseCode::ServFail
    );
    // A denial is an answer, not a failure.
    let denying = start(Always(ResponseCode::NXDomain), Limits::default());
    let denied = forwarder(&[denying.address, good.address], 0);
    assert_eq!(
        code(denied.exchange(&www(), Transport::Udp).await.unwrap()),
        ResponseCode::NXDomain
    );
}

#[tokio::test]
async fn errors_name_every_upstream() {
    let (a, b) = (nobody().await, nobody().await);
    let error = forwarder(&[a, b], 0)
        .exchange(&www(), Transport::Udp)
        .await
        .unwrap_err()
        .to_string();
    assert!(
        error.contains(&a.to_string()) && error.contains(&b.to_string()),
        "{error}"
    );
    let error = forwarder(&[], 0)
        .exchange(&www(), Transport::Udp)
        .await
        .unwrap_err()
        .to_string();
    assert!(error.contains("resolv.conf"), "{error}");
    assert!(matches!(
        forwarder(&[a], 0).exchange(&[0; 3], Transport::Udp).await,
        Err(ForwardError::NotAQuery)
    ));
}

#[tokio::test]
async fn forged_answers_are_waited_past() {
    let upstream = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let forwarder = forwarder(&[upstream.local_addr().unwrap()], 0);
    let ask = tokio::spawn(async move { forwarder.exchange(&www(), Transport::Udp).await });
    let mut buffer = [0; 512];
    let (length, peer) = upstream.recv_from(&mut buffer).await.unwrap();
    let asked = question("www.example.com.", RecordType::A);
    let answer = |ip: [u8; 4]| {
        let data = RData::A(std::net::Ipv4Addr::from(ip).into());
        asked.encode(&Reply::authoritative(vec![asked.record(5, data)]))
    };
    // The wrong id; the right id for another name; no response at all.
    let mut wrong_id = answer([6, 6, 6, 6]);
    wrong_id[..2].copy_from_slice(&[buffer[0] ^ 1, buffer[1]]);
    let mut wrong_name = answer([6, 6, 6, 6]);
    wrong_name[..2].copy_from_slice(&buffer[..2]);
    wrong_name[HEADER + 1] = b'x';
    let mut right = answer([192, 0, 2, 7]);
    right[..2].copy_from_slice(&buffer[..2]);
    for datagram in [&wrong_id[..], &wrong_name, &buffer[..length], &[1], &right] {
        upstream.send_to(datagram, peer).await.unwrap();
    }
    let got = Message::from_vec(&ask.await.unwrap().unwrap()).unwrap();
    assert_eq!(addresses(&got), ["192.0.2.7".parse::<IpAddr>().unwrap()]);
}

#[tokio::test]
async fn ids_and_ports_differ_from_question_to_question() {
    let upstream = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = upstream.local_addr().unwrap();
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..8 {
        let ask =
            tokio::spawn(async move { forwarder(&[address], 0).exchange(&www(), Transport::Udp).await });
        let mut buffer = [0; 512];
        let (_, peer) = upstream.recv_from(&mut buffer).await.unwrap();
        seen.insert((peer.port(), [buffer[0], buffer[1]]));
        ask.abort();
    }
    assert!(
        seen.iter()
            .map(|(port, _)| port)
            .collect::<std::collections::BTreeSet<_>>()
            .len()
            > 4
    );
    assert!(
        seen.iter()
            .map(|(_, id)| id)
            .collect::<std::collections::BTreeSet<_>>()
            .len()
            > 4
    );
}

#[tokio::test]
async fn answers_are_kept_as_long_as_they_hold_and_no_longer() {
    let asked = Arc::new(AtomicU32::new(0));
    let upstream = start(Counted(zone(2), asked.clone()), Limits::default());
    let forwarder = forwarder(&[upstream.address], 2);
    let count = || asked.load(Ordering::SeqCst);
    let www = question("wWw.example.com.", RecordType::A);
    for _ in 0..3 {
        let answer = Message::from_vec(&forwarder.answer(&www).await.unwrap()).unwrap();
        assert_eq!(
            answer.queries[0].name().to_ascii(),
            "wWw.example.com.",
            "the client's own spelling"
        );
        assert!(answer.answers[0].ttl <= 2);
    }
    assert_eq!(count(), 1);
    // A denial is kept by its SOA.
    let missing = question("missing.example.com.", RecordType::A);
    forwarder.answer(&missing).await.unwrap();
    forwarder.answer(&missing).await.unwrap();
    assert_eq!(count(), 2);
    // Two are kept at most.
    forwarder
        .answer(&question("other.example.com.", RecordType::A))
        .await
        .unwrap();
    assert_eq!(count(), 3);
    tokio::time::sleep(Duration::from_millis(2100)).await;
    forwarder.answer(&www).await.unwrap();
    assert_eq!(count(), 4);
}
