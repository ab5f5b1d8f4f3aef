//! An API server as a [`Source`]: every kind is listed in pages, then watched.
//!
//! ```text
//!   discovery ─▶ kind (one task each) ─ list, watch ─▶ reduce ─▶ api::parse_json ─▶ Change ─▶ Sink
//!                 └ not served, forbidden, away: a finding, and another try
//! ```
//!
//! What it sends is what a directory of the same objects would send. An outage deletes nothing: only an API
//! server that answers can say that an object is gone.

mod backoff;
mod discovery;
mod kind;
mod reduce;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use isthmus_api::source::{Change, Sink, Source, SourceError, SourceFuture};
use isthmus_api::{Finding, Kind, codes};
use isthmus_model::ClusterId;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::connect::{Cluster, Credentials};
use crate::rest::RequestError;
use discovery::Discovery;

/// A kind of Istio's that cannot be read at the start delays [`Change::Synced`] no longer than this.
const STRAGGLERS: Duration = Duration::from_secs(10);
/// Reports that wait to be taken; the kinds' tasks wait beyond.
const WAITING: usize = 64;

/// Which objects are read, and how much of them.
#[derive(Debug, Clone)]
pub struct Scope {
    /// Kinds.
    pub kinds: Vec<Kind>,
    /// Namespace whose ConfigMaps and remote secrets are read, `istio-system`.
    pub root_namespace: String,
}

impl Scope {
    /// What a control plane reads of its own cluster.
    pub fn own(root_namespace: impl Into<String>) -> Self {
        // Nothing in the control plane reads these.
        let unread = [Kind::ServiceAccount, Kind::Deployment, Kind::IstioOperator];
        Self {
            kinds: Kind::ALL
                .iter()
                .copied()
                .filter(|k| !unread.contains(k))
                .collect(),
            root_namespace: root_namespace.into(),
        }
    }

    /// What a control plane reads of another cluster: what runs there. Its rules are its own.
    pub fn remote(root_namespace: impl Into<String>) -> Self {
        Self {
            kinds: vec![
                Kind::Namespace,
                Kind::Node,
                Kind::Service,
                Kind::Pod,
                Kind::EndpointSlice,
                Kind::Gateway,
                Kind::PeerAuthentication,
            ],
            root_namespace: root_namespace.into(),
        }
    }
}

/// The objects of one cluster, from its API server.
#[derive(Debug)]
pub struct ApiServer {
    /// How to reach it, or why that cannot be known.
    cluster: Target,
    scope: Scope,
}

#[derive(Debug)]
enum Target {
    Client(Cluster),
    Credentials(Credentials),
}

impl ApiServer {
    /// Reads what `scope` says from `cluster`.
    pub fn new(cluster: Cluster, scope: Scope) -> Self {
        Self {
            cluster: Target::Client(cluster),
            scope,
        }
    }
}

impl Source for ApiServer {
    fn run(self: Box<Self>, sink: Box<dyn Sink>) -> SourceFuture {
        Box::pin(async move {
            let cluster = match self.cluster {
                Target::Client(cluster) => cluster,
                Target::Credentials(credentials) => {
                    Cluster::connect(&credentials)
                        .await
                        .map_err(|e| SourceError::Unreadable {
                            what: "the cluster".to_owned(),
                            why: e.to_string(),
                        })?
                }
            };
            follow(cluster, self.scope, sink).await;
            Ok(())
        })
    }
}

/// Opens the clusters that remote secrets name.
#[derive(Debug, Clone)]
pub struct Connector {
    /// Namespace of the control plane there.
    pub root_namespace: String,
}

impl isthmus_api::ClusterConnector for Connector {
    fn connect(&self, cluster: &ClusterId, kubeconfig: &[u8]) -> Result<Box<dyn Source>, SourceError> {
        crate::connect::check(kubeconfig).map_err(|why| SourceError::Unreadable {
            what: format!("the kubeconfig of cluster {cluster}"),
            why,
        })?;
        Ok(Box::new(ApiServer {
            cluster: Target::Credentials(Credentials::Inline(kubeconfig.to_vec())),
            scope: Scope::remote(&self.root_namespace),
        }))
    }
}

/// What the task of one kind tells.
#[derive(Debug)]
enum Report {
    /// What happened to objects of the kind.
    Changes(Vec<Change>),
    /// Everything that existed has been told, or cannot be for now.
    Settled(Kind),
    /// The API server cannot be reached for this kind, or (`None`) can again.
    Away(Kind, Option<RequestError>),
}

async fn follow(cluster: Cluster, scope: Scope, mut sink: Box<dyn Sink>) {
    let (out, mut reports) = mpsc::channel(WAITING);
    let discovery = Arc::new(Discovery::new(cluster.clone()));
    let server: Arc<str> = Arc::from(format!("API server {}", cluster.server()));
    let scope = Arc::new(scope);
    // Ends with this function.
    let mut kinds = JoinSet::new();
    for kind in &scope.kinds {
        let watcher = kind::Watcher::new(
            *kind,
            cluster.clone(),
            Arc::clone(&discovery),
            Arc::clone(&scope),
            out.clone(),
        );
        kinds.spawn(watcher.run());
    }
    drop(out);

    let mut progress = Progress::new(&scope.kinds);
    let mut away: BTreeMap<Kind, RequestError> = BTreeMap::new();
    loop {
        let deadline = progress.deadline();
        let changes = tokio::select! {
            report = reports.recv() => match report {
                None => return,
                Some(Report::Changes(changes)) => changes,
                Some(Report::Settled(kind)) => {
                    progress.settled(kind);
                    Vec::new()
                }
                Some(Report::Away(kind, error)) => {
                    let was = away.len();
                    match error {
                        // What was said first stands until all is well: the same outage has many faces.
                        Some(error) => drop(away.entry(kind).or_insert(error)),
                        None => drop(away.remove(&kind)),
                    }
                    match (was, away.values().next()) {
                        (0, Some(error)) => vec![said(&server, Some(error))],
                        (1.., None) => {
                            tracing::info!("the {server} answers again");
                            vec![said(&server, None)]
                        }
                        _ => Vec::new(),
                    }
                }
            },
            () = sleep_until(deadline), if deadline.is_some() => {
                progress.waited();
                Vec::new()
            }
        };
        if !changes.is_empty() && !sink.send(changes) {
            return;
        }
        if progress.complete() && !sink.send(vec![Change::Synced]) {
            return;
        }
    }
}

fn said(server: &Arc<str>, error: Option<&RequestError>) -> Change {
    let finding = error.map(|error| {
        Finding::new(
            &codes::API_SERVER_AWAY,
            error.to_string(),
            "what is known of the cluster stays in force; it is tried again every few seconds",
        )
        .about(server)
    });
    Change::Findings {
        scope: Arc::clone(server),
        findings: finding.into_iter().collect(),
    }
}

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

/// Which kinds are still awaited before everything that existed has been sent.
struct Progress {
    pending: BTreeSet<Kind>,
    /// When those of Istio's kinds that are left are awaited no more.
    deadline: Option<Instant>,
    told: bool,
}

impl Progress {
    fn new(kinds: &[Kind]) -> Self {
        Self {
            pending: kinds.iter().copied().collect(),
            deadline: None,
            told: false,
        }
    }

    fn settled(&mut self, kind: Kind) {
        self.pending.remove(&kind);
        // Without services and pods there is nothing to serve, so those are waited for as long as it takes.
        if self.deadline.is_none() && self.pending.iter().all(|k| !k.info().whole) {
            self.deadline = Some(Instant::now() + STRAGGLERS);
        }
    }

    fn waited(&mut self) {
        self.pending.clear();
    }

    fn deadline(&self) -> Option<Instant> {
        self.deadline.filter(|_| !self.told)
    }

    /// True once.
    fn complete(&mut self) -> bool {
        let complete = !self.told && self.pending.is_empty();
        self.told |= complete;
        complete
    }
}
