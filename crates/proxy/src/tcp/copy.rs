//! Copies both ways between two streams: back-pressure, half-close, idle timeout, bytes counted.
//!
//! A read goes straight on to the other side from one scratch buffer per worker; only what the other side
//! did not take is kept. Between plain sockets, a direction whose reads fill the scratch buffer turns to
//! [`super::splice`].

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_util::FutureExt as _;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::splice::Pipe;
use super::stream::Stream;

/// One read. Small, so that it stays in the cache; what fills it twice in a row is bulk.
const SCRATCH: usize = 16 * 1024;
/// Full reads in a row before a direction turns to splice.
const FULL_READS: u32 = 2;
/// Rounds of one direction before others get their turn.
const ROUNDS: u32 = 16;

thread_local! {
    static BUFFER: RefCell<Box<[u8]>> = RefCell::new(vec![0; SCRATCH].into_boxed_slice());
}

/// Bytes that went through, readable while the copy runs.
#[derive(Debug, Default)]
pub struct Counted {
    /// From the downstream.
    pub received: Cell<u64>,
    /// To the downstream.
    pub sent: Cell<u64>,
    /// The downstream spoke last, and is owed an answer if the protocol has any.
    pub asking: Cell<bool>,
}

/// How a copy ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// Both sides closed in order.
    Closed,
    /// Neither side moved a byte for the idle timeout.
    Idle,
    /// The downstream's connection broke.
    DownstreamBroken,
    /// The upstream's connection broke.
    UpstreamBroken,
}

/// Which side failed.
enum Broken {
    Source,
    Sink,
}

/// Copies until both sides are closed, one breaks, or nothing moves for `idle`.
pub async fn both_ways(
    downstream: &mut Stream,
    upstream: &mut Stream,
    idle: Option<Duration>,
    counted: &Counted,
) -> Ending {
    if let (Some(down), Some(up)) = (downstream.as_plain(), upstream.as_plain()) {
        let mut there = Plain::new(down, up);
        let mut back = Plain::new(up, down);
        return run(
            |cx| (there.poll(cx, &counted.received), back.poll(cx, &counted.sent)),
            idle,
            counted,
        )
        .await;
    }
    let mut there = Copied::default();
    let mut back = Copied::default();
    run(
        |cx| {
            (
                there.poll(cx, downstream, upstream, &counted.received),
                back.poll(cx, upstream, downstream, &counted.sent),
            )
        },
        idle,
        counted,
    )
    .await
}

type Direction = Poll<Result<(), Broken>>;

async fn run(
    mut step: impl FnMut(&mut Context<'_>) -> (Direction, Direction),
    idle: Option<Duration>,
    counted: &Counted,
) -> Ending {
    let patience = idle.filter(|d| !d.is_zero());
    let mut timer = patience.map(|d| Box::pin(tokio::time::sleep(d)));
    let mut seen = 0u64;
    let (mut received, mut sent) = (0, 0);
    poll_fn(move |cx| {
        loop {
            let (there, back) = step(cx);
            if counted.received.get() != received {
                counted.asking.set(true);
            } else if counted.sent.get() != sent {
                counted.asking.set(false);
            }
            (received, sent) = (counted.received.get(), counted.sent.get());
            match (&there, &back) {
                (Poll::Ready(Err(Broken::Source)), _) | (_, Poll::Ready(Err(Broken::Sink))) => {
                    return Poll::Ready(Ending::DownstreamBroken);
                }
                (Poll::Ready(Err(Broken::Sink)), _) | (_, Poll::Ready(Err(Broken::Source))) => {
                    return Poll::Ready(Ending::UpstreamBroken);
                }
                (Poll::Ready(Ok(())), Poll::Ready(Ok(()))) => return Poll::Ready(Ending::Closed),
                _ => {}
            }
            let (Some(timer), Some(patience)) = (timer.as_mut(), patience) else {
                return Poll::Pending;
            };
            ready!(timer.as_mut().poll_unpin(cx));
            let moved = counted.received.get() + counted.sent.get();
            if moved == seen {
                return Poll::Ready(Ending::Idle);
            }
            // Moved since the timer was set: it is only reset here, never for every chunk.
            seen = moved;
            timer.as_mut().reset(Instant::now() + patience);
        }
    })
    .await
}

/// One direction between plain sockets.
struct Plain<'a> {
    from: &'a TcpStream,
    to: &'a TcpStream,
    /// Read but not yet written.
    rest: Vec<u8>,
    at: usize,
    full_reads: u32,
    pipe: Option<Pipe>,
    ended: bool,
    done: bool,
}

impl<'a> Plain<'a> {
    fn new(from: &'a TcpStream, to: &'a TcpStream) -> Self {
        Self {
            from,
            to,
            rest: Vec::new(),
            at: 0,
            full_reads: 0,
            pipe: None,
            ended: false,
            done: false,
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>, counter: &Cell<u64>) -> Direction {
        for _ in 0..ROUNDS {
            if self.done {
                return Poll::Ready(Ok(()));
            }
            if self.at < self.rest.len() {
                ready!(self.to.poll_write_ready(cx)).map_err(|_| Broken::Sink)?;
                match self.to.try_write(&self.rest[self.at..]) {
                    Ok(n) => {
                        self.at += n;
                        add(counter, n);
                    }
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                    Err(_) => return Poll::Ready(Err(Broken::Sink)),
                }
                if self.at == self.rest.len() {
                    self.rest = Vec::new();
                    self.at = 0;
                }
                continue;
            }
            if let Some(pipe) = self.pipe.as_mut().filter(|p| p.held() > 0) {
                ready!(self.to.poll_write_ready(cx)).map_err(|_| Broken::Sink)?;
                match self.to.try_io(Interest::WRITABLE, || pipe.empty(self.to)) {
                    Ok(n) => add(counter, n),
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                    Err(_) => return Poll::Ready(Err(Broken::Sink)),
                }
                continue;
            }
            if self.ended {
                self.done = true;
                if let Some(pipe) = self.pipe.take() {
                    pipe.give_back();
                }
                // The other side may be gone already; then there is nobody to tell.
                let _ = socket2::SockRef::from(self.to).shutdown(std::net::Shutdown::Write);
                continue;
            }
            ready!(self.from.poll_read_ready(cx)).map_err(|_| Broken::Source)?;
            match &mut self.pipe {
                Some(pipe) => match self.from.try_io(Interest::READABLE, || pipe.fill(self.from)) {
                    Ok(0) => self.ended = true,
                    Ok(_) => {}
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                    Err(_) => return Poll::Ready(Err(Broken::Source)),
                },
                None => self.through_scratch(counter)?,
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn through_scratch(&mut self, counter: &Cell<u64>) -> Result<(), Broken> {
        BUFFER.with_borrow_mut(|buffer| {
            let n = match self.from.try_read(buffer) {
                Ok(0) => {
                    self.ended = true;
                    return Ok(());
                }
                Ok(n) => n,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(_) => return Err(Broken::Source),
            };
            let written = match self.to.try_write(&buffer[..n]) {
                Ok(written) => written,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => 0,
                Err(_) => return Err(Broken::Sink),
            };
            add(counter, written);
            if written < n {
                self.rest = buffer[written..n].to_vec();
            }
            self.full_reads = if n == buffer.len() { self.full_reads + 1 } else { 0 };
            if self.full_reads >= FULL_READS {
                // Without a pipe the copy goes on as before.
                self.pipe = Pipe::take().ok();
                self.full_reads = 0;
            }
            Ok(())
        })
    }
}

/// One direction where a side is encrypted or buffered.
#[derive(Default)]
struct Copied {
    rest: Vec<u8>,
    at: usize,
    unflushed: bool,
    ended: bool,
    done: bool,
}

impl Copied {
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut Stream,
        to: &mut Stream,
        counter: &Cell<u64>,
    ) -> Direction {
        for _ in 0..ROUNDS {
            if self.done {
                return Poll::Ready(Ok(()));
            }
            if self.at < self.rest.len() {
                let n = ready!(Pin::new(&mut *to).poll_write(cx, &self.rest[self.at..]))
                    .map_err(|_| Broken::Sink)?;
                if n == 0 {
                    return Poll::Ready(Err(Broken::Sink));
                }
                add(counter, n);
                self.unflushed = true;
                self.at += n;
                if self.at == self.rest.len() {
                    self.rest.clear();
                    self.at = 0;
                    if self.rest.capacity() > SCRATCH {
                        self.rest = Vec::new();
                    }
                }
                continue;
            }
            if self.ended {
                match ready!(Pin::new(&mut *to).poll_shutdown(cx)) {
                    Ok(()) => self.done = true,
                    Err(_) => return Poll::Ready(Err(Broken::Sink)),
                }
                continue;
            }
            let read = BUFFER.with_borrow_mut(|buffer| {
                let mut buffer = ReadBuf::new(buffer);
                match Pin::new(&mut *from).poll_read(cx, &mut buffer) {
                    Poll::Pending => Poll::Pending,
                    Poll::Ready(Err(e)) if e.kind() == io::ErrorKind::UnexpectedEof => {
                        // TLS without close_notify: the end, as far as bytes go.
                        self.ended = true;
                        Poll::Ready(Ok(()))
                    }
                    Poll::Ready(Err(_)) => Poll::Ready(Err(Broken::Source)),
                    Poll::Ready(Ok(())) if buffer.filled().is_empty() => {
                        self.ended = true;
                        Poll::Ready(Ok(()))
                    }
                    Poll::Ready(Ok(())) => {
                        self.rest.extend_from_slice(buffer.filled());
                        Poll::Ready(Ok(()))
                    }
                }
            });
            match read {
                Poll::Ready(result) => result?,
                Poll::Pending => {
                    if self.unflushed {
                        ready!(Pin::new(&mut *to).poll_flush(cx)).map_err(|_| Broken::Sink)?;
                        self.unflushed = false;
                    }
                    return Poll::Pending;
                }
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

fn add(counter: &Cell<u64>, n: usize) {
    counter.set(counter.get() + n as u64);
}
