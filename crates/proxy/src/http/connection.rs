//! One downstream HTTP connection: which version, its life, and what a change of configuration means to it.
//!
//! A connection follows its listener: when the chain that its facts lead to has new content, the next
//! request is served by it; when they lead to no HTTP chain any more, the connection drains.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::header::CONNECTION;
use http::{HeaderValue, StatusCode};
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::AsyncReadExt as _;

use crate::config::listener::{Codec, FilterChain, HttpManager, NetworkFilter};
use crate::listener::sniff::HTTP2_PREFACE;
use crate::listener::{Facts, chain};
use crate::tcp::stream::Stream;
use crate::tls::originate::speaks_http2;
use crate::worker::Worker;

use super::executor::Local;
use super::request;
use super::stream::{Gone, respond};

/// Windows large enough for bulk over a long link.
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 4 << 20;
/// How long the first bytes may take when the version has to be told from them.
const PREFACE_PATIENCE: Duration = Duration::from_secs(60);
/// How long a fresh connection may take for its only request once it is to end.
const LAST_CALL: Duration = Duration::from_secs(5);
/// How long a used HTTP/1.1 connection lies idle before it is closed once it is to end. The next answer says that
/// it is the last; closing sooner would cross a request that is on its way, and nobody could say whether it was
/// served (RFC 9112, 9.6).
const LAST_PAUSE: Duration = Duration::from_secs(1);

/// A connection as its requests see it.
#[derive(Debug)]
pub struct HttpConnection {
    /// What is known of it.
    pub facts: Rc<Facts>,
    chain: RefCell<Arc<FilterChain>>,
    version: Cell<u64>,
    /// Requests in flight.
    active: Cell<u32>,
    /// A request has begun on it.
    used: Cell<bool>,
    /// No further request will be taken.
    ending: Cell<bool>,
    idle_since: Cell<Instant>,
}

impl HttpConnection {
    /// The chain as it is now; `None` when the configuration leads elsewhere by now.
    fn follow(&self, cx: &Worker) -> Option<Arc<FilterChain>> {
        let live = cx.live();
        if live.version == self.version.get() {
            return Some(self.chain.borrow().clone());
        }
        let listener = cx.listener(&self.facts.listener)?;
        let found = chain::find(&listener, &self.facts)?;
        let before = self.chain.borrow().clone();
        let fits =
            matches!(found.network, NetworkFilter::Http(_)) && found.tls.is_some() == before.tls.is_some();
        if !fits {
            return None;
        }
        self.version.set(live.version);
        *self.chain.borrow_mut() = found.clone();
        Some(found.clone())
    }

    /// The chain for the next request: the newest that fits, else the one the connection began with.
    pub fn chain(&self, cx: &Worker) -> Arc<FilterChain> {
        self.follow(cx).unwrap_or_else(|| self.chain.borrow().clone())
    }
}

/// Counts a request while it lives.
#[derive(Debug)]
pub struct InFlight(Rc<HttpConnection>);

impl InFlight {
    /// Begins a request.
    pub fn on(connection: &Rc<HttpConnection>) -> Self {
        connection.active.set(connection.active.get() + 1);
        connection.used.set(true);
        Self(connection.clone())
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.active.set(self.0.active.get().saturating_sub(1));
        self.0.idle_since.set(Instant::now());
    }
}

/// Serves one connection to its end.
pub async fn serve(cx: Rc<Worker>, facts: Rc<Facts>, chain: Arc<FilterChain>, stream: Stream) {
    let NetworkFilter::Http(manager) = &chain.network else {
        return;
    };
    let Some((stream, is_http2)) = which_version(manager.codec, &facts, stream).await else {
        return;
    };
    let scheme = if facts.tls.is_some() { "https" } else { "http" };
    let connection = Rc::new(HttpConnection {
        facts,
        chain: RefCell::new(chain.clone()),
        version: Cell::new(cx.live().version),
        active: Cell::new(0),
        used: Cell::new(false),
        ending: Cell::new(false),
        idle_since: Cell::new(Instant::now()),
    });
    let (worker, served) = (cx.clone(), connection.clone());
    let service = service_fn(move |request| {
        let (cx, connection) = (worker.clone(), served.clone());
        let responding = respond(request, scheme, move |down| request::serve(cx, connection, down));
        let (cx, connection) = (worker.clone(), served.clone());
        async move {
            let mut response = responding.await?;
            // The engine learns of the end between two turns; an answer may be quicker than that.
            let switches = response.status() == StatusCode::SWITCHING_PROTOCOLS;
            if !is_http2 && !switches && (connection.ending.get() || cx.is_draining()) {
                let close = HeaderValue::from_static("close");
                response.headers_mut().insert(CONNECTION, close);
            }
            Ok::<_, Gone>(response)
        }
    });
    let io = TokioIo::new(stream);
    let ended = if is_http2 {
        let mut builder = http2::Builder::new(Local);
        builder
            .timer(TokioTimer::new())
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_concurrent_streams(manager.max_concurrent_streams.max(1))
            .max_header_list_size(u32::try_from(manager.max_header_bytes).unwrap_or(u32::MAX));
        if !manager.upgrades.is_empty() {
            builder.enable_connect_protocol();
        }
        let engine = builder.serve_connection(io, service);
        drive(&cx, &connection, manager, engine, Duration::ZERO).await
    } else {
        let mut builder = http1::Builder::new();
        builder
            .timer(TokioTimer::new())
            .header_read_timeout(manager.headers_timeout.filter(|d| !d.is_zero()))
            .max_headers(200)
            .max_buf_size(manager.max_header_bytes.max(8192))
            .half_close(false);
        let engine = builder.serve_connection(io, service).with_upgrades();
        drive(&cx, &connection, manager, engine, LAST_PAUSE).await
    };
    if let Err(error) = ended {
        tracing::debug!(listener = %connection.facts.listener, peer = %connection.facts.source, %error, "HTTP connection ended");
    }
}

/// What both engines can do.
trait Engine: Future<Output = Result<(), hyper::Error>> {
    /// Take no new request; end when those in flight have.
    fn shut_down(self: Pin<&mut Self>);
}

impl<I, S, B> Engine for http1::UpgradeableConnection<I, S>
where
    S: hyper::service::HttpService<hyper::body::Incoming, ResBody = B>,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    I: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
    B: http_body::Body + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    fn shut_down(self: Pin<&mut Self>) {
        self.graceful_shutdown();
    }
}

impl<I, S, B> Engine for http2::Connection<I, S, Local>
where
    S: hyper::service::HttpService<hyper::body::Incoming, ResBody = B>,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    S::Future: 'static,
    I: hyper::rt::Read + hyper::rt::Write + Unpin,
    B: http_body::Body + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    fn shut_down(self: Pin<&mut Self>) {
        self.graceful_shutdown();
    }
}

/// Serves until the connection ends; one that is to end does so once it has been without a request for `pause`.
async fn drive(
    cx: &Worker,
    connection: &Rc<HttpConnection>,
    manager: &HttpManager,
    engine: impl Engine,
    pause: Duration,
) -> Result<(), hyper::Error> {
    let mut engine = std::pin::pin!(engine);
    let mut changes = cx.watch();
    let idle = manager
        .idle_timeout
        .filter(|d| !d.is_zero() && *d < Duration::MAX);
    let mut told = false;
    changes.mark_changed();
    loop {
        tokio::select! {
            ended = engine.as_mut() => return ended,
            changed = changes.changed(), if !connection.ending.get() => {
                let gone = changed.is_err() || cx.is_draining() || connection.follow(cx).is_none();
                connection.ending.set(gone);
            }
            // A connection that was accepted is owed an answer: the engine would close it unheard.
            () = said_last(connection, pause), if connection.ending.get() && !told => {
                told = true;
                engine.as_mut().shut_down();
            }
            () = idle_for(connection, idle), if !connection.ending.get() => {
                connection.ending.set(true);
                told = true;
                engine.as_mut().shut_down();
            }
        }
    }
}

/// Waits until the connection has had a request, or had its time to send one, and then until none has come for
/// `pause`.
async fn said_last(connection: &HttpConnection, pause: Duration) {
    let deadline = Instant::now() + LAST_CALL;
    while !connection.used.get() && Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    if !pause.is_zero() && connection.used.get() {
        idle_for(connection, Some(pause)).await;
    }
}

/// Waits until the connection has been without a request for `idle`.
async fn idle_for(connection: &HttpConnection, idle: Option<Duration>) {
    let Some(idle) = idle else {
        return std::future::pending().await;
    };
    loop {
        let quiet = match connection.active.get() {
            0 => connection.idle_since.get().elapsed(),
            _ => Duration::ZERO,
        };
        if quiet >= idle {
            return;
        }
        tokio::time::sleep(idle - quiet).await;
    }
}

/// By the listener's word, by ALPN, else by the HTTP/2 preface.
async fn which_version(codec: Codec, facts: &Facts, mut stream: Stream) -> Option<(Stream, bool)> {
    match codec {
        Codec::Http1 => return Some((stream, false)),
        Codec::Http2 => return Some((stream, true)),
        Codec::Auto => {}
    }
    let alpn = facts.tls.as_ref().and_then(|t| t.alpn.as_deref());
    if let Some(http2) = speaks_http2(alpn) {
        return Some((stream, http2));
    }
    let mut read = Vec::with_capacity(HTTP2_PREFACE.len());
    let reading = async {
        while read.len() < HTTP2_PREFACE.len() && HTTP2_PREFACE.starts_with(&read) {
            let mut chunk = [0u8; HTTP2_PREFACE.len()];
            let room = HTTP2_PREFACE.len() - read.len();
            match stream.read(&mut chunk[..room]).await {
                Ok(0) | Err(_) => return None,
                Ok(n) => read.extend_from_slice(&chunk[..n]),
            }
        }
        Some(())
    };
    tokio::time::timeout(PREFACE_PATIENCE, reading).await.ok()??;
    let http2 = read == HTTP2_PREFACE;
    Some((stream.rewind(read), http2))
}
