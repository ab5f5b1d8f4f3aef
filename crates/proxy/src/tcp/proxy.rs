//! The TCP proxy (Envoy `tcp_proxy`): a connection to one of the clusters, then bytes both ways.

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::config::listener::TcpProxy;
use crate::listener::Facts;
use crate::telemetry::flags::Flags;
use crate::telemetry::tcp::TcpRecord;
use crate::tls::originate::AlpnChoice;
use crate::upstream::connect::{ConnectError, Established, Purpose, dial_hedged};
use crate::upstream::hash::xxh64;
use crate::upstream::{Busy, ClusterState, Host, PickContext, PickError};
use crate::worker::Worker;

use super::copy::{Counted, Ending, both_ways};
use super::stream::Stream;

/// How often a connection that is to end is looked at.
const LOOK: Duration = Duration::from_millis(1);

/// Serves one connection to its end.
pub async fn serve(cx: &Rc<Worker>, facts: &Rc<Facts>, proxy: &TcpProxy, mut downstream: Stream) {
    let name = choose(cx, &proxy.clusters);
    let mut record = TcpRecord::open(cx, facts, proxy, &name);
    let Some(cluster) = cx.upstreams.cluster(&name) else {
        tracing::info!(listener = %facts.listener, cluster = %name, peer = %facts.source, "connection closed: the cluster does not exist");
        record.fail(Flags::NC, "cluster_not_found");
        return;
    };
    let (host, established) = match connect(cx, facts, proxy, &cluster).await {
        Ok(connected) => connected,
        Err(error) => {
            let flag = match &error {
                ConnectError::Pick(_) => Flags::UH,
                ConnectError::Overflow => Flags::UO,
                _ => Flags::UF,
            };
            let why = in_words(&name, &error, &cluster);
            tracing::info!(
                listener = %facts.listener, cluster = %name, peer = %facts.source,
                sni = facts.server_name.as_deref().unwrap_or("-"),
                "connection closed: {why}"
            );
            record.fail(flag, &why);
            return;
        }
    };
    let _busy = Busy::at(&host);
    record.connected(&cluster, &host, &established);
    let Established {
        mut stream,
        watch,
        held: _held,
        ..
    } = established;
    let counted = record.counted();
    let copy = both_ways(&mut downstream, &mut stream, proxy.idle_timeout, counted);
    let watched = async {
        let Some(watch) = watch else {
            return copy.await;
        };
        tokio::select! {
            biased;
            ending = copy => ending,
            () = watch.over_bytes(|| (counted.received.get(), counted.sent.get())) => Ending::UpstreamBroken,
        }
    };
    let whole = async {
        tokio::select! {
            biased;
            ending = watched => ending,
            () = last_pause(cx, counted) => Ending::Closed,
        }
    };
    let ending = match proxy.max_duration {
        Some(longest) => tokio::time::timeout(longest, whole).await.ok(),
        None => Some(whole.await),
    };
    match ending {
        None => record.flag(Flags::DT),
        Some(Ending::Idle) => record.flag(Flags::SI),
        Some(Ending::DownstreamBroken) => record.flag(Flags::DC),
        Some(Ending::UpstreamBroken) => record.flag(Flags::UC),
        Some(Ending::Closed) => {}
    }
}

/// Once the worker ends: waits for a moment in which the upstream has answered and the downstream has not asked
/// again, so that a connection that carries sealed requests is closed between two of them and not within one.
/// The nearer the end, the shorter the pause that counts as one.
async fn last_pause(cx: &Worker, counted: &Counted) {
    let mut changes = cx.watch();
    let cut = loop {
        if let Some(cut) = changes.borrow_and_update().cut {
            break cut;
        }
        if changes.changed().await.is_err() {
            return std::future::pending().await;
        }
    };
    let mut moved = 0;
    let mut quiet_since = Instant::now();
    loop {
        let now = counted.received.get() + counted.sent.get();
        let pause = cut.saturating_duration_since(Instant::now()) / 40;
        if now != moved {
            moved = now;
            quiet_since = Instant::now();
        } else if !counted.asking.get() && quiet_since.elapsed() >= pause {
            return;
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// What a refusal at the pick means for the client of a passthrough gateway.
fn in_words(name: &str, error: &ConnectError, cluster: &ClusterState) -> String {
    match error {
        ConnectError::Pick(PickError::NoEndpoint) => {
            format!("no endpoint: {name} is known, but nothing stands behind it here")
        }
        ConnectError::Pick(PickError::NoHealthy) => {
            let why = cluster.last_failure();
            let why = why.map(|why| format!("; {why}")).unwrap_or_default();
            format!("no endpoint: none of those behind {name} is healthy{why}")
        }
        other => other.to_string(),
    }
}

fn choose(cx: &Worker, clusters: &[(Arc<str>, u32)]) -> Arc<str> {
    let total: u64 = clusters.iter().map(|(_, w)| u64::from(*w)).sum();
    let mut point = cx.rng.below(total.max(1));
    for (name, weight) in clusters {
        if point < u64::from(*weight) {
            return name.clone();
        }
        point -= u64::from(*weight);
    }
    clusters.last().map(|(n, _)| n.clone()).unwrap_or_default()
}

async fn connect(
    cx: &Rc<Worker>,
    facts: &Facts,
    proxy: &TcpProxy,
    cluster: &Rc<ClusterState>,
) -> Result<(Rc<Host>, Established), ConnectError> {
    let purpose = Purpose {
        alpn: AlpnChoice::All,
        authority: facts.server_name.clone(),
    };
    let hash = proxy
        .hash_source_ip
        .then(|| xxh64(facts.source.ip().to_string().as_bytes(), 0));
    let pick = |tried: &[Rc<Host>]| {
        let context = PickContext {
            hash,
            tried,
            original: Some(facts.destination),
        };
        cluster.pick(&context, &cx.rng)
    };
    let mut tried = Vec::new();
    let mut attempt = 0;
    loop {
        attempt += 1;
        let before = tried.len();
        let error = match dial_hedged(cx, cluster, &purpose, &mut tried, pick).await {
            Ok(connected) => return Ok(connected),
            Err(error) => error,
        };
        if attempt >= proxy.max_connect_attempts.max(1) || !error.is_local_failure() || tried.len() == before
        {
            return Err(error);
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
