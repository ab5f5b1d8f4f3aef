//! ConfigMap `istio-ca-root-cert` of every namespace: whom its pods trust.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use futures_util::StreamExt as _;
use http::Method;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use kube::Api;
use kube::core::PartialObjectMeta;
use kube::runtime::{WatchStreamExt as _, watcher};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::Instant;

use super::mirror::Mirror;
use super::{Complaint, FIELD_MANAGER, PACE, RETRY};
use crate::connect::Cluster;
use crate::rest::{APPLY, Call, RequestError, encoded};

/// Its name.
pub const CONFIG_MAP: &str = "istio-ca-root-cert";
/// The key in it.
pub const KEY: &str = "root-cert.pem";

/// Keeps them right until dropped.
pub async fn run(cluster: Cluster, mut roots: watch::Receiver<Arc<str>>) {
    let client = cluster.client().clone();
    let every = Api::<PartialObjectMeta<Namespace>>::all(client.clone());
    let every = watcher(every, watcher::Config::default());
    let mut every = std::pin::pin!(every.default_backoff());
    let named = watcher::Config::default().fields(&format!("metadata.name={CONFIG_MAP}"));
    let mut maps = std::pin::pin!(watcher(Api::<ConfigMap>::all(client), named).default_backoff());

    // Whether a namespace is about to go; and a digest of what its ConfigMap says.
    let mut namespaces: Mirror<bool> = Mirror::default();
    let mut present: Mirror<u64> = Mirror::default();
    let mut failed: BTreeMap<String, Instant> = BTreeMap::new();
    let mut complaint = Complaint::default();
    loop {
        let again = failed.values().min().copied();
        tokio::select! {
            event = every.next() => match event {
                Some(Ok(event)) => namespaces.take(event, |n: PartialObjectMeta<Namespace>| {
                    n.metadata.deletion_timestamp.is_some()
                }),
                // The watch says so itself and begins anew.
                Some(Err(_)) => continue,
                None => return,
            },
            event = maps.next() => match event {
                Some(Ok(event)) => present.take(event, |map: ConfigMap| {
                    digest(map.data.as_ref().and_then(|d| d.get(KEY)).map(String::as_str))
                }),
                Some(Err(_)) => continue,
                None => return,
            },
            changed = roots.changed() => if changed.is_err() { return },
            () = tokio::time::sleep_until(again.unwrap_or_else(Instant::now)), if again.is_some() => {}
        }
        let pem = Arc::clone(&roots.borrow_and_update());
        if pem.is_empty() || !namespaces.complete || !present.complete {
            continue;
        }
        let right = digest(Some(&pem));
        let now = Instant::now();
        failed.retain(|_, due| *due > now);
        let wrong: Vec<String> = namespaces
            .iter()
            .filter(|(_, ending)| !**ending)
            .map(|((_, name), _)| name.clone())
            .filter(|name| present.get(name, CONFIG_MAP) != Some(&right) && !failed.contains_key(name))
            .collect();
        for namespace in wrong {
            match write(&cluster, &namespace, &pem).await {
                Ok(()) => present.expect(&namespace, CONFIG_MAP, right),
                // Gone, or going: nothing can be made there, nor needs to be.
                Err(error) if error.is_not_found() => {}
                Err(error) => {
                    complaint.about(&format!("ConfigMap {namespace}/{CONFIG_MAP}"), &error);
                    failed.insert(namespace, Instant::now() + RETRY);
                }
            }
            tokio::time::sleep(PACE).await;
        }
    }
}

async fn write(cluster: &Cluster, namespace: &str, pem: &str) -> Result<(), RequestError> {
    let map = json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            "name": CONFIG_MAP,
            "namespace": namespace,
            "labels": { "istio.io/config": "true" },
        },
        "data": { KEY: pem },
    });
    let path = format!(
        "/api/v1/namespaces/{}/configmaps/{CONFIG_MAP}?fieldManager={FIELD_MANAGER}&force=true",
        encoded(namespace)
    );
    cluster
        .call::<Value>(Call::with(&Method::PATCH, &path, APPLY, &map))
        .await
        .map(|_| ())
}

fn digest(text: Option<&str>) -> u64 {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    hasher.finish()
}
