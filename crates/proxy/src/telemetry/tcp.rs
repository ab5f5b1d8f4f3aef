//! The record of one raw connection: opened, bytes, closed, one log line.

use std::rc::Rc;
use std::sync::Arc;

use crate::config::listener::{AccessLog, TcpProxy, TrafficDirection};
use crate::listener::Facts;
use crate::tcp::copy::Counted;
use crate::upstream::connect::Established;
use crate::upstream::{ClusterState, Host};
use crate::worker::Worker;

use super::flags::Flags;
use super::metrics::{Key, Reporter, Series};
use super::peer::Peer;
use super::story::Story;

/// Recorded when it is dropped, however the connection ended.
#[derive(Debug)]
pub struct TcpRecord {
    cx: Rc<Worker>,
    story: Story,
    counted: Counted,
    logs: Vec<AccessLog>,
    destination: Rc<Peer>,
    destination_principal: Option<Rc<str>>,
    service: Service,
}

/// The service of a cluster, for labels.
#[derive(Debug, Clone)]
pub struct Service {
    /// Host.
    pub host: Arc<str>,
    /// Short name.
    pub name: Arc<str>,
    /// Namespace.
    pub namespace: Arc<str>,
}

impl Service {
    /// Of a cluster; without metadata the cluster's own name stands for it.
    pub fn of(cluster: Option<&ClusterState>, name: &Arc<str>) -> Self {
        match cluster.and_then(|c| c.config.service.as_ref()) {
            Some(s) => Self {
                host: s.host.clone(),
                name: s.name.clone(),
                namespace: s.namespace.clone(),
            },
            None => Self {
                host: name.clone(),
                name: name.clone(),
                namespace: "unknown".into(),
            },
        }
    }
}

impl TcpRecord {
    /// A connection that goes to the cluster of this name.
    pub fn open(cx: &Rc<Worker>, facts: &Rc<Facts>, proxy: &TcpProxy, cluster: &Arc<str>) -> Self {
        let mut story = Story::begin(facts);
        story.upstream.cluster = Some(cluster.clone());
        let state = cx.upstreams.cluster(cluster);
        Self {
            cx: cx.clone(),
            story,
            counted: Counted::default(),
            logs: proxy.access_logs.clone(),
            destination: cx.telemetry.peers.unknown.clone(),
            destination_principal: None,
            service: Service::of(state.as_deref(), cluster),
        }
    }

    /// Where the copy counts.
    pub fn counted(&self) -> &Counted {
        &self.counted
    }

    /// A connection stands.
    pub fn connected(&mut self, cluster: &Rc<ClusterState>, host: &Rc<Host>, established: &Established) {
        self.story.upstream.host = Some(host.to_string());
        self.story.upstream.local = established.local;
        self.story.upstream.tls = established.tls.clone();
        self.destination_principal = established.tls.as_ref().and_then(|t| t.uris.first().cloned());
        self.destination = self
            .cx
            .telemetry
            .peers
            .of_endpoint(host.endpoint().workload.as_ref());
        self.service = Service::of(Some(cluster), &cluster.config.name);
        let series = self.series(Flags::default());
        series.opened.set(series.opened.get() + 1);
    }

    /// Nothing stands, and why.
    pub fn fail(&mut self, flag: Flags, reason: &str) {
        self.story.flag(flag);
        if flag == Flags::UF {
            self.story.upstream.transport_failure = Some(reason.replace(' ', "_"));
        } else {
            self.story.termination = Some(reason.replace(' ', "_"));
        }
    }

    /// Sets a flag.
    pub fn flag(&mut self, flag: Flags) {
        self.story.flag(flag);
    }

    fn series(&self, flags: Flags) -> Rc<Series> {
        let facts = &self.story.facts;
        let peers = &self.cx.telemetry.peers;
        let inbound = facts.direction == TrafficDirection::Inbound;
        let principal = facts.principal().map(Rc::from);
        let (reporter, source, destination, from, to) = if inbound {
            let own = facts.tls.as_ref().and_then(|t| t.local_uris.first().cloned());
            (
                Reporter::Destination,
                peers.unknown.clone(),
                peers.own.clone(),
                principal,
                own,
            )
        } else {
            let own = self
                .story
                .upstream
                .tls
                .as_ref()
                .and_then(|t| t.local_uris.first().cloned());
            (
                Reporter::Source,
                peers.own.clone(),
                self.destination.clone(),
                own,
                self.destination_principal.clone(),
            )
        };
        self.cx.telemetry.table.series(Key {
            reporter,
            source,
            destination,
            source_principal: from,
            destination_principal: to,
            service: self.service.host.clone(),
            service_name: self.service.name.clone(),
            service_namespace: self.service.namespace.clone(),
            protocol: "tcp",
            code: 0,
            grpc_status: None,
            flags,
            security: security(facts),
        })
    }
}

/// `connection_security_policy` as the destination sees it; the source does not know.
pub fn security(facts: &Facts) -> &'static str {
    match (facts.direction, &facts.tls) {
        (TrafficDirection::Inbound, Some(tls)) if tls.verified => "mutual_tls",
        (TrafficDirection::Inbound, _) => "none",
        _ => "unknown",
    }
}

impl Drop for TcpRecord {
    fn drop(&mut self) {
        let (received, sent) = (self.counted.received.get(), self.counted.sent.get());
        self.story.received = received;
        self.story.sent = sent;
        let series = self.series(self.story.flags);
        series.closed.set(series.closed.get() + 1);
        series.received.set(series.received.get() + received);
        series.sent.set(series.sent.get() + sent);
        self.cx.telemetry.formats.log(&self.logs, &self.story);
    }
}
