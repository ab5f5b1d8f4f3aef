//! The life of one pod: read what it needs, start it, tell the API how it is doing, end it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;
use kube::api::{Api, DeleteParams, Patch, PatchParams, Preconditions};
use serde_json::{Value, json};
use tokio::sync::{broadcast, watch};
use tokio::time::{Instant, sleep, sleep_until};

use super::Shared;
use super::events::Events;
use super::plan::{Planner, key};
use super::sources::{Entries, Kind, Obstacle};
use super::status::{Facts, finished};
use super::volumes::Volumes;
use crate::kubernetes::node::NodeFacts;
use crate::plan::{PodKey, PodStatus};

/// Between two tries to start a pod.
const RETRY: Duration = Duration::from_secs(1);
/// Between two tries to write a status.
const WRITE_AGAIN: Duration = Duration::from_millis(500);
/// A status is written this long after a change, with whatever else changes meanwhile.
const TOGETHER: Duration = Duration::from_millis(10);

/// What a worker is told: the pod as the API has it, `None` once it is gone from there.
pub(super) type Told = watch::Receiver<Option<Arc<Pod>>>;

pub(super) struct Worker {
    shared: Arc<Shared>,
    node: NodeFacts,
    told: Told,
    pod: Arc<Pod>,
    key: PodKey,
    events: Events,
    volumes: Volumes,
    changed: broadcast::Receiver<(Kind, String, String)>,
    /// Status that the API server took last.
    written: Value,
    /// Files of the volumes as the pod sees them now.
    shown: BTreeMap<String, Entries>,
    /// How the pod was doing when it was looked at last, kept when it is gone.
    seen: Option<PodStatus>,
}

/// How a phase of the life ends.
enum Next {
    /// On with it.
    On,
    /// The pod is to go, in this time.
    End(Duration),
    /// It is gone from the API.
    Gone,
}

impl Worker {
    pub(super) fn new(
        shared: Arc<Shared>,
        node: NodeFacts,
        pod: Arc<Pod>,
        told: Told,
        changed: broadcast::Receiver<(Kind, String, String)>,
    ) -> Self {
        Self {
            key: key(&shared.settings, &pod),
            events: Events::new(shared.sources.client.clone(), &node.name),
            volumes: Volumes::new(shared.sources.clone(), node.clone()),
            shared,
            node,
            told,
            pod,
            changed,
            written: Value::Null,
            shown: BTreeMap::new(),
            seen: None,
        }
    }

    pub(super) async fn run(mut self) {
        let next = if finished(&self.pod) {
            self.rest().await
        } else {
            match self.begin().await {
                Next::On => self.attend().await,
                end => end,
            }
        };
        let grace = match next {
            Next::End(grace) => grace,
            // Nobody waits for it any more.
            Next::Gone | Next::On => Duration::ZERO,
        };
        let known = self.shared.pods.plan(&self.key).is_some();
        if known && self.seen.is_some() {
            self.events
                .normal(&self.pod, "Killing", "Stopping the pod's containers")
                .await;
            self.shared.engine.stop(self.key.clone(), grace).await;
        }
        if matches!(next, Next::End(_)) {
            self.delete().await;
        }
    }

    /// Until its namespaces are there and its containers are started.
    async fn begin(&mut self) -> Next {
        loop {
            if let Some(end) = self.ending() {
                return end;
            }
            match self.start().await {
                Ok(status) => {
                    self.seen = Some(status);
                    return Next::On;
                }
                Err(obstacle) => {
                    self.events
                        .warning(&self.pod, obstacle.reason, &obstacle.message)
                        .await;
                    let _ = self.write(Some(&obstacle)).await;
                }
            }
            tokio::select! {
                _ = self.told.changed() => {}
                () = sleep(RETRY) => {}
            }
        }
    }

    async fn start(&mut self) -> Result<PodStatus, Obstacle> {
        let pod = self.pod.clone();
        let Some(spec) = &pod.spec else {
            return Err(Obstacle::new("FailedCreatePodSandBox", "the pod has no spec"));
        };
        let volumes = self.volumes.read(&pod).await?;
        let planner = Planner {
            settings: &self.shared.settings,
            programs: &self.shared.programs,
            sources: &self.shared.sources,
            node: &self.node,
            pod: &pod,
            spec,
        };
        let files = volumes
            .iter()
            .filter_map(|v| Some((v.name.clone(), v.files.clone()?)));
        self.shown = files.collect();
        let plan = planner.plan(volumes).await?;
        let unavailable: Vec<String> = plan
            .containers
            .iter()
            .filter_map(|c| match &c.program {
                crate::plan::Program::Unavailable { message, .. } => Some(message.clone()),
                _ => None,
            })
            .collect();
        let status = self
            .shared
            .engine
            .start(plan)
            .await
            .map_err(|why| Obstacle::new("FailedCreatePodSandBox", why))?;
        for message in unavailable {
            self.events.warning(&pod, "Failed", &message).await;
        }
        Ok(status)
    }

    /// While it runs: statuses out, files in.
    async fn attend(&mut self) -> Next {
        let mut statuses = self.shared.pods.statuses();
        let mut write_at = Some(Instant::now());
        let mut read_at: Option<Instant> = None;
        loop {
            if let Some(end) = self.ending() {
                return end;
            }
            let renewal = self.volumes.renew_at().map(|at| {
                let left = at.duration_since(SystemTime::now()).unwrap_or_default();
                Instant::now() + left
            });
            let due = [read_at, renewal].into_iter().flatten().min();
            tokio::select! {
                changed = self.told.changed() => {
                    if changed.is_err() {
                        return Next::Gone;
                    }
                    // Labels and annotations may be files; conditions of others may open a gate.
                    read_at.get_or_insert_with(Instant::now);
                    write_at.get_or_insert_with(Instant::now);
                }
                changed = statuses.changed() => {
                    if changed.is_err() {
                        return Next::Gone;
                    }
                    let now = statuses.borrow_and_update().get(&self.key).cloned();
                    if now.is_some() && now != self.seen {
                        self.tell(now.as_ref()).await;
                        self.seen = now;
                        write_at.get_or_insert_with(|| Instant::now() + TOGETHER);
                    }
                }
                changed = self.changed.recv() => {
                    let concerns = match changed {
                        Ok((kind, namespace, name)) => {
                            namespace == self.key.namespace && self.volumes.references.contains(&(kind, name))
                        }
                        Err(broadcast::error::RecvError::Lagged(_)) => true,
                        Err(broadcast::error::RecvError::Closed) => return Next::Gone,
                    };
                    if concerns {
                        read_at.get_or_insert_with(Instant::now);
                    }
                }
                () = at(due) => {
                    read_at = match self.refresh().await {
                        Ok(()) => None,
                        Err(obstacle) => {
                            self.events.warning(&self.pod, obstacle.reason, &obstacle.message).await;
                            Some(Instant::now() + RETRY)
                        }
                    };
                }
                () = at(write_at) => {
                    write_at = match self.write(None).await {
                        Ok(()) => None,
                        Err(error) => {
                            tracing::debug!(pod = %self.key, %error, "its status was not taken");
                            Some(Instant::now() + WRITE_AGAIN)
                        }
                    };
                    if write_at.is_none() && self.seen.as_ref().is_some_and(|s| s.finished) {
                        // Its namespaces are of no use any more; its status and its logs stay.
                        self.shared.engine.stop(self.key.clone(), Duration::ZERO).await;
                        return self.rest().await;
                    }
                }
            }
        }
    }

    /// What has ended waits to be deleted.
    async fn rest(&mut self) -> Next {
        loop {
            if let Some(end) = self.ending() {
                return end;
            }
            if self.told.changed().await.is_err() {
                return Next::Gone;
            }
        }
    }

    /// Takes up what was told; says when the pod is to go.
    fn ending(&mut self) -> Option<Next> {
        match self.told.borrow_and_update().clone() {
            None => return Some(Next::Gone),
            Some(pod) => self.pod = pod,
        }
        self.pod.metadata.deletion_timestamp.as_ref()?;
        let grace = self.pod.metadata.deletion_grace_period_seconds.unwrap_or(30);
        Some(Next::End(Duration::from_secs(
            grace.clamp(0, 3600).unsigned_abs(),
        )))
    }

    /// Says what changed for the worse.
    async fn tell(&mut self, now: Option<&PodStatus>) {
        let Some(now) = now else { return };
        let pod = self.pod.clone();
        for (name, status) in &now.containers {
            let before = self.seen.as_ref().and_then(|s| s.containers.get(name));
            let probe_failed =
                status.reason.contains("probe:") && status.reason != before.map_or("", |b| &b.reason);
            if probe_failed {
                let message = format!("container {name}: {}", status.reason);
                self.events.warning(&pod, "Unhealthy", &message).await;
            }
            let again = status.last.is_some() && status.last != before.and_then(|b| b.last.clone());
            if again && !status.ended {
                let message = format!("container {name}: {}", status.reason);
                self.events.warning(&pod, "BackOff", &message).await;
            }
        }
    }

    /// Brings the volumes' files up to date.
    async fn refresh(&mut self) -> Result<(), Obstacle> {
        let pod = self.pod.clone();
        let volumes = self.volumes.read(&pod).await?;
        for volume in volumes {
            let Some(files) = volume.files else { continue };
            if self.shown.get(&volume.name) == Some(&files) {
                continue;
            }
            self.shared
                .pods
                .update_volume(&self.key, &volume.name, &files)
                .map_err(|e| Obstacle::new("FailedMount", e.to_string()))?;
            self.shown.insert(volume.name, files);
        }
        Ok(())
    }

    /// Writes the status, if it is another than the one that was written last.
    async fn write(&mut self, obstacle: Option<&Obstacle>) -> kube::Result<()> {
        let pod = self.pod.clone();
        let Some(spec) = &pod.spec else { return Ok(()) };
        let status = Facts {
            pod: &pod,
            spec,
            node: &self.node,
            running: self.seen.as_ref(),
            obstacle,
            now: Timestamp::now(),
        }
        .status();
        let comparable = timeless(&status);
        if comparable == self.written {
            return Ok(());
        }
        // The uid keeps the status from a pod that has taken the name meanwhile.
        let patch = json!({"metadata": {"uid": pod.uid()}, "status": status});
        let written = self
            .pods()
            .patch_status(&pod.name_any(), &PatchParams::default(), &Patch::Merge(patch))
            .await;
        match written {
            Ok(_) => {
                self.written = comparable;
                Ok(())
            }
            // It is gone, or another of its name is there: the watch will say so.
            Err(kube::Error::Api(e)) if matches!(e.code, 404 | 409) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Takes the pod out of the API, now that nothing of it runs.
    async fn delete(&mut self) {
        let parameters = DeleteParams {
            grace_period_seconds: Some(0),
            preconditions: Some(Preconditions {
                uid: self.pod.uid(),
                ..Preconditions::default()
            }),
            ..DeleteParams::default()
        };
        loop {
            match self.pods().delete(&self.pod.name_any(), &parameters).await {
                Ok(_) => return,
                Err(kube::Error::Api(e)) if matches!(e.code, 404 | 409) => return,
                Err(error) => {
                    tracing::debug!(pod = %self.key, %error, "it was not taken out of the API");
                    sleep(WRITE_AGAIN).await;
                }
            }
        }
    }

    fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.shared.sources.client.clone(), &self.key.namespace)
    }
}

/// A status without the times at which it was said.
fn timeless(status: &Value) -> Value {
    let mut status = status.clone();
    for condition in status["conditions"].as_array_mut().into_iter().flatten() {
        if let Some(condition) = condition.as_object_mut() {
            condition.remove("lastTransitionTime");
        }
    }
    if let Some(status) = status.as_object_mut() {
        status.remove("startTime");
    }
    status
}

async fn at(due: Option<Instant>) {
    match due {
        Some(due) => sleep_until(due).await,
        None => std::future::pending().await,
    }
}
