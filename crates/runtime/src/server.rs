//! A bare HTTP/1.1 server for administration: readiness, metrics, dumps, levels.
//!
//! It is not for traffic. Everything is bounded: connections, header time, body size, time for a body,
//! a connection's life. Paths are matched exactly, or by prefix where one is registered with a final `*`.
//!
//! ```text
//!   Server::bind ──> accept (permit) ──> head (timeout) ──> body (limit, timeout) ──> handler ──> answer
//! ```

use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Method, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use crate::bind::{self, BindError};
use crate::drain;

/// A request with its whole body.
pub type Request = http::Request<Bytes>;
/// An answer with its whole body.
pub type Response = http::Response<Bytes>;

type Answer = Pin<Box<dyn Future<Output = Response> + Send>>;
type Handler = Arc<dyn Fn(Request) -> Answer + Send + Sync>;

/// What a server lets a peer take.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Connections served at once; more wait in the listen queue.
    pub connections: usize,
    /// Bytes of a request's body.
    pub body: usize,
    /// Time for a request's head, also the longest idle time between requests.
    pub head_time: Duration,
    /// Time for a request's body.
    pub body_time: Duration,
    /// A connection's whole life.
    pub life: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 64,
            body: 1 << 20,
            head_time: Duration::from_secs(10),
            body_time: Duration::from_secs(10),
            life: Duration::from_secs(600),
        }
    }
}

/// Which handler answers which method and path.
#[derive(Clone, Default)]
pub struct Router {
    exact: Vec<(Method, String, Handler)>,
    prefixes: Vec<(Method, String, Handler)>,
}

impl Router {
    /// No paths.
    pub fn new() -> Self {
        Self::default()
    }

    /// Answers `GET` and `HEAD` of `path`. A path that ends in `*` stands for all that begin with the rest.
    pub fn get<F, A>(self, path: &str, handler: F) -> Self
    where
        F: Fn(Request) -> A + Send + Sync + 'static,
        A: Future<Output = Response> + Send + 'static,
    {
        self.route(Method::GET, path, handler)
    }

    /// Answers `POST` of `path`, which may end in `*`.
    pub fn post<F, A>(self, path: &str, handler: F) -> Self
    where
        F: Fn(Request) -> A + Send + Sync + 'static,
        A: Future<Output = Response> + Send + 'static,
    {
        self.route(Method::POST, path, handler)
    }

    /// Answers `method` of `path`, which may end in `*`. Exact paths win over prefixes, longer prefixes
    /// over shorter ones, and what is registered later over what is registered earlier.
    pub fn route<F, A>(mut self, method: Method, path: &str, handler: F) -> Self
    where
        F: Fn(Request) -> A + Send + Sync + 'static,
        A: Future<Output = Response> + Send + 'static,
    {
        let handler: Handler = Arc::new(move |request| Box::pin(handler(request)));
        match path.strip_suffix('*') {
            Some(prefix) => self.prefixes.push((method, prefix.to_owned(), handler)),
            None => self.exact.push((method, path.to_owned(), handler)),
        }
        self
    }

    /// Adds all paths of `other`.
    pub fn merge(mut self, other: Router) -> Self {
        self.exact.extend(other.exact);
        self.prefixes.extend(other.prefixes);
        self
    }

    /// Answers one request: 404 names the paths there are, 405 the methods.
    pub async fn answer(&self, request: Request) -> Response {
        let path = request.uri().path().to_owned();
        let head = request.method() == Method::HEAD;
        let method = if head {
            Method::GET
        } else {
            request.method().clone()
        };
        let of_path: Vec<_> = self.candidates(&path).collect();
        let Some((_, handler)) = of_path.iter().find(|(m, _)| **m == method) else {
            if of_path.is_empty() {
                let mut paths: Vec<&str> = self
                    .exact
                    .iter()
                    .chain(&self.prefixes)
                    .map(|(_, p, _)| p.as_str())
                    .collect();
                paths.sort_unstable();
                paths.dedup();
                return text(
                    StatusCode::NOT_FOUND,
                    format!("no such path; there are:\n{}\n", paths.join("\n")),
                );
            }
            let allowed = of_path
                .iter()
                .map(|(m, _)| m.as_str())
                .collect::<Vec<_>>()
                .join(", ");
            let mut response = text(StatusCode::METHOD_NOT_ALLOWED, format!("use {allowed}\n"));
            if let Ok(allowed) = HeaderValue::from_str(&allowed) {
                response.headers_mut().insert(header::ALLOW, allowed);
            }
            return response;
        };
        handler(request).await
    }

    /// Handlers whose path fits, best first.
    fn candidates<'a>(&'a self, path: &'a str) -> impl Iterator<Item = (&'a Method, &'a Handler)> + 'a {
        let exact = self
            .exact
            .iter()
            .rev()
            .filter(move |(_, p, _)| p == path)
            .map(|(m, _, h)| (m, h));
        let mut prefixes: Vec<_> = self
            .prefixes
            .iter()
            .rev()
            .filter(|(_, p, _)| path.starts_with(p.as_str()))
            .collect();
        prefixes.sort_by_key(|(_, p, _)| usize::MAX - p.len());
        exact.chain(prefixes.into_iter().map(|(m, _, h)| (m, h)))
    }
}

/// A plain-text answer.
pub fn text(status: StatusCode, body: impl Into<Bytes>) -> Response {
    with_type(status, "text/plain; charset=utf-8", body)
}

/// A JSON answer, indented as people read it.
pub fn json(value: &serde_json::Value) -> Response {
    with_type(StatusCode::OK, "application/json", format!("{value:#}\n"))
}

/// An answer with a `Content-Type`.
pub fn with_type(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Response {
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// The value of one parameter of a request's query, percent-decoding left to the caller.
pub fn query<'a>(request: &'a Request, name: &str) -> Option<&'a str> {
    let pairs = request.uri().query()?.split('&');
    pairs
        .map(|p| p.split_once('=').unwrap_or((p, "")))
        .find(|(k, _)| *k == name)
        .map(|(_, v)| v)
}

/// A bound server that does not serve yet.
#[derive(Debug)]
pub struct Server {
    listener: std::net::TcpListener,
    address: SocketAddr,
    limits: Limits,
}

impl Server {
    /// Binds now, so that a port in use is an error of start-up. `purpose` is named in the error.
    pub fn bind(address: SocketAddr, purpose: &str, limits: Limits) -> Result<Self, BindError> {
        Ok(Self::on(bind::tcp(address, purpose)?, limits))
    }

    /// Serves on a listener that the caller has bound, for instance in another network namespace.
    pub fn on(listener: std::net::TcpListener, limits: Limits) -> Self {
        let address = listener
            .local_addr()
            .unwrap_or_else(|_| SocketAddr::from(([0, 0, 0, 0], 0)));
        Self {
            listener,
            address,
            limits,
        }
    }

    /// The address it is bound to, with the real port.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until the drain begins; then open requests are finished within its deadline.
    pub async fn serve(self, router: Router, mut drain: drain::Watcher) -> std::io::Result<()> {
        let listener = TcpListener::from_std(self.listener)?;
        let router = Arc::new(router);
        let permits = Arc::new(Semaphore::new(self.limits.connections));
        loop {
            let accept = async {
                let permit = permits.clone().acquire_owned().await;
                (listener.accept().await, permit)
            };
            let (accepted, permit) = tokio::select! {
                biased;
                _ = drain.draining() => return Ok(()),
                accepted = accept => accepted,
            };
            let stream = match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    // Out of descriptors: nothing to do but wait until some are closed.
                    tracing::warn!(%error, address = %self.address, "cannot accept");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            let (router, limits, watcher) = (router.clone(), self.limits, drain.clone());
            drain.spawn(async move {
                let _ = stream.set_nodelay(true);
                serve_connection(stream, router, limits, watcher).await;
                drop(permit);
            });
        }
    }
}

/// Serves one connection that somebody else accepted, within [`Limits`] but for their number.
pub async fn serve_connection<S>(stream: S, router: Arc<Router>, limits: Limits, mut drain: drain::Watcher)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let service = service_fn(move |request: hyper::Request<Incoming>| {
        let router = router.clone();
        async move { Ok::<_, Infallible>(exchange(request, &router, limits).await.map(Full::new)) }
    });
    let served = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.head_time)
        .max_buf_size(64 << 10)
        .serve_connection(TokioIo::new(stream), service);
    let mut served = pin!(served);
    let ended = tokio::time::timeout(limits.life, async {
        tokio::select! {
            ended = served.as_mut() => return ended,
            _ = drain.draining() => served.as_mut().graceful_shutdown(),
        }
        served.await
    });
    if let Ok(Err(error)) = ended.await {
        tracing::debug!(%error, "admin connection ended");
    }
}

async fn exchange(request: hyper::Request<Incoming>, router: &Router, limits: Limits) -> Response {
    let (head, body) = request.into_parts();
    let collected = Limited::new(body, limits.body).collect();
    let body = match tokio::time::timeout(limits.body_time, collected).await {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(error)) if error.is::<http_body_util::LengthLimitError>() => {
            return text(
                StatusCode::PAYLOAD_TOO_LARGE,
                format!("the body may have {} bytes\n", limits.body),
            );
        }
        Ok(Err(error)) => return text(StatusCode::BAD_REQUEST, format!("the body broke off: {error}\n")),
        Err(_) => return text(StatusCode::REQUEST_TIMEOUT, "the body did not arrive in time\n"),
    };
    router.answer(Request::from_parts(head, body)).await
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    use super::*;

    async fn serve(limits: Limits) -> (SocketAddr, drain::Trigger) {
        let server = Server::bind("127.0.0.1:0".parse().unwrap(), "the test", limits).unwrap();
        let address = server.address();
        let (trigger, watcher) = drain::channel();
        let router = Router::new()
            .get("/ready", |_| async { text(StatusCode::OK, "ready\n") })
            .get("/debug/*", |r: Request| async move {
                text(
                    StatusCode::OK,
                    format!("{} {}", r.uri().path(), query(&r, "a").unwrap_or("-")),
                )
            })
            .post("/logging", |r: Request| async move {
                text(StatusCode::OK, r.into_body())
            });
        tokio::spawn(server.serve(router, watcher));
        (address, trigger)
    }

    async fn ask(address: SocketAddr, request: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        String::from_utf8_lossy(&answer).into_owned()
    }

    #[tokio::test]
    async fn routes_by_method_and_path() {
        let (address, _trigger) = serve(Limits::default()).await;
        let get = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        assert!(ask(address, &get("/ready")).await.ends_with("ready\n"));
        assert!(
            ask(address, &get("/debug/syncz?b=1&a=2"))
                .await
                .ends_with("/debug/syncz 2")
        );
        let missing = ask(address, &get("/nothing")).await;
        assert!(
            missing.starts_with("HTTP/1.1 404") && missing.contains("/ready"),
            "{missing}"
        );
        let wrong = ask(address, &get("/logging")).await;
        assert!(
            wrong.starts_with("HTTP/1.1 405") && wrong.contains("allow: POST"),
            "{wrong}"
        );
        let head = ask(
            address,
            "HEAD /ready HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
        )
        .await;
        assert!(
            head.starts_with("HTTP/1.1 200") && head.ends_with("\r\n\r\n"),
            "{head}"
        );
        let post = "POST /logging HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 2\r\n\r\nhi";
        assert!(ask(address, post).await.ends_with("hi"));
    }

    #[tokio::test]
    async fn bodies_heads_and_connections_are_bounded() {
        let limits = Limits {
            connections: 1,
            body: 4,
            head_time: Duration::from_millis(200),
            ..Limits::default()
        };
        let (address, _trigger) = serve(limits).await;
        let big = "POST /logging HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 5\r\n\r\nhello";
        assert!(ask(address, big).await.starts_with("HTTP/1.1 413"));
        // A head that never ends is cut off, and until then the single permit is taken.
        let mut slow = TcpStream::connect(address).await.unwrap();
        slow.write_all(b"GET /ready HT").await.unwrap();
        let next = ask(
            address,
            "GET /ready HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
        )
        .await;
        assert!(next.ends_with("ready\n"), "{next}");
        let mut rest = Vec::new();
        let _ = slow.read_to_end(&mut rest).await;
        assert!(!String::from_utf8_lossy(&rest).contains("200 OK"));
    }

    #[tokio::test]
    async fn the_drain_ends_idle_connections_and_the_listener() {
        let (address, trigger) = serve(Limits::default()).await;
        let mut idle = TcpStream::connect(address).await.unwrap();
        idle.write_all(b"GET /ready HTTP/1.1\r\nHost: x\r\n\r\n")
            .await
            .unwrap();
        let mut buffer = [0; 1024];
        assert!(idle.read(&mut buffer).await.unwrap() > 0);
        assert_eq!(
            trigger.drain(Duration::from_secs(30)).await,
            drain::Outcome::Drained
        );
        assert_eq!(idle.read(&mut buffer).await.unwrap(), 0);
        assert!(TcpStream::connect(address).await.is_err());
    }
}
