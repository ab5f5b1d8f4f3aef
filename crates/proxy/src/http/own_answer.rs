//! Answers that the proxy gives by itself, sent and recorded like any other.

use bytes::Bytes;
use http::header::SERVER;
use http::{Method, StatusCode, response};
use http_body::Frame;

use crate::config::listener::HttpManager;
use crate::config::route::HeaderOperations;
use crate::telemetry::http::Record;

use super::headers;
use super::local_reply::LocalReply;
use super::stream::Downstream;

/// Answers to HEAD, 204 and 304 have no body, whatever their headers say.
pub fn bodiless(method: &Method, status: StatusCode) -> bool {
    method == Method::HEAD || status == StatusCode::NO_CONTENT || status == StatusCode::NOT_MODIFIED
}

/// A reply before a route was found.
pub async fn local(down: Downstream, record: Record, manager: &HttpManager, reply: LocalReply) {
    routed(down, record, manager, reply, &[]).await;
}

/// A reply behind a route, with what the route adds to answers.
pub async fn routed(
    down: Downstream,
    record: Record,
    manager: &HttpManager,
    reply: LocalReply,
    operations: &[&HeaderOperations],
) {
    local_with(down, record, manager, reply, operations, |_| {}).await;
}

/// Applies the operations of a route on answers.
pub fn add_to(head: &mut response::Parts, operations: &[&HeaderOperations], record: &Record) {
    for level in operations {
        headers::apply(&level.response, &mut head.headers, &record.story);
    }
}

/// As [`routed`], with a last word on the head.
pub async fn local_with(
    down: Downstream,
    mut record: Record,
    manager: &HttpManager,
    reply: LocalReply,
    operations: &[&HeaderOperations],
    adjust: impl FnOnce(&mut response::Parts),
) {
    record.flag(reply.flags);
    record.details(reply.details.clone());
    let (mut head, body) = reply.into_parts(record.is_grpc());
    record.answers(head.status);
    add_to(&mut head, operations, &record);
    adjust(&mut head);
    send_own(down, record, manager, head, body).await;
}

/// Sends an answer of our own.
pub async fn send_own(
    mut down: Downstream,
    mut record: Record,
    manager: &HttpManager,
    mut head: response::Parts,
    body: Bytes,
) {
    // HEAD is told the length of what GET would get.
    if !bodiless(&Method::GET, head.status) && !head.headers.contains_key(http::header::CONTENT_LENGTH) {
        head.headers
            .insert(http::header::CONTENT_LENGTH, body.len().into());
    }
    name_server(manager, &mut head);
    record.answered(&head);
    record.complete();
    if bodiless(&down.head.method, head.status) || body.is_empty() {
        down.send_head(head, true);
        return;
    }
    record.sent(&body);
    down.send_head(head, false);
    down.send(Frame::data(body), true).await;
}

/// Says who answers, as the listener wants it said.
pub fn name_server(manager: &HttpManager, head: &mut response::Parts) {
    if manager.server_header_pass_through {
        return;
    }
    let name = manager.server_name.as_deref().unwrap_or("envoy");
    headers::insert(&mut head.headers, SERVER, name);
}
