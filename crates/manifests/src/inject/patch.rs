//! JSON Patch (RFC 6902): the difference of two documents as operations.

use serde_json::{Map, Value, json};

/// One operation.
#[derive(Debug, Clone, PartialEq)]
pub enum Operation {
    /// Puts a value: into a list before what stands there, into an object in the place of what stands there.
    Add {
        /// JSON pointer (RFC 6901).
        path: String,
        /// What.
        value: Value,
    },
    /// Takes a value away.
    Remove {
        /// JSON pointer.
        path: String,
    },
    /// Puts a value in the place of another.
    Replace {
        /// JSON pointer.
        path: String,
        /// What.
        value: Value,
    },
}

impl Operation {
    /// As RFC 6902 writes it.
    pub fn to_json(&self) -> Value {
        match self {
            Self::Add { path, value } => json!({"op": "add", "path": path, "value": value}),
            Self::Remove { path } => json!({"op": "remove", "path": path}),
            Self::Replace { path, value } => json!({"op": "replace", "path": path, "value": value}),
        }
    }
}

/// Operations that make `after` of `before`, in order.
pub fn between(before: &Value, after: &Value) -> Vec<Operation> {
    let mut operations = Vec::new();
    differ("", before, after, &mut operations);
    operations
}

/// Carries out operations; `None` when one of them does not fit the document.
pub fn apply(document: &Value, operations: &[Operation]) -> Option<Value> {
    let mut document = document.clone();
    for operation in operations {
        let (path, value) = match operation {
            Operation::Add { path, value } | Operation::Replace { path, value } => (path, Some(value)),
            Operation::Remove { path } => (path, None),
        };
        let Some((parent, last)) = path.rsplit_once('/') else {
            document = value?.clone();
            continue;
        };
        let last = last.replace("~1", "/").replace("~0", "~");
        match (document.pointer_mut(parent)?, operation) {
            (Value::Object(fields), Operation::Remove { .. }) => {
                fields.remove(&last)?;
            }
            (Value::Object(fields), _) => {
                fields.insert(last, value?.clone());
            }
            (Value::Array(items), Operation::Add { value, .. }) => {
                let at = if last == "-" {
                    items.len()
                } else {
                    last.parse().ok()?
                };
                if at > items.len() {
                    return None;
                }
                items.insert(at, value.clone());
            }
            (Value::Array(items), Operation::Remove { .. }) => {
                let at: usize = last.parse().ok()?;
                if at >= items.len() {
                    return None;
                }
                items.remove(at);
            }
            (Value::Array(items), Operation::Replace { value, .. }) => {
                *items.get_mut(last.parse::<usize>().ok()?)? = value.clone();
            }
            _ => return None,
        }
    }
    Some(document)
}

fn differ(path: &str, before: &Value, after: &Value, out: &mut Vec<Operation>) {
    match (before, after) {
        _ if before == after => {}
        (Value::Object(before), Value::Object(after)) => objects(path, before, after, out),
        (Value::Array(before), Value::Array(after)) => lists(path, before, after, out),
        _ => out.push(Operation::Replace {
            path: path.to_owned(),
            value: after.clone(),
        }),
    }
}

fn objects(path: &str, before: &Map<String, Value>, after: &Map<String, Value>, out: &mut Vec<Operation>) {
    for key in before.keys().filter(|key| !after.contains_key(*key)) {
        out.push(Operation::Remove {
            path: below(path, key),
        });
    }
    for (key, value) in after {
        match before.get(key) {
            Some(old) => differ(&below(path, key), old, value, out),
            None => out.push(Operation::Add {
                path: below(path, key),
                value: value.clone(),
            }),
        }
    }
}

/// What both lists begin and end with stays; between these, items are matched one to one where there are as
/// many, else those of the old list leave and those of the new one come.
fn lists(path: &str, before: &[Value], after: &[Value], out: &mut Vec<Operation>) {
    if before.len() == after.len() {
        for (i, (old, new)) in before.iter().zip(after).enumerate() {
            differ(&format!("{path}/{i}"), old, new, out);
        }
        return;
    }
    let same = |pair: &(&Value, &Value)| pair.0 == pair.1;
    let head = before.iter().zip(after).take_while(same).count();
    let shorter = before.len().min(after.len()) - head;
    let tail = before
        .iter()
        .rev()
        .zip(after.iter().rev())
        .take(shorter)
        .take_while(same)
        .count();
    for i in (head..before.len() - tail).rev() {
        out.push(Operation::Remove {
            path: format!("{path}/{i}"),
        });
    }
    for (i, value) in after.iter().enumerate().take(after.len() - tail).skip(head) {
        out.push(Operation::Add {
            path: format!("{path}/{i}"),
            value: value.clone(),
        });
    }
}

fn below(path: &str, key: &str) -> String {
    format!("{path}/{}", key.replace('~', "~0").replace('/', "~1"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_patch_makes_is_what_was_meant() {
        let cases = [
            (json!({"a": 1}), json!({"a": 2, "b": {"c": []}})),
            (
                json!({"metadata": {}}),
                json!({"metadata": {"annotations": {"sidecar.istio.io/status": "x", "a~b": ""}}}),
            ),
            (json!({"l": [1, 2, 3]}), json!({"l": [0, 1, 2, 3]})),
            (json!({"l": [1, 2, 3]}), json!({"l": [1, 2, 3, 4]})),
            (json!({"l": [1, 2, 3]}), json!({"l": [1, 3]})),
            (json!({"l": [1, 1]}), json!({"l": [1]})),
            (
                json!({"l": [{"n": 1}, {"n": 2}]}),
                json!({"l": [{"n": 1, "x": 0}, {"n": 3}]}),
            ),
            (json!({"l": []}), json!({"l": {}})),
            (json!([1]), json!("text")),
        ];
        for (before, after) in cases {
            let patch = between(&before, &after);
            assert_eq!(apply(&before, &patch), Some(after), "{patch:?}");
        }
    }

    #[test]
    fn nothing_is_touched_that_need_not_be() {
        let before = json!({"spec": {"containers": [{"name": "app", "image": "a"}], "volumes": []}});
        let mut after = before.clone();
        after["spec"]["containers"] = json!([{"name": "istio-proxy"}, {"name": "app", "image": "a"}]);
        let written: Vec<Value> = between(&before, &after).iter().map(Operation::to_json).collect();
        assert_eq!(
            written,
            [json!({"op": "add", "path": "/spec/containers/0", "value": {"name": "istio-proxy"}})]
        );
        assert_eq!(between(&after, &after), []);
    }
}
