//! Readiness: a role is ready when every guard that was taken has been dropped.
//!
//! Whatever must happen before traffic may come takes a [`Guard`] with a name at start-up; `/ready`
//! lists the names that are pending, so that "not ready" always says what it waits for.

use std::sync::Arc;

use tokio::sync::watch;

/// The set of what is still pending. Cheap to clone; all clones see the same set.
#[derive(Debug, Clone)]
pub struct Readiness(Arc<watch::Sender<Vec<Arc<str>>>>);

/// One thing that is not ready yet. Dropping it says that it is.
#[derive(Debug)]
#[must_use = "dropping the guard says that it is ready"]
pub struct Guard {
    readiness: Readiness,
    name: Arc<str>,
}

impl Default for Readiness {
    fn default() -> Self {
        Self::new()
    }
}

impl Readiness {
    /// Nothing pending: ready until the first guard is taken. Take all guards before serving `/ready`.
    pub fn new() -> Self {
        Self(Arc::new(watch::Sender::new(Vec::new())))
    }

    /// Makes the role unready until the guard is dropped. The same name may be held more than once.
    pub fn guard(&self, name: impl Into<Arc<str>>) -> Guard {
        let name = name.into();
        self.0.send_modify(|pending| pending.push(name.clone()));
        Guard {
            readiness: self.clone(),
            name,
        }
    }

    /// Whether nothing is pending.
    pub fn is_ready(&self) -> bool {
        self.0.borrow().is_empty()
    }

    /// Names of what is pending, in the order in which the guards were taken.
    pub fn pending(&self) -> Vec<Arc<str>> {
        self.0.borrow().clone()
    }

    /// Completes as soon as nothing is pending.
    pub async fn ready(&self) {
        let _ = self.0.subscribe().wait_for(Vec::is_empty).await;
    }
}

impl Guard {
    /// What is waited for.
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let mut last = false;
        self.readiness.0.send_modify(|pending| {
            if let Some(i) = pending.iter().position(|n| *n == self.name) {
                pending.remove(i);
            }
            last = pending.is_empty();
        });
        tracing::debug!(name = &*self.name, ready = last, "no longer pending");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn ready_only_after_the_last_guard_and_the_pending_are_named() {
        let readiness = Readiness::new();
        let xds = readiness.guard("xds");
        let cert = readiness.guard("certificate");
        let again = readiness.guard("xds");
        assert_eq!(
            readiness.pending().iter().map(|n| &**n).collect::<Vec<_>>(),
            ["xds", "certificate", "xds"]
        );
        drop(cert);
        drop(xds);
        assert!(!readiness.is_ready());
        assert_eq!(readiness.pending().len(), 1);
        let waiting = tokio::spawn({
            let readiness = readiness.clone();
            async move { readiness.ready().await }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        drop(again);
        waiting.await.unwrap();
        assert!(readiness.is_ready());
    }
}
