//! The engine over this machine's namespaces and processes.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use isthmus_model::ClusterId;
use tokio::sync::watch;

use super::names::Names;
use crate::cluster::{Engine, EngineFuture, Statuses};
use crate::network::Network;
use crate::plan::{PodKey, PodPlan, PodStatus, VirtualAddress};
use crate::pod::Pods;

/// Pods, networks and names of the sandbox.
#[derive(Debug)]
pub struct Machine {
    /// Pods that run.
    pub pods: Pods,
    /// Their networks.
    pub network: Network,
    /// Names of Services and load balancers.
    pub names: Arc<Names>,
}

impl Engine for Machine {
    fn start(&self, plan: PodPlan) -> EngineFuture<'_, Result<PodStatus, String>> {
        let pods = self.pods.clone();
        Box::pin(async move {
            // Namespaces and rules are made by system calls that block for milliseconds.
            let runtime = tokio::runtime::Handle::current();
            let started = tokio::task::spawn_blocking(move || {
                let _entered = runtime.enter();
                pods.start(plan)
            });
            match started.await {
                Ok(result) => result.map_err(|e| e.to_string()),
                Err(e) => Err(e.to_string()),
            }
        })
    }

    fn stop(&self, key: PodKey, grace: Duration) -> EngineFuture<'_, ()> {
        Box::pin(async move {
            if let Err(error) = self.pods.stop(&key, grace).await {
                tracing::warn!(pod = %key, %error, "a pod was not stopped cleanly");
            }
        })
    }

    fn statuses(&self) -> watch::Receiver<Statuses> {
        self.pods.statuses()
    }

    fn virtual_addresses(
        &self,
        cluster: &ClusterId,
        cluster_ips: &[VirtualAddress],
        load_balancers: &[VirtualAddress],
    ) -> Result<(), String> {
        self.network
            .set_cluster_ips(cluster, cluster_ips.to_vec())
            .and_then(|()| self.network.set_load_balancers(cluster, load_balancers.to_vec()))
            .map_err(|e| e.to_string())
    }

    fn names(
        &self,
        cluster: &ClusterId,
        names: &BTreeMap<String, Vec<Ipv4Addr>>,
        public: &BTreeMap<String, Vec<Ipv4Addr>>,
    ) {
        self.names.replace(cluster, names, public);
    }
}
