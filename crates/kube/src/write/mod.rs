//! What a control plane writes into its cluster, by the one replica that holds the lease.
//!
//! ```text
//!   roots    ─▶ root_certs  ConfigMap istio-ca-root-cert of every namespace
//!            └▶ ca_bundle   caBundle of our webhook configurations
//!   Statuses ─▶ statuses    status of Istio's objects
//! ```
//!
//! Every duty looks at what is there and corrects it, whoever changed it, at a bounded rate.

mod ca_bundle;
mod mirror;
mod root_certs;
mod statuses;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use isthmus_api::status::Statuses;
use isthmus_runtime::drain;
use tokio::sync::watch;

use crate::connect::Cluster;
use crate::lease::Lease;

/// Name of the ConfigMap, and key in it (Istio).
pub use root_certs::{CONFIG_MAP, KEY};

/// Under this name the API server remembers which fields are ours.
const FIELD_MANAGER: &str = "istiod";
/// Between two writes of one duty.
const PACE: Duration = Duration::from_millis(50);
/// After a write that failed.
const RETRY: Duration = Duration::from_secs(2);

/// Who writes, where, and what.
#[derive(Clone)]
pub struct Writers {
    /// The cluster.
    pub cluster: Cluster,
    /// Namespace of the control plane.
    pub namespace: String,
    /// Revision of the control plane; `default` when empty.
    pub revision: String,
    /// Who we are among the replicas: the pod's name.
    pub identity: String,
    /// The mesh's roots as PEM; empty until there are some.
    pub roots: watch::Receiver<Arc<str>>,
    /// What is to be said of objects.
    pub statuses: watch::Receiver<Arc<Statuses>>,
}

impl Writers {
    /// Seeks the lease, and writes while holding it, until the drain begins.
    pub fn start(self, drain: &drain::Watcher) {
        let revision = match self.revision.as_str() {
            "" | "default" => String::new(),
            revision => format!("-{revision}"),
        };
        let lease = Lease {
            cluster: self.cluster.clone(),
            namespace: self.namespace.clone(),
            name: format!("istiod-leader{revision}"),
            identity: self.identity.clone(),
        };
        let held = lease.seek(drain);
        let duty = |work| drop(tokio::spawn(drain.clone().until_draining(work)));
        let certs = self.clone();
        duty(Box::pin(while_held(held.clone(), move || {
            root_certs::run(certs.cluster.clone(), certs.roots.clone())
        })) as std::pin::Pin<Box<dyn Future<Output = ()> + Send>>);
        let bundle = self.clone();
        duty(Box::pin(while_held(held.clone(), move || {
            ca_bundle::run(
                bundle.cluster.clone(),
                bundle.revision.clone(),
                bundle.namespace.clone(),
                bundle.roots.clone(),
            )
        })));
        duty(Box::pin(while_held(held, move || {
            statuses::run(self.cluster.clone(), self.statuses.clone())
        })));
    }
}

/// Works while the lease is held, from the beginning each time.
async fn while_held<F: Future<Output = ()>>(mut held: watch::Receiver<bool>, work: impl Fn() -> F) {
    loop {
        if held.wait_for(|held| *held).await.is_err() {
            return;
        }
        tokio::select! {
            () = work() => {}
            lost = held.wait_for(|held| !*held) => if lost.is_err() { return },
        }
    }
}

/// What went wrong, said once for as long as it is the same.
#[derive(Default)]
struct Complaint(String);

impl Complaint {
    fn about(&mut self, what: &str, error: &crate::rest::RequestError) {
        let why = error.to_string();
        if why != self.0 {
            tracing::warn!("{what} cannot be written: {why}");
            self.0 = why;
        }
    }
}
