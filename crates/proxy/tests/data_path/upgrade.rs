//! WebSocket and gRPC.

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper_util::rt::TokioIo;
use isthmus_proxy::config::cluster::UpstreamVersion;
use isthmus_proxy::http::executor::Local;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::build::*;
use crate::client;
use crate::net::{Proxy, free, run, until};

/// Switches to a protocol that sends everything back.
async fn switching() -> std::net::SocketAddr {
    let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    tokio::task::spawn_local(async move {
        loop {
            let (mut stream, _) = socket.accept().await.unwrap();
            tokio::task::spawn_local(async move {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    head.push(stream.read_u8().await.unwrap());
                }
                let text = String::from_utf8(head).unwrap().to_ascii_lowercase();
                assert!(
                    text.contains("upgrade: websocket") && text.contains("connection: upgrade"),
                    "{text}"
                );
                let answer = "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\nsec-websocket-accept: x\r\n\r\n";
                stream.write_all(answer.as_bytes()).await.unwrap();
                let (mut read, mut write) = stream.split();
                let _ = tokio::io::copy(&mut read, &mut write).await;
            });
        }
    });
    address
}

#[test]
fn a_websocket_is_a_tunnel_until_both_ends_close() {
    run(async {
        let (to, at) = (switching().await, free());
        let config = Config::default()
            .listener(listener("http", at, vec![chain("c", http_to("ws"))]))
            .cluster(cluster("ws"), vec![endpoint(to)]);
        let proxy = Proxy::start(config.live(1)).await;
        let mut stream = TcpStream::connect(at).await.unwrap();
        let ask = "GET /chat HTTP/1.1\r\nhost: ws\r\nupgrade: WebSocket\r\nconnection: keep-alive, Upgrade\r\nsec-websocket-key: x\r\nsec-websocket-version: 13\r\n\r\n";
        stream.write_all(ask.as_bytes()).await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.unwrap());
        }
        let head = String::from_utf8(head).unwrap();
        assert!(head.starts_with("HTTP/1.1 101"), "{head}");
        assert!(head.contains("sec-websocket-accept: x"), "{head}");
        for message in [b"hello".as_slice(), &[7; 50_000]] {
            stream.write_all(message).await.unwrap();
            let mut back = vec![0; message.len()];
            stream.read_exact(&mut back).await.unwrap();
            assert_eq!(back, message);
        }
        stream.shutdown().await.unwrap();
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).await.unwrap();
        assert!(rest.is_empty());
        let switched = [("response_code", "101")];
        until("it is recorded", async || {
            proxy.counter("istio_requests_total", &switched).await == 1
        })
        .await;

        let other = client::request(at, "GET", "ws", "/", &[("upgrade", "foo")], "").await;
        assert_ne!(other.status, 101);
    });
}

/// A gRPC-like server: sends the messages back, then trailers.
async fn grpc() -> std::net::SocketAddr {
    let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    tokio::task::spawn_local(async move {
        loop {
            let (stream, _) = socket.accept().await.unwrap();
            let service = hyper::service::service_fn(|request: http::Request<hyper::body::Incoming>| async {
                let body = request.into_body().collect().await.unwrap().to_bytes();
                let mut trailers = http::HeaderMap::new();
                trailers.insert("grpc-status", "0".parse().unwrap());
                trailers.insert("grpc-message", "fine".parse().unwrap());
                let frames = [
                    Ok::<_, std::convert::Infallible>(http_body::Frame::data(body)),
                    Ok(http_body::Frame::trailers(trailers)),
                ];
                let body = StreamBody::new(futures_util::stream::iter(frames));
                let mut response = http::Response::new(body);
                let kind = "application/grpc".parse().unwrap();
                response.headers_mut().insert("content-type", kind);
                Ok::<_, std::convert::Infallible>(response)
            });
            tokio::task::spawn_local(async move {
                let _ = hyper::server::conn::http2::Builder::new(Local)
                    .serve_connection(TokioIo::new(stream), service)
                    .await;
            });
        }
    });
    address
}

fn call(at: std::net::SocketAddr, body: Vec<u8>) -> http::Request<Full<Bytes>> {
    http::Request::post(format!("http://{at}/pkg.Service/Call"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(Full::new(body.into()))
        .unwrap()
}

#[test]
fn grpc_keeps_its_trailers_and_gets_its_errors_as_statuses() {
    run(async {
        let (to, at, dead) = (grpc().await, free(), free());
        let http2 = |name: &str| {
            let mut cluster = cluster(name);
            cluster.http.version = UpstreamVersion::Http2;
            cluster
        };
        let config = Config::default()
            .listener(listener("http", at, vec![chain("c", http_to("grpc"))]))
            .listener(listener("none", dead, vec![chain("c", http_to("empty"))]))
            .cluster(http2("grpc"), vec![endpoint(to)])
            .cluster(http2("empty"), vec![]);
        let proxy = Proxy::start(config.live(1)).await;
        let message = [&[0, 0, 0, 0, 5][..], b"hello", &[0, 0, 0, 0, 0]].concat();
        let answer = client::http2(at, call(at, message.clone())).await;
        assert_eq!(answer.status, 200);
        assert_eq!(answer.body.as_bytes(), message);
        assert_eq!(answer.trailers.get("grpc-status").unwrap(), "0");
        assert_eq!(answer.trailers.get("grpc-message").unwrap(), "fine");
        let labels = [("request_protocol", "grpc"), ("grpc_response_status", "0")];
        assert_eq!(proxy.counter("istio_requests_total", &labels).await, 1);
        assert_eq!(proxy.counter("istio_response_messages_total", &labels).await, 2);

        let answer = client::http2(dead, call(dead, message)).await;
        assert_eq!(answer.status, 200);
        assert_eq!(answer.header("grpc-status"), "14");
        assert_eq!(answer.header("grpc-message"), "no healthy upstream");
    });
}
