//! What the tests share: a question made by hand and small servers on loopback.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query};
use hickory_proto::rr::{Name, RData, RecordType};
use isthmus_runtime::bind;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::task::AbortHandle;
use tokio::time::timeout;

use crate::forward::{Forwarder, Options};
use crate::metrics::DnsMetrics;
use crate::server::{Handler, Limits, Server};
use crate::wire::{self, Parsed, Question, Transport};

pub fn query(name: &str, kind: RecordType, edns: Option<u16>) -> Vec<u8> {
    let mut message = Message::new(77, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message
        .queries
        .push(Query::query(Name::from_ascii(name).unwrap(), kind));
    message.edns = edns.map(|payload| {
        let mut edns = Edns::new();
        edns.set_max_payload(payload);
        edns
    });
    message.to_vec().unwrap()
}

pub fn question(name: &str, kind: RecordType) -> Question {
    match wire::parse(Bytes::from(query(name, kind, None)), Transport::Udp) {
        Parsed::Question(question) => *question,
        other => panic!("{other:?}"),
    }
}

/// A server that ends with the value.
pub struct Running {
    pub address: SocketAddr,
    pub metrics: DnsMetrics,
    task: AbortHandle,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

pub fn start(handler: impl Handler, limits: Limits) -> Running {
    let (udp, tcp) = loop {
        let udp = bind::udp("127.0.0.1:0".parse().unwrap(), "the test").unwrap();
        // The same port for TCP, unless somebody else was faster.
        if let Ok(tcp) = bind::tcp(udp.local_addr().unwrap(), "the test") {
            break (udp, tcp);
        }
    };
    let address = udp.local_addr().unwrap();
    let metrics = DnsMetrics::default();
    let server = Server::on(vec![udp], vec![tcp], metrics.clone()).with_limits(limits);
    let task = tokio::spawn(async move { server.serve(Arc::new(handler)).await.unwrap() });
    Running {
        address,
        metrics,
        task: task.abort_handle(),
    }
}

pub fn forwarder(upstreams: &[SocketAddr], cache: usize) -> Forwarder {
    let options = Options {
        upstreams: upstreams.to_vec(),
        attempt: Duration::from_millis(300),
        deadline: Duration::from_secs(20),
        cache,
        ..Options::default()
    };
    Forwarder::new(options, DnsMetrics::default())
}

pub async fn ask_udp(server: SocketAddr, query: &[u8]) -> Message {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.connect(server).await.unwrap();
    socket.send(query).await.unwrap();
    let mut buffer = [0; 65535];
    let length = timeout(Duration::from_secs(30), socket.recv(&mut buffer))
        .await
        .unwrap()
        .unwrap();
    Message::from_vec(&buffer[..length]).unwrap()
}

pub async fn ask_tcp(server: SocketAddr, queries: &[Vec<u8>]) -> Vec<Message> {
    let mut stream = TcpStream::connect(server).await.unwrap();
    let mut answers = Vec::new();
    for query in queries {
        stream
            .write_all(&(query.len() as u16).to_be_bytes())
            .await
            .unwrap();
        stream.write_all(query).await.unwrap();
        let length = stream.read_u16().await.unwrap();
        let mut answer = vec![0; length.into()];
        stream.read_exact(&mut answer).await.unwrap();
        answers.push(Message::from_vec(&answer).unwrap());
    }
    answers
}

/// The addresses in an answer, aliases left out.
pub fn addresses(message: &Message) -> Vec<IpAddr> {
    let ip = |data: &RData| match data {
        RData::A(a) => Some(IpAddr::V4(a.0)),
        RData::AAAA(a) => Some(IpAddr::V6(a.0)),
        _ => None,
    };
    message.answers.iter().filter_map(|r| ip(&r.data)).collect()
}

/// An address where nothing listens.
pub async fn nobody() -> SocketAddr {
    UdpSocket::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap()
}
