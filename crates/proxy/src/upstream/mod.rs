//! Upstream clusters as one worker sees them: hosts, health, balancing, connections.
//!
//! Nothing here is shared between workers, so nothing locks. It knows neither listeners nor routes.
//!
//! ```text
//!   Live ─▶ Upstreams ─▶ ClusterState ─▶ balance::View ─▶ Host ─▶ pool (HTTP) or connect (TCP)
//!                             ▲ note                        │
//!                             └──── outlier, silence ◀──────┘
//! ```

pub mod balance;
pub mod cluster;
pub mod connect;
pub mod gateway;
pub mod hash;
pub mod host;
pub mod outlier;
pub mod pool;
pub mod rng;
pub mod silence;
mod tcp_info;
#[cfg(test)]
mod tests;

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use crate::state::Live;

pub use balance::PickContext;
pub use cluster::{ClusterState, Held, PickError};
pub use host::{Busy, Host};
pub use outlier::Evidence;

/// Every cluster of a worker.
#[derive(Debug, Default)]
pub struct Upstreams {
    clusters: RefCell<HashMap<Arc<str>, Rc<ClusterState>>>,
}

impl Upstreams {
    /// The cluster of this name.
    pub fn cluster(&self, name: &str) -> Option<Rc<ClusterState>> {
        self.clusters.borrow().get(name).cloned()
    }

    /// Follows a new configuration: state is kept where the cluster itself did not change.
    pub fn apply(&self, live: &Live) {
        let mut clusters = self.clusters.borrow_mut();
        clusters.retain(|name, state| match live.clusters.get(name) {
            Some(config) if Arc::ptr_eq(config, &state.config) => true,
            _ => {
                state.retire();
                false
            }
        });
        for (name, config) in &live.clusters {
            let state = clusters
                .entry(name.clone())
                .or_insert_with(|| ClusterState::new(config.clone()));
            state.update(live.endpoints.get(name));
        }
    }

    /// Regular housekeeping of every cluster.
    pub fn sweep(&self, now: Instant) {
        for cluster in self.clusters.borrow().values() {
            cluster.sweep(now);
        }
    }

    /// Runs `visit` over every cluster.
    pub fn each(&self, mut visit: impl FnMut(&Rc<ClusterState>)) {
        for cluster in self.clusters.borrow().values() {
            visit(cluster);
        }
    }
}
