//! The east-west gateway: sealed TLS by SNI, and refusals in words.

use std::time::{Duration, Instant};

use isthmus_proxy::config::listener::{FilterChain, TrafficDirection, Transport};
use isthmus_proxy::listener::facts::Facts;
use isthmus_proxy::listener::refusal;
use isthmus_proxy::orders::Order;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::build::*;
use crate::client::get;
use crate::net::{Proxy, Server, free, run, until};
use crate::security::{Authority, client_tls, inbound, mesh_cluster, mesh_endpoint};

const ECHO: &str = "outbound_.80_._.echo.echo.svc.cluster.local";

fn passthrough(sni: &str) -> FilterChain {
    let mut chain = chain(sni, tcp(sni));
    chain.matches.server_names = vec![sni.into()];
    chain.matches.transport = Some(Transport::Tls);
    chain.matches.application_protocols = [
        &b"istio"[..],
        b"istio-peer-exchange",
        b"istio-http/1.0",
        b"istio-http/1.1",
        b"istio-h2",
    ]
    .map(Box::from)
    .into();
    chain
}

#[test]
fn sealed_requests_pass_the_gateway_to_the_right_service() {
    run(async {
        let (app, mesh) = (Server::http1("echo").await, Authority::new("root"));
        let (inside, gateway, outside) = (free(), free(), free());
        let server = Config::default()
            .listener(inbound(inside, || http_to("inbound"), false))
            .cluster(cluster("inbound"), vec![endpoint(app.address)])
            .secret("default", mesh.identity("echo"))
            .secret("ROOTCA", mesh.roots());
        let _behind = Proxy::start(server.live(1)).await;
        // The gateway has no certificate and no key at all.
        let mut crossing = listener("0.0.0.0_15443", gateway, vec![passthrough(ECHO)]);
        crossing.direction = TrafficDirection::Unspecified;
        crossing.inspect_tls = true;
        let config = Config::default()
            .listener(crossing)
            .cluster(cluster(ECHO), vec![endpoint(inside)]);
        let between = Proxy::start(config.live(1)).await;
        let mut remote = mesh_endpoint(gateway);
        remote.gateway = Some(1);
        let client = Config::default()
            .listener(listener("outbound", outside, vec![chain("c", http_to("echo"))]))
            .cluster(mesh_cluster("echo", client_tls(ECHO, "echo")), vec![remote])
            .secret("default", mesh.identity("sleep"))
            .secret("ROOTCA", mesh.roots());
        let _front = Proxy::start(client.live(1)).await;
        for _ in 0..3 {
            assert_eq!(get(outside, "echo.eu.mesh.local", "/").await.body, "echo");
        }
        assert_eq!(app.header("host").as_deref(), Some("echo.eu.mesh.local"));
        let opened = between.counter("istio_tcp_connections_opened_total", &[]).await;
        assert_eq!(opened, 1, "one pooled connection carries all");

        // Refused: the connection is closed without a byte.
        for hello in [
            b"GET / HTTP/1.1\r\nhost: a\r\n\r\n".as_slice(),
            b"\x00\x01garbage",
        ] {
            let mut stream = TcpStream::connect(gateway).await.unwrap();
            tokio::io::AsyncWriteExt::write_all(&mut stream, hello)
                .await
                .unwrap();
            let mut rest = Vec::new();
            let _ = stream.read_to_end(&mut rest).await;
            assert!(rest.is_empty());
        }
        let refused = between.counter(
            "isthmus_connections_refused_total",
            &[("listener", "0.0.0.0_15443")],
        );
        assert_eq!(refused.await, 2);
    });
}

#[test]
fn refusals_say_what_is_wrong() {
    let listener = listener(
        "15443",
        free(),
        vec![
            passthrough(ECHO),
            passthrough("outbound_.80_.v1_.echo.echo.svc.cluster.local"),
        ],
    );
    let said = |transport, sni: Option<&str>, alpn: &[&[u8]]| {
        let facts = Facts {
            listener: "15443".into(),
            direction: TrafficDirection::Unspecified,
            peer: free(),
            source: free(),
            destination: free(),
            restored: false,
            transport,
            server_name: sni.map(Into::into),
            application_protocols: alpn.iter().map(|p| p.to_vec()).collect(),
            tls: None,
            accepted: std::time::Instant::now(),
            id: 1,
        };
        assert!(isthmus_proxy::listener::chain::find(&listener, &facts).is_none());
        refusal::explain(&listener, &facts).to_string()
    };
    assert!(said(Transport::Raw, None, &[]).starts_with("plaintext"));
    assert!(said(Transport::Tls, None, &[b"istio"]).contains("without SNI"));
    let alpn = said(Transport::Tls, Some(ECHO), &[b"h2"]);
    assert!(
        alpn.contains("ALPN is not Istio's") && alpn.ends_with("offered: h2"),
        "{alpn}"
    );
    let service = said(
        Transport::Tls,
        Some("outbound_.80_._.ecco.echo.svc.cluster.local"),
        &[b"istio"],
    );
    assert!(
        service.contains("unknown service") && service.contains("ecco.echo"),
        "{service}"
    );
    let subset = said(
        Transport::Tls,
        Some("outbound_.80_.v9_.echo.echo.svc.cluster.local"),
        &[b"istio"],
    );
    assert!(
        subset.contains("unknown subset v9") && subset.ends_with("known: v1"),
        "{subset}"
    );
    assert!(said(Transport::Tls, Some("www.example.com"), &[b"istio"]).contains("not of the form"));
}

/// What a gateway carries is sealed: it cannot tell a client to go elsewhere. When it ends it closes a connection
/// between two exchanges, and leaves one that waits for its answer as long as it can.
#[test]
fn a_gateway_that_ends_closes_connections_between_two_exchanges() {
    run(async {
        let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        tokio::task::spawn_local(async move {
            loop {
                let (mut stream, _) = socket.accept().await.unwrap();
                tokio::task::spawn_local(async move {
                    // Answers half a second after it was asked.
                    let mut asked = [0u8; 64];
                    while stream.read(&mut asked).await.is_ok_and(|n| n > 0) {
                        tokio::time::sleep(Duration::from_millis(500)).await;
                        stream.write_all(b"answer").await.unwrap();
                    }
                });
            }
        });
        let at = free();
        let config = Config::default()
            .listener(listener("gateway", at, vec![chain("c", tcp("a"))]))
            .cluster(cluster("a"), vec![endpoint(address)]);
        let proxy = Proxy::start(config.live(1)).await;
        let mut seen = [0u8; 64];
        let (mut waits, mut pauses) = (
            TcpStream::connect(at).await.unwrap(),
            TcpStream::connect(at).await.unwrap(),
        );
        pauses.write_all(b"ask").await.unwrap();
        assert_eq!(pauses.read(&mut seen).await.unwrap(), 6);
        waits.write_all(b"ask").await.unwrap();
        until("it is on its way", async || proxy.report().await.connections == 2).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
        let began = Instant::now();
        proxy
            .orders
            .send(Order::Stop(Duration::from_secs(20)))
            .await
            .unwrap();
        let closed = pauses.read(&mut seen);
        let closed = tokio::time::timeout(Duration::from_secs(10), closed).await;
        assert_eq!(closed.unwrap().unwrap(), 0, "the pause is used");
        assert_eq!(
            waits.read(&mut seen).await.unwrap(),
            6,
            "the answer is waited for"
        );
        assert_eq!(waits.read(&mut seen).await.unwrap(), 0);
        assert!(
            began.elapsed() < Duration::from_secs(15),
            "not only at the very end"
        );
    });
}
