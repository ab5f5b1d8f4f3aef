//! Copies of requests whose answers nobody waits for (Envoy `request_mirror_policies`).

use std::rc::Rc;
use std::time::Duration;

use crate::config::route::Mirror;
use crate::upstream::PickContext;
use crate::upstream::pool::acquire;
use crate::worker::Worker;

use super::body::{OutgoingBody, RequestSource};
use super::outgoing::{outgoing, wire_of};
use super::route::without_port;
use super::stream::{RequestHead, Upstream};

/// How long a copy may take.
const PATIENCE: Duration = Duration::from_secs(15);

/// Sends a copy once the body is complete. Bodies larger than what is remembered are not copied.
pub fn spawn(cx: &Rc<Worker>, mirror: &Mirror, head: &RequestHead, body: &Rc<RequestSource>) {
    let mut head = head.clone();
    if mirror.shadow_suffix {
        let host = without_port(&head.authority);
        let port = head.authority[host.len()..].to_owned();
        head.authority = format!("{host}-shadow{port}");
    }
    let (cx, name, body) = (cx.clone(), mirror.cluster.clone(), body.clone());
    tokio::task::spawn_local(async move {
        let sent = tokio::time::timeout(PATIENCE, send(&cx, &name, head, &body)).await;
        if !matches!(sent, Ok(Some(()))) {
            tracing::debug!(cluster = %name, "a mirrored request was not answered");
        }
    });
}

async fn send(cx: &Rc<Worker>, name: &str, head: RequestHead, body: &RequestSource) -> Option<()> {
    body.ended().await;
    let bytes = body.copy()?;
    let cluster = cx.upstreams.cluster(name)?;
    let host = cluster.pick(&PickContext::default(), &cx.rng).ok()?;
    let wire = wire_of(&cluster.config, &head, false);
    let authority = Some(Rc::from(head.authority.as_str()));
    let lease = acquire(cx, &cluster, &host, wire, authority, false).await.ok()?;
    let request = outgoing(&head, lease.is_http2(), OutgoingBody::Whole(Some(bytes)))?;
    let mut upstream = Upstream::send(lease, request).await.ok()?;
    while let Some(frame) = upstream.frame().await {
        frame.ok()?;
    }
    upstream.finish();
    Some(())
}
