use std::net::IpAddr;

use arc_swap::ArcSwapOption;
use hickory_proto::op::Message;
use hickory_proto::rr::{RData, RecordType};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::*;
use crate::mesh::MeshNames;
use crate::table::{Entry, NameTable, Scope};
use crate::testing::{addresses, ask_tcp, ask_udp, forwarder, nobody, query, start};
use crate::zone::{Zone, Zones};

fn table() -> NameTable {
    let entry = |host, ips: Vec<IpAddr>| Entry {
        host,
        ips,
        registry: "",
        shortname: "",
        namespace: "",
    };
    let many = (0..100).map(|i| IpAddr::from([10, 1, 0, i])).collect();
    NameTable::build([
        entry("echo.eu.mesh.local", vec!["240.0.0.2".parse().unwrap()]),
        entry(
            "reviews.default.svc.cluster.local",
            vec!["10.96.0.1".parse().unwrap()],
        ),
        entry(
            "three.default.svc.cluster.local",
            (1..4).map(|i| IpAddr::from([10, 2, 0, i])).collect(),
        ),
        entry("many.default.svc.cluster.local", many),
    ])
}

fn mesh(to: Forwarder) -> MeshNames {
    let scope = Scope::pod("default", "cluster.local");
    MeshNames::new(Arc::new(ArcSwapOption::from_pointee(table())), scope, to)
}

fn upstream() -> impl Handler {
    let zone = Zone::new("example.com", 60)
        .unwrap()
        .address("www", "192.0.2.7".parse().unwrap())
        .unwrap();
    Zones::new(
        vec![
            zone,
            Zone::new("cluster.local", 5).unwrap(),
            Zone::new("mesh.local", 5).unwrap(),
        ],
        None,
    )
}

fn code(message: &Message) -> ResponseCode {
    message.metadata.response_code
}

#[tokio::test]
async fn mesh_names_are_answered_and_the_rest_is_forwarded() {
    let up = start(upstream(), Limits::default());
    let server = start(mesh(forwarder(&[up.address], 0)), Limits::default());

    let found = ask_udp(server.address, &query("reviews.", RecordType::A, None)).await;
    assert_eq!(addresses(&found), ["10.96.0.1".parse::<IpAddr>().unwrap()]);
    assert!(found.metadata.authoritative);
    let none = ask_udp(server.address, &query("reviews.", RecordType::AAAA, None)).await;
    assert_eq!((code(&none), none.answers.len()), (ResponseCode::NoError, 0));

    let searched = query(
        "echo.eu.mesh.local.default.svc.cluster.local.",
        RecordType::A,
        None,
    );
    let searched = ask_udp(server.address, &searched).await;
    assert_eq!(searched.answers[0].data.to_string(), "echo.eu.mesh.local.");
    assert_eq!(addresses(&searched), ["240.0.0.2".parse::<IpAddr>().unwrap()]);
    assert_eq!(server.metrics.answered.get(), 3);

    let forwarded = ask_udp(server.address, &query("www.example.com.", RecordType::A, None)).await;
    assert_eq!(addresses(&forwarded), ["192.0.2.7".parse::<IpAddr>().unwrap()]);
    let denied = ask_udp(
        server.address,
        &query("reviews.foo.svc.cluster.local.", RecordType::A, None),
    )
    .await;
    assert_eq!(code(&denied), ResponseCode::NXDomain);
    // Upstream never heard of this name; that it exists is known here.
    let other = ask_udp(
        server.address,
        &query("echo.eu.mesh.local.", RecordType::HTTPS, None),
    )
    .await;
    assert_eq!((code(&other), other.answers.len()), (ResponseCode::NoError, 0));
}

#[tokio::test]
async fn a_stub_domains_server_asks_nobody() {
    let table = Arc::new(ArcSwapOption::empty());
    let scope = Scope::pod("istio-system", "cluster.local");
    let server = start(MeshNames::stub(Arc::clone(&table), scope), Limits::default());
    let ask = async |name: &str, kind| ask_udp(server.address, &query(name, kind, None)).await;
    // Whether the name is about to come is not known yet.
    assert_eq!(
        code(&ask("echo.eu.mesh.local.", RecordType::A).await),
        ResponseCode::ServFail
    );
    table.store(Some(Arc::new(self::table())));
    let found = ask("echo.eu.mesh.local.", RecordType::A).await;
    assert_eq!(addresses(&found), ["240.0.0.2".parse::<IpAddr>().unwrap()]);
    assert_eq!(
        code(&ask("nobody.bar.global.", RecordType::A).await),
        ResponseCode::NXDomain
    );
    let other = ask("echo.eu.mesh.local.", RecordType::HTTPS).await;
    assert_eq!((code(&other), other.answers.len()), (ResponseCode::NoError, 0));
}

#[tokio::test]
async fn addresses_take_turns() {
    let server = start(mesh(forwarder(&[], 0)), Limits::default());
    let mut first = std::collections::BTreeSet::new();
    for _ in 0..3 {
        let answer = ask_udp(server.address, &query("three.", RecordType::A, None)).await;
        assert_eq!(answer.answers.len(), 3);
        first.insert(addresses(&answer)[0]);
    }
    assert_eq!(first.len(), 3);
}

#[tokio::test]
async fn large_answers_are_cut_on_udp_and_whole_on_tcp() {
    let server = start(mesh(forwarder(&[], 0)), Limits::default());
    let cut = ask_udp(server.address, &query("many.", RecordType::A, None)).await;
    assert!(cut.metadata.truncation && !cut.answers.is_empty());
    let wide = ask_udp(server.address, &query("many.", RecordType::A, Some(4096))).await;
    assert_eq!((wide.metadata.truncation, wide.answers.len()), (false, 100));
    // Two questions on one connection.
    let queries = [
        query("many.", RecordType::A, None),
        query("three.", RecordType::A, None),
    ];
    let answers = ask_tcp(server.address, &queries).await;
    assert_eq!((answers[0].answers.len(), answers[1].answers.len()), (100, 3));
}

#[tokio::test]
async fn a_cut_answer_from_upstream_reaches_tcp_clients_whole() {
    let up = start(mesh(forwarder(&[], 0)), Limits::default());
    let server = start(
        Zones::new(Vec::new(), Some(forwarder(&[up.address], 0))),
        Limits::default(),
    );
    let cut = ask_udp(server.address, &query("many.", RecordType::A, None)).await;
    assert!(cut.metadata.truncation);
    let whole = ask_tcp(server.address, &[query("many.", RecordType::A, None)]).await;
    assert_eq!(whole[0].answers.len(), 100);
}

#[tokio::test]
async fn without_upstreams_mesh_names_still_answer() {
    let server = start(mesh(forwarder(&[nobody().await], 0)), Limits::default());
    let lost = ask_udp(server.address, &query("www.example.com.", RecordType::A, None)).await;
    assert_eq!(code(&lost), ResponseCode::ServFail);
    assert_eq!(lost.queries[0].name().to_ascii(), "www.example.com.");
    let found = ask_udp(server.address, &query("reviews.default.", RecordType::A, None)).await;
    assert_eq!(found.answers.len(), 1);
    let kind = ask_udp(server.address, &query("reviews.default.", RecordType::TXT, None)).await;
    assert_eq!((code(&kind), kind.answers.len()), (ResponseCode::NoError, 0));
}

#[tokio::test]
async fn before_the_first_table_nobody_hears_that_a_name_does_not_exist() {
    let up = start(upstream(), Limits::default());
    let table = Arc::new(ArcSwapOption::empty());
    let scope = Scope::pod("default", "cluster.local");
    let server = start(
        MeshNames::new(table.clone(), scope, forwarder(&[up.address], 0)),
        Limits::default(),
    );
    let echo = query("echo.eu.mesh.local.", RecordType::A, None);
    assert_eq!(
        code(&ask_udp(server.address, &echo).await),
        ResponseCode::ServFail
    );
    let www = query("www.example.com.", RecordType::A, None);
    assert_eq!(ask_udp(server.address, &www).await.answers.len(), 1);
    table.store(Some(Arc::new(self::table())));
    assert_eq!(ask_udp(server.address, &echo).await.answers.len(), 1);
}

#[tokio::test]
async fn forwarding_is_bounded_and_does_not_hold_up_mesh_names() {
    let silent = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let limits = Limits {
        forwards: 2,
        ..Limits::default()
    };
    let server = start(mesh(forwarder(&[silent.local_addr().unwrap()], 0)), limits);
    let socket = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.connect(server.address).await.unwrap();
    for _ in 0..20 {
        socket
            .send(&query("www.example.com.", RecordType::A, None))
            .await
            .unwrap();
    }
    assert_eq!(
        ask_udp(server.address, &query("reviews.", RecordType::A, None))
            .await
            .answers
            .len(),
        1
    );
    let mut buffer = [0; 512];
    let length = socket.recv(&mut buffer).await.unwrap();
    assert_eq!(
        code(&Message::from_vec(&buffer[..length]).unwrap()),
        ResponseCode::ServFail
    );
    assert!(server.metrics.overload.get() >= 1);
}

#[tokio::test]
async fn tcp_connections_are_bounded_and_idle_ones_end() {
    let limits = Limits {
        connections: 2,
        idle: Duration::from_millis(300),
        ..Limits::default()
    };
    let server = start(mesh(forwarder(&[], 0)), limits);
    let mut idle = Vec::new();
    for _ in 0..2 {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        // Half a frame is idle too.
        stream.write_all(&[0]).await.unwrap();
        idle.push(stream);
    }
    for mut stream in idle {
        assert_eq!(stream.read(&mut [0; 1]).await.unwrap_or(0), 0);
    }
    let answers = ask_tcp(server.address, &[query("reviews.", RecordType::A, None)]).await;
    assert_eq!(answers[0].answers.len(), 1);
}

#[tokio::test]
async fn hostile_datagrams_neither_stop_nor_fool_the_server() {
    let server = start(mesh(forwarder(&[nobody().await], 0)), Limits::default());
    let mut random = StdRng::seed_from_u64(7);
    let socket = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.connect(server.address).await.unwrap();
    let valid = query("reviews.default.", RecordType::A, Some(1232));
    for round in 0..4000 {
        let mut bytes = if round % 2 == 0 {
            vec![0; random.random_range(0..80)]
        } else {
            valid.clone()
        };
        if round % 2 == 0 {
            random.fill(bytes.as_mut_slice());
        } else {
            // A valid question with a few bytes bent: counts, pointers, lengths.
            for _ in 0..random.random_range(1..4) {
                let at = random.random_range(0..bytes.len());
                bytes[at] = random.random();
            }
        }
        let _ = socket.send(&bytes).await;
    }
    // The same, straight into the parser and the decision, so that nothing is lost in a socket's queue.
    let names = mesh(forwarder(&[], 0));
    for _ in 0..50_000 {
        let mut bytes = valid.clone();
        for _ in 0..random.random_range(1..6) {
            let at = random.random_range(0..bytes.len());
            bytes[at] = random.random();
        }
        bytes.truncate(random.random_range(0..=bytes.len()));
        if let Parsed::Question(question) = wire::parse(bytes.into(), Transport::Udp)
            && let Decision::Answer(reply) = names.decide(&question)
        {
            let answer = question.encode(&reply);
            assert!(answer.len() <= question.room());
            assert_eq!(answer[..2], question.raw[..2]);
        }
    }
    let mut tcp = TcpStream::connect(server.address).await.unwrap();
    tcp.write_all(&[0, 5, 1, 2, 3, 4, 5]).await.unwrap();
    assert_eq!(
        tcp.read(&mut [0; 1]).await.unwrap_or(0),
        0,
        "what is no query ends the connection"
    );

    let found = ask_tcp(server.address, &[query("reviews.default.", RecordType::A, None)]).await;
    assert_eq!(found[0].answers[0].data, RData::A("10.96.0.1".parse().unwrap()));
}

#[test]
fn pointers_that_go_in_circles_are_refused() {
    // A name that is a pointer to itself, and one whose label points forward.
    for name in [&[0xc0, 12][..], &[1, b'a', 0xc0, 14], &[63], &[0xc0], &[0x80, 1]] {
        let mut bytes = vec![0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        bytes.extend_from_slice(name);
        bytes.extend_from_slice(&[0, 1, 0, 1]);
        assert!(
            matches!(wire::parse(bytes.into(), Transport::Udp), Parsed::Refuse(_)),
            "{name:?}"
        );
    }
}
