//! An application that is asked through the agent.

use std::convert::Infallible;
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::ServerConfig;
use rustls::pki_types::PrivatePkcs8KeyDer;
use serde_json::json;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::*;

/// An HTTP application: its port. `/ok` needs the probe's header, `/slow` never answers.
async fn application(tls: Option<TlsAcceptor>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        loop {
            let (stream, from) = listener.accept().await.unwrap();
            assert_eq!(from.ip(), IpAddr::from(FROM_V4), "capture would take it back");
            let tls = tls.clone();
            tokio::spawn(async move {
                let service = service_fn(answer);
                let http = hyper::server::conn::http1::Builder::new();
                let _ = match tls {
                    Some(tls) => match tls.accept(stream).await {
                        Ok(stream) => http.serve_connection(TokioIo::new(stream), service).await,
                        Err(_) => return,
                    },
                    None => http.serve_connection(TokioIo::new(stream), service).await,
                };
            });
        }
    });
    port
}

async fn answer(request: hyper::Request<Incoming>) -> Result<hyper::Response<Full<Bytes>>, Infallible> {
    let header = |name: &str| {
        request
            .headers()
            .get(name)
            .map_or("", |v| v.to_str().unwrap())
            .to_owned()
    };
    let (status, body) = match request.uri().path() {
        "/ok" if header("x-probe") == "1" && header("user-agent") == "kube-probe/1" => (200, ""),
        "/ok" => (400, ""),
        "/hosted" if header("host") == "inside.example" => (204, ""),
        "/metrics" => (200, "# TYPE up gauge\nup 1\n# EOF\n"),
        "/page" => (200, "<html>welcome</html>"),
        "/slow" => std::future::pending().await,
        _ => (503, "not yet"),
    };
    let mut response = hyper::Response::new(Full::from(body));
    *response.status_mut() = StatusCode::from_u16(status).unwrap();
    Ok(response)
}

fn certified() -> TlsAcceptor {
    let made = rcgen::generate_simple_self_signed(["nobody.example".to_owned()]).unwrap();
    let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
    let config = ServerConfig::builder_with_provider(isthmus_pki::provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key.into())
        .unwrap();
    TlsAcceptor::from(Arc::new(config))
}

/// gRPC's health service, which knows the service `db` alone.
async fn health() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let answer = |request: hyper::Request<Incoming>| async move {
        assert_eq!(request.uri().path(), "/grpc.health.v1.Health/Check");
        let body = request.into_body().collect().await.unwrap().to_bytes();
        let serving = if body.ends_with(b"db") { 1 } else { 2 };
        let frame = Bytes::from(vec![0, 0, 0, 0, 2, 8, serving]);
        let trailers = ::http::HeaderMap::from_iter([(
            ::http::HeaderName::from_static("grpc-status"),
            ::http::HeaderValue::from_static("0"),
        )]);
        let body = Full::new(frame).with_trailers(std::future::ready(Some(Ok::<_, Infallible>(trailers))));
        Ok::<_, Infallible>(hyper::Response::new(body))
    };
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let served = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                .serve_connection(TokioIo::new(stream), service_fn(answer));
            tokio::spawn(served);
        }
    });
    port
}

/// Asks a probe that was said so; status and words.
async fn asked(probe: Value) -> (u16, String) {
    let said = json!({"/app-health/app/readyz": probe}).to_string();
    let application = Application::read(Some(&said), None, Some(Ipv4Addr::LOCALHOST.into())).unwrap();
    let request = ::http::Request::get("/app-health/app/readyz").header("user-agent", "kube-probe/1");
    let response = application.probe(&request.body(Bytes::new()).unwrap()).await;
    let words = String::from_utf8(response.body().to_vec()).unwrap();
    (response.status().as_u16(), words)
}

#[tokio::test]
async fn the_application_is_asked_as_the_kubelet_would_ask_it() {
    let port = application(None).await;
    let headers = json!([{"name": "X-Probe", "value": "1"}]);
    let get = |path: &str| json!({"httpGet": {"path": path, "port": port, "httpHeaders": headers}});
    assert_eq!(asked(get("/ok")).await.0, 200);
    assert_eq!(asked(get("ok")).await.0, 200, "a path without a slash");
    assert_eq!(asked(get("/nothing")).await.0, 503);
    let (status, words) = asked(get("/slow")).await;
    assert!(
        status == 500 && words.contains("did not answer"),
        "{status} {words}"
    );
    let hosted = json!({"httpGet": {"path": "/hosted", "port": port, "httpHeaders": [{"name": "Host", "value": "inside.example"}]}});
    assert_eq!(asked(hosted).await.0, 204);
    let port = application(Some(certified())).await;
    let tls = json!({"httpGet": {"path": "/ok", "port": port, "scheme": "HTTPS", "httpHeaders": headers}, "timeoutSeconds": 60});
    assert_eq!(asked(tls).await, (200, String::new()), "nobody asks who it is");
}

#[tokio::test]
async fn a_connect_and_a_health_service_answer_too() {
    let port = health().await;
    assert_eq!(asked(json!({"tcpSocket": {"port": port}})).await.0, 200);
    let check = |service: &str| json!({"grpc": {"port": port, "service": service}, "timeoutSeconds": 60});
    assert_eq!(asked(check("db")).await, (200, String::new()));
    let (status, words) = asked(check("other")).await;
    assert!(
        status == 500 && words.contains("health status 2"),
        "{status} {words}"
    );

    let gone = TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    for probe in [
        json!({"tcpSocket": {"port": gone}}),
        json!({"grpc": {"port": gone}}),
    ] {
        let (status, words) = asked(probe).await;
        assert!(status == 500 && words.contains("refused"), "{status} {words}");
    }
}

#[tokio::test]
async fn nothing_but_what_the_pod_says_can_be_asked() {
    let application = Application::read(None, None, None).unwrap();
    let request = ::http::Request::get("/app-health/app/livez")
        .body(Bytes::new())
        .unwrap();
    assert_eq!(application.probe(&request).await.status(), 404);
    assert_eq!(application.metrics().await, None);
    for (probers, word) in [
        ("{", "EOF"),
        (r#"{"/a": {}}"#, "is expected"),
        (r#"{"/a": {"httpGet": {"port": 99999}}}"#, "is expected"),
    ] {
        let (variable, reason) = Application::read(Some(probers), None, None).unwrap_err();
        assert!(
            variable == "ISTIO_KUBE_APP_PROBERS" && reason.contains(word),
            "{reason}"
        );
    }
    let bad = Application::read(None, Some(r#"{"scrape": "true", "port": "http"}"#), None);
    assert_eq!(bad.unwrap_err().0, "ISTIO_PROMETHEUS_ANNOTATIONS");
    // The agent's own page, asked for itself, would have no end.
    let own = Application::read(None, Some(r#"{"scrape": "true", "port": "15020"}"#), None).unwrap();
    assert_eq!(own.metrics().await, None);
}

#[test]
fn lines_of_metrics_are_known() {
    for line in [
        "",
        "# HELP a b",
        "up 1",
        "a_total{b=\"c d\"} 1e3 1700000000000",
        "h_bucket{le=\"+Inf\"} NaN",
        "h{a=\"}\"} +Inf # {trace=\"x\"} 1",
    ] {
        assert!(is_metrics(line), "{line}");
    }
    for line in [
        "GET /metrics HTTP/1.1",
        "host: a",
        "{a=\"b\"} 1",
        "up",
        "up{a=\"b\" 1",
    ] {
        assert!(!is_metrics(line), "{line}");
    }
}

#[tokio::test]
async fn metrics_of_the_application_come_without_their_end_and_its_absence_is_said() {
    let port = application(None).await;
    let of = |path: &str| {
        let said = json!({"scrape": "true", "port": port.to_string(), "path": path}).to_string();
        Application::read(None, Some(&said), Some(Ipv4Addr::LOCALHOST.into())).unwrap()
    };
    assert_eq!(of("/metrics").metrics().await.unwrap(), "# TYPE up gauge\nup 1\n");
    let page = of("/page").metrics().await.unwrap();
    assert!(
        page.starts_with('#') && page.contains("is no metric") && page.lines().count() == 1,
        "{page}"
    );
    let page = of("/elsewhere").metrics().await.unwrap();
    assert!(
        page.starts_with("# the application's metrics") && page.contains("503"),
        "{page}"
    );
}
