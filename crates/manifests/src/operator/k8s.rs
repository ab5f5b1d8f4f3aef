//! `components.*.k8s`: Kubernetes settings of a component, laid over its rendered objects.

use isthmus_api::codes;
use isthmus_api::finding::Finding;
use isthmus_api::suggest::nearest;
use serde_json::{Map, Value, json};

use super::overlay;
use crate::merge::merge;

/// What a setting looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Mapping,
    List,
    Number,
    Text,
    /// Is accepted and does nothing: why, and what to write instead.
    Idle(&'static str, &'static str),
}

/// Every field of Istio's KubernetesResources.
const SETTINGS: &[(&str, Form)] = &[
    ("affinity", Form::Mapping),
    ("env", Form::List),
    ("hpaSpec", Form::Mapping),
    ("imagePullPolicy", Form::Text),
    ("nodeSelector", Form::Mapping),
    ("overlays", Form::List),
    ("podAnnotations", Form::Mapping),
    ("podDisruptionBudget", Form::Mapping),
    ("podLabels", Form::Mapping),
    ("priorityClassName", Form::Text),
    ("readinessProbe", Form::Mapping),
    ("replicaCount", Form::Number),
    ("resources", Form::Mapping),
    (
        "scaleTargetRef",
        Form::Idle(
            "the autoscaler scales the component's own Deployment",
            "remove it",
        ),
    ),
    ("securityContext", Form::Mapping),
    ("service", Form::Mapping),
    ("serviceAnnotations", Form::Mapping),
    ("strategy", Form::Mapping),
    ("tolerations", Form::List),
    ("topologySpreadConstraints", Form::List),
    ("volumeMounts", Form::List),
    ("volumes", Form::List),
];

/// Whether there is such a setting of such a form. The finding has no place yet.
pub(super) fn check(name: &str, value: &Value) -> Result<(), Box<Finding>> {
    let wrong =
        |message: String, remedy: String| Err(Box::new(Finding::new(&codes::SCHEMA, message, remedy)));
    let Some((_, form)) = SETTINGS.iter().find(|(known, _)| *known == name) else {
        let remedy = match nearest(name, SETTINGS.iter().map(|(name, _)| *name)) {
            Some(meant) => format!("did you mean {meant}?"),
            None => "set it by overlays".to_owned(),
        };
        return wrong(format!("there is no setting {name:?}"), remedy);
    };
    let (fits, expected) = match form {
        Form::Mapping => (value.is_object(), "a mapping"),
        Form::List => (value.is_array(), "a list"),
        Form::Number => (value.is_u64(), "a number that is not negative"),
        Form::Text => (value.is_string(), "text"),
        Form::Idle(why, instead) => {
            return Err(Box::new(Finding::new(
                &codes::NO_EFFECT,
                format!("has no effect: {why}"),
                *instead,
            )));
        }
    };
    if fits || value.is_null() {
        return Ok(());
    }
    wrong(
        format!("expected {expected}, found {value}"),
        "correct it".to_owned(),
    )
}

/// Lays the settings over the objects of one component; `main` names its Deployment, Service and the rest.
/// What cannot be done is said.
pub(super) fn apply(objects: &mut Vec<Value>, main: &str, k8s: &Map<String, Value>) -> Vec<String> {
    let mut problems = Vec::new();
    for (name, value) in k8s {
        let done = match name.as_str() {
            "service" => on(objects, "Service", main, |service| {
                merge(&mut service["spec"], value)
            }),
            "serviceAnnotations" => on(objects, "Service", main, |service| {
                merge(&mut service["metadata"]["annotations"], value);
            }),
            "hpaSpec" => {
                autoscaler(objects, main);
                on(objects, "HorizontalPodAutoscaler", main, |hpa| {
                    let own = json!({ "scaleTargetRef": hpa["spec"]["scaleTargetRef"] });
                    merge(&mut hpa["spec"], value);
                    merge(&mut hpa["spec"], &own);
                })
            }
            "podDisruptionBudget" => {
                budget(objects, main);
                on(objects, "PodDisruptionBudget", main, |budget| {
                    let selector = budget["spec"]["selector"].take();
                    budget["spec"] = value.clone();
                    budget["spec"]["selector"] = selector;
                })
            }
            "replicaCount" => {
                if object(objects, "HorizontalPodAutoscaler", main).is_some() {
                    problems.push("replicaCount: the number of replicas is the autoscaler's; set hpaSpec.minReplicas, or switch it off by values.gateways.istio-ingressgateway.autoscaleEnabled=false (pilot: values.pilot.autoscaleEnabled)".to_owned());
                    true
                } else {
                    on(objects, "Deployment", main, |d| {
                        d["spec"]["replicas"] = value.clone()
                    })
                }
            }
            "overlays" => continue,
            _ => on(objects, "Deployment", main, |deployment| {
                workload(deployment, name, value)
            }),
        };
        if !done {
            problems.push(format!("{name}: {main} has no object that it could change"));
        }
    }
    for overlay in k8s
        .get("overlays")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
    {
        overlay_object(objects, overlay, &mut problems);
    }
    problems
}

fn object<'o>(objects: &'o mut [Value], kind: &str, name: &str) -> Option<&'o mut Value> {
    objects
        .iter_mut()
        .find(|o| o["kind"] == kind && o["metadata"]["name"] == name)
}

fn on(objects: &mut [Value], kind: &str, name: &str, change: impl FnOnce(&mut Value)) -> bool {
    object(objects, kind, name).map(change).is_some()
}

fn workload(deployment: &mut Value, name: &str, value: &Value) {
    let spec = &mut deployment["spec"];
    match name {
        "strategy" => spec["strategy"] = value.clone(),
        "podAnnotations" => merge(&mut spec["template"]["metadata"]["annotations"], value),
        "podLabels" => merge(&mut spec["template"]["metadata"]["labels"], value),
        "nodeSelector"
        | "affinity"
        | "tolerations"
        | "priorityClassName"
        | "securityContext"
        | "topologySpreadConstraints" => {
            spec["template"]["spec"][name] = value.clone();
        }
        "volumes" => by_name(&mut spec["template"]["spec"]["volumes"], value, "name"),
        "env" => by_name(
            &mut spec["template"]["spec"]["containers"][0]["env"],
            value,
            "name",
        ),
        "volumeMounts" => by_name(
            &mut spec["template"]["spec"]["containers"][0]["volumeMounts"],
            value,
            "mountPath",
        ),
        "readinessProbe" => spec["template"]["spec"]["containers"][0]["readinessProbe"] = value.clone(),
        "resources" | "imagePullPolicy" => spec["template"]["spec"]["containers"][0][name] = value.clone(),
        _ => {}
    }
}

/// Items of `more` replace those with the same key and stand behind the others.
fn by_name(list: &mut Value, more: &Value, key: &str) {
    if !list.is_array() {
        *list = Value::Array(Vec::new());
    }
    if let (Some(list), Some(more)) = (list.as_array_mut(), more.as_array()) {
        for item in more {
            match list.iter_mut().find(|have| have[key] == item[key]) {
                Some(have) => *have = item.clone(),
                None => list.push(item.clone()),
            }
        }
    }
}

/// An autoscaler of the component, if there is none yet.
fn autoscaler(objects: &mut Vec<Value>, main: &str) {
    if object(objects, "HorizontalPodAutoscaler", main).is_some() {
        return;
    }
    let Some(deployment) = object(objects, "Deployment", main) else {
        return;
    };
    if let Some(spec) = deployment["spec"].as_object_mut() {
        spec.remove("replicas");
    }
    let metadata = metadata_like(deployment);
    objects.push(json!({
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": metadata,
        "spec": {
            "minReplicas": 1,
            "maxReplicas": 5,
            "scaleTargetRef": { "apiVersion": "apps/v1", "kind": "Deployment", "name": main },
        },
    }));
}

/// A disruption budget of the component, if there is none yet.
fn budget(objects: &mut Vec<Value>, main: &str) {
    if object(objects, "PodDisruptionBudget", main).is_some() {
        return;
    }
    let Some(deployment) = object(objects, "Deployment", main) else {
        return;
    };
    let (metadata, selector) = (metadata_like(deployment), deployment["spec"]["selector"].clone());
    objects.push(json!({
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": metadata,
        "spec": { "selector": selector },
    }));
}

fn metadata_like(object: &Value) -> Value {
    let metadata = &object["metadata"];
    json!({ "name": metadata["name"], "namespace": metadata["namespace"], "labels": metadata["labels"] })
}

fn overlay_object(objects: &mut [Value], overlay: &Value, problems: &mut Vec<String>) {
    let text = |field: &str| overlay[field].as_str().unwrap_or_default().to_owned();
    let (kind, name) = (text("kind"), text("name"));
    let matching = |o: &&mut Value| {
        o["kind"] == kind.as_str() && (name.is_empty() || o["metadata"]["name"] == name.as_str())
    };
    let found: Vec<&mut Value> = objects.iter_mut().filter(matching).collect();
    if found.is_empty() {
        problems.push(format!("overlays: this component has no {kind} {name}"));
    }
    for object in found {
        for patch in overlay["patches"].as_array().into_iter().flatten() {
            let path = patch["path"].as_str().unwrap_or_default();
            let value = patch.get("value").filter(|v| !v.is_null());
            if let Err(why) = overlay::patch(object, path, value) {
                problems.push(format!("overlays: {kind} {name}: {why}"));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn objects() -> Vec<Value> {
        vec![
            json!({"kind": "Deployment", "metadata": {"name": "gw", "namespace": "n"}, "spec": {"replicas": 1, "selector": {"matchLabels": {"app": "gw"}},
                "template": {"metadata": {}, "spec": {"containers": [{"name": "istio-proxy", "env": [{"name": "A", "value": "1"}]}]}}}}),
            json!({"kind": "Service", "metadata": {"name": "gw", "namespace": "n"}, "spec": {"type": "LoadBalancer", "ports": [{"port": 80}]}}),
        ]
    }

    fn apply_to(objects: &mut Vec<Value>, k8s: Value) -> Vec<String> {
        apply(objects, "gw", k8s.as_object().unwrap())
    }

    #[test]
    fn settings_reach_their_objects() {
        let mut all = objects();
        let problems = apply_to(
            &mut all,
            json!({
                "service": {"type": "NodePort", "ports": [{"port": 8443}]},
                "serviceAnnotations": {"a": "b"},
                "env": [{"name": "A", "value": "2"}, {"name": "B", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}}],
                "resources": {"limits": {"cpu": "1"}},
                "nodeSelector": {"disk": "ssd"},
                "podAnnotations": {"x": "y"},
                "replicaCount": 3,
            }),
        );
        assert_eq!(problems, [""; 0]);
        let pod = &all[0]["spec"]["template"];
        assert_eq!(all[0]["spec"]["replicas"], 3);
        assert_eq!(pod["spec"]["nodeSelector"]["disk"], "ssd");
        assert_eq!(pod["metadata"]["annotations"]["x"], "y");
        let container = &pod["spec"]["containers"][0];
        assert_eq!(container["resources"]["limits"]["cpu"], "1");
        assert_eq!(container["env"][0], json!({"name": "A", "value": "2"}));
        assert_eq!(
            container["env"][1]["valueFrom"]["fieldRef"]["fieldPath"],
            "spec.nodeName"
        );
        assert_eq!(
            all[1]["spec"],
            json!({"type": "NodePort", "ports": [{"port": 8443}]})
        );
        assert_eq!(all[1]["metadata"]["annotations"]["a"], "b");
    }

    #[test]
    fn an_autoscaler_is_made_and_takes_the_number_of_replicas() {
        let mut all = objects();
        assert_eq!(
            apply_to(
                &mut all,
                json!({"hpaSpec": {"minReplicas": 2, "scaleTargetRef": {"name": "x"}}})
            ),
            [""; 0]
        );
        let hpa = all.last().unwrap();
        assert_eq!(
            (
                &hpa["spec"]["minReplicas"],
                &hpa["spec"]["scaleTargetRef"]["name"]
            ),
            (&json!(2), &json!("gw"))
        );
        assert_eq!(all[0]["spec"].get("replicas"), None);
        let problems = apply_to(&mut all, json!({"replicaCount": 3}));
        assert!(problems[0].contains("hpaSpec.minReplicas"), "{problems:?}");
    }

    #[test]
    fn overlays_change_what_they_name_or_say_that_it_is_not_there() {
        let mut all = objects();
        let overlays = json!({"overlays": [
            {"kind": "Service", "name": "gw", "patches": [{"path": "spec.ports.[port:80].nodePort", "value": 30080}]},
            {"kind": "Secret", "name": "gw", "patches": []},
            {"kind": "Deployment", "patches": [{"path": "spec.replicas"}]},
        ]});
        let problems = apply_to(&mut all, overlays);
        assert_eq!(problems, ["overlays: this component has no Secret gw"]);
        assert_eq!(all[1]["spec"]["ports"][0]["nodePort"], 30080);
        assert_eq!(all[0]["spec"].get("replicas"), None);
    }
}
