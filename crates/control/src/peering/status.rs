//! How the links are doing, as people ask for it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::SystemTime;

use isthmus_model::ClusterId;
use serde_json::{Value, json};

use super::{Config, Peers};
use crate::member::{Peer, PeerState};

/// Where a link stands.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Phase {
    /// No stream; trying.
    #[default]
    Connecting,
    /// The peer speaks.
    Connected,
    /// There is a stream, but no sign of life on it for longer than there should be.
    Silent,
}

impl Phase {
    fn as_str(self) -> &'static str {
        match self {
            Self::Connecting => "connecting",
            Self::Connected => "connected",
            Self::Silent => "silent",
        }
    }
}

/// One link to a peer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LinkStatus {
    /// Where the link stands.
    pub phase: Phase,
    /// Why the last connection was lost or could not be made; `None` once it works.
    pub error: Option<String>,
    /// Why some of what the peer told was not believed.
    pub refused: Option<String>,
    /// Peer's clock ahead of ours, milliseconds, when the last sign of life came.
    pub clock_ahead: Option<i64>,
}

/// A peer that listens to us.
#[derive(Debug, Clone)]
pub struct Listener {
    /// The cluster that its certificate proves.
    pub cluster: ClusterId,
    /// Where the connection comes from.
    pub remote: Option<SocketAddr>,
    /// Since when.
    pub since: SystemTime,
}

/// `/debug/peersz`, which `isthmus peer list` prints.
pub(super) fn page(
    config: &Config,
    peers: &Peers,
    links: &BTreeMap<ClusterId, LinkStatus>,
    heard: &PeerState,
    listeners: &[Listener],
) -> Value {
    let now = SystemTime::now();
    let seconds = |at: SystemTime| now.duration_since(at).unwrap_or_default().as_secs_f64();
    let peers = peers.iter().map(|(cluster, address)| {
        let link = links.get(cluster).cloned().unwrap_or_default();
        let mut peer = json!({
            "cluster": cluster,
            "address": address,
            "status": link.phase.as_str(),
            "error": link.error,
            "refused": link.refused,
            "clockAheadMillis": link.clock_ahead,
            "listening": listeners.iter().any(|l| l.cluster == *cluster),
        });
        if let (Some(known), Some(fields)) = (heard.members.get(cluster), peer.as_object_mut()) {
            fields.insert("heardSecondsAgo".to_owned(), seconds(known.heard).into());
            fields.extend(contents(known));
        }
        peer
    });
    json!({
        "cluster": config.cluster,
        "peers": peers.collect::<Vec<_>>(),
        "listeners": listeners.iter().map(|l| json!({
            "cluster": l.cluster,
            "remote": l.remote.map(|r| r.to_string()),
            "sinceSeconds": seconds(l.since),
        })).collect::<Vec<_>>(),
    })
}

fn contents(peer: &Peer) -> serde_json::Map<String, Value> {
    let state = &peer.state;
    let endpoints: usize = state.services.values().map(|s| s.endpoints.len()).sum();
    let gateways: Vec<String> = state
        .head
        .gateways
        .iter()
        .map(|g| format!("{}:{} ({})", g.address, g.port, g.network))
        .collect();
    serde_json::Map::from_iter([
        ("network".to_owned(), json!(state.head.network)),
        ("trustDomain".to_owned(), json!(state.head.trust_domain)),
        ("services".to_owned(), state.services.len().into()),
        ("endpoints".to_owned(), endpoints.into()),
        ("gateways".to_owned(), gateways.into()),
    ])
}
