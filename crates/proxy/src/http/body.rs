//! A request's body on its way through: read once from the downstream, remembered up to a cap, so that a
//! retry can send it again.

use std::cell::RefCell;
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

/// What is remembered for retries at most.
pub const REPLAY_CAP: usize = 64 * 1024;

/// Why a body could not be sent on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    /// The downstream broke off.
    #[error("the downstream broke off its request body")]
    Downstream,
    /// A later attempt took over.
    #[error("another attempt took over")]
    Superseded,
}

/// The downstream's body, shared by the attempts to send it.
#[derive(Debug)]
pub struct RequestSource(RefCell<Source>);

#[derive(Debug)]
struct Source {
    incoming: Option<Incoming>,
    /// What was read, in order; the first `kept` bytes of the body.
    chunks: Vec<Bytes>,
    trailers: Option<HeaderMap>,
    kept: usize,
    cap: usize,
    /// More was read than may be kept: no further attempt can send it.
    lost: bool,
    ended: bool,
    failed: bool,
    received: u64,
    /// Message lengths of a gRPC body.
    messages: Option<MessageCounter>,
    /// The attempt that may read.
    attempt: u32,
    began: Instant,
    ended_after: Option<Duration>,
    waiting_for_end: Option<Waker>,
}

impl RequestSource {
    /// Takes the downstream's body.
    pub fn new(incoming: Incoming) -> Rc<Self> {
        let ended = incoming.is_end_stream();
        Rc::new(Self(RefCell::new(Source {
            incoming: (!ended).then_some(incoming),
            chunks: Vec::new(),
            trailers: None,
            kept: 0,
            cap: 0,
            lost: false,
            ended,
            failed: false,
            received: 0,
            messages: None,
            attempt: 0,
            began: Instant::now(),
            ended_after: ended.then_some(Duration::ZERO),
            waiting_for_end: None,
        })))
    }

    /// Remembers up to `cap` bytes from the first read on.
    pub fn remember(&self, cap: usize) {
        self.0.borrow_mut().cap = cap;
    }

    /// Counts the messages of a gRPC request.
    pub fn count_messages(&self) {
        self.0.borrow_mut().messages = Some(MessageCounter::default());
    }

    /// gRPC messages read.
    pub fn messages(&self) -> u64 {
        self.0.borrow().messages.as_ref().map_or(0, |m| m.messages)
    }

    /// Whether another attempt could send the whole body.
    pub fn can_replay(&self) -> bool {
        let source = self.0.borrow();
        !source.lost && !source.failed
    }

    /// Whether the body is complete.
    pub fn is_ended(&self) -> bool {
        self.0.borrow().ended
    }

    /// Whether the downstream broke off.
    pub fn is_failed(&self) -> bool {
        self.0.borrow().failed
    }

    /// Body bytes read from the downstream.
    pub fn received(&self) -> u64 {
        self.0.borrow().received
    }

    /// When the body was complete, after the request began.
    pub fn ended_after(&self) -> Option<Duration> {
        self.0.borrow().ended_after
    }

    /// Waits until the body is complete.
    pub async fn ended(&self) {
        poll_fn(|cx| {
            let mut source = self.0.borrow_mut();
            if source.ended {
                return Poll::Ready(());
            }
            source.waiting_for_end = Some(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }

    /// The body for the next attempt; earlier ones read no more.
    pub fn attempt(self: &Rc<Self>) -> OutgoingBody {
        let mut source = self.0.borrow_mut();
        source.attempt += 1;
        if source.ended && source.chunks.is_empty() && source.trailers.is_none() {
            return OutgoingBody::Empty;
        }
        OutgoingBody::Attempt {
            source: self.clone(),
            attempt: source.attempt,
            position: 0,
            done: false,
        }
    }

    /// A copy of the whole body, when it is complete and was remembered.
    pub fn copy(&self) -> Option<Bytes> {
        let source = self.0.borrow();
        if !source.ended || source.lost {
            return None;
        }
        Some(source.chunks.concat().into())
    }
}

impl Source {
    /// The next frame from the downstream.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if self.failed {
            return Poll::Ready(Some(Err(BodyError::Downstream)));
        }
        let Some(incoming) = &mut self.incoming else {
            return Poll::Ready(None);
        };
        let frame = match ready!(Pin::new(&mut *incoming).poll_frame(cx)) {
            Some(Ok(frame)) => frame,
            Some(Err(_)) => {
                self.failed = true;
                self.incoming = None;
                return Poll::Ready(Some(Err(BodyError::Downstream)));
            }
            None => {
                self.end();
                return Poll::Ready(None);
            }
        };
        let last = incoming.is_end_stream();
        if let Some(data) = frame.data_ref() {
            self.received += data.len() as u64;
            if let Some(messages) = &mut self.messages {
                messages.add(data);
            }
            if self.kept + data.len() <= self.cap {
                self.kept += data.len();
                self.chunks.push(data.clone());
            } else {
                self.lost = true;
                self.chunks = Vec::new();
            }
        } else if let Some(trailers) = frame.trailers_ref() {
            self.trailers = Some(trailers.clone());
        }
        if last {
            self.end();
        }
        Poll::Ready(Some(Ok(frame)))
    }

    fn end(&mut self) {
        self.ended = true;
        self.incoming = None;
        self.ended_after = Some(self.began.elapsed());
        if let Some(waker) = self.waiting_for_end.take() {
            waker.wake();
        }
    }
}

/// What is sent upstream.
#[derive(Debug)]
pub enum OutgoingBody {
    /// Nothing.
    Empty,
    /// These bytes: copies for mirrors.
    Whole(Option<Bytes>),
    /// One attempt at the downstream's body.
    Attempt {
        /// Whose body.
        source: Rc<RequestSource>,
        /// Which attempt.
        attempt: u32,
        /// Remembered chunks sent so far.
        position: usize,
        /// Everything was sent.
        done: bool,
    },
}

impl Body for OutgoingBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.get_mut() {
            Self::Empty => Poll::Ready(None),
            Self::Whole(bytes) => Poll::Ready(bytes.take().map(|b| Ok(Frame::data(b)))),
            Self::Attempt {
                source,
                attempt,
                position,
                done,
            } => {
                let mut source = source.0.borrow_mut();
                if *done {
                    return Poll::Ready(None);
                }
                if source.attempt != *attempt {
                    return Poll::Ready(Some(Err(BodyError::Superseded)));
                }
                if let Some(chunk) = source.chunks.get(*position) {
                    *position += 1;
                    return Poll::Ready(Some(Ok(Frame::data(chunk.clone()))));
                }
                if source.ended {
                    *done = true;
                    let trailers = source.trailers.clone();
                    return Poll::Ready(trailers.map(|t| Ok(Frame::trailers(t))));
                }
                let frame = ready!(source.poll_read(cx));
                *position = source.chunks.len();
                match &frame {
                    Some(Ok(f)) if f.is_trailers() => *done = true,
                    None => *done = true,
                    _ => {}
                }
                Poll::Ready(frame)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty | Self::Whole(None) => true,
            Self::Whole(Some(bytes)) => bytes.is_empty(),
            Self::Attempt {
                source,
                position,
                done,
                ..
            } => {
                let source = source.0.borrow();
                *done || (source.ended && source.trailers.is_none() && *position >= source.chunks.len())
            }
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty | Self::Whole(None) => SizeHint::with_exact(0),
            Self::Whole(Some(bytes)) => SizeHint::with_exact(bytes.len() as u64),
            Self::Attempt { source, .. } => {
                let source = source.0.borrow();
                match (&source.incoming, source.received) {
                    (Some(incoming), 0) => incoming.size_hint(),
                    _ => SizeHint::default(),
                }
            }
        }
    }
}

/// Counts length-prefixed gRPC messages as bytes pass.
#[derive(Debug, Default)]
pub struct MessageCounter {
    /// Messages begun.
    pub messages: u64,
    prefix: [u8; 5],
    filled: usize,
    left: u64,
}

impl MessageCounter {
    /// Takes the next bytes.
    pub fn add(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.left > 0 {
                let n = self.left.min(bytes.len() as u64);
                self.left -= n;
                bytes = &bytes[n as usize..];
                continue;
            }
            self.prefix[self.filled] = bytes[0];
            self.filled += 1;
            bytes = &bytes[1..];
            if self.filled == 5 {
                let [_, a, b, c, d] = self.prefix;
                self.left = u64::from(u32::from_be_bytes([a, b, c, d]));
                self.filled = 0;
                self.messages += 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_counted_however_they_are_cut() {
        let mut body = Vec::new();
        for length in [0usize, 3, 300] {
            body.push(0);
            body.extend_from_slice(&(length as u32).to_be_bytes());
            body.extend(std::iter::repeat_n(7, length));
        }
        for size in [1, 2, 7, body.len()] {
            let mut counter = MessageCounter::default();
            for piece in body.chunks(size) {
                counter.add(piece);
            }
            assert_eq!(counter.messages, 3, "pieces of {size}");
        }
    }
}
