//! What a cluster's controller needs of the machine: pods that run, addresses that lead to them.

use std::collections::BTreeMap;
use std::future::Future;
use std::net::Ipv4Addr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use isthmus_model::ClusterId;
use tokio::sync::watch;

use crate::plan::{PodKey, PodPlan, PodStatus, VirtualAddress};

/// A future of an [`Engine`].
pub type EngineFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Statuses of all pods.
pub type Statuses = Arc<BTreeMap<PodKey, PodStatus>>;

/// Runs pods and programmes virtual addresses. The sandbox has one over namespaces and processes; tests
/// have one that only remembers.
pub trait Engine: Send + Sync + 'static {
    /// Starts a pod. An error says in words what the machine refused.
    fn start(&self, plan: PodPlan) -> EngineFuture<'_, Result<PodStatus, String>>;

    /// Ends a pod: SIGTERM, after `grace` SIGKILL, then its namespaces go.
    fn stop(&self, key: PodKey, grace: Duration) -> EngineFuture<'_, ()>;

    /// How all pods are doing.
    fn statuses(&self) -> watch::Receiver<Statuses>;

    /// Replaces a cluster's virtual addresses and what stands behind them.
    fn virtual_addresses(
        &self,
        cluster: &ClusterId,
        cluster_ips: &[VirtualAddress],
        load_balancers: &[VirtualAddress],
    ) -> Result<(), String>;

    /// Replaces the names that a cluster's DNS knows, and its share of the public names.
    fn names(
        &self,
        cluster: &ClusterId,
        names: &BTreeMap<String, Vec<Ipv4Addr>>,
        public: &BTreeMap<String, Vec<Ipv4Addr>>,
    );
}
