//! Raw connections: server-first, bulk in both directions, half-close, sniffing beside them.

use std::net::SocketAddr;
use std::time::Duration;

use isthmus_proxy::config::listener::NetworkFilter;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::build::*;
use crate::client::get;
use crate::net::{Proxy, Server, free, run, until};

/// Says a banner first, then sends back what it got once the client has finished.
async fn banner() -> SocketAddr {
    let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    tokio::task::spawn_local(async move {
        loop {
            let (mut stream, _) = socket.accept().await.unwrap();
            tokio::task::spawn_local(async move {
                let _ = stream.write_all(b"5.7.0-mysql\n").await;
                let mut all = Vec::new();
                let _ = stream.read_to_end(&mut all).await;
                let _ = stream.write_all(&all).await;
            });
        }
    });
    address
}

fn sniffing(at: SocketAddr) -> isthmus_proxy::config::Listener {
    let mut web = chain("web", http_to("web"));
    web.matches.application_protocols = [&b"http/1.1"[..], b"h2c"].map(Box::from).into();
    let mut listener = listener("auto", at, vec![web]);
    listener.inspect_tls = true;
    listener.inspect_http = true;
    listener.sniff_timeout = Duration::from_millis(100);
    listener.continue_on_sniff_timeout = true;
    listener.default_chain = Some(chain("raw", tcp("raw")).into());
    listener
}

#[test]
fn a_port_of_unknown_protocol_serves_http_and_server_first_alike() {
    run(async {
        let (web, raw) = (Server::http1("web").await, banner().await);
        let at = free();
        let config = Config::default()
            .listener(sniffing(at))
            .cluster(cluster("web"), vec![endpoint(web.address)])
            .cluster(cluster("raw"), vec![endpoint(raw)]);
        let proxy = Proxy::start(config.live(1)).await;
        assert_eq!(get(at, "web", "/").await.body, "web");

        let mut stream = TcpStream::connect(at).await.unwrap();
        let mut greeting = [0u8; 12];
        stream.read_exact(&mut greeting).await.unwrap();
        assert_eq!(&greeting, b"5.7.0-mysql\n");
        stream.write_all(b"select 1").await.unwrap();
        stream.shutdown().await.unwrap();
        let mut rest = String::new();
        stream.read_to_string(&mut rest).await.unwrap();
        assert_eq!(
            rest, "select 1",
            "what came before the half-close comes back after it"
        );
        let sent = async || proxy.counter("istio_tcp_sent_bytes_total", &[]).await;
        until("20 bytes are counted", async || sent().await == 20).await;
        assert_eq!(proxy.counter("istio_tcp_received_bytes_total", &[]).await, 8);
    });
}

#[test]
fn bulk_arrives_whole_through_slow_readers() {
    run(async {
        let raw = banner().await;
        let at = free();
        let config = Config::default()
            .listener(listener("raw", at, vec![chain("raw", tcp("raw"))]))
            .cluster(cluster("raw"), vec![endpoint(raw)]);
        let _proxy = Proxy::start(config.live(1)).await;
        let size = 8 << 20;
        let sent: Vec<u8> = (0..size)
            .map(|i: u32| (i.wrapping_mul(2_654_435_761) >> 13) as u8)
            .collect();
        let (mut read, mut write) = TcpStream::connect(at).await.unwrap().into_split();
        let all = sent.clone();
        tokio::task::spawn_local(async move {
            for chunk in all.chunks(300_000) {
                write.write_all(chunk).await.unwrap();
                tokio::task::yield_now().await;
            }
            write.shutdown().await.unwrap();
        });
        let mut greeting = [0u8; 12];
        read.read_exact(&mut greeting).await.unwrap();
        let mut got = Vec::new();
        let mut chunk = vec![0u8; 70_000];
        loop {
            let n = read.read(&mut chunk).await.unwrap();
            if n == 0 {
                break;
            }
            got.extend_from_slice(&chunk[..n]);
            if got.len() % 5 == 0 {
                tokio::time::sleep(Duration::from_micros(200)).await;
            }
        }
        assert!(got == sent, "{} of {} bytes, or others", got.len(), sent.len());
    });
}

#[test]
fn connections_share_by_weight_and_idle_ones_end() {
    run(async {
        let (a, b) = (banner().await, banner().await);
        let at = free();
        let mut network = tcp("a");
        if let NetworkFilter::Tcp(proxy) = &mut network {
            proxy.clusters = vec![("a".into(), 1), ("b".into(), 1)];
            proxy.idle_timeout = Some(Duration::from_millis(150));
        }
        let config = Config::default()
            .listener(listener("raw", at, vec![chain("raw", network)]))
            .cluster(cluster("a"), vec![endpoint(a)])
            .cluster(cluster("b"), vec![endpoint(b)]);
        let proxy = Proxy::start(config.live(1)).await;
        let mut streams = Vec::new();
        for _ in 0..40 {
            let mut stream = TcpStream::connect(at).await.unwrap();
            let mut greeting = [0u8; 12];
            stream.read_exact(&mut greeting).await.unwrap();
            streams.push(stream);
        }
        let opened = async |service: &str| {
            let labels = [("destination_service", service)];
            proxy.counter("istio_tcp_connections_opened_total", &labels).await
        };
        assert_eq!(opened("a").await + opened("b").await, 40);
        assert!(opened("a").await >= 5 && opened("b").await >= 5);
        for mut stream in streams {
            let mut rest = Vec::new();
            stream.read_to_end(&mut rest).await.unwrap();
            assert!(rest.is_empty());
        }
        let idle = [("response_flags", "SI")];
        until("all are closed as idle", async || {
            proxy.counter("istio_tcp_connections_closed_total", &idle).await == 40
        })
        .await;
    });
}
