//! Orderly ending: one trigger, many watchers, a deadline.
//!
//! Every task holds a [`Watcher`] (or is spawned by one). When the role ends, [`Trigger::drain`] tells
//! all of them to finish what they have, waits until every watcher is dropped, and after the deadline
//! tells those that are left to give up.
//!
//! ```text
//!   Running ──Trigger::drain(d)──> Draining(until now + d) ──deadline──> Aborted
//!              each watcher finishes and is dropped  └──all dropped──> done
//! ```

use std::future::Future;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// How long watchers that were told to give up may take to be dropped.
const ABORT_GRACE: Duration = Duration::from_secs(1);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Running,
    Draining(Instant),
    Aborted,
}

/// Starts the drain. Dropping it without draining aborts every watcher.
#[derive(Debug)]
pub struct Trigger(watch::Sender<Phase>);

/// Holds the drain open: as long as one exists, the role has work to finish.
#[derive(Debug, Clone)]
pub struct Watcher(watch::Receiver<Phase>);

/// How a drain ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Every watcher was dropped in time.
    Drained,
    /// The deadline passed while this many watchers were still held; they were told to give up.
    DeadlinePassed {
        /// Watchers held when the deadline passed.
        held: usize,
    },
}

/// A trigger and its first watcher.
pub fn channel() -> (Trigger, Watcher) {
    let (tx, rx) = watch::channel(Phase::Running);
    (Trigger(tx), Watcher(rx))
}

impl Trigger {
    /// Another watcher.
    pub fn watcher(&self) -> Watcher {
        Watcher(self.0.subscribe())
    }

    /// Tells every watcher to finish and waits until all are dropped, at most `patience`; then tells
    /// the rest to give up and waits one more second for them.
    pub async fn drain(self, patience: Duration) -> Outcome {
        self.0.send_replace(Phase::Draining(Instant::now() + patience));
        if tokio::time::timeout(patience, self.0.closed()).await.is_ok() {
            return Outcome::Drained;
        }
        let held = self.0.receiver_count();
        self.0.send_replace(Phase::Aborted);
        let _ = tokio::time::timeout(ABORT_GRACE, self.0.closed()).await;
        Outcome::DeadlinePassed { held }
    }
}

impl Watcher {
    /// Whether the drain has begun.
    pub fn is_draining(&self) -> bool {
        !matches!(*self.0.borrow(), Phase::Running) || self.0.has_changed().is_err()
    }

    /// Completes when the drain begins, with the moment by which work must be finished.
    pub async fn draining(&mut self) -> Instant {
        match self.0.wait_for(|p| *p != Phase::Running).await.as_deref() {
            Ok(Phase::Draining(deadline)) => *deadline,
            _ => Instant::now(),
        }
    }

    /// Completes when the deadline of the drain has passed: whoever is left drops what it has.
    pub async fn aborted(&mut self) {
        let _ = self.0.wait_for(|p| *p == Phase::Aborted).await;
    }

    /// Runs `work` to its end or to the drain's deadline, holding the drain open meanwhile.
    /// `None` says that it was dropped unfinished.
    pub async fn hold<F: Future>(mut self, work: F) -> Option<F::Output> {
        tokio::select! {
            biased;
            out = work => Some(out),
            () = self.aborted() => None,
        }
    }

    /// Runs `work` only until the drain begins: for loops that have nothing to finish.
    pub async fn until_draining<F: Future>(mut self, work: F) -> Option<F::Output> {
        tokio::select! {
            biased;
            _ = self.draining() => None,
            out = work => Some(out),
        }
    }

    /// Spawns `work` as a task that belongs to this drain, as [`Watcher::hold`] does.
    pub fn spawn<F>(&self, work: F) -> JoinHandle<Option<F::Output>>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        tokio::spawn(self.clone().hold(work))
    }

    /// Spawns `work` on the current thread's `LocalSet` as a task that belongs to this drain.
    pub fn spawn_local<F>(&self, work: F) -> JoinHandle<Option<F::Output>>
    where
        F: Future + 'static,
        F::Output: 'static,
    {
        tokio::task::spawn_local(self.clone().hold(work))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn drain_waits_for_the_last_watcher() {
        let (trigger, watcher) = channel();
        let mut other = watcher.clone();
        assert!(!watcher.is_draining());
        let task = tokio::spawn(async move {
            let deadline = other.draining().await;
            assert!(deadline > Instant::now());
            tokio::time::sleep(Duration::from_millis(50)).await;
            Instant::now()
        });
        drop(watcher);
        assert_eq!(trigger.drain(Duration::from_secs(60)).await, Outcome::Drained);
        let drained = Instant::now();
        assert!(task.await.unwrap() <= drained);
    }

    #[tokio::test]
    async fn what_does_not_finish_is_dropped_at_the_deadline() {
        let (trigger, watcher) = channel();
        let stuck = watcher.spawn(std::future::pending::<()>());
        drop(watcher);
        let outcome = trigger.drain(Duration::from_millis(50)).await;
        assert_eq!(outcome, Outcome::DeadlinePassed { held: 1 });
        assert_eq!(stuck.await.unwrap(), None);
    }

    #[tokio::test]
    async fn a_dropped_trigger_aborts_everything() {
        let (trigger, watcher) = channel();
        let stuck = watcher.spawn(std::future::pending::<()>());
        drop(trigger);
        assert_eq!(stuck.await.unwrap(), None);
        assert!(watcher.is_draining());
    }

    #[tokio::test]
    async fn loops_end_when_the_drain_begins_and_a_watcher_may_join_late() {
        let (trigger, watcher) = channel();
        let endless = tokio::spawn(watcher.until_draining(std::future::pending::<()>()));
        let late = trigger.watcher();
        let worked = tokio::spawn(late.hold(async { 7 }));
        assert_eq!(trigger.drain(Duration::from_secs(5)).await, Outcome::Drained);
        assert_eq!(endless.await.unwrap(), None);
        assert_eq!(worked.await.unwrap(), Some(7));
    }
}
