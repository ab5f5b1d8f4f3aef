//! `k8s.overlays`: changes of rendered objects by path, as Istio's operator API defines them.
//!
//! `path: spec.template.spec.containers.[name:discovery].args.[0]` walks through mappings by key, through
//! lists by `[index]` or by the item with `[key:value]` (`[:value]` for a list of scalars). `value` replaces
//! what is there; a mapping is merged; no value, or null, deletes. A list index of -1 or one past the end appends.

use serde_json::{Map, Value};

use crate::yaml;

/// One step of a path.
#[derive(Debug, PartialEq)]
enum Step<'a> {
    Key(String),
    Index(i64),
    Item(&'a str, &'a str),
}

/// Changes one object; `value: None` deletes.
///
/// # Errors
/// The path leads nowhere; the message says from which step on.
pub fn patch(object: &mut Value, path: &str, value: Option<&Value>) -> Result<(), String> {
    let steps = steps(path)?;
    let Some((last, parents)) = steps.split_last() else {
        return Err("the path is empty".to_owned());
    };
    let mut at = object;
    for (i, step) in parents.iter().enumerate() {
        let next_is_list = !matches!(steps[i + 1], Step::Key(_));
        at = walk(at, step, next_is_list, value.is_some()).ok_or_else(|| missing(path, step))?;
    }
    match value {
        Some(value) => write(at, last, value),
        None => delete(at, last),
    }
    .ok_or_else(|| missing(path, last))
}

fn missing(path: &str, step: &Step<'_>) -> String {
    let step = match step {
        Step::Key(key) => key.clone(),
        Step::Index(i) => format!("[{i}]"),
        Step::Item(key, value) => format!("[{key}:{value}]"),
    };
    format!("{path}: there is no {step}")
}

/// One step down; a mapping's missing key is made when something is to be written below it.
fn walk<'v>(at: &'v mut Value, step: &Step<'_>, list: bool, make: bool) -> Option<&'v mut Value> {
    match step {
        Step::Key(key) => {
            let fields = at.as_object_mut()?;
            if make && !fields.contains_key(key) {
                let empty = if list {
                    Value::Array(Vec::new())
                } else {
                    Value::Object(Map::new())
                };
                fields.insert(key.clone(), empty);
            }
            fields.get_mut(key)
        }
        Step::Index(_) | Step::Item(..) => {
            let items = at.as_array_mut()?;
            let i = position(items, step)?;
            items.get_mut(i)
        }
    }
}

fn position(items: &[Value], step: &Step<'_>) -> Option<usize> {
    match step {
        Step::Index(i) => usize::try_from(*i).ok().filter(|i| *i < items.len()),
        Step::Item(key, wanted) => items.iter().position(|item| {
            let value = if key.is_empty() {
                Some(item)
            } else {
                item.get(*key)
            };
            match value {
                Some(Value::String(s)) => s == wanted,
                Some(other) => yaml::sorted_json(other) == *wanted,
                None => false,
            }
        }),
        Step::Key(_) => None,
    }
}

fn write(at: &mut Value, step: &Step<'_>, value: &Value) -> Option<()> {
    match step {
        Step::Key(key) => {
            let slot = at.as_object_mut()?.entry(key.clone()).or_insert(Value::Null);
            set(slot, value);
        }
        Step::Index(i) => {
            let items = at.as_array_mut()?;
            if *i == -1 || usize::try_from(*i).ok() == Some(items.len()) {
                items.push(value.clone());
            } else {
                set(items.get_mut(usize::try_from(*i).ok()?)?, value);
            }
        }
        Step::Item(..) => {
            let items = at.as_array_mut()?;
            match position(items, step) {
                Some(i) => set(&mut items[i], value),
                None => items.push(value.clone()),
            }
        }
    }
    Some(())
}

fn set(slot: &mut Value, value: &Value) {
    if value.is_object() && slot.is_object() {
        crate::merge::merge(slot, value);
    } else {
        *slot = value.clone();
    }
}

fn delete(at: &mut Value, step: &Step<'_>) -> Option<()> {
    match step {
        Step::Key(key) => at.as_object_mut()?.remove(key).map(|_| ()),
        Step::Index(_) | Step::Item(..) => {
            let items = at.as_array_mut()?;
            let i = position(items, step)?;
            items.remove(i);
            Some(())
        }
    }
}

/// Splits at dots outside of brackets; `\.` belongs to a key.
fn steps(path: &str) -> Result<Vec<Step<'_>>, String> {
    let mut found = Vec::new();
    let mut rest = path.trim_start_matches('.');
    while !rest.is_empty() {
        if let Some(inner) = rest.strip_prefix('[') {
            let (inner, tail) = inner
                .split_once(']')
                .ok_or_else(|| format!("{path}: a bracket is not closed"))?;
            found.push(match inner.split_once(':') {
                Some((key, value)) => Step::Item(key.trim(), value.trim()),
                None => Step::Index(
                    inner
                        .trim()
                        .parse()
                        .map_err(|_| format!("{path}: [{inner}] is neither an index nor KEY:VALUE"))?,
                ),
            });
            rest = tail;
        } else {
            let mut key = String::new();
            let mut chars = rest.char_indices();
            let mut end = rest.len();
            while let Some((i, c)) = chars.next() {
                match c {
                    '\\' => key.extend(chars.next().map(|(_, c)| c)),
                    '.' | '[' => {
                        end = i;
                        break;
                    }
                    c => key.push(c),
                }
            }
            found.push(Step::Key(key));
            rest = &rest[end..];
        }
        rest = rest.strip_prefix('.').unwrap_or(rest);
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn deployment() -> Value {
        json!({"spec": {"template": {"metadata": {"annotations": {"a.b/c": "1"}}, "spec": {"containers": [
            {"name": "other"}, {"name": "discovery", "args": ["a", "b"], "env": [{"name": "X", "value": "1"}]}
        ]}}}})
    }

    #[test]
    fn paths_reach_by_key_by_index_and_by_item() {
        let mut object = deployment();
        let at = "spec.template.spec.containers.[name:discovery]";
        patch(&mut object, &format!("{at}.args.[0]"), Some(&json!("z"))).unwrap();
        patch(&mut object, &format!("{at}.args.[-1]"), Some(&json!("c"))).unwrap();
        patch(&mut object, &format!("{at}.args[:b]"), None).unwrap();
        patch(
            &mut object,
            &format!("{at}.env.[name:X].value"),
            Some(&json!("2")),
        )
        .unwrap();
        patch(
            &mut object,
            &format!("{at}.env.[name:Y]"),
            Some(&json!({"name": "Y", "value": "3"})),
        )
        .unwrap();
        patch(&mut object, "spec.template.metadata.annotations.a\\.b/c", None).unwrap();
        patch(&mut object, "spec.template.spec.hostNetwork", Some(&json!(true))).unwrap();
        patch(
            &mut object,
            "spec.strategy.rollingUpdate.maxSurge",
            Some(&json!(1)),
        )
        .unwrap();
        assert_eq!(
            object,
            json!({"spec": {"strategy": {"rollingUpdate": {"maxSurge": 1}}, "template": {"metadata": {"annotations": {}}, "spec": {"hostNetwork": true, "containers": [
                {"name": "other"}, {"name": "discovery", "args": ["z", "c"], "env": [{"name": "X", "value": "2"}, {"name": "Y", "value": "3"}]}
            ]}}}})
        );
    }

    #[test]
    fn a_path_that_leads_nowhere_says_from_where_on() {
        let mut object = deployment();
        let path = "spec.template.spec.containers.[name:pilot].args";
        assert_eq!(
            patch(&mut object, path, Some(&json!([]))).unwrap_err(),
            format!("{path}: there is no [name:pilot]")
        );
        assert_eq!(
            patch(&mut object, "spec.nothing.here", None).unwrap_err(),
            "spec.nothing.here: there is no nothing"
        );
        assert!(
            patch(&mut object, "spec.[x", None)
                .unwrap_err()
                .contains("not closed")
        );
        assert!(patch(&mut object, "", None).is_err());
    }
}
