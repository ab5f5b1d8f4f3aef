//! The record of one request: metrics and a log line when it is dropped, however the request ended.

use std::borrow::Cow;
use std::rc::Rc;
use std::sync::Arc;

use http::{HeaderMap, StatusCode, response};

use crate::config::listener::{AccessLog, HttpManager, TrafficDirection};
use crate::http::body::{MessageCounter, RequestSource};
use crate::http::grpc;
use crate::http::stream::Downstream;
use crate::listener::Facts;
use crate::upstream::pool::Lease;
use crate::upstream::{ClusterState, Host};
use crate::worker::Worker;

use super::flags::Flags;
use super::metrics::{Key, Reporter};
use super::peer::Peer;
use super::story::{RequestStory, Story};
use super::tcp::{Service, security};

/// One request, from its head to its end.
#[derive(Debug)]
pub struct Record {
    cx: Rc<Worker>,
    /// What is known so far; header operators read it.
    pub story: Story,
    logs: Vec<AccessLog>,
    body: Rc<RequestSource>,
    /// The client, when it told.
    pub client_peer: Option<Rc<Peer>>,
    /// The server, when it told or its endpoint is known.
    pub server_peer: Option<Rc<Peer>>,
    service: Option<Service>,
    messages: Option<MessageCounter>,
    /// `content-length` of the answer.
    declared: Option<u64>,
    complete: bool,
}

impl Record {
    /// Begins with the request's head.
    pub fn begin(cx: &Rc<Worker>, facts: &Rc<Facts>, manager: &HttpManager, down: &Downstream) -> Self {
        cx.requests.set(cx.requests.get() + 1);
        let head = &down.head;
        let grpc = grpc::is_grpc(&head.headers);
        if grpc {
            down.body.count_messages();
        }
        let mut story = Story::begin(facts);
        story.request = Some(RequestStory {
            method: head.method.clone(),
            path: head.path.clone(),
            rewritten: None,
            authority: head.authority.clone(),
            scheme: head.scheme,
            protocol: head.version_name(),
            headers: HeaderMap::new(),
            route: "".into(),
            virtual_host: "".into(),
            grpc,
            attempts: 0,
        });
        Self {
            cx: cx.clone(),
            story,
            logs: manager.access_logs.clone(),
            body: down.body.clone(),
            client_peer: None,
            server_peer: None,
            service: None,
            messages: grpc.then(MessageCounter::default),
            declared: None,
            complete: false,
        }
    }

    /// Whether the request is gRPC.
    pub fn is_grpc(&self) -> bool {
        self.story.request.as_ref().is_some_and(|r| r.grpc)
    }

    /// Keeps the request's headers for the log and for operators, as they are now.
    pub fn keep_headers(&mut self, headers: &HeaderMap) {
        if let Some(request) = &mut self.story.request {
            request.headers = headers.clone();
        }
    }

    /// Keeps the path as it is after normalization, which is what everything decides by.
    pub fn keep_path(&mut self, path: &str) {
        if let Some(request) = self.story.request.as_mut().filter(|r| r.path != path) {
            request.path = path.to_owned();
        }
    }

    /// Keeps the authority that the upstream sees.
    pub fn keep_authority(&mut self, authority: &str) {
        if let Some(request) = self.story.request.as_mut().filter(|r| r.authority != authority) {
            request.authority = authority.to_owned();
        }
    }

    /// The status of the answer in the making, for operators in its headers.
    pub fn answers(&mut self, status: StatusCode) {
        self.story.response.code = status.as_u16();
    }

    /// Whether somebody will read headers at the end.
    pub fn wants_headers(&self) -> bool {
        !self.logs.is_empty()
    }

    /// Sets a flag.
    pub fn flag(&mut self, flag: Flags) {
        self.story.flag(flag);
    }

    /// Details of the answer.
    pub fn details(&mut self, details: impl Into<Cow<'static, str>>) {
        self.story.response.details = details.into();
    }

    /// The cluster was chosen.
    pub fn chose(&mut self, name: &Arc<str>, cluster: Option<&ClusterState>) {
        self.story.upstream.cluster = Some(name.clone());
        self.service = Some(Service::of(cluster, name));
    }

    /// An attempt begins at a host.
    pub fn attempt(&mut self, host: &Rc<Host>, lease: Option<&Lease>) {
        self.story.upstream.host = Some(host.to_string());
        self.server_peer = Some(
            self.cx
                .telemetry
                .peers
                .of_endpoint(host.endpoint().workload.as_ref()),
        );
        if let Some(lease) = lease {
            self.story.upstream.local = lease.link().local;
            self.story.upstream.tls = lease.link().tls.clone();
        }
    }

    /// Another attempt was made.
    pub fn count_attempt(&mut self) {
        if let Some(request) = &mut self.story.request {
            request.attempts += 1;
        }
    }

    /// The answer's head goes out.
    pub fn answered(&mut self, head: &response::Parts) {
        self.story.response.code = head.status.as_u16();
        self.story.response.grpc_status = grpc::status_in(&head.headers);
        self.declared = head
            .headers
            .get(http::header::CONTENT_LENGTH)
            .and_then(|v| v.to_str().ok())
            .and_then(|v| v.parse().ok());
        if self.wants_headers() {
            self.story.response.headers = head.headers.clone();
        }
    }

    /// The upstream's answer began.
    pub fn first_byte(&mut self) {
        self.story.response.first_byte = Some(self.story.start.elapsed());
    }

    /// Bytes of the answer's body.
    pub fn sent(&mut self, data: &[u8]) {
        self.story.sent += data.len() as u64;
        if let Some(messages) = &mut self.messages {
            messages.add(data);
        }
    }

    /// The answer's trailers.
    pub fn trailers(&mut self, trailers: &HeaderMap) {
        self.story.response.grpc_status = grpc::status_in(trailers).or(self.story.response.grpc_status);
        if self.wants_headers() {
            self.story.response.trailers = trailers.clone();
        }
    }

    /// Bytes of a tunnel.
    pub fn bytes(&mut self, received: u64, sent: u64) {
        self.story.received += received;
        self.story.sent += sent;
        self.complete = true;
    }

    /// The answer is complete.
    pub fn complete(&mut self) {
        self.complete = true;
    }

    fn key(&self) -> Key {
        let facts = &self.story.facts;
        let peers = &self.cx.telemetry.peers;
        let unknown = || peers.unknown.clone();
        let inbound = facts.direction == TrafficDirection::Inbound;
        let upstream = self.story.upstream.tls.as_ref();
        let (reporter, source, destination, from, to) = if inbound {
            (
                Reporter::Destination,
                self.client_peer.clone().unwrap_or_else(unknown),
                peers.own.clone(),
                facts.principal().map(Rc::from),
                facts.tls.as_ref().and_then(|t| t.local_uris.first().cloned()),
            )
        } else {
            (
                Reporter::Source,
                peers.own.clone(),
                self.server_peer.clone().unwrap_or_else(unknown),
                upstream.and_then(|t| t.local_uris.first().cloned()),
                upstream.and_then(|t| t.uris.first().cloned()),
            )
        };
        let service = self.service.clone().unwrap_or_else(|| Service {
            host: "unknown".into(),
            name: "unknown".into(),
            namespace: "unknown".into(),
        });
        Key {
            reporter,
            source,
            destination,
            source_principal: from,
            destination_principal: to,
            service: service.host,
            service_name: service.name,
            service_namespace: service.namespace,
            protocol: if self.is_grpc() { "grpc" } else { "http" },
            code: self.story.response.code,
            grpc_status: self.story.response.grpc_status,
            flags: self.story.flags,
            security: security(facts),
        }
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        self.cx.requests.set(self.cx.requests.get().saturating_sub(1));
        self.story.received += self.body.received();
        self.story.response.request_complete = self.body.ended_after();
        let whole = self.complete || self.declared.is_some_and(|d| self.story.sent >= d);
        if !whole {
            self.story.flag(Flags::DC);
            if self.story.response.details.is_empty() || self.story.response.code == 0 {
                self.story.response.details = "downstream_remote_disconnect".into();
            }
        }
        let series = self.cx.telemetry.table.series(self.key());
        series.requests.set(series.requests.get() + 1);
        series
            .duration
            .observe(self.story.start.elapsed().as_secs_f64() * 1000.0);
        series.request_bytes.observe(self.story.received as f64);
        series.response_bytes.observe(self.story.sent as f64);
        if let Some(messages) = &self.messages {
            let (requests, responses) = (&series.request_messages, &series.response_messages);
            requests.set(requests.get() + self.body.messages());
            responses.set(responses.get() + messages.messages);
        }
        self.cx.telemetry.formats.log(&self.logs, &self.story);
    }
}
