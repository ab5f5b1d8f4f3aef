//! `httpbin`: the endpoints of httpbin.org that people use to look at a request or to provoke an answer.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use serde_json::{Map, Value, json};

use super::Identity;
use super::http::{self as web, App, Body, Request, Response};
use super::websocket;

/// Bytes that `/bytes/N` gives at most.
const MOST_BYTES: usize = 1 << 30;
const LONGEST_DELAY: f64 = 60.0;

const INDEX: &str = "\
httpbin, as far as people use it

  /get /post /put /patch /delete   what arrived, for that method
  /anything[/...]                  what arrived, for any method
  /headers /ip /user-agent /uuid   one part of it
  /status/CODE                     answers with that status
  /delay/SECONDS                   answers later
  /bytes/N                         N bytes
  /stream/N                        N lines of JSON, one chunk each
  /redirect/N                      N redirects, then /get
  /response-headers?NAME=VALUE     answers with those headers
  /basic-auth/USER/PASSWORD        401 without them
  /bearer                          401 without a token
  /websocket                       sends messages back
  /hostname                        who answers
  /failing/CODE /failing/off       this pod answers everything else with that status, or no longer
";

/// The sample.
#[derive(Debug)]
pub struct Httpbin {
    me: Identity,
    /// Status of every answer while it fails on purpose; 0: it does not.
    failing: AtomicU16,
}

impl Httpbin {
    /// An httpbin that says it is `me`.
    pub fn new(me: Identity) -> Self {
        Self {
            me,
            failing: AtomicU16::new(0),
        }
    }
}

impl App for Httpbin {
    async fn answer(&self, request: Request, peer: SocketAddr) -> Response {
        let path = request.uri().path().to_owned();
        let mut parts = path.trim_start_matches('/').split('/');
        let (first, second, third) = (parts.next().unwrap_or_default(), parts.next(), parts.next());
        if first == "failing" {
            return self.fail(second);
        }
        if let Ok(code) = StatusCode::from_u16(self.failing.load(Ordering::Relaxed)) {
            return web::json(code, &self.me.json());
        }
        let number = second.and_then(|n| n.parse::<usize>().ok());
        let method = request.method().clone();
        let only = match first {
            "get" => Some(Method::GET),
            "post" => Some(Method::POST),
            "put" => Some(Method::PUT),
            "patch" => Some(Method::PATCH),
            "delete" => Some(Method::DELETE),
            _ => None,
        };
        if let Some(only) = &only
            && *only != method
            && !(method == Method::HEAD && *only == Method::GET)
        {
            let mut refusal = web::text(StatusCode::METHOD_NOT_ALLOWED, format!("{path} takes {only}\n"));
            if let Ok(only) = HeaderValue::from_str(only.as_str()) {
                refusal.headers_mut().insert(header::ALLOW, only);
            }
            return refusal;
        }
        match (first, number) {
            ("", _) => web::text(StatusCode::OK, INDEX),
            ("get" | "post" | "put" | "patch" | "delete" | "anything", _) => {
                self.arrived(request, peer).await
            }
            ("headers", _) => web::json(StatusCode::OK, &json!({ "headers": headers(request.headers()) })),
            ("ip", _) => web::json(
                StatusCode::OK,
                &json!({ "origin": origin(request.headers(), peer) }),
            ),
            ("user-agent", _) => {
                let agent = request
                    .headers()
                    .get(header::USER_AGENT)
                    .map(|v| String::from_utf8_lossy(v.as_bytes()));
                web::json(StatusCode::OK, &json!({ "user-agent": agent }))
            }
            ("hostname", _) => web::json(StatusCode::OK, &self.me.json()),
            ("uuid", _) => web::json(StatusCode::OK, &json!({ "uuid": uuid() })),
            ("status", _) => status(second),
            ("delay", _) => {
                let seconds = second
                    .and_then(|s| s.parse::<f64>().ok())
                    .unwrap_or(0.0)
                    .clamp(0.0, LONGEST_DELAY);
                tokio::time::sleep(Duration::from_secs_f64(seconds)).await;
                self.arrived(request, peer).await
            }
            ("bytes", Some(n)) => bytes(n.min(MOST_BYTES)),
            ("stream", Some(n)) => stream(n.min(100), &request, peer),
            ("redirect" | "relative-redirect", Some(n)) => match n {
                0 | 1 => redirect("/get".to_owned()),
                n => redirect(format!("/redirect/{}", n - 1)),
            },
            ("response-headers", _) => response_headers(request.uri().query().unwrap_or_default()),
            ("basic-auth", _) => basic_auth(
                request.headers(),
                second.unwrap_or_default(),
                third.unwrap_or_default(),
            ),
            ("bearer", _) => bearer(request.headers()),
            ("websocket", _) => websocket::accept(request),
            _ => web::text(StatusCode::NOT_FOUND, INDEX),
        }
    }
}

impl Httpbin {
    /// Begins to answer with this status, or ends it.
    fn fail(&self, code: Option<&str>) -> Response {
        let code = match code {
            Some("off") => Some(0),
            code => code
                .and_then(|c| c.parse::<u16>().ok())
                .filter(|c| (200..600).contains(c)),
        };
        match code {
            Some(code) => {
                self.failing.store(code, Ordering::Relaxed);
                web::json(StatusCode::OK, &self.me.json())
            }
            None => web::text(StatusCode::BAD_REQUEST, "write /failing/500 or /failing/off\n"),
        }
    }

    async fn arrived(&self, request: Request, peer: SocketAddr) -> Response {
        let (head, body) = request.into_parts();
        let body = match web::body(body).await {
            Ok(body) => body,
            Err(refusal) => return refusal,
        };
        let mut answer = Map::new();
        answer.insert(
            "args".to_owned(),
            object(web::pairs(head.uri.query().unwrap_or_default())),
        );
        if head.method != Method::GET && head.method != Method::HEAD {
            let text = String::from_utf8_lossy(&body);
            let kind = head
                .headers
                .get(header::CONTENT_TYPE)
                .map(HeaderValue::as_bytes)
                .unwrap_or_default();
            let form = kind.starts_with(b"application/x-www-form-urlencoded");
            answer.insert(
                "form".to_owned(),
                if form {
                    object(web::pairs(&text))
                } else {
                    json!({})
                },
            );
            answer.insert(
                "json".to_owned(),
                serde_json::from_slice(&body).unwrap_or(Value::Null),
            );
            answer.insert("data".to_owned(), if form { "".into() } else { text.into() });
        }
        answer.insert("headers".to_owned(), headers(&head.headers));
        answer.insert("method".to_owned(), head.method.as_str().into());
        answer.insert("origin".to_owned(), origin(&head.headers, peer).into());
        answer.insert("url".to_owned(), url(&head).into());
        answer.insert("served_by".to_owned(), self.me.json());
        web::json(StatusCode::OK, &Value::Object(answer))
    }
}

/// Pairs as an object; a name that comes more than once gets a list.
fn object(pairs: Vec<(String, String)>) -> Value {
    let mut object = Map::new();
    for (key, value) in pairs {
        match object.get_mut(&key) {
            None => {
                object.insert(key, value.into());
            }
            Some(Value::Array(values)) => values.push(value.into()),
            Some(one) => *one = json!([one.take(), value]),
        }
    }
    Value::Object(object)
}

/// Headers with their names in Title-Case, as httpbin shows them.
fn headers(headers: &HeaderMap) -> Value {
    let title = |name: &HeaderName| {
        let words = name
            .as_str()
            .split('-')
            .map(|w| w[..1].to_ascii_uppercase() + &w[1..]);
        words.collect::<Vec<_>>().join("-")
    };
    let value = |name| {
        let all = headers
            .get_all(name)
            .iter()
            .map(|v| String::from_utf8_lossy(v.as_bytes()));
        Value::from(all.collect::<Vec<_>>().join(","))
    };
    // A name may begin with '-', whose first word is empty.
    let named = headers.keys().map(|n| {
        (
            if n.as_str().split('-').any(str::is_empty) {
                n.to_string()
            } else {
                title(n)
            },
            value(n),
        )
    });
    Value::Object(named.collect())
}

fn origin(headers: &HeaderMap, peer: SocketAddr) -> String {
    let forwarded = headers.get("x-forwarded-for").and_then(|v| v.to_str().ok());
    forwarded.map_or_else(|| peer.ip().to_string(), str::to_owned)
}

fn url(head: &Parts) -> String {
    let scheme = head
        .headers
        .get("x-forwarded-proto")
        .and_then(|v| v.to_str().ok())
        .unwrap_or("http");
    let host = head.headers.get(header::HOST).and_then(|v| v.to_str().ok());
    let host = host
        .or_else(|| head.uri.authority().map(|a| a.as_str()))
        .unwrap_or_default();
    format!(
        "{scheme}://{host}{}",
        head.uri.path_and_query().map_or("/", |p| p.as_str())
    )
}

/// A random UUID (version 4).
fn uuid() -> String {
    let mut b: [u8; 16] = rand::random();
    b[6] = (b[6] & 0x0f) | 0x40;
    b[8] = (b[8] & 0x3f) | 0x80;
    let hex: String = b.iter().map(|byte| format!("{byte:02x}")).collect();
    [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-")
}

fn status(code: Option<&str>) -> Response {
    let code = code
        .and_then(|c| c.parse::<u16>().ok())
        .filter(|c| (200..=599).contains(c));
    match code.and_then(|c| StatusCode::from_u16(c).ok()) {
        None => web::text(StatusCode::BAD_REQUEST, "a status is a number from 200 to 599\n"),
        Some(code) => {
            let empty = matches!(code, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
            let mut response = web::text(
                code,
                if empty {
                    ""
                } else {
                    code.canonical_reason().unwrap_or_default()
                },
            );
            if code.is_redirection() {
                response
                    .headers_mut()
                    .insert(header::LOCATION, HeaderValue::from_static("/redirect/1"));
            }
            response
        }
    }
}

/// `n` bytes in chunks, so that a large answer needs no large memory.
fn bytes(n: usize) -> Response {
    const CHUNK: usize = 16 << 10;
    let chunk: Bytes = (0..CHUNK)
        .map(|i| b'a' + (i % 26) as u8)
        .collect::<Vec<_>>()
        .into();
    let sizes = (0..n.div_ceil(CHUNK)).map(move |i| CHUNK.min(n - i * CHUNK));
    let frames = sizes.map(move |size| Ok(Frame::data(chunk.slice(..size))));
    let mut response = Response::new(StreamBody::new(futures_util::stream::iter(frames)).boxed_unsync());
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/octet-stream"),
    );
    response
        .headers_mut()
        .insert(header::CONTENT_LENGTH, HeaderValue::from(n));
    response
}

/// `n` lines of JSON, each its own chunk.
fn stream(n: usize, request: &Request, peer: SocketAddr) -> Response {
    let (headers, origin) = (headers(request.headers()), origin(request.headers(), peer));
    let lines = (0..n).map(move |id| {
        let line = format!("{}\n", json!({ "id": id, "headers": headers, "origin": origin }));
        Ok(Frame::data(Bytes::from(line)))
    });
    let body: Body = StreamBody::new(futures_util::stream::iter(lines)).boxed_unsync();
    let mut response = Response::new(body);
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

fn redirect(to: String) -> Response {
    let mut response = web::text(StatusCode::FOUND, "");
    if let Ok(to) = HeaderValue::from_str(&to) {
        response.headers_mut().insert(header::LOCATION, to);
    }
    response
}

fn response_headers(query: &str) -> Response {
    let pairs = web::pairs(query);
    let mut response = web::json(StatusCode::OK, &object(pairs.clone()));
    for (name, value) in pairs {
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::try_from(value))
            && name != header::CONTENT_LENGTH
            && name != header::TRANSFER_ENCODING
        {
            response.headers_mut().append(name, value);
        }
    }
    response
}

fn basic_auth(headers: &HeaderMap, user: &str, password: &str) -> Response {
    let expected = format!("Basic {}", STANDARD.encode(format!("{user}:{password}")));
    if headers
        .get(header::AUTHORIZATION)
        .is_some_and(|a| a.as_bytes() == expected.as_bytes())
    {
        return web::json(StatusCode::OK, &json!({ "authenticated": true, "user": user }));
    }
    let mut refusal = web::text(StatusCode::UNAUTHORIZED, "");
    refusal.headers_mut().insert(
        header::WWW_AUTHENTICATE,
        HeaderValue::from_static("Basic realm=\"httpbin\""),
    );
    refusal
}

fn bearer(headers: &HeaderMap) -> Response {
    let token = headers
        .get(header::AUTHORIZATION)
        .and_then(|a| a.to_str().ok()?.strip_prefix("Bearer "));
    if let Some(token) = token {
        return web::json(StatusCode::OK, &json!({ "authenticated": true, "token": token }));
    }
    let mut refusal = web::text(StatusCode::UNAUTHORIZED, "");
    refusal
        .headers_mut()
        .insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    refusal
}
