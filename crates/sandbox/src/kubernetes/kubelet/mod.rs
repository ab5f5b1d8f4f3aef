//! The kubelet of all of a cluster's nodes: pods that the scheduler has bound to one of them are run as the
//! sandbox runs pods, and what becomes of them is told to the API server.
//!
//! ```text
//!   watch pods ─▶ a worker per pod: volumes, environment ─▶ PodPlan ─▶ engine
//!   watch ConfigMaps, Secrets ─▶ the workers that show them              │ PodStatus
//!                                       status, Events, tokens ◀─────────┘
//! ```
//!
//! Images are played: this binary for the image `isthmus`, the samples, CoreDNS; any other image runs the
//! container's `command` from this machine, or waits with the reason `ErrImagePull`. Containers of a pod
//! share their files; users, capabilities and limits are not enforced.

mod events;
mod fields;
mod plan;
mod sources;
mod status;
#[cfg(test)]
mod tests;
mod volumes;
mod worker;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use futures_util::StreamExt;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret};
use kube::api::Api;
use kube::core::PartialObjectMeta;
use kube::runtime::watcher::{Config, Event};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Client, ResourceExt};
use tokio::sync::{broadcast, watch};
use tokio::task::{JoinHandle, JoinSet};

use super::assets::Programs;
use super::node::NodeFacts;
use crate::cluster::{ClusterSettings, Engine};
use crate::pod::Pods;
use sources::{Kind, Sources};
use worker::Worker;

/// Changes of ConfigMaps and Secrets that a worker may be behind before it reads all of its own again.
const CHANGES: usize = 256;

/// What all workers use.
struct Shared {
    settings: Arc<ClusterSettings>,
    programs: Programs,
    engine: Arc<dyn Engine>,
    pods: Pods,
    sources: Sources,
}

/// The kubelet; it lives as long as its future.
pub(super) struct Kubelet {
    shared: Arc<Shared>,
    nodes: BTreeMap<String, NodeFacts>,
    /// Workers by the uid of their pod.
    workers: HashMap<String, watch::Sender<Option<Arc<Pod>>>>,
    changes: broadcast::Sender<(Kind, String, String)>,
    tasks: JoinSet<String>,
    /// The pods as whoever looks at the sandbox sees them.
    known: watch::Sender<BTreeMap<String, Arc<Pod>>>,
}

impl Kubelet {
    pub(super) fn new(
        client: Client,
        settings: Arc<ClusterSettings>,
        programs: Programs,
        engine: Arc<dyn Engine>,
        pods: Pods,
        nodes: &[NodeFacts],
    ) -> Self {
        let shared = Shared {
            settings,
            programs,
            engine,
            pods,
            sources: Sources { client },
        };
        Self {
            shared: Arc::new(shared),
            nodes: nodes.iter().map(|n| (n.name.clone(), n.clone())).collect(),
            workers: HashMap::new(),
            changes: broadcast::Sender::new(CHANGES),
            tasks: JoinSet::new(),
            known: watch::Sender::default(),
        }
    }

    /// The pods bound to its nodes, by uid.
    pub(super) fn known(&self) -> watch::Receiver<BTreeMap<String, Arc<Pod>>> {
        self.known.subscribe()
    }

    /// Runs pods for ever.
    pub(super) async fn run(mut self) {
        let client = &self.shared.sources.client;
        let _watches = [
            Watch(tokio::spawn(tell_changes::<ConfigMap>(
                client.clone(),
                Kind::ConfigMap,
                self.changes.clone(),
            ))),
            Watch(tokio::spawn(tell_changes::<Secret>(
                client.clone(),
                Kind::Secret,
                self.changes.clone(),
            ))),
        ];
        let bound = Config::default().fields("spec.nodeName!=");
        let mut pods = std::pin::pin!(watcher(Api::<Pod>::all(client.clone()), bound).default_backoff());
        let mut listed = BTreeSet::new();
        loop {
            tokio::select! {
                event = pods.next() => match event {
                    Some(Ok(Event::Apply(pod))) => self.told(pod),
                    Some(Ok(Event::Delete(pod))) => self.gone(&pod.uid().unwrap_or_default()),
                    Some(Ok(Event::Init)) => listed.clear(),
                    Some(Ok(Event::InitApply(pod))) => {
                        listed.insert(pod.uid().unwrap_or_default());
                        self.told(pod);
                    }
                    Some(Ok(Event::InitDone)) => {
                        let missing: Vec<String> =
                            self.workers.keys().filter(|uid| !listed.contains(*uid)).cloned().collect();
                        for uid in missing {
                            self.gone(&uid);
                        }
                    }
                    Some(Err(error)) => tracing::debug!(%error, "the watch of pods begins anew"),
                    None => return,
                },
                Some(ended) = self.tasks.join_next() => {
                    if let Ok(uid) = ended {
                        self.workers.remove(&uid);
                    }
                }
            }
        }
    }

    fn told(&mut self, pod: Pod) {
        let uid = pod.uid().unwrap_or_default();
        let node = pod.spec.as_ref().and_then(|s| s.node_name.as_ref());
        let Some(node) = node.and_then(|n| self.nodes.get(n)) else {
            return;
        };
        let pod = Arc::new(pod);
        self.known.send_modify(|known| {
            known.insert(uid.clone(), pod.clone());
        });
        if let Some(worker) = self.workers.get(&uid) {
            worker.send_replace(Some(pod));
            return;
        }
        let (sender, told) = watch::channel(Some(pod.clone()));
        let worker = Worker::new(
            self.shared.clone(),
            node.clone(),
            pod,
            told,
            self.changes.subscribe(),
        );
        self.workers.insert(uid.clone(), sender);
        self.tasks.spawn(async move {
            worker.run().await;
            uid
        });
    }

    fn gone(&mut self, uid: &str) {
        self.known.send_modify(|known| {
            known.remove(uid);
        });
        if let Some(worker) = self.workers.get(uid) {
            worker.send_replace(None);
        }
    }
}

/// A task that ends with its owner.
struct Watch(JoinHandle<()>);

impl Drop for Watch {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Says which objects of a kind change.
async fn tell_changes<K>(client: Client, kind: Kind, changes: broadcast::Sender<(Kind, String, String)>)
where
    K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope>
        + Clone
        + serde::de::DeserializeOwned
        + std::fmt::Debug
        + Send
        + 'static,
    K::DynamicType: Default,
{
    let objects = Api::<PartialObjectMeta<K>>::all(client);
    let mut stream = std::pin::pin!(watcher(objects, Config::default()).default_backoff());
    while let Some(event) = stream.next().await {
        if let Ok(Event::Apply(object) | Event::Delete(object) | Event::InitApply(object)) = event {
            // Nobody listens while no pod runs.
            let _ = changes.send((kind, object.namespace().unwrap_or_default(), object.name_any()));
        }
    }
}
