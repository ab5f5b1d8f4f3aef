//! Whether an object does its work, and if not, why: what its pods wait for and what happened to them lately.

use serde_json::Value;

use super::{Applier, ApplyError, Readiness, name, text};
use crate::resources::Resource;
use crate::rest::encoded;

/// Pods whose trouble is told; more say the same.
const PODS: usize = 3;

pub(super) async fn of(applier: &Applier, object: &Value) -> Result<Readiness, ApplyError> {
    let kind = text(object, "/kind");
    let waits = matches!(
        kind,
        "Deployment"
            | "DaemonSet"
            | "StatefulSet"
            | "CustomResourceDefinition"
            | "MutatingWebhookConfiguration"
            | "ValidatingWebhookConfiguration"
    );
    if !waits {
        return Ok(Readiness::Ready);
    }
    let Some(now) = applier.get(object).await? else {
        return Ok(Readiness::Not(format!("{} does not exist", name(object)?)));
    };
    match kind {
        "CustomResourceDefinition" => Ok(definition(&now)),
        "MutatingWebhookConfiguration" | "ValidatingWebhookConfiguration" => webhooks(applier, &now).await,
        _ => rollout(applier, &now).await,
    }
}

/// A CRD is served once its names are accepted and it is established.
fn definition(now: &Value) -> Readiness {
    match condition(now, "Established") {
        Some(established) if established["status"] == "True" => Readiness::Ready,
        _ => match condition(now, "NamesAccepted") {
            Some(names) if names["status"] == "False" => {
                Readiness::Not(format!("its names are not accepted: {}", text(names, "/message")))
            }
            _ => Readiness::Not("it is not established yet".to_owned()),
        },
    }
}

/// A webhook is reachable once its Service has a ready endpoint and the caller knows whom to trust.
async fn webhooks(applier: &Applier, now: &Value) -> Result<Readiness, ApplyError> {
    for webhook in now["webhooks"].as_array().into_iter().flatten() {
        let config = &webhook["clientConfig"];
        let called = text(webhook, "/name");
        if text(config, "/caBundle").is_empty() {
            return Ok(Readiness::Not(format!(
                "webhook {called} has no caBundle yet; istiod writes it once it runs"
            )));
        }
        let (namespace, service) = (text(config, "/service/namespace"), text(config, "/service/name"));
        if service.is_empty() {
            continue;
        }
        let slices = Resource {
            group: "discovery.k8s.io".to_owned(),
            version: "v1".to_owned(),
            kind: "EndpointSlice".to_owned(),
            plural: "endpointslices".to_owned(),
            namespaced: true,
            verbs: Vec::new(),
        };
        let selector = format!("kubernetes.io/service-name={service}");
        let slices = applier.list(&slices, Some(namespace), &selector).await?;
        let mut endpoints = slices
            .iter()
            .flat_map(|s| s["endpoints"].as_array().into_iter().flatten());
        if !endpoints.any(|e| e.pointer("/conditions/ready") != Some(&Value::Bool(false))) {
            return Ok(Readiness::Not(format!(
                "webhook {called} is served by Service {namespace}/{service}, which has no ready endpoint"
            )));
        }
    }
    Ok(Readiness::Ready)
}

/// A Deployment, DaemonSet or StatefulSet whose pods are all new and available.
async fn rollout(applier: &Applier, now: &Value) -> Result<Readiness, ApplyError> {
    let number = |pointer: &str| now.pointer(pointer).and_then(Value::as_i64).unwrap_or(0);
    let (wanted, updated, available) = match text(now, "/kind") {
        "DaemonSet" => (
            number("/status/desiredNumberScheduled"),
            number("/status/updatedNumberScheduled"),
            number("/status/numberAvailable"),
        ),
        _ => (
            now.pointer("/spec/replicas").and_then(Value::as_i64).unwrap_or(1),
            number("/status/updatedReplicas"),
            number("/status/availableReplicas"),
        ),
    };
    let seen = number("/status/observedGeneration") >= number("/metadata/generation");
    let old = number("/status/replicas") - updated;
    let only_new = text(now, "/kind") == "DaemonSet" || old <= 0;
    if seen && updated >= wanted && available >= wanted && only_new {
        return Ok(Readiness::Ready);
    }
    let mut said = vec![if !seen {
        "the controller has not seen it yet".to_owned()
    } else if updated < wanted {
        format!("{updated} of {wanted} pods are of the newest form")
    } else if !only_new {
        format!("{old} old pods are still there")
    } else {
        format!("{available} of {wanted} pods are available")
    }];
    for (which, bad) in [("Progressing", "False"), ("ReplicaFailure", "True")] {
        if let Some(told) = condition(now, which).filter(|c| c["status"] == bad) {
            said.push(text(told, "/message").to_owned());
        }
    }
    said.extend(pods(applier, now).await?);
    said.retain(|s| !s.is_empty());
    Ok(Readiness::Not(said.join("; ")))
}

/// What the pods of a workload wait for.
async fn pods(applier: &Applier, now: &Value) -> Result<Vec<String>, ApplyError> {
    let labels = now
        .pointer("/spec/selector/matchLabels")
        .and_then(Value::as_object);
    let selector: Vec<String> = labels
        .into_iter()
        .flatten()
        .map(|(k, v)| format!("{k}={}", v.as_str().unwrap_or_default()))
        .collect();
    if selector.is_empty() {
        return Ok(Vec::new());
    }
    let namespace = text(now, "/metadata/namespace");
    let core = |kind: &str, plural: &str| Resource {
        group: String::new(),
        version: "v1".to_owned(),
        kind: kind.to_owned(),
        plural: plural.to_owned(),
        namespaced: true,
        verbs: Vec::new(),
    };
    let all = applier
        .list(&core("Pod", "pods"), Some(namespace), &selector.join(","))
        .await?;
    let troubled: Vec<&Value> = all.iter().filter(|p| !is_ready(p)).take(PODS).collect();
    let mut said = Vec::new();
    for pod in &troubled {
        let mut why = waiting(pod);
        why.extend(warning(applier, namespace, "Pod", text(pod, "/metadata/name")).await);
        let named = text(pod, "/metadata/name");
        said.push(match why.is_empty() {
            true => format!("pod {named} is {}", text(pod, "/status/phase").to_lowercase()),
            false => format!("pod {named}: {}", why.join(", ")),
        });
    }
    if all.is_empty() {
        // Nobody made a pod: a quota, or a webhook that refuses. The ReplicaSet or the owner itself hears it.
        let sets = Resource {
            group: "apps".to_owned(),
            ..core("ReplicaSet", "replicasets")
        };
        let sets = applier.list(&sets, Some(namespace), &selector.join(",")).await?;
        for set in &sets {
            said.extend(warning(applier, namespace, "ReplicaSet", text(set, "/metadata/name")).await);
        }
        said.extend(
            warning(
                applier,
                namespace,
                text(now, "/kind"),
                text(now, "/metadata/name"),
            )
            .await,
        );
    }
    Ok(said)
}

fn is_ready(pod: &Value) -> bool {
    condition(pod, "Ready").is_some_and(|c| c["status"] == "True")
}

fn waiting(pod: &Value) -> Vec<String> {
    let mut said = Vec::new();
    if let Some(told) = condition(pod, "PodScheduled").filter(|c| c["status"] == "False") {
        said.push(format!("not scheduled: {}", text(told, "/message")));
    }
    for list in ["initContainerStatuses", "containerStatuses"] {
        for container in pod["status"][list].as_array().into_iter().flatten() {
            let called = text(container, "/name");
            let state = &container["state"];
            let reason = text(state, "/waiting/reason");
            let exit = state.pointer("/terminated/exitCode").and_then(Value::as_i64);
            let last = container.pointer("/lastState/terminated");
            if !reason.is_empty() && !matches!(reason, "PodInitializing" | "ContainerCreating") {
                let message = text(state, "/waiting/message");
                let before = last.and_then(|l| l["exitCode"].as_i64());
                let mut line = format!("container {called} waits: {reason}");
                if !message.is_empty() {
                    line.push_str(&format!(" ({message})"));
                }
                if let Some(code) = before {
                    line.push_str(&format!(", it ended with {code} before"));
                }
                said.push(line);
            } else if let Some(code) = exit.filter(|code| *code != 0) {
                said.push(format!(
                    "container {called} ended with {code}: {}",
                    text(state, "/terminated/reason")
                ));
            } else if state.get("running").is_some() && container["ready"] == false {
                said.push(format!("container {called} runs and is not ready"));
            }
        }
    }
    said
}

/// The newest warning among an object's events. Events are a help alone: without the permission there are none.
async fn warning(applier: &Applier, namespace: &str, kind: &str, name: &str) -> Option<String> {
    let selector = format!("involvedObject.kind={kind},involvedObject.name={name},type=Warning");
    let path = format!(
        "/api/v1/namespaces/{}/events?limit=100&fieldSelector={}",
        encoded(namespace),
        encoded(&selector)
    );
    let events = applier.cluster().get(&path).await.ok()?;
    let when = |e: &Value| {
        [
            text(e, "/lastTimestamp"),
            text(e, "/eventTime"),
            text(e, "/metadata/creationTimestamp"),
        ]
        .into_iter()
        .find(|t| !t.is_empty())
        .unwrap_or_default()
        .to_owned()
    };
    let newest = events["items"].as_array()?.iter().max_by_key(|e| when(e))?;
    Some(format!(
        "{}: {}",
        text(newest, "/reason"),
        text(newest, "/message")
    ))
}

fn condition<'a>(object: &'a Value, which: &str) -> Option<&'a Value> {
    let all = object.pointer("/status/conditions")?.as_array()?;
    all.iter().find(|c| c["type"] == which)
}
