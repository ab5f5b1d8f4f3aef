//! All that is known of one request or one raw connection, for logs, header operators and metrics.

use std::borrow::Cow;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use http::{HeaderMap, Method};

use crate::listener::Facts;
use crate::tls::TlsPeer;

use super::flags::Flags;

/// A request's or connection's story so far.
#[derive(Debug)]
pub struct Story {
    /// The downstream connection.
    pub facts: Rc<Facts>,
    /// Monotonic start.
    pub start: Instant,
    /// Wall-clock start.
    pub start_time: SystemTime,
    /// `None` for raw connections.
    pub request: Option<RequestStory>,
    /// The answer.
    pub response: ResponseStory,
    /// Where it went; filled by the last attempt.
    pub upstream: UpstreamStory,
    /// Letters.
    pub flags: Flags,
    /// Body or raw bytes from the downstream.
    pub received: u64,
    /// Body or raw bytes to the downstream.
    pub sent: u64,
    /// Address of the client as trusted headers give it.
    pub client: SocketAddr,
    /// Why a connection was ended, for raw connections.
    pub termination: Option<String>,
}

/// The request's part.
#[derive(Debug, Clone)]
pub struct RequestStory {
    /// Method.
    pub method: Method,
    /// Path and query as the client sent them, normalized where the listener says so.
    pub path: String,
    /// Path and query after a rewrite, when there was one.
    pub rewritten: Option<String>,
    /// Authority; what the upstream sees once that is known.
    pub authority: String,
    /// `http` or `https`.
    pub scheme: &'static str,
    /// `HTTP/1.1`.
    pub protocol: &'static str,
    /// Headers; empty when nothing will read them.
    pub headers: HeaderMap,
    /// Route name.
    pub route: Arc<str>,
    /// Virtual host name.
    pub virtual_host: Arc<str>,
    /// Whether it is a gRPC request.
    pub grpc: bool,
    /// Attempts made.
    pub attempts: u32,
}

/// The answer's part.
#[derive(Debug, Default)]
pub struct ResponseStory {
    /// Status, 0 when none was sent.
    pub code: u16,
    /// Envoy's `%RESPONSE_CODE_DETAILS%`.
    pub details: Cow<'static, str>,
    /// Headers; empty when nothing will read them.
    pub headers: HeaderMap,
    /// Trailers; empty when nothing will read them.
    pub trailers: HeaderMap,
    /// `grpc-status`, from headers or trailers.
    pub grpc_status: Option<u32>,
    /// When the last byte of the request had arrived, after `start`.
    pub request_complete: Option<Duration>,
    /// When the upstream's answer began, after `start`.
    pub first_byte: Option<Duration>,
}

/// The upstream's part.
#[derive(Debug, Default)]
pub struct UpstreamStory {
    /// Cluster name.
    pub cluster: Option<Arc<str>>,
    /// Address of the endpoint.
    pub host: Option<String>,
    /// Own address towards it.
    pub local: Option<SocketAddr>,
    /// What it proved.
    pub tls: Option<Rc<TlsPeer>>,
    /// Why a connection could not be made.
    pub transport_failure: Option<String>,
}

impl Story {
    /// A story that begins now.
    pub fn begin(facts: &Rc<Facts>) -> Self {
        Self {
            facts: facts.clone(),
            start: Instant::now(),
            start_time: SystemTime::now(),
            request: None,
            response: ResponseStory::default(),
            upstream: UpstreamStory::default(),
            flags: Flags::default(),
            received: 0,
            sent: 0,
            client: facts.source,
            termination: None,
        }
    }

    /// Sets a flag.
    pub fn flag(&mut self, flag: Flags) {
        self.flags = self.flags.with(flag);
    }
}
