//! The two streams a request is between. What carries them is hidden here: routing, filters and retries
//! see heads, frames and reasons, and no engine.
//!
//! `serve` runs inside the engine's own polling: its future is polled for the head of the answer, then for
//! every frame of the answer's body. Dropping it is how the engine cancels a request.

use std::cell::{Cell, RefCell};
use std::error::Error as StdError;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode, Version, response};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;

use crate::upstream::pool::{Lease, SendError};

use super::body::{OutgoingBody, RequestSource};
use super::head::HeadView;

/// A request's head, the same for HTTP/1.1 and HTTP/2.
#[derive(Debug, Clone)]
pub struct RequestHead {
    /// Method.
    pub method: Method,
    /// `http` or `https`.
    pub scheme: &'static str,
    /// Authority: `:authority` or `Host`.
    pub authority: String,
    /// Path and query, beginning with `/`; `*` for OPTIONS; empty for CONNECT.
    pub path: String,
    /// Headers without `host`.
    pub headers: HeaderMap,
    /// Version the downstream speaks.
    pub version: Version,
    /// Extended CONNECT's `:protocol`.
    pub protocol: Option<String>,
    /// More than one `host` header was sent.
    pub ambiguous: bool,
}

impl RequestHead {
    /// What rules and routes look at.
    pub fn view(&self) -> HeadView<'_> {
        HeadView {
            method: self.method.as_str(),
            scheme: self.scheme,
            authority: &self.authority,
            path: &self.path,
            headers: &self.headers,
        }
    }

    /// `HTTP/1.1`, as logs name it.
    pub fn version_name(&self) -> &'static str {
        match self.version {
            Version::HTTP_2 => "HTTP/2",
            Version::HTTP_10 => "HTTP/1.0",
            _ => "HTTP/1.1",
        }
    }
}

/// The downstream's side of a request: its head and body, and the way back.
#[derive(Debug)]
pub struct Downstream {
    /// The head, as filters change it.
    pub head: RequestHead,
    /// The body.
    pub body: Rc<RequestSource>,
    exchange: Rc<Exchange>,
    upgrade: Option<OnUpgrade>,
}

/// The way back is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the downstream is gone")]
pub struct Gone;

/// One slot for the head and one for the next frame; the engine empties them.
#[derive(Debug, Default)]
struct Exchange {
    head: RefCell<Option<response::Parts>>,
    frame: RefCell<Option<Frame<Bytes>>>,
    ended: Cell<bool>,
    broken: Cell<bool>,
}

impl Downstream {
    /// Sends the head of the answer; with `end`, there is no body.
    pub fn send_head(&mut self, head: response::Parts, end: bool) {
        *self.exchange.head.borrow_mut() = Some(head);
        self.exchange.ended.set(end);
    }

    /// Sends a frame. Waits until the one before was taken; with `last`, nothing follows.
    pub async fn send(&mut self, frame: Frame<Bytes>, last: bool) {
        let exchange = &self.exchange;
        // Whoever empties the slot polls this future next, so no waker is needed.
        poll_fn(|_| match *exchange.frame.borrow() {
            None => Poll::Ready(()),
            Some(_) => Poll::Pending,
        })
        .await;
        *exchange.frame.borrow_mut() = Some(frame);
        exchange.ended.set(last);
    }

    /// Nothing follows.
    pub fn finish(&mut self) {
        self.exchange.ended.set(true);
    }

    /// Breaks the answer off, so that the downstream sees it was not complete.
    pub fn reset(&mut self) {
        self.exchange.broken.set(true);
    }

    /// The raw connection after a 101, or a 200 to CONNECT; once.
    pub fn take_upgrade(&mut self) -> Option<OnUpgrade> {
        self.upgrade.take()
    }
}

/// Runs `serve` for one request of the engine.
pub fn respond<F: Future<Output = ()> + 'static>(
    mut request: http::Request<Incoming>,
    scheme: &'static str,
    serve: impl FnOnce(Downstream) -> F,
) -> Responding {
    let upgrade = Some(hyper::upgrade::on(&mut request));
    let (mut parts, body) = request.into_parts();
    let authority = match parts.uri.authority() {
        Some(authority) => authority.as_str().to_owned(),
        None => parts
            .headers
            .get(http::header::HOST)
            .map(|h| String::from_utf8_lossy(h.as_bytes()).into_owned())
            .unwrap_or_default(),
    };
    let ambiguous = parts.headers.get_all(http::header::HOST).iter().count() > 1;
    parts.headers.remove(http::header::HOST);
    let path = match parts.uri.path_and_query() {
        Some(path) => path.as_str().to_owned(),
        None => String::new(),
    };
    let protocol = parts
        .extensions
        .get::<hyper::ext::Protocol>()
        .map(|p| p.as_str().to_owned());
    let exchange = Rc::new(Exchange::default());
    let downstream = Downstream {
        head: RequestHead {
            method: parts.method,
            scheme,
            authority,
            path,
            headers: parts.headers,
            version: parts.version,
            protocol,
            ambiguous,
        },
        body: RequestSource::new(body),
        exchange: exchange.clone(),
        upgrade,
    };
    Responding {
        serve: Some(Box::pin(serve(downstream))),
        exchange,
    }
}

/// Waits for the head of the answer.
pub struct Responding {
    serve: Option<Pin<Box<dyn Future<Output = ()>>>>,
    exchange: Rc<Exchange>,
}

impl Future for Responding {
    type Output = Result<http::Response<AnswerBody>, Gone>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        let mut serve = this.serve.take();
        if let Some(future) = &mut serve
            && future.as_mut().poll(cx).is_ready()
        {
            serve = None;
        }
        let head = this.exchange.head.borrow_mut().take();
        match head {
            Some(head) => Poll::Ready(Ok(http::Response::from_parts(
                head,
                AnswerBody {
                    serve,
                    exchange: this.exchange.clone(),
                },
            ))),
            // Ended without an answer, or on purpose: the engine resets the stream.
            None if serve.is_none() || this.exchange.broken.get() => Poll::Ready(Err(Gone)),
            None => {
                this.serve = serve;
                Poll::Pending
            }
        }
    }
}

/// The answer's body: polling it runs `serve` on.
pub struct AnswerBody {
    serve: Option<Pin<Box<dyn Future<Output = ()>>>>,
    exchange: Rc<Exchange>,
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = Gone;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Gone>>> {
        let this = self.get_mut();
        loop {
            if let Some(frame) = this.exchange.frame.borrow_mut().take() {
                return Poll::Ready(Some(Ok(frame)));
            }
            if this.exchange.broken.get() {
                return Poll::Ready(Some(Err(Gone)));
            }
            if this.exchange.ended.get() {
                // Lets `serve` come to its end before it is dropped.
                if let Some(future) = &mut this.serve
                    && future.as_mut().poll(cx).is_ready()
                {
                    this.serve = None;
                }
                return Poll::Ready(None);
            }
            let Some(future) = &mut this.serve else {
                return Poll::Ready(Some(Err(Gone)));
            };
            if future.as_mut().poll(cx).is_ready() {
                this.serve = None;
                continue;
            }
            if this.exchange.frame.borrow().is_none()
                && !this.exchange.broken.get()
                && !this.exchange.ended.get()
            {
                return Poll::Pending;
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.exchange.ended.get() && self.exchange.frame.borrow().is_none() && !self.exchange.broken.get()
    }

    fn size_hint(&self) -> SizeHint {
        if self.is_end_stream() {
            SizeHint::with_exact(0)
        } else {
            SizeHint::default()
        }
    }
}

/// The upstream's answer.
#[derive(Debug)]
pub struct Upstream {
    /// Status and headers.
    pub head: response::Parts,
    body: Incoming,
    lease: Lease,
    upgrade: Option<OnUpgrade>,
}

/// Why an attempt has no complete answer.
#[derive(Debug)]
pub enum Broken {
    /// Never sent: the pooled connection had gone.
    NotSent,
    /// The connection ended.
    Terminated,
    /// The connection was given up, since what was sent on it was never acknowledged.
    Unacknowledged,
    /// The stream was refused unprocessed (REFUSED_STREAM, GOAWAY).
    Refused,
    /// The stream was reset with another code.
    Reset,
    /// What came back was no HTTP.
    Protocol,
    /// The downstream broke off its body.
    Downstream,
}

impl Upstream {
    /// Sends a request and waits for the head of the answer.
    pub async fn send(mut lease: Lease, request: http::Request<OutgoingBody>) -> Result<Self, Broken> {
        match lease.send(request).await {
            Ok(mut response) => {
                let upgrade = Some(hyper::upgrade::on(&mut response));
                let (head, body) = response.into_parts();
                Ok(Self {
                    head,
                    body,
                    lease,
                    upgrade,
                })
            }
            Err(SendError::NotSent(_)) => Err(Broken::NotSent),
            Err(SendError::Silent) => Err(Broken::Unacknowledged),
            Err(SendError::Broken(error)) => {
                let host = lease.host();
                tracing::debug!(endpoint = %host, %error, cause = ?error.source(), "no answer on an open connection");
                Err(classify(&error))
            }
        }
    }

    /// What carries it.
    pub fn lease(&self) -> &Lease {
        &self.lease
    }

    /// Whether nothing of the body is left.
    pub fn is_end(&self) -> bool {
        self.body.is_end_stream()
    }

    /// The next frame; `None` at the end.
    pub async fn frame(&mut self) -> Option<Result<Frame<Bytes>, Broken>> {
        let body = &mut self.body;
        let frame = poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx)).await;
        frame.map(|f| f.map_err(|e| classify(&e)))
    }

    /// Request and answer are complete.
    pub fn finish(mut self) {
        self.lease.finish();
    }

    /// The raw connection after a 101; the lease has to live as long as it is used.
    pub fn into_upgrade(mut self) -> Option<(OnUpgrade, Lease)> {
        self.upgrade.take().map(|u| (u, self.lease))
    }
}

fn classify(error: &hyper::Error) -> Broken {
    if error.is_parse() || error.is_parse_too_large() || error.is_parse_status() {
        return Broken::Protocol;
    }
    if error.is_user() {
        return Broken::Downstream;
    }
    let mut source = error.source();
    while let Some(inner) = source {
        if let Some(io) = inner.downcast_ref::<io::Error>()
            && is_silence(io)
        {
            return Broken::Unacknowledged;
        }
        if let Some(h2) = inner.downcast_ref::<h2::Error>() {
            if h2.get_io().is_some_and(is_silence) {
                return Broken::Unacknowledged;
            }
            return match h2.reason() {
                Some(h2::Reason::REFUSED_STREAM) => Broken::Refused,
                Some(h2::Reason::NO_ERROR) if h2.is_go_away() => Broken::Refused,
                Some(_) if h2.is_remote() => Broken::Reset,
                Some(h2::Reason::PROTOCOL_ERROR) => Broken::Protocol,
                _ => Broken::Terminated,
            };
        }
        if inner.is::<super::body::BodyError>() {
            return Broken::Downstream;
        }
        source = inner.source();
    }
    Broken::Terminated
}

/// `TCP_USER_TIMEOUT`, or a route that is gone.
fn is_silence(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::TimedOut | io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable
    )
}

/// A head for an answer of our own.
pub fn answer(status: StatusCode) -> response::Parts {
    let mut response = http::Response::new(());
    *response.status_mut() = status;
    response.into_parts().0
}
