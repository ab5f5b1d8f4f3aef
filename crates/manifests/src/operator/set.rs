//! `--set PATH=VALUE`: one value laid into a tree.

use serde_json::{Map, Value};

use crate::yaml;

/// One `--set`.
#[derive(Debug, Clone, PartialEq)]
pub struct Set {
    /// As typed, for messages.
    pub text: String,
    /// The steps of the path.
    pub path: Vec<Step>,
    /// The value.
    pub value: Value,
}

/// One step of a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Key of a mapping.
    Key(String),
    /// Index of a list, from 0.
    Index(usize),
}

/// More would be a mistyped number.
const LONGEST_LIST: usize = 1000;

/// Why a `--set` is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("--set {text}: {why}")]
pub struct SetError {
    /// As typed.
    pub text: String,
    /// What is wrong, and the remedy.
    pub why: String,
}

impl Set {
    /// Reads `a.b[0].c=value`. A dot that belongs to a key is written `\.`; the value is YAML, and `{a,b}` is a
    /// list, as Helm has it.
    ///
    /// # Errors
    /// There is no `=`, or the path or the value cannot be read.
    pub fn parse(text: &str) -> Result<Self, SetError> {
        let error = |why: String| SetError {
            text: text.to_owned(),
            why,
        };
        let (path, value) = text
            .split_once('=')
            .ok_or_else(|| error("write PATH=VALUE, as in values.global.network=us-net".to_owned()))?;
        let path = steps(path.trim()).map_err(error)?;
        // The tag of an image is text, also where it looks like a number: 1.20 is not 1.2.
        let value = if path.last() == Some(&Step::Key("tag".to_owned())) {
            Value::from(value)
        } else {
            parse_value(value).map_err(|why| error(format!("the value cannot be read: {why}")))?
        };
        Ok(Self {
            text: text.to_owned(),
            path,
            value,
        })
    }

    /// The path as text: `components.ingressGateways[0].enabled`.
    pub fn path_text(&self) -> String {
        let mut text = String::new();
        for step in &self.path {
            match step {
                Step::Key(key) => {
                    if !text.is_empty() {
                        text.push('.');
                    }
                    text.push_str(key);
                }
                Step::Index(i) => text.push_str(&format!("[{i}]")),
            }
        }
        text
    }

    /// Lays the value into `tree`; mappings and list items that are missing are made.
    ///
    /// # Errors
    /// The path leads through something that is no mapping or list, or beyond the end of a list.
    pub fn apply(&self, tree: &mut Value) -> Result<(), SetError> {
        let mut at = tree;
        for step in &self.path {
            let error = |why: String| SetError {
                text: self.text.clone(),
                why,
            };
            at = match step {
                Step::Key(key) => {
                    if at.is_null() {
                        *at = Value::Object(Map::new());
                    }
                    match at {
                        Value::Object(fields) => fields.entry(key.clone()).or_insert(Value::Null),
                        Value::Array(_) => {
                            return Err(error(format!(
                                "{key} stands below a list; write an index: [0].{key}"
                            )));
                        }
                        other => {
                            return Err(error(format!("{key} stands below {other}, which has no fields")));
                        }
                    }
                }
                Step::Index(index) => {
                    if at.is_null() {
                        *at = Value::Array(Vec::new());
                    }
                    match at {
                        Value::Array(items) => {
                            if *index > items.len() || *index >= LONGEST_LIST {
                                return Err(error(format!(
                                    "the list has {} items; the next index is [{}]",
                                    items.len(),
                                    items.len()
                                )));
                            }
                            if *index == items.len() {
                                items.push(Value::Null);
                            }
                            &mut items[*index]
                        }
                        other => return Err(error(format!("[{index}] of {other}, which is no list"))),
                    }
                }
            };
        }
        if self.value.is_object() {
            crate::merge::merge(at, &self.value);
        } else {
            *at = self.value.clone();
        }
        Ok(())
    }
}

fn parse_value(text: &str) -> Result<Value, String> {
    let helm_list = text
        .strip_prefix('{')
        .and_then(|t| t.strip_suffix('}'))
        .filter(|t| !t.contains(':'));
    if let Some(items) = helm_list {
        let items = items.split(',').map(str::trim).filter(|item| !item.is_empty());
        return items.map(parse_value).collect::<Result<_, _>>().map(Value::Array);
    }
    // Whatever is no flow collection is one scalar, colons and hashes included.
    if !text.starts_with(['{', '[', '"', '\'']) {
        let plain = text
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '+' | '_'));
        if !plain {
            return Ok(Value::from(text));
        }
    }
    match yaml::read(text) {
        Ok(mut documents) => Ok(documents.pop().unwrap_or_else(|| Value::from(text))),
        Err(malformed) => Err(malformed.message),
    }
}

fn steps(path: &str) -> Result<Vec<Step>, String> {
    let mut found = Vec::new();
    let mut key = String::new();
    let mut chars = path.chars().peekable();
    let empty = || format!("{path:?} has an empty step");
    while let Some(c) = chars.next() {
        match c {
            '\\' => key.extend(chars.next()),
            '.' => {
                if !key.is_empty() {
                    found.push(Step::Key(std::mem::take(&mut key)));
                } else if !matches!(found.last(), Some(Step::Index(_))) {
                    return Err(empty());
                }
            }
            '[' => {
                if !key.is_empty() {
                    found.push(Step::Key(std::mem::take(&mut key)));
                }
                let index: String = chars.by_ref().take_while(|c| *c != ']').collect();
                let index = index.parse().map_err(|_| format!("[{index}] is no index"))?;
                found.push(Step::Index(index));
            }
            c => key.push(c),
        }
    }
    if !key.is_empty() {
        found.push(Step::Key(key));
    } else if path.ends_with('.') || found.is_empty() {
        return Err(empty());
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn set(tree: Value, text: &str) -> Result<Value, String> {
        let mut tree = tree;
        let set = Set::parse(text).map_err(|e| e.to_string())?;
        set.apply(&mut tree).map_err(|e| e.to_string())?;
        Ok(tree)
    }

    #[test]
    fn values_are_typed_and_missing_parents_made() {
        assert_eq!(
            set(json!({}), "values.global.network=us-net"),
            Ok(json!({"values": {"global": {"network": "us-net"}}}))
        );
        assert_eq!(
            set(json!({}), "a.enabled=true"),
            Ok(json!({"a": {"enabled": true}}))
        );
        assert_eq!(set(json!({}), "a=5"), Ok(json!({"a": 5})));
        assert_eq!(set(json!({}), "a=\"5\""), Ok(json!({"a": "5"})));
        assert_eq!(set(json!({}), "a=us=eu:1 # x"), Ok(json!({"a": "us=eu:1 # x"})));
        assert_eq!(set(json!({}), "a={x,y}"), Ok(json!({"a": ["x", "y"]})));
        assert_eq!(set(json!({}), "a=[1, 2]"), Ok(json!({"a": [1, 2]})));
        assert_eq!(
            set(json!({"a": {"b": 1}}), "a={c: 2}"),
            Ok(json!({"a": {"b": 1, "c": 2}}))
        );
        assert_eq!(set(json!({}), r"a.x\.y/z=1"), Ok(json!({"a": {"x.y/z": 1}})));
        assert_eq!(set(json!({}), "a="), Ok(json!({"a": ""})));
        assert_eq!(set(json!({}), "tag=1.20"), Ok(json!({"tag": "1.20"})));
    }

    #[test]
    fn list_items_are_reached_and_appended_but_not_skipped() {
        let tree = json!({"g": [{"name": "x"}]});
        assert_eq!(
            set(tree.clone(), "g[0].enabled=true"),
            Ok(json!({"g": [{"name": "x", "enabled": true}]}))
        );
        assert_eq!(
            set(tree.clone(), "g[1].name=y"),
            Ok(json!({"g": [{"name": "x"}, {"name": "y"}]}))
        );
        assert_eq!(
            set(tree.clone(), "g[3].name=y").unwrap_err(),
            "--set g[3].name=y: the list has 1 items; the next index is [1]"
        );
        assert_eq!(
            set(tree, "g.name=y").unwrap_err(),
            "--set g.name=y: name stands below a list; write an index: [0].name"
        );
    }

    #[test]
    fn what_cannot_be_read_is_refused() {
        for wrong in ["novalue", "=x", "a..b=1", "a.=1", "a[x]=1", "a=[1"] {
            assert!(set(json!({}), wrong).is_err(), "{wrong}");
        }
    }
}
