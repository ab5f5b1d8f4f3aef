//! Events of pods, as `kubectl describe` shows them.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{Event, Pod};
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, PostParams};
use kube::{Client, ResourceExt};
use serde_json::json;

use crate::kubernetes::node::seconds;

/// The same is not said of a pod again within this time.
const REPEAT: Duration = Duration::from_secs(60);

/// Says what happens to one pod.
pub(super) struct Events {
    client: Client,
    node: String,
    said: HashMap<(String, String), Instant>,
    number: u32,
}

impl Events {
    pub(super) fn new(client: Client, node: &str) -> Self {
        Self {
            client,
            node: node.to_owned(),
            said: HashMap::new(),
            number: 0,
        }
    }

    /// Something went its way.
    pub(super) async fn normal(&mut self, pod: &Pod, reason: &str, message: &str) {
        self.say(pod, "Normal", reason, message).await;
    }

    /// Something went wrong.
    pub(super) async fn warning(&mut self, pod: &Pod, reason: &str, message: &str) {
        self.say(pod, "Warning", reason, message).await;
    }

    async fn say(&mut self, pod: &Pod, kind: &str, reason: &str, message: &str) {
        let key = (reason.to_owned(), message.to_owned());
        if self.said.get(&key).is_some_and(|at| at.elapsed() < REPEAT) {
            return;
        }
        self.said.insert(key, Instant::now());
        self.number += 1;
        let (namespace, name) = (pod.namespace().unwrap_or_default(), pod.name_any());
        let uid = pod.uid().unwrap_or_default();
        let short = uid.split('-').next().unwrap_or_default();
        let now = seconds(Timestamp::now());
        let event = serde_json::from_value::<Event>(json!({
            "metadata": {"name": format!("{name}.{short}.{}", self.number), "namespace": namespace},
            "involvedObject": {
                "apiVersion": "v1", "kind": "Pod", "namespace": namespace, "name": name, "uid": uid,
                "resourceVersion": pod.resource_version(),
            },
            "type": kind, "reason": reason, "message": message, "count": 1,
            "firstTimestamp": now, "lastTimestamp": now,
            "source": {"component": "kubelet", "host": self.node},
            "reportingComponent": "kubelet", "reportingInstance": self.node,
        }));
        let Ok(event) = event else { return };
        let events: Api<Event> = Api::namespaced(self.client.clone(), &namespace);
        // An Event is for whoever looks: nothing waits for it.
        if let Err(error) = events.create(&PostParams::default(), &event).await {
            tracing::debug!(pod = %format!("{namespace}/{name}"), reason, %error, "an Event was not written");
        }
    }
}
