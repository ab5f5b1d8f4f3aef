//! Asking upstream resolvers.
//!
//! Every try has a socket of its own, so that its port is random and connected to the upstream; the id
//! is random too, and an answer counts only if it repeats id and question (RFC 5452). Messages are passed
//! on as bytes, so that record types nobody here knows survive.
//!
//! ```text
//!   query ──> cache? ──> preferred upstream ──timeout, refused, SERVFAIL──> next ──> … ──> ForwardError
//! ```

mod cache;

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use hickory_proto::op::{Message, ResponseCode};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, UdpSocket};
use tokio::time::{Instant, timeout, timeout_at};

use crate::metrics::DnsMetrics;
use crate::wire::{self, HEADER, Parsed, Question, Transport};

/// How upstreams are asked.
#[derive(Debug, Clone)]
pub struct Options {
    /// The resolvers, in order of preference.
    pub upstreams: Vec<SocketAddr>,
    /// `SO_MARK` for every socket, so that traffic capture skips it; needs CAP_NET_ADMIN.
    pub mark: Option<u32>,
    /// Time for one try at one upstream.
    pub attempt: Duration,
    /// Time for everything; below the five seconds after which glibc asks again.
    pub deadline: Duration,
    /// How often the list of upstreams is gone through.
    pub rounds: usize,
    /// Answers that are kept at most; 0 keeps none.
    pub cache: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            upstreams: Vec::new(),
            mark: None,
            attempt: Duration::from_millis(1500),
            deadline: Duration::from_millis(4500),
            rounds: 2,
            cache: 0,
        }
    }
}

/// Why no upstream answered.
#[derive(Debug, thiserror::Error)]
pub enum ForwardError {
    /// The list is empty.
    #[error("there is no upstream resolver; name one in /etc/resolv.conf")]
    NoUpstreams,
    /// All were tried.
    #[error("no upstream resolver answered: {}", .0.iter().map(|(a, why)| format!("{a}: {why}")).collect::<Vec<_>>().join("; "))]
    Failed(Vec<(SocketAddr, String)>),
    /// The bytes to send are no query.
    #[error("not a DNS query")]
    NotAQuery,
}

/// Asks upstreams. Cheap to clone; clones share upstreams, cache and what is known of upstreams' health.
#[derive(Debug, Clone)]
pub struct Forwarder(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    upstreams: ArcSwap<Vec<SocketAddr>>,
    /// Index of the upstream that answered last: a dead first one costs its timeout only once.
    preferred: AtomicUsize,
    options: Options,
    cache: cache::Cache,
    metrics: DnsMetrics,
}

impl Forwarder {
    /// A forwarder; opens nothing yet.
    pub fn new(options: Options, metrics: DnsMetrics) -> Self {
        Self(Arc::new(Inner {
            upstreams: ArcSwap::from_pointee(options.upstreams.clone()),
            preferred: AtomicUsize::new(0),
            cache: cache::Cache::new(options.cache),
            options,
            metrics,
        }))
    }

    /// Replaces the upstreams from the next question on.
    pub fn set_upstreams(&self, upstreams: Vec<SocketAddr>) {
        self.0.upstreams.store(Arc::new(upstreams));
        self.0.preferred.store(0, Ordering::Relaxed);
    }

    /// The upstreams as they are now.
    pub fn upstreams(&self) -> Vec<SocketAddr> {
        self.0.upstreams.load().as_ref().clone()
    }

    /// The answer to a client's question, addressed to it: over UDP possibly truncated, over TCP whole.
    pub async fn answer(&self, question: &Question) -> Result<Vec<u8>, ForwardError> {
        if let Some(message) = self.0.cache.answer(question) {
            self.0.metrics.cache_hits.inc();
            return Ok(question.readdress(message));
        }
        self.0.metrics.forwarded.inc();
        let mut answer = self.exchange(&question.raw, question.transport).await?;
        self.0.cache.keep(question, &answer);
        if answer.len() > question.room() {
            answer = match Message::from_vec(&answer) {
                Ok(message) => question.readdress(message),
                Err(_) => question.encode(&wire::Reply::code(ResponseCode::ServFail)),
            };
        }
        Ok(answer)
    }

    /// Sends a query's bytes (the id is replaced on the way and restored in the answer). Over TCP an
    /// upstream that has no TCP is asked by UDP. An upstream's SERVFAIL or REFUSED is returned only when
    /// none does better.
    pub async fn exchange(&self, query: &[u8], transport: Transport) -> Result<Vec<u8>, ForwardError> {
        let Parsed::Question(question) = wire::parse(Bytes::copy_from_slice(query), transport) else {
            return Err(ForwardError::NotAQuery);
        };
        let upstreams = self.0.upstreams.load_full();
        if upstreams.is_empty() {
            return Err(ForwardError::NoUpstreams);
        }
        let deadline = Instant::now() + self.0.options.deadline;
        let first = self.0.preferred.load(Ordering::Relaxed);
        let mut failures: Vec<(SocketAddr, String)> = Vec::new();
        let mut fallback = None;
        for step in 0..upstreams.len() * self.0.options.rounds.max(1) {
            let index = (first + step) % upstreams.len();
            let upstream = upstreams[index];
            match timeout_at(deadline, self.attempt(upstream, &question, transport)).await {
                Ok(Ok(answer)) => {
                    if !matches!(answer[3] & 0xf, 2 | 5) {
                        self.0.preferred.store(index, Ordering::Relaxed);
                        return Ok(answer);
                    }
                    note(
                        &mut failures,
                        upstream,
                        "it answered SERVFAIL or REFUSED".to_owned(),
                    );
                    fallback.get_or_insert(answer);
                }
                Ok(Err(error)) => note(&mut failures, upstream, error.to_string()),
                Err(_) => {
                    note(&mut failures, upstream, "no time left".to_owned());
                    self.0.metrics.upstream_failures.inc();
                    break;
                }
            }
            self.0.metrics.upstream_failures.inc();
        }
        fallback.ok_or(ForwardError::Failed(failures))
    }

    /// The whole answer: by UDP, and by TCP when that was cut.
    pub(crate) async fn whole(&self, query: &[u8]) -> Result<Vec<u8>, ForwardError> {
        let answer = self.exchange(query, Transport::Udp).await?;
        if answer[2] & 0x02 == 0 {
            return Ok(answer);
        }
        // What was cut is still better than nothing.
        Ok(self.exchange(query, Transport::Tcp).await.unwrap_or(answer))
    }

    async fn attempt(
        &self,
        upstream: SocketAddr,
        question: &Question,
        transport: Transport,
    ) -> io::Result<Vec<u8>> {
        let (id, mut query) = (rand::random::<u16>(), question.raw.to_vec());
        query[..2].copy_from_slice(&id.to_be_bytes());
        let time = self.0.options.attempt;
        let late = |_| io::Error::new(io::ErrorKind::TimedOut, format!("no answer within {time:?}"));
        let by_tcp = match transport {
            Transport::Udp => None,
            Transport::Tcp => Some(
                timeout(time, self.tcp(upstream, &query, question))
                    .await
                    .map_err(late),
            ),
        };
        let mut answer = match by_tcp {
            Some(Ok(Ok(answer))) => answer,
            _ => timeout(time, self.udp(upstream, &query, question))
                .await
                .map_err(late)??,
        };
        answer[..2].copy_from_slice(&question.raw[..2]);
        Ok(answer)
    }

    async fn udp(&self, upstream: SocketAddr, query: &[u8], question: &Question) -> io::Result<Vec<u8>> {
        let socket = self.socket(upstream, Type::DGRAM, Protocol::UDP)?;
        let any = match upstream {
            SocketAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            SocketAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        };
        socket.bind(&SocketAddr::new(any, 0).into())?;
        let socket = UdpSocket::from_std(socket.into())?;
        socket.connect(upstream).await?;
        socket.send(query).await?;
        let mut buffer = vec![0; wire::MAX_UDP];
        loop {
            // Whatever is not the answer is waited past: a forger must not be able to end the wait.
            let length = socket.recv(&mut buffer).await?;
            if answers(&buffer[..length], query, question) {
                buffer.truncate(length);
                return Ok(buffer);
            }
        }
    }

    async fn tcp(&self, upstream: SocketAddr, query: &[u8], question: &Question) -> io::Result<Vec<u8>> {
        let socket = self.socket(upstream, Type::STREAM, Protocol::TCP)?;
        let mut stream = TcpSocket::from_std_stream(socket.into())
            .connect(upstream)
            .await?;
        let length = u16::try_from(query.len()).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
        stream.write_all(&[&length.to_be_bytes(), query].concat()).await?;
        let length = stream.read_u16().await?;
        let mut answer = vec![0; usize::from(length)];
        stream.read_exact(&mut answer).await?;
        if answers(&answer, query, question) {
            Ok(answer)
        } else {
            Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "it answered another question",
            ))
        }
    }

    fn socket(&self, upstream: SocketAddr, kind: Type, protocol: Protocol) -> io::Result<Socket> {
        let socket = Socket::new(Domain::for_address(upstream), kind, Some(protocol))?;
        if let Some(mark) = self.0.options.mark {
            socket
                .set_mark(mark)
                .map_err(|e| io::Error::new(e.kind(), format!("cannot mark the socket: {e}")))?;
        }
        socket.set_nonblocking(true)?;
        Ok(socket)
    }
}

fn note(failures: &mut Vec<(SocketAddr, String)>, upstream: SocketAddr, why: String) {
    match failures.iter_mut().find(|(of, _)| *of == upstream) {
        Some((_, last)) => *last = why,
        None => failures.push((upstream, why)),
    }
}

/// Whether `answer` is a response to `query`: id, and the question where it has one. An error may come
/// without its question.
fn answers(answer: &[u8], query: &[u8], question: &Question) -> bool {
    if answer.len() < HEADER || answer[..2] != query[..2] || answer[2] & 0x80 == 0 {
        return false;
    }
    let asked = question.asked_bytes();
    let count = u16::from_be_bytes([answer[4], answer[5]]);
    match answer.get(HEADER..HEADER + asked.len()) {
        Some(repeated) if count == 1 => repeated.eq_ignore_ascii_case(asked),
        _ => count == 0 && answer[3] & 0xf != 0,
    }
}

#[cfg(test)]
mod tests;
