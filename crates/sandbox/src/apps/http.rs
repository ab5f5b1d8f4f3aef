//! What the samples need of HTTP: a server for HTTP/1.1 and HTTP/2 by prior knowledge, bodies with a
//! bound, answers, and one plain client call.

use std::fmt;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty, Full, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use isthmus_runtime::drain;
use serde_json::Value;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;

/// Bytes of a request's body that a sample reads into memory.
pub const MOST_BODY: usize = 8 << 20;
/// Connections that a sample serves at once.
const MOST_CONNECTIONS: usize = 4096;
/// Time for a request's head.
const HEAD_TIME: Duration = Duration::from_secs(30);

/// Any body.
pub type Body = UnsyncBoxBody<Bytes, Box<dyn std::error::Error + Send + Sync>>;
/// A request as it comes.
pub type Request = http::Request<Incoming>;
/// An answer.
pub type Response = http::Response<Body>;

/// A sample that speaks HTTP.
pub trait App: Send + Sync + 'static {
    /// Answers one request of `peer`. `/healthz` never comes here.
    fn answer(&self, request: Request, peer: SocketAddr) -> impl Future<Output = Response> + Send;
}

/// Accepts until the drain begins; then open requests are finished.
pub async fn serve(listener: std::net::TcpListener, app: Arc<impl App>, mut drain: drain::Watcher) {
    let listener = match TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => return tracing::error!(%error, "cannot take the listener over"),
    };
    let permits = Arc::new(Semaphore::new(MOST_CONNECTIONS));
    loop {
        let accept = async {
            let permit = permits.clone().acquire_owned().await;
            (listener.accept().await, permit)
        };
        let (accepted, permit) = tokio::select! {
            biased;
            _ = drain.draining() => return,
            accepted = accept => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                let (app, watcher) = (app.clone(), drain.clone());
                drain.spawn(async move {
                    connection(stream, peer, app, watcher).await;
                    drop(permit);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn connection(stream: TcpStream, peer: SocketAddr, app: Arc<impl App>, mut drain: drain::Watcher) {
    let _ = stream.set_nodelay(true);
    let watcher = drain.clone();
    let service = service_fn(move |mut request: Request| {
        let app = app.clone();
        // For connections that outlive their request: a WebSocket belongs to the drain too.
        request.extensions_mut().insert(watcher.clone());
        async move {
            Ok::<_, std::convert::Infallible>(match request.uri().path() {
                "/healthz" => text(StatusCode::OK, "ok\n"),
                _ => app.answer(request, peer).await,
            })
        }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIME);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(256);
    let mut served = pin!(builder.serve_connection_with_upgrades(TokioIo::new(stream), service));
    let ended = tokio::select! {
        ended = served.as_mut() => ended,
        _ = drain.draining() => {
            served.as_mut().graceful_shutdown();
            served.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, %peer, "connection ended");
    }
}

/// A body of bytes that are all there.
pub fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into())
        .map_err(|never| match never {})
        .boxed_unsync()
}

/// An answer with a `Content-Type`.
pub fn answer(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Response {
    let mut response = http::Response::new(full(body));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// Plain text.
pub fn text(status: StatusCode, body: impl Into<Bytes>) -> Response {
    answer(status, "text/plain; charset=utf-8", body)
}

/// JSON, indented, with a final line feed so that a terminal looks right after it.
pub fn json(status: StatusCode, value: &Value) -> Response {
    answer(status, "application/json", format!("{value:#}\n"))
}

/// HTML.
pub fn html(status: StatusCode, body: String) -> Response {
    answer(status, "text/html; charset=utf-8", body)
}

/// The whole body of a request, or the answer to give when it is too long or breaks off.
pub async fn body(request: Incoming) -> Result<Bytes, Response> {
    match Limited::new(request, MOST_BODY).collect().await {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) if error.is::<http_body_util::LengthLimitError>() => Err(text(
            StatusCode::PAYLOAD_TOO_LARGE,
            format!("this sample reads at most {MOST_BODY} bytes\n"),
        )),
        Err(error) => Err(text(
            StatusCode::BAD_REQUEST,
            format!("the body broke off: {error}\n"),
        )),
    }
}

/// Pairs of a query or form, percent-decoded, in order.
pub fn pairs(query: &str) -> Vec<(String, String)> {
    let split = |p: &str| {
        let (key, value) = p.split_once('=').unwrap_or((p, ""));
        (decoded(key), decoded(value))
    };
    query.split('&').filter(|p| !p.is_empty()).map(split).collect()
}

/// The first value of a query's parameter.
pub fn parameter(uri: &http::Uri, name: &str) -> Option<String> {
    pairs(uri.query().unwrap_or_default())
        .into_iter()
        .find(|(key, _)| key == name)
        .map(|(_, value)| value)
}

/// Percent-decoding with `+` as a space; what is no valid escape stays as it is.
pub fn decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        let escaped = match (first, tail) {
            (b'%', [a, b, ..]) => std::str::from_utf8(&[*a, *b])
                .ok()
                .and_then(|hex| u8::from_str_radix(hex, 16).ok()),
            _ => None,
        };
        match escaped {
            Some(byte) => {
                bytes.push(byte);
                rest = &rest[3..];
            }
            None => {
                bytes.push(if *first == b'+' { b' ' } else { *first });
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// What a call to another service brought back.
#[derive(Debug)]
pub struct Called {
    /// Its status.
    pub status: StatusCode,
    /// Its body.
    pub body: Bytes,
}

/// Why a call brought nothing back.
#[derive(Debug)]
pub enum CallError {
    /// The name did not resolve or nobody took the connection.
    Connect(std::io::Error),
    /// The connection broke or spoke no HTTP.
    Broken(Box<dyn std::error::Error + Send + Sync>),
    /// It took longer than this.
    Late(Duration),
}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connect(error) => write!(f, "cannot connect: {error}"),
            Self::Broken(error) => write!(f, "the connection broke: {error}"),
            Self::Late(after) => write!(f, "no answer within {after:?}"),
        }
    }
}

/// `GET http://HOST:PORT/PATH` on a connection of its own, with these headers.
pub async fn get(
    authority: &str,
    path: &str,
    headers: &HeaderMap,
    patience: Duration,
) -> Result<Called, CallError> {
    timeout(patience, exchange(authority, path, headers))
        .await
        .unwrap_or(Err(CallError::Late(patience)))
}

async fn exchange(authority: &str, path: &str, headers: &HeaderMap) -> Result<Called, CallError> {
    let broken = |error: hyper::Error| CallError::Broken(error.into());
    let stream = TcpStream::connect(authority).await.map_err(CallError::Connect)?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(broken)?;
    let host = authority.strip_suffix(":80").unwrap_or(authority);
    let mut request = http::Request::get(path)
        .header(header::HOST, host)
        .body(Empty::<Bytes>::new())
        .map_err(|error| CallError::Broken(error.into()))?;
    request.headers_mut().extend(headers.clone());
    let call = async {
        let response = sender.send_request(request).await.map_err(broken)?;
        let status = response.status();
        let body = Limited::new(response.into_body(), MOST_BODY)
            .collect()
            .await
            .map_err(CallError::Broken)?;
        Ok(Called {
            status,
            body: body.to_bytes(),
        })
    };
    let (mut call, mut connection) = (pin!(call), pin!(connection));
    // The connection is driven here rather than in a task, so that both end together.
    tokio::select! {
        called = call.as_mut() => called,
        ended = connection.as_mut() => match ended {
            // Its last bytes may have arrived just before it ended.
            Ok(()) => call.await,
            Err(error) => Err(broken(error)),
        },
    }
}
