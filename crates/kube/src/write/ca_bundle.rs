//! `caBundle` of our webhook configurations: whom the API server trusts when it calls us.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures_util::StreamExt as _;
use http::Method;
use k8s_openapi::api::admissionregistration::v1::{
    MutatingWebhookConfiguration, ValidatingWebhookConfiguration,
};
use kube::Api;
use kube::core::{ApiResource, DynamicObject};
use kube::runtime::{WatchStreamExt as _, watcher};
use serde_json::Value;
use tokio::sync::watch;
use tokio::time::Instant;

use super::mirror::Mirror;
use super::{Complaint, PACE, RETRY};
use crate::connect::Cluster;
use crate::rest::{Call, JSON, RequestError, encoded};

/// Label of a configuration with the revision that it belongs to; none means `default`.
const REVISION: &str = "istio.io/rev";

/// Keeps it right until dropped.
pub async fn run(
    cluster: Cluster,
    revision: String,
    namespace: String,
    mut roots: watch::Receiver<Arc<str>>,
) {
    let client = cluster.client().clone();
    let labelled = |labels: &str| watcher::Config::default().labels(labels);
    // Untyped, so that fields of newer API servers are written back as they were.
    let mutating = ApiResource::erase::<MutatingWebhookConfiguration>(&());
    let mutating = Api::<DynamicObject>::all_with(client.clone(), &mutating);
    let mut mutating = std::pin::pin!(watcher(mutating, labelled("app=sidecar-injector")).default_backoff());
    let validating = ApiResource::erase::<ValidatingWebhookConfiguration>(&());
    let validating = Api::<DynamicObject>::all_with(client, &validating);
    let mut validating = std::pin::pin!(watcher(validating, labelled("istio=istiod")).default_backoff());

    let mut configurations: [Mirror<Value>; 2] = Default::default();
    let mut again: Option<Instant> = None;
    let mut complaint = Complaint::default();
    loop {
        tokio::select! {
            event = mutating.next() => match event {
                Some(Ok(event)) => configurations[0].take(event, json_of),
                // The watch says so itself and begins anew.
                Some(Err(_)) => continue,
                None => return,
            },
            event = validating.next() => match event {
                Some(Ok(event)) => configurations[1].take(event, json_of),
                Some(Err(_)) => continue,
                None => return,
            },
            changed = roots.changed() => if changed.is_err() { return },
            () = tokio::time::sleep_until(again.unwrap_or_else(Instant::now)), if again.is_some() => {}
        }
        let pem = Arc::clone(&roots.borrow_and_update());
        if pem.is_empty() {
            continue;
        }
        let bundle = STANDARD.encode(pem.as_bytes());
        again = None;
        let plurals = ["mutatingwebhookconfigurations", "validatingwebhookconfigurations"];
        for (plural, mirror) in plurals.into_iter().zip(&mut configurations) {
            let wrong: Vec<(String, Value)> = mirror
                .iter()
                .filter(|(_, object)| is_ours(object, &revision))
                .filter_map(|((_, name), object)| {
                    Some((name.clone(), corrected(object, &namespace, &bundle)?))
                })
                .collect();
            for (name, object) in wrong {
                match write(&cluster, plural, &name, &object).await {
                    Ok(stored) => {
                        tracing::info!(plural, name, "the caBundle is ours now");
                        mirror.expect("", &name, stored);
                    }
                    // What changed it meanwhile arrives by the watch.
                    Err(error) if matches!(error.code(), Some(404 | 409)) => {}
                    Err(error) => {
                        complaint.about(&format!("the caBundle of {plural} {name}"), &error);
                        again = Some(Instant::now() + RETRY);
                    }
                }
                tokio::time::sleep(PACE).await;
            }
        }
    }
}

fn is_ours(object: &Value, revision: &str) -> bool {
    let labelled = object["metadata"]["labels"][REVISION]
        .as_str()
        .unwrap_or("default");
    let own = if revision.is_empty() { "default" } else { revision };
    labelled == own
}

/// The configuration with our bundle in every webhook that leads to our Service; `None` when it is so already.
fn corrected(object: &Value, namespace: &str, bundle: &str) -> Option<Value> {
    let mut right = object.clone();
    for webhook in right["webhooks"].as_array_mut()? {
        let config = &mut webhook["clientConfig"];
        // A URL leads elsewhere, and somebody else vouches for it.
        if config["service"]["namespace"] == namespace {
            config["caBundle"] = bundle.into();
        }
    }
    (right != *object).then_some(right)
}

async fn write(cluster: &Cluster, plural: &str, name: &str, object: &Value) -> Result<Value, RequestError> {
    let path = format!("/apis/admissionregistration.k8s.io/v1/{plural}/{}", encoded(name));
    Ok(cluster
        .call(Call::with(&Method::PUT, &path, JSON, object))
        .await?
        .1)
}

fn json_of(object: DynamicObject) -> Value {
    serde_json::to_value(object).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_webhooks_that_lead_to_us_and_are_of_our_revision_are_corrected() {
        let object = json!({
            "metadata": {"name": "x", "resourceVersion": "1"},
            "webhooks": [
                {"name": "ours", "clientConfig": {"service": {"namespace": "istio-system", "name": "istiod"}}},
                {"name": "url", "clientConfig": {"url": "https://elsewhere", "caBundle": "dGhlaXJz"}},
            ],
        });
        let right = corrected(&object, "istio-system", "b3Vycw==").unwrap();
        assert_eq!(right["webhooks"][0]["clientConfig"]["caBundle"], "b3Vycw==");
        assert_eq!(right["webhooks"][1], object["webhooks"][1]);
        assert_eq!(
            right["metadata"]["resourceVersion"], "1",
            "what changed meanwhile is a conflict"
        );
        assert_eq!(corrected(&right, "istio-system", "b3Vycw=="), None);

        let of = |labels: Value| json!({"metadata": {"labels": labels}});
        assert!(is_ours(&of(json!({})), ""));
        assert!(is_ours(&of(json!({"istio.io/rev": "default"})), ""));
        assert!(!is_ours(&of(json!({"istio.io/rev": "canary"})), ""));
        assert!(is_ours(&of(json!({"istio.io/rev": "canary"})), "canary"));
    }
}
