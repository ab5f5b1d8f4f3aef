//! One writer among the replicas of a control plane: a Lease of `coordination.k8s.io/v1`.
//!
//! Whoever holds it renews it; who finds it unrenewed for its whole duration, by its own clock, takes it over.
//! Clocks are never compared, so a wrong clock costs nothing. A holder that cannot renew steps down before
//! another may step up; one that drains gives the lease back at once.

use std::time::Duration;

use http::Method;
use isthmus_runtime::drain;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::connect::Cluster;
use crate::rest::{Call, JSON, RequestError, encoded};

/// A lease that is not renewed for so long may be taken.
const DURATION: Duration = Duration::from_secs(15);
/// How often the holder renews it and the others look.
const PERIOD: Duration = Duration::from_secs(3);
/// A holder that could not renew for so long steps down, well before another steps up.
const STEP_DOWN: Duration = Duration::from_secs(10);

/// Which lease, and in whose name.
#[derive(Debug, Clone)]
pub struct Lease {
    /// The cluster.
    pub cluster: Cluster,
    /// Namespace of the control plane.
    pub namespace: String,
    /// Name of the lease, `istiod-leader`.
    pub name: String,
    /// Who we are; no two replicas may have the same. The pod's name.
    pub identity: String,
}

/// What another holder's lease looked like when it last changed.
struct Seen {
    /// Holder and time of renewal as written.
    what: (String, String),
    at: Instant,
}

impl Lease {
    /// Seeks the lease for as long as somebody listens; the value says whether it is held. It is given back
    /// when the drain begins.
    pub fn seek(self, drain: &drain::Watcher) -> watch::Receiver<bool> {
        let (sender, held) = watch::channel(false);
        drain.spawn(self.run(sender, drain.clone()));
        held
    }

    async fn run(self, held: watch::Sender<bool>, mut drain: drain::Watcher) {
        let mut seen: Option<Seen> = None;
        let mut renewed: Option<Instant> = None;
        let mut refused = String::new();
        loop {
            match self.turn(&mut seen).await {
                Ok(true) => {
                    renewed = Some(Instant::now());
                    refused.clear();
                }
                Ok(false) => {
                    renewed = None;
                    refused.clear();
                }
                Err(error) => {
                    let why = error.to_string();
                    if why != refused {
                        tracing::warn!(
                            lease = self.name,
                            "the lease of the writer cannot be sought: {why}"
                        );
                        refused = why;
                    }
                }
            }
            let holds = renewed.is_some_and(|at| at.elapsed() < STEP_DOWN);
            let was = held.send_replace(holds);
            if was != holds {
                let said = if holds {
                    "this replica writes"
                } else {
                    "this replica writes no more"
                };
                tracing::info!(lease = self.name, identity = self.identity, "{said}");
            }
            tokio::select! {
                () = tokio::time::sleep(PERIOD) => {}
                () = held.closed() => break,
                _ = drain.draining() => break,
            }
        }
        if held.send_replace(false)
            && let Err(error) = self.give_back().await
        {
            tracing::info!(
                lease = self.name,
                "the lease cannot be given back and will expire: {error}"
            );
        }
    }

    /// Looks, renews or takes; whether it is held now.
    async fn turn(&self, seen: &mut Option<Seen>) -> Result<bool, RequestError> {
        let present = match self.cluster.get(&self.path()).await {
            Ok(present) => present,
            Err(error) if error.is_not_found() => {
                let (path, _) = self
                    .path()
                    .rsplit_once('/')
                    .map(|(p, n)| (p.to_owned(), n.to_owned()))
                    .unwrap_or_default();
                let fresh = json!({
                    "apiVersion": "coordination.k8s.io/v1",
                    "kind": "Lease",
                    "metadata": { "name": self.name, "namespace": self.namespace },
                    "spec": self.spec(0),
                });
                return self.won(Call::with(&Method::POST, &path, JSON, &fresh)).await;
            }
            Err(error) => return Err(error),
        };
        let text = |field: &str| present["spec"][field].as_str().unwrap_or_default().to_owned();
        let holder = text("holderIdentity");
        if !holder.is_empty() && holder != self.identity {
            let what = (holder, text("renewTime"));
            let said = present["spec"]["leaseDurationSeconds"].as_u64();
            let duration = said.map_or(DURATION, Duration::from_secs);
            match seen {
                Some(before) if before.what == what => {
                    if before.at.elapsed() < duration {
                        return Ok(false);
                    }
                }
                _ => {
                    let at = Instant::now();
                    *seen = Some(Seen { what, at });
                    return Ok(false);
                }
            }
        }
        let transitions = present["spec"]["leaseTransitions"].as_u64().unwrap_or(0);
        let mine = text("holderIdentity") == self.identity;
        let mut next = present;
        let mut spec = self.spec(if mine { transitions } else { transitions + 1 });
        if mine && let Some(acquired) = next.pointer("/spec/acquireTime").cloned() {
            spec["acquireTime"] = acquired;
        }
        next["spec"] = spec;
        // The version of what was read goes along: of two that try, one wins.
        self.won(Call::with(&Method::PUT, &self.path(), JSON, &next))
            .await
    }

    async fn won(&self, call: Call<'_>) -> Result<bool, RequestError> {
        match self.cluster.call::<Value>(call).await {
            Ok(_) => Ok(true),
            Err(error) if error.code() == Some(409) => Ok(false),
            Err(error) => Err(error),
        }
    }

    async fn give_back(&self) -> Result<(), RequestError> {
        let mut present = self.cluster.get(&self.path()).await?;
        if present["spec"]["holderIdentity"] == self.identity.as_str() {
            present["spec"]["holderIdentity"] = "".into();
            present["spec"]["leaseDurationSeconds"] = 1.into();
            let path = self.path();
            self.cluster
                .call::<Value>(Call::with(&Method::PUT, &path, JSON, &present))
                .await?;
        }
        Ok(())
    }

    fn spec(&self, transitions: u64) -> Value {
        let now = now();
        json!({
            "holderIdentity": self.identity,
            "leaseDurationSeconds": DURATION.as_secs(),
            "acquireTime": now,
            "renewTime": now,
            "leaseTransitions": transitions,
        })
    }

    fn path(&self) -> String {
        format!("{}/{}", self.folder(), encoded(&self.name))
    }

    fn folder(&self) -> String {
        let namespace = encoded(&self.namespace);
        format!("/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases")
    }
}

/// The time as `MicroTime` is written (RFC 3339 with six digits).
fn now() -> String {
    k8s_openapi::jiff::Timestamp::now()
        .strftime("%Y-%m-%dT%H:%M:%S.%6fZ")
        .to_string()
}
