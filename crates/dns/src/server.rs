//! The socket loop: UDP and TCP on sockets that the caller has bound, everything bounded.
//!
//! Answers from our own names are made in the loop itself; only what is forwarded becomes a task.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::{join, join_all};
use hickory_proto::op::ResponseCode;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::forward::Forwarder;
use crate::metrics::DnsMetrics;
use crate::wire::{self, Parsed, Question, Reply, Transport};

/// Decides what to answer. Pure: it neither waits nor does I/O.
pub trait Handler: Send + Sync + 'static {
    /// The fate of one question.
    fn decide(&self, question: &Question) -> Decision;
}

/// The fate of a question.
#[derive(Debug)]
pub enum Decision {
    /// Answer this.
    Answer(Reply),
    /// Ask these upstreams, and read their "no such name" as told.
    Forward(Forwarder, Denial),
}

/// What becomes of an upstream's NXDOMAIN (and, where we know better, of its failure).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Denial {
    /// It is the answer.
    Keep,
    /// We know the name: it exists, with no record of this type.
    NoData,
    /// We cannot know yet whether the name is ours: the client is to ask again (SERVFAIL).
    AskAgain,
}

/// What a server lets clients take.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Questions that are forwarded at once; more are answered SERVFAIL.
    pub forwards: usize,
    /// TCP connections at once; more are closed.
    pub connections: usize,
    /// How long a TCP connection may be idle, or slow in sending or taking one message.
    pub idle: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            forwards: 512,
            connections: 64,
            idle: Duration::from_secs(10),
        }
    }
}

/// A server on bound sockets.
#[derive(Debug)]
pub struct Server {
    udp: Vec<std::net::UdpSocket>,
    tcp: Vec<std::net::TcpListener>,
    limits: Limits,
    metrics: DnsMetrics,
}

struct Shared {
    handler: Arc<dyn Handler>,
    forwards: Semaphore,
    connections: Arc<Semaphore>,
    limits: Limits,
    metrics: DnsMetrics,
}

impl Server {
    /// On sockets that the caller bound, marked or opened in another namespace.
    pub fn on(udp: Vec<std::net::UdpSocket>, tcp: Vec<std::net::TcpListener>, metrics: DnsMetrics) -> Self {
        Self {
            udp,
            tcp,
            limits: Limits::default(),
            metrics,
        }
    }

    /// Other limits than the default ones.
    pub fn with_limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Serves until the future is dropped; all tasks end with it. Names are needed to the very end of a
    /// drain, so this does not watch one: hold it in the role's last task. Returns only if a socket
    /// cannot be taken over by the runtime.
    pub async fn serve(self, handler: Arc<dyn Handler>) -> io::Result<()> {
        let shared = Arc::new(Shared {
            handler,
            forwards: Semaphore::new(self.limits.forwards),
            connections: Arc::new(Semaphore::new(self.limits.connections)),
            limits: self.limits,
            metrics: self.metrics,
        });
        let mut datagrams = Vec::new();
        for socket in self.udp {
            socket.set_nonblocking(true)?;
            datagrams.push(serve_udp(Arc::new(UdpSocket::from_std(socket)?), shared.clone()));
        }
        let mut streams = Vec::new();
        for listener in self.tcp {
            listener.set_nonblocking(true)?;
            streams.push(serve_tcp(TcpListener::from_std(listener)?, shared.clone()));
        }
        join(join_all(datagrams), join_all(streams)).await;
        Ok(())
    }
}

async fn serve_udp(socket: Arc<UdpSocket>, shared: Arc<Shared>) {
    let mut tasks = JoinSet::new();
    let mut buffer = vec![0; wire::MAX_UDP];
    loop {
        let received = tokio::select! {
            received = socket.recv_from(&mut buffer) => received,
            Some(_) = tasks.join_next() => continue,
        };
        let (length, peer) = match received {
            Ok(received) => received,
            Err(error) => {
                // An ICMP error of an earlier answer shows up here; it says nothing of the socket.
                tracing::debug!(%error, "a DNS client is gone");
                tokio::task::yield_now().await;
                continue;
            }
        };
        match shared.begin(Bytes::copy_from_slice(&buffer[..length]), Transport::Udp) {
            Begun::Done(answer) => send(&socket, &answer, peer).await,
            Begun::Ignore => {}
            Begun::Forward(question, forwarder, denial) => {
                if shared.forwards.available_permits() == 0 {
                    shared.metrics.overload.inc();
                    send(
                        &socket,
                        &question.encode(&Reply::code(ResponseCode::ServFail)),
                        peer,
                    )
                    .await;
                    continue;
                }
                let (socket, shared) = (socket.clone(), shared.clone());
                tasks.spawn(async move {
                    let answer = shared.forward(&question, &forwarder, denial).await;
                    send(&socket, &answer, peer).await;
                });
            }
        }
    }
}

async fn send(socket: &UdpSocket, answer: &[u8], peer: SocketAddr) {
    if let Err(error) = socket.send_to(answer, peer).await {
        tracing::debug!(%error, %peer, "cannot send a DNS answer");
    }
}

async fn serve_tcp(listener: TcpListener, shared: Arc<Shared>) {
    let mut tasks = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = tasks.join_next() => continue,
        };
        match accepted {
            Ok((stream, peer)) => match shared.connections.clone().try_acquire_owned() {
                Ok(permit) => {
                    let shared = shared.clone();
                    tasks.spawn(async move {
                        if let Err(error) = connection(stream, &shared).await {
                            tracing::debug!(%error, %peer, "DNS connection ended");
                        }
                        drop(permit);
                    });
                }
                Err(_) => {
                    shared.metrics.overload.inc();
                }
            },
            Err(error) => {
                tracing::warn!(%error, "cannot accept DNS connections");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// One question after the other, each answered before the next is read.
async fn connection(mut stream: TcpStream, shared: &Shared) -> io::Result<()> {
    let idle = shared.limits.idle;
    let late = |_| io::Error::from(io::ErrorKind::TimedOut);
    loop {
        let frame = async {
            let length = stream.read_u16().await?;
            let mut message = vec![0; usize::from(length)];
            stream.read_exact(&mut message).await?;
            io::Result::Ok(message)
        };
        let message = match timeout(idle, frame).await.map_err(late)? {
            Ok(message) => message,
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            Err(error) => return Err(error),
        };
        let answer = match shared.begin(message.into(), Transport::Tcp) {
            Begun::Done(answer) => answer,
            Begun::Ignore => return Ok(()),
            Begun::Forward(question, forwarder, denial) => {
                shared.forward(&question, &forwarder, denial).await
            }
        };
        let length = u16::try_from(answer.len()).map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
        let framed = [&length.to_be_bytes(), answer.as_slice()].concat();
        timeout(idle, stream.write_all(&framed)).await.map_err(late)??;
    }
}

enum Begun {
    Done(Vec<u8>),
    Ignore,
    Forward(Box<Question>, Forwarder, Denial),
}

impl Shared {
    fn begin(&self, raw: Bytes, transport: Transport) -> Begun {
        let question = match wire::parse(raw, transport) {
            Parsed::Question(question) => question,
            Parsed::Refuse(refusal) => {
                self.metrics.malformed.inc();
                return Begun::Done(refusal);
            }
            Parsed::Ignore => {
                self.metrics.malformed.inc();
                return Begun::Ignore;
            }
        };
        self.metrics.requests.inc();
        match self.handler.decide(&question) {
            Decision::Answer(reply) => {
                self.metrics.answered.inc();
                Begun::Done(question.encode(&reply))
            }
            Decision::Forward(forwarder, denial) => Begun::Forward(question, forwarder, denial),
        }
    }

    async fn forward(&self, question: &Question, forwarder: &Forwarder, denial: Denial) -> Vec<u8> {
        let Ok(_permit) = self.forwards.try_acquire() else {
            self.metrics.overload.inc();
            return question.encode(&Reply::code(ResponseCode::ServFail));
        };
        let code = match forwarder.answer(question).await {
            Ok(answer) => {
                // The response code: the header's last four bits.
                let denied = answer.get(3).is_some_and(|flags| flags & 0xf != 0);
                match denial {
                    Denial::NoData if denied => ResponseCode::NoError,
                    Denial::AskAgain if denied => ResponseCode::ServFail,
                    _ => return answer,
                }
            }
            Err(error) => {
                tracing::debug!(name = question.name, %error, "cannot forward a DNS question");
                if denial == Denial::NoData {
                    ResponseCode::NoError
                } else {
                    ResponseCode::ServFail
                }
            }
        };
        question.encode(&Reply::code(code))
    }
}

#[cfg(test)]
mod tests;
