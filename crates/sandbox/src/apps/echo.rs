//! `echo`: says who answered and what arrived.
//!
//! * HTTP on 8080, HTTP/1.1 or HTTP/2 by prior knowledge, as text, or as JSON for `Accept:
//!   application/json` and `?format=json`. `?status=503` and `?delay=250ms` make it answer so.
//! * gRPC on 7070 (and on 8080): any call is answered with the messages that it sends, which fits every
//!   method whose request and response are of one shape, streaming or not; `grpc.health.v1.Health/Check`
//!   says SERVING.
//! * TCP on 9000 sends everything back; on 9001 it speaks first.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use serde_json::{Map, Value, json};

use super::http::{self as web, App, Request, Response};
use super::{AppError, Identity, listen, tcp, until_signalled};

const GRPC_PORT: u16 = 7070;
const TCP_PORT: u16 = 9000;
const BANNER_PORT: u16 = 9001;
/// `?delay` is cut at this.
const LONGEST_DELAY: Duration = Duration::from_secs(600);

/// The HTTP and gRPC side.
#[derive(Debug)]
pub struct Echo {
    me: Identity,
}

pub(super) async fn run(me: Identity, port: u16) -> Result<(), AppError> {
    let mut http = listen(port, "echo's HTTP port")?;
    http.extend(listen(GRPC_PORT, "echo's gRPC port")?);
    let plain = listen(TCP_PORT, "echo's TCP port")?;
    let first = listen(BANNER_PORT, "echo's banner port")?;
    let banner = banner(&me);
    until_signalled("echo", &[port, GRPC_PORT, TCP_PORT, BANNER_PORT], |watcher| {
        let app = Arc::new(Echo::new(me));
        for listener in http {
            watcher.spawn(web::serve(listener, app.clone(), watcher.clone()));
        }
        for listener in plain {
            watcher.spawn(tcp::serve(listener, String::new(), watcher.clone()));
        }
        for listener in first {
            watcher.spawn(tcp::serve(listener, banner.clone(), watcher.clone()));
        }
    })
    .await
}

/// What the banner port says first.
pub fn banner(me: &Identity) -> String {
    format!(
        "220 echo cluster={} pod={} version={}\r\n",
        me.cluster, me.pod, me.version
    )
}

impl Echo {
    /// An echo that says it is `me`.
    pub fn new(me: Identity) -> Self {
        Self { me }
    }

    fn sign(&self, headers: &mut HeaderMap) {
        for (name, value) in [
            ("x-echo-cluster", &self.me.cluster),
            ("x-echo-pod", &self.me.pod),
            ("x-echo-version", &self.me.version),
        ] {
            if let Ok(value) = HeaderValue::from_str(value) {
                headers.insert(name, value);
            }
        }
    }

    fn grpc(&self, request: Request) -> Response {
        let health = request.uri().path() == "/grpc.health.v1.Health/Check";
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", HeaderValue::from_static("0"));
        let body = if health {
            // One message of two bytes: HealthCheckResponse{status: SERVING}.
            let frames = [
                Frame::data(Bytes::from_static(&[0, 0, 0, 0, 2, 8, 1])),
                Frame::trailers(trailers),
            ];
            StreamBody::new(futures_util::stream::iter(frames.map(Ok))).boxed_unsync()
        } else {
            let end = async move { Some(Ok(trailers)) };
            let messages = request
                .into_body()
                .map_err(Into::into)
                .map_frame(|f| match f.into_data() {
                    Ok(data) => Frame::data(data),
                    // The caller's own trailers are not part of the answer.
                    Err(_) => Frame::data(Bytes::new()),
                });
            messages.with_trailers(end).boxed_unsync()
        };
        let mut response = Response::new(body);
        response
            .headers_mut()
            .insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        self.sign(response.headers_mut());
        response
    }
}

impl App for Echo {
    async fn answer(&self, request: Request, peer: SocketAddr) -> Response {
        let grpc = request
            .headers()
            .get(header::CONTENT_TYPE)
            .is_some_and(|t| t.as_bytes().starts_with(b"application/grpc"));
        if grpc {
            return self.grpc(request);
        }
        let (head, body) = request.into_parts();
        let body = match web::body(body).await {
            Ok(body) => String::from_utf8_lossy(&body).into_owned(),
            Err(refusal) => return refusal,
        };
        if let Some(delay) = web::parameter(&head.uri, "delay").and_then(|d| duration(&d)) {
            tokio::time::sleep(delay.min(LONGEST_DELAY)).await;
        }
        let status = web::parameter(&head.uri, "status").and_then(|s| s.parse().ok());
        let status = status
            .filter(|s: &StatusCode| s.as_u16() >= 200)
            .unwrap_or(StatusCode::OK);
        let accepts = head
            .headers
            .get(header::ACCEPT)
            .is_some_and(|a| a.as_bytes().starts_with(b"application/json"));
        let as_json = accepts || web::parameter(&head.uri, "format").is_some_and(|f| f == "json");
        let host = head
            .headers
            .get(header::HOST)
            .map(|h| String::from_utf8_lossy(h.as_bytes()).into_owned());
        let host = host
            .or_else(|| head.uri.authority().map(ToString::to_string))
            .unwrap_or_default();
        let path = head.uri.path_and_query().map_or("/", |p| p.as_str());
        let mut response = if as_json {
            let mut headers = Map::new();
            for name in head.headers.keys() {
                let values: Vec<_> = head
                    .headers
                    .get_all(name)
                    .iter()
                    .map(|v| String::from_utf8_lossy(v.as_bytes()))
                    .collect();
                headers.insert(name.to_string(), values.join(", ").into());
            }
            let mut answer = json!({
                "method": head.method.as_str(), "path": path, "host": host, "protocol": format!("{:?}", head.version),
                "source": peer.ip(), "headers": Value::Object(headers), "body": body,
            });
            if let (Value::Object(answer), Value::Object(me)) = (&mut answer, self.me.json()) {
                answer.extend(me);
            }
            web::json(status, &answer)
        } else {
            let me = &self.me;
            let mut lines = format!(
                "echo from cluster {}, pod {}.{}, version {}\n\n",
                me.cluster, me.pod, me.namespace, me.version
            );
            let _ = write!(
                lines,
                "{} {path} {:?}\nhost: {host}\nsource: {}\n",
                head.method,
                head.version,
                peer.ip()
            );
            for (name, value) in head.headers.iter().filter(|(name, _)| *name != header::HOST) {
                let _ = writeln!(lines, "{name}: {}", String::from_utf8_lossy(value.as_bytes()));
            }
            if !body.is_empty() {
                let _ = write!(lines, "\n{body}{}", if body.ends_with('\n') { "" } else { "\n" });
            }
            web::text(status, lines)
        };
        self.sign(response.headers_mut());
        response
    }
}

/// `250ms`, `2s`, or seconds.
fn duration(text: &str) -> Option<Duration> {
    if let Some(ms) = text.strip_suffix("ms") {
        return ms.parse().ok().map(Duration::from_millis);
    }
    let seconds: f64 = text.strip_suffix('s').unwrap_or(text).parse().ok()?;
    Duration::try_from_secs_f64(seconds).ok()
}
