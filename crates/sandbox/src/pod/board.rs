//! Statuses of all pods, for whoever watches them.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::watch;

use super::Statuses;
use crate::plan::{PodKey, PodStatus};

/// Clones are the same board.
#[derive(Debug, Clone)]
pub(super) struct Board {
    sender: watch::Sender<Statuses>,
}

impl Default for Board {
    fn default() -> Self {
        Self {
            sender: watch::Sender::new(Arc::new(BTreeMap::new())),
        }
    }
}

impl Board {
    pub(super) fn subscribe(&self) -> watch::Receiver<Statuses> {
        self.sender.subscribe()
    }

    pub(super) fn put(&self, status: PodStatus) {
        self.sender.send_modify(|all| {
            Arc::make_mut(all).insert(status.key.clone(), status);
        });
    }

    pub(super) fn remove(&self, key: &PodKey) {
        self.sender.send_modify(|all| {
            Arc::make_mut(all).remove(key);
        });
    }

    /// Changes a pod's status; those who watch are told only when it differs.
    pub(super) fn change(&self, key: &PodKey, f: impl FnOnce(&mut PodStatus)) {
        self.sender.send_if_modified(|all| {
            let Some(old) = all.get(key) else { return false };
            let mut new = old.clone();
            f(&mut new);
            let changed = new != *old;
            if changed {
                Arc::make_mut(all).insert(key.clone(), new);
            }
            changed
        });
    }
}
