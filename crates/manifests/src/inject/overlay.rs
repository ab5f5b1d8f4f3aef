//! What a user writes in a container named `istio-proxy` counts before what the template says: Kubernetes'
//! strategic merge, for one container.

use serde_json::{Map, Value};

/// Lists of a container whose items have a name of their own, and the field that holds it.
const KEYED: [(&str, &str); 5] = [
    ("env", "name"),
    ("ports", "containerPort"),
    ("volumeMounts", "mountPath"),
    ("volumeDevices", "devicePath"),
    ("resizePolicy", "resourceName"),
];
/// The ways to look at a container, of which a probe has one.
const HANDLERS: [&str; 4] = ["httpGet", "tcpSocket", "grpc", "exec"];

/// The template's container with the user's over it. `image: auto` asks for the template's.
pub(super) fn over(template: Map<String, Value>, user: Map<String, Value>) -> Map<String, Value> {
    let mut merged = template;
    for (field, value) in user {
        if field == "image" && matches!(value.as_str(), Some("auto" | "")) {
            continue;
        }
        let keyed = KEYED.iter().find(|(f, _)| *f == field);
        match (merged.get_mut(&field), keyed, value) {
            (Some(Value::Array(under)), Some((_, key)), Value::Array(over)) => by_key(under, over, key),
            (Some(under @ Value::Object(_)), None, over @ Value::Object(_)) => deep(under, over),
            (_, _, value) => {
                merged.insert(field, value);
            }
        }
    }
    merged
}

fn by_key(under: &mut Vec<Value>, over: Vec<Value>, key: &str) {
    for item in over {
        let name = item.get(key);
        match under.iter_mut().find(|u| name.is_some() && u.get(key) == name) {
            Some(there) => *there = item,
            None => under.push(item),
        }
    }
}

fn deep(under: &mut Value, over: Value) {
    match (under, over) {
        (Value::Object(under), Value::Object(over)) => {
            if over.keys().any(|k| HANDLERS.contains(&k.as_str())) {
                under.retain(|k, _| !HANDLERS.contains(&k.as_str()));
            }
            for (key, value) in over {
                deep(under.entry(key).or_insert(Value::Null), value);
            }
        }
        (under, over) => *under = over,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn object(value: Value) -> Map<String, Value> {
        value.as_object().unwrap().clone()
    }

    #[test]
    fn the_users_fields_count_and_the_others_stay() {
        let template = object(json!({
            "name": "istio-proxy", "image": "mesh:1", "args": ["proxy"],
            "env": [{"name": "A", "value": "1"}, {"name": "B", "valueFrom": {"fieldRef": {"fieldPath": "x"}}}],
            "resources": {"requests": {"cpu": "100m"}, "limits": {"cpu": "2"}},
            "readinessProbe": {"httpGet": {"port": 15021}, "periodSeconds": 15}
        }));
        let user = object(json!({
            "name": "istio-proxy", "image": "auto", "args": ["proxy", "router"],
            "env": [{"name": "B", "value": "2"}, {"name": "C", "value": "3"}],
            "resources": {"limits": {"cpu": "4"}},
            "readinessProbe": {"exec": {"command": ["true"]}}, "tty": true
        }));
        assert_eq!(
            Value::Object(over(template, user)),
            json!({
                "name": "istio-proxy", "image": "mesh:1", "args": ["proxy", "router"],
                "env": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}, {"name": "C", "value": "3"}],
                "resources": {"requests": {"cpu": "100m"}, "limits": {"cpu": "4"}},
                "readinessProbe": {"exec": {"command": ["true"]}, "periodSeconds": 15}, "tty": true
            })
        );
    }
}
