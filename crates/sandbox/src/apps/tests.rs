use ::http::{HeaderMap, HeaderValue, StatusCode, header};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::*;

pub(super) fn eu(pod: &str, version: &str) -> Identity {
    Identity {
        cluster: "eu".to_owned(),
        namespace: "default".to_owned(),
        pod: pod.to_owned(),
        version: version.to_owned(),
    }
}

/// A sample on a loopback port, until it is dropped.
pub(super) struct Running {
    pub(super) address: String,
    trigger: drain::Trigger,
}

pub(super) fn start(app: impl http::App) -> Running {
    let listener = bind::tcp("127.0.0.1:0".parse().unwrap(), "the test").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (trigger, watcher) = drain::channel();
    watcher.spawn(http::serve(listener, Arc::new(app), watcher.clone()));
    Running { address, trigger }
}

pub(super) async fn get(at: &Running, path: &str, headers: &[(&'static str, &str)]) -> (StatusCode, String) {
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        map.insert(*name, HeaderValue::from_str(value).unwrap());
    }
    let called = http::get(&at.address, path, &map, Duration::from_secs(30))
        .await
        .unwrap();
    (called.status, String::from_utf8(called.body.to_vec()).unwrap())
}

pub(super) async fn get_json(at: &Running, path: &str) -> Value {
    serde_json::from_str(&get(at, path, &[]).await.1).unwrap()
}

/// One raw HTTP/1.1 exchange.
pub(super) async fn raw(at: &Running, request: &str) -> String {
    let mut stream = TcpStream::connect(&at.address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

fn post(path: &str, headers: &str, body: &str) -> String {
    format!(
        "POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{headers}Content-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

#[test]
fn unknown_samples_and_arguments_are_refused_in_words() {
    assert!(
        run("nginx", &[])
            .unwrap_err()
            .to_string()
            .contains("echo, httpbin, sleep")
    );
    let error = run("echo", &["--loud".to_owned()]).unwrap_err().to_string();
    assert!(error.contains("--port N"), "{error}");
    assert!(run("details", &["--port".to_owned(), "x".to_owned()]).is_err());
}

#[test]
fn sleep_runs_a_command_and_returns_its_code() {
    let code = run(
        "sleep",
        &[
            "--".to_owned(),
            "sh".to_owned(),
            "-c".to_owned(),
            "exit 7".to_owned(),
        ],
    )
    .unwrap();
    assert_eq!(code, ExitCode::from(7));
}

#[tokio::test]
async fn echo_says_who_answered_and_what_arrived() {
    let echo = start(echo::Echo::new(eu("echo-1", "v1")));
    let (status, text) = get(&echo, "/a?b=c", &[("x-test", "yes")]).await;
    assert_eq!(status, StatusCode::OK);
    assert!(
        text.starts_with("echo from cluster eu, pod echo-1.default, version v1\n"),
        "{text}"
    );
    assert!(
        text.contains("GET /a?b=c HTTP/1.1\n") && text.contains("x-test: yes\n"),
        "{text}"
    );
    let answer: Value =
        serde_json::from_str(&get(&echo, "/", &[("accept", "application/json")]).await.1).unwrap();
    assert_eq!(
        (&answer["cluster"], &answer["pod"], &answer["source"]),
        (&"eu".into(), &"echo-1".into(), &"127.0.0.1".into())
    );
    let posted = raw(&echo, &post("/?format=json", "", "hello")).await;
    assert!(
        posted.contains("\"body\": \"hello\"") && posted.contains("x-echo-cluster: eu"),
        "{posted}"
    );
    assert_eq!(
        get(&echo, "/?status=503", &[]).await.0,
        StatusCode::SERVICE_UNAVAILABLE
    );
    assert_eq!(get(&echo, "/?status=99&delay=1ms", &[]).await.0, StatusCode::OK);
    assert_eq!(get(&echo, "/healthz", &[]).await.1, "ok\n");
}

#[tokio::test]
async fn echo_speaks_http2_by_prior_knowledge_and_grpc() {
    let echo = start(echo::Echo::new(eu("echo-1", "v1")));
    let stream = TcpStream::connect(&echo.address).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .unwrap();
    tokio::spawn(connection);
    let request = ::http::Request::get("http://echo.example/x")
        .body(Full::new(Bytes::new()))
        .unwrap();
    let answer = sender
        .send_request(request)
        .await
        .unwrap()
        .into_body()
        .collect()
        .await
        .unwrap()
        .to_bytes();
    let answer = String::from_utf8(answer.to_vec()).unwrap();
    assert!(
        answer.contains("GET /x HTTP/2.0\nhost: echo.example\n"),
        "{answer}"
    );

    let message = Bytes::from_static(b"\0\0\0\0\x07\n\x05hello");
    for (path, expected) in [
        ("/echo.Echo/Say", &message[..]),
        ("/grpc.health.v1.Health/Check", b"\0\0\0\0\x02\x08\x01"),
    ] {
        let request = ::http::Request::post(format!("http://echo.example{path}"))
            .header(header::CONTENT_TYPE, "application/grpc")
            .body(Full::new(message.clone()))
            .unwrap();
        let response = sender.send_request(request).await.unwrap();
        assert_eq!(response.headers()["x-echo-pod"], "echo-1");
        let body = response.into_body().collect().await.unwrap();
        assert_eq!(body.trailers().unwrap()["grpc-status"], "0");
        assert_eq!(body.to_bytes(), expected);
    }
}

#[tokio::test]
async fn tcp_echoes_and_the_banner_comes_unasked() {
    let listener = bind::tcp("127.0.0.1:0".parse().unwrap(), "the test").unwrap();
    let address = listener.local_addr().unwrap();
    let (trigger, watcher) = drain::channel();
    let banner = echo::banner(&eu("echo-1", "v1"));
    watcher.spawn(tcp::serve(listener, banner.clone(), watcher.clone()));
    drop(watcher);
    let mut stream = TcpStream::connect(address).await.unwrap();
    let mut first = vec![0; banner.len()];
    stream.read_exact(&mut first).await.unwrap();
    assert_eq!(first, b"220 echo cluster=eu pod=echo-1 version=v1\r\n");
    stream.write_all(b"ping").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).await.unwrap();
    assert_eq!(rest, b"ping");
    assert_eq!(
        trigger.drain(Duration::from_secs(30)).await,
        drain::Outcome::Drained
    );
}

#[tokio::test]
async fn httpbin_fails_when_it_is_told_to() {
    let bin = start(httpbin::Httpbin::new(eu("httpbin-1", "v1")));
    assert_eq!(get(&bin, "/failing/500", &[]).await.0, StatusCode::OK);
    let (status, body) = get(&bin, "/get", &[]).await;
    assert_eq!(status, StatusCode::INTERNAL_SERVER_ERROR);
    assert!(body.contains("httpbin-1"), "{body}");
    assert_eq!(get(&bin, "/failing/no", &[]).await.0, StatusCode::BAD_REQUEST);
    assert_eq!(get(&bin, "/failing/off", &[]).await.0, StatusCode::OK);
    assert_eq!(get(&bin, "/get", &[]).await.0, StatusCode::OK);
}

#[tokio::test]
async fn httpbin_answers_as_people_know_it() {
    let bin = start(httpbin::Httpbin::new(eu("httpbin-1", "v1")));
    let got = get_json(&bin, "/get?a=1&a=2&b=%20x+y").await;
    assert_eq!(got["args"], serde_json::json!({ "a": ["1", "2"], "b": " x y" }));
    assert_eq!(got["served_by"]["cluster"], "eu");
    assert_eq!(got["url"], format!("http://{}/get?a=1&a=2&b=%20x+y", bin.address));
    let (_, headers) = get(&bin, "/headers", &[("x-b3-traceid", "7"), ("-odd-", "1")]).await;
    let headers: Value = serde_json::from_str(&headers).unwrap();
    assert_eq!(
        (&headers["headers"]["X-B3-Traceid"], &headers["headers"]["-odd-"]),
        (&"7".into(), &"1".into())
    );
    assert_eq!(get_json(&bin, "/ip").await["origin"], "127.0.0.1");
    assert_eq!(get_json(&bin, "/hostname").await["pod"], "httpbin-1");
    let uuid = get_json(&bin, "/uuid").await["uuid"].as_str().unwrap().to_owned();
    assert_eq!((uuid.len(), &uuid[14..15]), (36, "4"));
    for code in [200, 204, 302, 404, 418, 503] {
        assert_eq!(get(&bin, &format!("/status/{code}"), &[]).await.0.as_u16(), code);
    }
    assert_eq!(get(&bin, "/status/99", &[]).await.0, StatusCode::BAD_REQUEST);
    assert_eq!(get(&bin, "/post", &[]).await.0, StatusCode::METHOD_NOT_ALLOWED);
    assert_eq!(get(&bin, "/bytes/100000", &[]).await.1.len(), 100_000);
    assert_eq!(get(&bin, "/stream/3", &[]).await.1.lines().count(), 3);
    assert!(
        raw(
            &bin,
            "GET /redirect/2 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        )
        .await
        .contains("location: /redirect/1")
    );
    assert_eq!(get(&bin, "/delay/0.01", &[]).await.0, StatusCode::OK);
    assert_eq!(get(&bin, "/nothing", &[]).await.0, StatusCode::NOT_FOUND);
    assert_eq!(
        get(&bin, "/basic-auth/u/p", &[]).await.0,
        StatusCode::UNAUTHORIZED
    );
    assert_eq!(
        get(&bin, "/basic-auth/u/p", &[("authorization", "Basic dTpw")])
            .await
            .0,
        StatusCode::OK
    );
    assert_eq!(
        get(&bin, "/bearer", &[("authorization", "Bearer t")]).await.0,
        StatusCode::OK
    );
    let odd = get(&bin, "/response-headers?X-A=1&Content-Length=7&a%0d=b", &[]).await;
    assert_eq!(odd.0, StatusCode::OK);

    let json = raw(
        &bin,
        &post("/post", "Content-Type: application/json\r\n", "{\"a\": 1}"),
    )
    .await;
    assert!(json.contains("\"json\": {\n    \"a\": 1\n  }"), "{json}");
    let form = raw(
        &bin,
        &post(
            "/anything/x",
            "Content-Type: application/x-www-form-urlencoded\r\n",
            "k=v%21",
        ),
    )
    .await;
    assert!(
        form.contains("\"k\": \"v!\"") && form.contains("\"method\": \"POST\""),
        "{form}"
    );
}

fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mask = [1, 2, 3, 4];
    let mut frame = vec![first, 0x80 | payload.len() as u8];
    frame.extend(mask);
    frame.extend(payload.iter().zip(mask.iter().cycle()).map(|(b, m)| b ^ m));
    frame
}

#[tokio::test]
async fn a_websocket_sends_messages_back() {
    let bin = start(httpbin::Httpbin::new(eu("httpbin-1", "v1")));
    assert_eq!(get(&bin, "/websocket", &[]).await.0, StatusCode::UPGRADE_REQUIRED);
    let mut stream = TcpStream::connect(&bin.address).await.unwrap();
    let request = "GET /websocket HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                   Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    // Key and proof are RFC 6455's own example.
    let head = String::from_utf8(head).unwrap();
    assert!(
        head.starts_with("HTTP/1.1 101") && head.contains("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="),
        "{head}"
    );
    stream
        .write_all(&[frame(0x81, b"hello"), frame(0x89, b"p")].concat())
        .await
        .unwrap();
    let mut answer = [0; 10];
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"\x81\x05hello\x8a\x01p");
    // The end of the server is told to the peer (1001).
    let drained = tokio::spawn(bin.trigger.drain(Duration::from_secs(30)));
    let mut close = Vec::new();
    stream.read_to_end(&mut close).await.unwrap();
    assert_eq!(close, b"\x88\x02\x03\xe9");
    drop(stream);
    assert_eq!(drained.await.unwrap(), drain::Outcome::Drained);
}

#[tokio::test]
async fn hostile_websocket_frames_end_the_connection() {
    for (bytes, code) in [
        (vec![0x81, 1, b'x'], 1002_u16),                    // not masked
        ([vec![0x82, 0xff], vec![0xff; 8]].concat(), 1009), // as large as can be said
        ([vec![0x83, 0x80], vec![0; 4]].concat(), 1002),    // no such kind of frame
    ] {
        let (mut peer, ours) = tokio::io::duplex(1024);
        peer.write_all(&bytes).await.unwrap();
        websocket::echo(ours).await.unwrap();
        let mut answer = Vec::new();
        peer.read_to_end(&mut answer).await.unwrap();
        assert_eq!(answer, [&[0x88, 2][..], &code.to_be_bytes()].concat());
    }
}

#[tokio::test]
async fn open_requests_are_finished_when_a_sample_ends() {
    let bin = start(httpbin::Httpbin::new(eu("httpbin-1", "v1")));
    let mut slow = TcpStream::connect(&bin.address).await.unwrap();
    slow.write_all(b"GET /delay/0.3 HTTP/1.1\r\nHost: x\r\n\r\n")
        .await
        .unwrap();
    // A second request that is answered shows that the first has been taken.
    let (status, _) = get(&bin, "/get", &[]).await;
    assert_eq!(status, StatusCode::OK);
    let drained = tokio::spawn(bin.trigger.drain(Duration::from_secs(30)));
    let mut answer = String::new();
    slow.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert_eq!(drained.await.unwrap(), drain::Outcome::Drained);
}

#[test]
fn percent_decoding_never_fails() {
    assert_eq!(http::decoded("a%20b+c%2"), "a b c%2");
    assert_eq!(http::decoded("%zz%"), "%zz%");
    assert_eq!(http::decoded("%c3%a9%ff"), "é\u{fffd}");
    assert_eq!(http::decoded("%é"), "%é");
}
